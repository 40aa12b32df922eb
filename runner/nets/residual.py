"""Residual nets, whose branches methods can act on.

The "hidden" marks stand outside of the branches, where the whole of an example passes; the "branch" marks end the
branches. `norm` says whether a net brings its own batch norm ("batch"), as published, or has open slots ("none"),
which `method=batch_norm` and its like may fill; without a norm its convolutions have biases.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.errors import Refusal
from runner.nets.norms import slot
from runner.nets.sites import Mark, Slot


class Residual(nn.Module):
    """skip * shortcut(h) + branch(h)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, skip: float = 1.0) -> None:
        """Go around this branch with a share `skip` of what enters it, by the identity if there is no other way."""
        super().__init__()
        self.branch, self.skip = branch, skip
        self.shortcut = shortcut or nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """h [B, ...] and what the branch adds to it."""
        added: Tensor = self.branch(h)
        kept: Tensor = self.shortcut(h)
        return added + self.skip * kept if self.skip else added

    def extra_repr(self) -> str:
        """The share, as `print(net)` shows it."""
        return f"skip={self.skip:g}"


class Subsample(nn.Module):
    """The shortcut without weights of He et al. (2016, option A): every `stride`-th cell, and channels of zeros."""

    def __init__(self, stride: int, more: int) -> None:
        """Skip cells by this stride and add `more` channels."""
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, h: Tensor) -> Tensor:
        """h [B, C, H, W] -> [B, C + more, H / stride, W / stride], rounded up."""
        return F.pad(h[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class TwoBranches(nn.Sequential):
    """The mean of two branches of one form, marked before it is taken and after.

    The layers of the first keep their names, and so the weights they begin with; those of the second are under `other`.
    """

    def __init__(self, branch: nn.Sequential) -> None:
        """Put a second branch, with weights of its own, beside this one."""
        ends = [layer for layer in branch if _marks_an_end(layer)]
        super().__init__(*[layer for layer in branch if layer not in ends])
        self.first = len(self)
        self.add_module("other", copy.deepcopy(nn.Sequential(*self)))
        self.both, self.end = Mark("pair"), nn.Sequential(*ends)

    def forward(self, h: Tensor) -> Tensor:
        """(first(h) + other(h)) / 2, for h [B, ...]."""
        one = h
        for layer in list(self)[: self.first]:
            one = layer(one)
        other: Tensor = self.get_submodule("other")(h)
        both: Tensor = self.both(torch.stack([one, other], 1))
        ended: Tensor = self.end(both.mean(1))
        return ended


def _marks_an_end(layer: nn.Module) -> bool:
    """Whether a layer of a branch only marks where it ends."""
    inner = list(layer.modules())[-1]  # a mark may stand in a module that shows it tokens otherwise
    return isinstance(inner, Mark) and inner.kind == "branch"


def resnet_mlp(shape: Sequence[int], classes: int, width: int, depth: int, skip: float) -> nn.Module:
    """A residual MLP: x [B, *shape] -> logits [B, classes], in the form of He et al. (2016) with dense layers.

    A first layer of `width` ReLU units, then `depth` blocks ReLU(skip h + branch(h)) with branches of two dense layers,
    a ReLU between them; with `skip` at 0 a plain MLP of 2 `depth` + 1 hidden layers. The "hidden" marks stand outside
    of the branches, where the whole of an example passes; the "branch" marks end the branches.
    """
    layers: list[nn.Module] = [
        nn.Flatten(), Mark("input"), nn.Linear(math.prod(shape), width), Slot(width), nn.ReLU(), Mark("hidden"),
    ]  # fmt: skip
    for _ in range(depth):
        branch = nn.Sequential(
            nn.Linear(width, width), Slot(width), nn.ReLU(), nn.Linear(width, width), Slot(width), Mark("branch")
        )
        layers += [Residual(branch, skip=skip), nn.ReLU(), Mark("hidden")]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def tabular_resnet(shape: Sequence[int], classes: int, width: int, depth: int, factor: int, norm: str) -> nn.Module:
    """The residual net for tables of Gorishniy et al. (2021): x [B, *shape] -> logits [B, classes].

    A linear layer to `width` units; `depth` blocks h + branch(h), whose branch is a norm, a ReLU layer of `factor`
    times `width` units and a linear layer back; a norm, a ReLU and a linear layer. The paper's two dropouts stand
    inside the branches; here the marks do as in the other residual nets.
    """
    layers: list[nn.Module] = [nn.Flatten(), Mark("input"), nn.Linear(math.prod(shape), width), Mark("hidden")]
    for _ in range(depth):
        branch = nn.Sequential(
            slot(width, norm), nn.Linear(width, factor * width), nn.ReLU(), nn.Linear(factor * width, width),
            Mark("branch"),
        )  # fmt: skip
        layers += [Residual(branch), Mark("hidden")]
    ends = [slot(width, norm), nn.ReLU(), Mark("hidden")]  # in place of the mark before them
    return nn.Sequential(*layers[:-1], *ends, nn.Linear(width, classes))


def resnet_cifar(shape: Sequence[int], classes: int, depth: int, width: int, norm: str) -> nn.Module:
    """The residual net of He et al. (2016) for CIFAR: x [B, C, H, W] -> logits [B, classes].

    A 3x3 convolution, three groups of (depth - 2) / 6 blocks with `width`, 2 and 4 `width` channels, each with its
    shortcut of option A, the mean over the image and a linear layer. Depth 20 at width 16 has 0.27M parameters.
    Refuses a depth that is not 6n + 2.
    """
    blocks = _blocks(depth, 2, "resnet_cifar")
    layers = [Mark("input"), *_convolution(shape, width, norm)]
    channels = width
    for group in range(3):
        for block in range(blocks):
            out, stride = width * 2**group, 2 if group and not block else 1
            around = Subsample(stride, out - channels) if out != channels else None
            layers += _block(channels, out, stride, around, norm)
            channels = out
    return _with_head(layers, channels, classes)


def resnet18_cifar(shape: Sequence[int], classes: int, width: int, norm: str) -> nn.Module:
    """The 18-layer residual net of He et al. (2016) with a first layer for small images: x [B, C, H, W] -> logits.

    A 3x3 convolution with stride 1 and no pooling, four groups of two blocks with `width`, 2, 4 and 8 `width` channels
    and shortcuts of 1x1 convolutions where the size changes (option B), the mean over the image and a linear layer.
    """
    layers = [Mark("input"), *_convolution(shape, width, norm)]
    channels = width
    for group in range(4):
        for block in range(2):
            out, stride = width * 2**group, 2 if group and not block else 1
            around = None
            if out != channels:
                around = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=norm == "none"), slot(out, norm))
            layers += _block(channels, out, stride, around, norm)
            channels = out
    return _with_head(layers, channels, classes)


