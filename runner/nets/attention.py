"""Transformers, for images, signals and tables.

Tokens are [B, N, D] between layers. Marks and slots see them as [B, D, N], with the D numbers of a token as channels,
so that methods find channels where they look for them. Attention is written in plain operations, since torch's own has
no rule for being mapped over lanes. Positions and class tokens are stored flat: like biases, they are no matrices, and
penalties leave them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from runner.errors import Refusal
from runner.nets.residual import Residual
from runner.nets.sites import Mark, Slot


class Channelwise(nn.Module):
    """A mark or a slot, shown tokens [B, N, D] as [B, D, N]."""

    def __init__(self, place: nn.Module) -> None:
        """Show tokens to this place."""
        super().__init__()
        self.place = place

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D], as the place changes them."""
        changed: Tensor = self.place(tokens.transpose(1, 2))
        return changed.transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        """Attend over tokens of `width` numbers, which the heads share equally."""
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, 3 * width)
        self.tell = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]: each a mean of values, weighted by softmax(q . k / sqrt(D / heads))."""
        batch, count, width = tokens.shape
        asked = self.ask(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, D / heads] each
        weights = (query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)).softmax(-1)
        together = (weights @ value).transpose(1, 2).reshape(batch, count, width)
        told: Tensor = self.tell(together)
        return told


class RectifiedGate(nn.Module):
    """One half of the numbers times the other half's ReLU (ReGLU, Shazeer 2020)."""

    def forward(self, h: Tensor) -> Tensor:
        """h [..., 2 D] -> [..., D]."""
        value, gate = h.chunk(2, -1)
        return value * gate.relu()


class Tokens(nn.Module):
    """A class token and embedded parts of an example, each with its own added numbers."""

    def __init__(self, embedding: nn.Module, count: int, width: int, draw: Callable[[Tensor], object]) -> None:
        """Embed an example to `count` tokens of `width` numbers, by x [B, ...] -> [B, count, width].

        `draw` fills what is added, in place.
        """
        super().__init__()
        self.embedding, self.count, self.width, self.draw = embedding, count, width, draw
        self.first = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(count * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class token and what is added."""
        self.draw(self.first)
        self.draw(self.position)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ...] -> tokens [B, 1 + count, width]."""
        parts = self.embedding(x) + self.position.view(self.count, self.width)
        return torch.cat([self.first.expand(len(x), 1, self.width), parts], 1)


class Patches(nn.Module):
    """An image cut into squares, or a signal into windows."""

    def __init__(self, patch: int) -> None:
        """Cut into parts of `patch` cells a side."""
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] or [B, C, T] -> [B, parts, numbers of a part]."""
        for dim in range(2, x.ndim):
            x = x.unfold(dim, self.patch, self.patch)  # [B, C, parts of each side, then the cells of a part]
        sides = (x.ndim - 2) // 2
        return x.movedim(1, 1 + sides).flatten(1, sides).flatten(2)


class Columns(nn.Module):
    """One token for each number of an example: the number times a vector of its own (Gorishniy et al. 2021)."""

    def __init__(self, count: int, width: int, draw: Callable[[Tensor], object]) -> None:
        """Embed `count` numbers, by vectors that `draw` fills in place."""
        super().__init__()
        self.count, self.width, self.draw = count, width, draw
        self.direction = nn.Parameter(torch.empty(count * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        self.draw(self.direction)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, F] -> [B, F, width]."""
        return x[:, :, None] * self.direction.view(self.count, self.width)


class ClassToken(nn.Module):
    """The first token of each example."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, D]."""
        return tokens[:, 0]


def vit_small(shape: Sequence[int], classes: int, patch: int, depth: int, width: int, heads: int) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021): x [B, C, H, W] or [B, C, T] -> logits [B, classes].

    Patches of `patch` cells a side become tokens of `width` numbers beside a class token; `depth` blocks of attention
    and of a GELU layer of 4 `width` units, each after a layer norm of every token; a last layer norm and a linear layer
    on the class token. The layer norms are the net's own; slots stand before the GELU. Refuses a patch that does not
    divide every side, and a width that the heads cannot share.
    """
    _shared(width, heads)
    if len(shape) not in (2, 3):
        raise Refusal(f"model=vit_small cuts images and signals into patches; the data's shape is {tuple(shape)}")
    if any(side % patch for side in shape[1:]):
        raise Refusal(
            f"model.patch is {patch}; it must divide the sides of an example, {tuple(shape[1:])} (model.patch=...)"
        )
    count = math.prod(side // patch for side in shape[1:])
    embedding = nn.Sequential(Patches(patch), nn.Linear(shape[0] * patch ** (len(shape) - 1), width))
    layers: list[nn.Module] = [
        Mark("input"), Tokens(embedding, count, width, partial(nn.init.normal_, std=0.02)), Channelwise(Mark("hidden")),
    ]  # fmt: skip
    for _ in range(depth):
        layers += _block(width, heads, nn.Linear(width, 4 * width), nn.GELU(), 4 * width, first=False)
    return nn.Sequential(*layers, ClassToken(), nn.LayerNorm(width), nn.Linear(width, classes))


def ft_transformer(shape: Sequence[int], classes: int, depth: int, width: int, heads: int) -> nn.Module:
    """The FT-Transformer for tables (Gorishniy et al. 2021): x [B, *shape] -> logits [B, classes].

    Every number of an example becomes a token of `width` numbers, x_j w_j + b_j, beside a class token; `depth` blocks
    of attention and of a ReGLU layer of 4/3 `width` units, each after a layer norm of every token (but for the first
    attention, as in the paper); a layer norm, a ReLU and a linear layer on the class token. The layer norms are the
    net's own; slots stand before the ReGLU. Refuses a width that the heads cannot share.
    """
    _shared(width, heads)
    count, units = math.prod(shape), max(1, width * 4 // 3)
    draw = partial(nn.init.uniform_, a=-(width**-0.5), b=width**-0.5)  # as the paper has it
    layers: list[nn.Module] = [
        nn.Flatten(), Mark("input"), Tokens(Columns(count, width, draw), count, width, draw),
        Channelwise(Mark("hidden")),
    ]  # fmt: skip
    for block in range(depth):
        layers += _block(width, heads, nn.Linear(width, 2 * units), RectifiedGate(), units, first=not block)
    return nn.Sequential(*layers, ClassToken(), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, classes))


def _block(width: int, heads: int, widen: nn.Linear, bend: nn.Module, units: int, first: bool) -> list[nn.Module]:
    """A branch of attention and a branch of two dense layers, each after a layer norm."""
    attention = [Attention(width, heads), Channelwise(Mark("branch"))]
    dense = [
        nn.LayerNorm(width), widen, Channelwise(Slot(widen.out_features)), bend, nn.Linear(units, width),
        Channelwise(Mark("branch")),
    ]  # fmt: skip
    norm = [] if first else [nn.LayerNorm(width)]
    return [
        Residual(nn.Sequential(*norm, *attention)), Residual(nn.Sequential(*dense)), Channelwise(Mark("hidden")),
    ]  # fmt: skip


def _shared(width: int, heads: int) -> None:
    if width % heads:
        raise Refusal(
            f"model.heads is {heads}; it must divide model.width, {width} (model.heads=... or model.width=...)"
        )
