"""Learning-rate schedules: the share of the optimizer's rate that a step uses, and how often it falls to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from runner.methods.base import Strength, strength


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    falls: ClassVar[int] = 0

    def share(self, step: int, steps: int) -> float:
        """1, at every step."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to zero  (Loshchilov and Hutter 2017)."""

    falls: ClassVar[int] = 1
    warmup: Strength = strength(0, 1, open_high=True)  # share of the steps

    def share(self, step: int, steps: int) -> float:
        """The share of the rate that step 0 <= step < steps uses: in (0, 1].

        >>> [round(Cosine(warmup=0.25).share(step, 8), 3) for step in range(8)]
        [0.333, 0.667, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


@dataclass(frozen=True)
class Cyclic:
    """Half a cosine down to zero, `cycles` times over, with a jump back up between them  (Huang et al. 2017)."""

    cycles: int = strength(1, whole=True)

    @property
    def falls(self) -> int:
        """Once in each cycle."""
        return int(self.cycles)

    def share(self, step: int, steps: int) -> float:
        """The share of the rate that step 0 <= step < steps uses: in (0, 1].

        >>> [round(Cyclic(cycles=2).share(step, 6), 3) for step in range(6)]
        [1.0, 0.75, 0.25, 1.0, 0.75, 0.25]
        """
        return 0.5 * (1 + math.cos(math.pi * (step * self.cycles % steps) / steps))


@dataclass(frozen=True)
class Step:
    """The rate multiplied by `factor` `drops` times, at equal distances."""

    falls: ClassVar[int] = 0
    drops: int = strength(1, whole=True)
    factor: Strength = strength(0, 1, open_low=True)

    def share(self, step: int, steps: int) -> float:
        """The share of the rate that step 0 <= step < steps uses.

        >>> [Step(drops=2, factor=0.1).share(step, 6) for step in range(6)]
        [1.0, 1.0, 0.1, 0.1, 0.010000000000000002, 0.010000000000000002]
        """
        return float(self.factor ** (step * (self.drops + 1) // steps))


Schedule = Constant | Cosine | Cyclic | Step
