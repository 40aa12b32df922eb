"""A method that does nothing, to check the comparison itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from runner.methods.base import Method, Now, Seen, Strength, strength


@dataclass(frozen=True)
class Placebo(Method):
    """Run through the same code path as a penalty and add exactly nothing.

    Tuned and compared like any other method, it shows how often the study finds an effect where there is none.
    """

    family: ClassVar[str] = "placebo"
    dose: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """0 * dose: []."""
        return 0.0 * self.dose
