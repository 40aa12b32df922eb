"""The runs of one job: every seed with every setting of the numbers written as lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

# Of mean validation figures: sums of figures with nine digits differ in the last ones by the order of the seeds.
TIE_DIGITS = 8


@dataclass(frozen=True)
class Run:
    """One training: a seed, what it is for, and the numbers that the stack and the optimizer take."""

    seed: int
    role: str  # "tune": to choose a strength on validation; "report": to be reported
    point: Mapping[str, float]  # {"dropout.rate": 0.3, "optimizer.lr": 0.01}: the axes of the grid
    index: int  # which point of the grid, in order

    @property
    def name(self) -> tuple[str, int, tuple[tuple[str, float], ...]]:
        """What tells this run from the others of its job."""
        return self.role, self.seed, tuple(sorted(self.point.items()))


def crossed(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of the axes' values, the last axis fastest; one empty point where there are no axes.

    >>> crossed({"l2.rate": [0.0, 0.1], "optimizer.lr": [1.0]})
    [{'l2.rate': 0.0, 'optimizer.lr': 1.0}, {'l2.rate': 0.1, 'optimizer.lr': 1.0}]
    >>> crossed({})
    [{}]
    """
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def along(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """The axes walked together, weakest with weakest: how the strengths of a stack are tuned on K points.

    >>> along({"l2.rate": [0.1, 0.2], "dropout.rate": [0.3, 0.5]})
    [{'l2.rate': 0.1, 'dropout.rate': 0.3}, {'l2.rate': 0.2, 'dropout.rate': 0.5}]
    """
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)] or [{}]


def runs(points: Sequence[Mapping[str, float]], seeds: Sequence[int], role: str) -> list[Run]:
    """Every point with every seed, a point's seeds side by side."""
    return [Run(seed, role, point, index) for index, point in enumerate(points) for seed in seeds]


def best_point(means: Mapping[int, float], epochs: Mapping[int, float]) -> int:
    """The point that tuning chooses: that of the highest mean validation figure (-inf where a run diverged).

    Ties go to the one that trained for the fewest `epochs`, since a longer patience that finds nothing better only
    costs more, and then to the one that is listed first: the weaker strength, or the first of several learning rates.
    Where every point diverged the epochs say nothing.

    >>> best_point({0: 0.9, 1: 0.9, 2: 0.9, 3: 0.8}, {0: 40, 1: 30, 2: 30, 3: 10})
    1
    """
    rounded = {index: round(mean, TIE_DIGITS) for index, mean in means.items()}
    most = max(rounded.values())
    best = [index for index, mean in rounded.items() if mean == most]
    return min(best, key=lambda index: (epochs[index] if math.isfinite(most) else 0, index))