def wide_resnet(shape: Sequence[int], classes: int, depth: int, width: int, norm: str) -> nn.Module:
    """A wide residual net, WRN-depth-width (Zagoruyko and Komodakis 2016): x [B, C, H, W] -> logits [B, classes].

    A 3x3 convolution of 16 channels, three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels,
    a norm and a ReLU, the mean over the image and a linear layer. Norm and ReLU come before each convolution; where the
    size changes both ways of a block begin after the first norm and ReLU. WRN-28-10 has 36.5M parameters. The dropout
    of the paper stands inside the branches; here the marks do as in the other residual nets. Refuses a depth that is
    not 6n + 4.
    """
    blocks = _blocks(depth, 4, "wide_resnet")
    bias = norm == "none"
    _channels, _height, _breadth = shape  # an image
    layers: list[nn.Module] = [Mark("input"), nn.Conv2d(shape[0], 16, 3, padding=1, bias=bias), Mark("hidden")]
    channels = 16
    for group in range(3):
        for block in range(blocks):
            out, stride = 16 * width * 2**group, 2 if group and not block else 1
            before = [slot(channels, norm), nn.ReLU()]
            branch = [
                nn.Conv2d(channels, out, 3, stride, 1, bias=bias), slot(out, norm), nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1, bias=bias), Mark("branch"),
            ]  # fmt: skip
            if out == channels:
                layers.append(Residual(nn.Sequential(*before, *branch)))
            else:
                around = nn.Conv2d(channels, out, 1, stride, bias=bias)
                layers += [*before, Residual(nn.Sequential(*branch), around)]
            layers.append(Mark("hidden"))
            channels = out
    return _with_head([*layers[:-1], slot(channels, norm), nn.ReLU(), Mark("hidden")], channels, classes)


def _blocks(depth: int, ends: int, model: str) -> int:
    """How many blocks each of three groups has, at two layers a block."""
    if depth < 6 + ends or (depth - ends) % 6:
        some = ", ".join(str(6 * n + ends) for n in (1, 2, 3, 4))
        raise Refusal(f"model.depth is {depth}; {model} needs 6n + {ends}: {some}, ... (model.depth=...)")
    return (depth - ends) // 6


def _convolution(shape: Sequence[int], out: int, norm: str) -> list[nn.Module]:
    """The first layer: a 3x3 convolution, a norm and a ReLU."""
    channels, _height, _breadth = shape  # an image
    return [nn.Conv2d(channels, out, 3, padding=1, bias=norm == "none"), slot(out, norm), nn.ReLU(), Mark("hidden")]


def _block(channels: int, out: int, stride: int, around: nn.Module | None, norm: str) -> list[nn.Module]:
    """ReLU(h + branch(h)) with a branch of two 3x3 convolutions (He et al. 2016)."""
    bias = norm == "none"
    branch = nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=bias), slot(out, norm), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1, bias=bias), slot(out, norm), Mark("branch"),
    )  # fmt: skip
    return [Residual(branch, around), nn.ReLU(), Mark("hidden")]


def _with_head(layers: Sequence[nn.Module], channels: int, classes: int) -> nn.Module:
    """The mean over the image and a linear layer at the end."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
