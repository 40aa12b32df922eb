"""Methods that have no effect, to check the comparison itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from runner.methods.base import Method, Now, Seen, Strength, strength


@dataclass(frozen=True)
class Placebo(Method):
    """Run through the same code path as a penalty and add exactly nothing.

    Its runs are those of the baseline bit for bit: a check that paired runs share all that they should.
    """

    family: ClassVar[str] = "placebo"
    dose: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """0 * dose: []."""
        return 0.0 * self.dose


@dataclass(frozen=True)
class SeededPlacebo(Method):
    """Begin each run with other initial weights of the same distribution: a true null beside the baseline.

    Data and order of batches stay those of the seed. Tuned over its draws and tested like any other method, it shows
    what a study finds where there is nothing to find.
    """

    family: ClassVar[str] = "placebo"
    draw: Strength = strength(0, off=0, whole=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The same net under another name, from which the stream of each module's initial weights follows."""
        return Renamed(net, f"draw {int(self.draw)}") if self.draw else net


class Renamed(nn.Module):
    """A net whose modules stand under `name`: what it computes is unchanged."""

    def __init__(self, net: nn.Module, name: str) -> None:
        """The module `net` as its own submodule `name`."""
        super().__init__()
        self.name = name
        self.add_module(name, net)

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits: x [B, ...] -> [B, C]."""
        logits: Tensor = self.get_submodule(self.name)(x)
        return logits
