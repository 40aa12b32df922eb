"""Residual nets, whose branches methods can act on."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from runner.nets.sites import Mark, Slot


class Residual(nn.Module):
    """skip * h + branch(h)."""

    def __init__(self, branch: nn.Module, skip: float = 1.0) -> None:
        """Go around this branch with a share `skip` of what enters it."""
        super().__init__()
        self.branch, self.skip = branch, skip

    def forward(self, h: Tensor) -> Tensor:
        """h [B, ...] and what the branch adds to it."""
        added: Tensor = self.branch(h)
        return added + self.skip * h if self.skip else added

    def extra_repr(self) -> str:
        """The share, as `print(net)` shows it."""
        return f"skip={self.skip:g}"


class TwoBranches(nn.Sequential):
    """The mean of two branches of one form, marked before it is taken and after.

    The layers of the first keep their names, and so the weights they begin with; those of the second are under `other`.
    """

    def __init__(self, branch: nn.Sequential) -> None:
        """Put a second branch, with weights of its own, beside this one."""
        super().__init__(*[layer for layer in branch if not (isinstance(layer, Mark) and layer.kind == "branch")])
        self.first = len(self)
        self.add_module("other", copy.deepcopy(nn.Sequential(*self)))
        self.both, self.end = Mark("pair"), Mark("branch")

    def forward(self, h: Tensor) -> Tensor:
        """(first(h) + other(h)) / 2, for h [B, ...]."""
        one = h
        for layer in list(self)[: self.first]:
            one = layer(one)
        other: Tensor = self.get_submodule("other")(h)
        both: Tensor = self.both(torch.stack([one, other], 1))
        ended: Tensor = self.end(both.mean(1))
        return ended


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
        layers += [Residual(branch, skip), nn.ReLU(), Mark("hidden")]
    return nn.Sequential(*layers, nn.Linear(width, classes))
