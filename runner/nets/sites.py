"""Marked places in a network where methods act on the hidden values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

Tap = Callable[[Tensor, str], Tensor]
KINDS = ("input", "hidden", "branch", "pair")

_tap: Tap | None = None  # the tap of the enclosing `tapped` block; the design's one dynamic variable


class Mark(nn.Module):
    """A place of a kind, one of KINDS; the identity unless tapped.

    "input" and "hidden" are values [B, ...] of whole layers, "branch" the end of a residual branch, "pair" the values
    [B, 2, ...] of two branches side by side before their mean is taken.
    """

    place = ""  # where it stands, if its name in the net does not say so

    def __init__(self, kind: str) -> None:
        """Mark a place of this kind, one of KINDS."""
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"a mark's kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        self.kind = kind

    def forward(self, h: Tensor) -> Tensor:
        """h [B, ...], as the current tap changes it."""
        return h if _tap is None else _tap(h, self.kind)

    def extra_repr(self) -> str:
        """The kind, as `print(net)` shows it."""
        return self.kind


class Slot(nn.Identity):
    """Where a normalization layer may go, before the activation; `width` is its number of channels."""

    def __init__(self, width: int) -> None:
        """Leave room for a layer over `width` channels."""
        super().__init__()
        self.width = width


@contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """Within this block every Mark passes its hidden value through `tap`."""
    global _tap
    outer, _tap = _tap, tap
    try:
        yield
    finally:
        _tap = outer


def visits(net: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The kinds of the marks that one forward pass on x [B, ...] meets, in order."""
    kinds: list[str] = []

    def note(h: Tensor, kind: str) -> Tensor:
        kinds.append(kind)
        return h

    with tapped(note), torch.no_grad():
        net(x)
    return tuple(kinds)


class Visit(NamedTuple):
    """What a mark saw in one forward pass."""

    kind: str
    place: str  # where the mark stands: its name in the net, or what it was put behind
    shape: tuple[int, ...]  # of the value of one example


def describe(net: nn.Module, x: Tensor) -> list[Visit]:
    """Every mark that one forward pass on x [B, ...] meets, in order."""
    names = {module: module.place or name for name, module in net.named_modules() if isinstance(module, Mark)}
    met: list[Visit] = []

    def note(mark: nn.Module, given: tuple[Tensor, ...], h: Tensor) -> None:
        assert isinstance(mark, Mark)
        met.append(Visit(mark.kind, names[mark], tuple(h.shape[1:])))

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, Mark)]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return met


def fill_slots(net: nn.Module, make: Callable[[int], nn.Module]) -> int:
    """Put `make(width)` into every slot of the net, in place; how many there were."""
    filled = 0
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Slot):
                setattr(parent, name, make(child.width))
                filled += 1
    return filled
