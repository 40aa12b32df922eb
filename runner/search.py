"""Random search: points drawn from the grids of a stack, with some of its methods left out of each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.keys import Key
from runner.methods.base import Range

Shown = tuple[tuple[str, str], ...]
DECADE = 10.0  # grids whose ends, or the distances of their ends from 1, are this factor apart are drawn by factors


@dataclass(frozen=True)
class Space:
    """What a search chooses from."""

    grids: Mapping[str, Sequence[float]]  # of every strength: its ends count
    allowed: Mapping[str, Range]
    alternatives: Sequence[Sequence[str]]  # methods of which one at most is on
    requires: Mapping[str, str]  # methods that are on together with another
    excludes: Collection[tuple[str, str]] = ()  # pairs that never are; the first of the two stays on

    @property
    def methods(self) -> list[str]:
        """The methods of the stack that have a strength."""
        return [name for name in dict.fromkeys(path.partition(".")[0] for path in self.grids) if name != "optimizer"]

    @property
    def groups(self) -> list[list[str]]:
        """The methods by what one decides on at a time."""
        grouped = [[name for name in group if name in self.methods] for group in self.alternatives]
        together = {name for group in grouped for name in group}
        return [group for group in grouped if group] + [[name] for name in self.methods if name not in together]

    def together(self, chosen: Collection[str]) -> set[str]:
        """What is on where these are chosen: without those that one before them excludes, and with what they require.

        >>> space = Space({"a.x": [1], "b.x": [1], "c.x": [1]}, {}, [], {"b": "c"}, [("a", "b")])
        >>> sorted(space.together({"a", "b"})), sorted(space.together({"b"}))
        (['a'], ['b', 'c'])
        """
        on = set(chosen)
        for first, second in self.excludes:
            if first in on:
                on.discard(second)
        return on | {self.requires[name] for name in on if self.requires.get(name) in self.methods}


def drawn(space: Space, trials: int, key: Key) -> list[dict[str, float]]:
    """At most `trials` points {"mixup.alpha": 0.3, "l2": 0, ...}: strengths of methods that are on, 0 for those off.

    A method is on with probability 1/2; of several that are `alternatives` one at most is on, with probability 1/2
    together; what one `requires`, if it is in the stack, is on with it, and what one `excludes` is off. A method alone
    is always on, and so is the optimizer. The draws of a trial are named by method: a method has the same strengths in
    every stack.
    """
    methods, groups = space.methods, space.groups
    points = []
    for trial in range(trials):
        at = key.fold(trial)
        on = {"optimizer", *methods} if len(methods) == 1 else {"optimizer"}
        for group in groups if len(methods) > 1 else ():
            which = int(2 * len(group) * float(at.fold("on").fold("+".join(group)).uniform()))
            on |= set(group[which : which + 1])  # none in half of the cases
        on = space.together(on)
        point = {name: 0.0 for name in methods if name not in on}
        for path, grid in space.grids.items():
            if path.partition(".")[0] in on:
                share = float(at.fold(path).uniform())
                point[path] = between(min(grid), max(grid), share, space.allowed[path].whole)
        points.append(point)
    return once(points)


def once(points: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """The points in order, of those that look alike in the tables the first."""
    found: dict[Shown, dict[str, float]] = {}
    for point in points:
        found.setdefault(shown(point), dict(point))
    return list(found.values())


def shown(point: Mapping[str, float]) -> Shown:
    """A point as the tables show it, where each number has six digits.

    >>> shown({"ema.decay": 0.99876543, "l2": 0.0})
    (('ema.decay', '0.998765'), ('l2', '0'))
    """
    return tuple((path, f"{value:g}") for path, value in point.items())


def between(low: float, high: float, share: float, whole: bool) -> float:
    """The value a share of the way from `low` to `high`: by factors if they are a decade apart, else by steps.

    Where their distances from 1 are, as those of a decay of 0.9 and one of 0.999, it is by factors of the distance.
    Whole numbers are equally likely, the ends included. Six digits are kept, so that a point can be written down.

    >>> between(0.01, 1.0, 0.5, whole=False), between(0.2, 0.4, 0.5, whole=False), between(1, 5, 0.99, whole=True)
    (0.1, 0.3, 5.0)
    >>> between(0.9, 0.999, 0.5, whole=False)
    0.99
    """
    if whole:
        return float(low + math.floor(share * (high - low + 1)))
    if nears_one(low, high):
        return from_one((1 - low) * ((1 - high) / (1 - low)) ** share)
    value = low * (high / low) ** share if by_factors(low, high) else low + share * (high - low)
    return float(f"{value:.6g}")


def by_factors(low: float, high: float) -> bool:
    """Whether the ends of a grid are a decade apart."""
    return low > 0 and high / low >= DECADE


def nears_one(low: float, high: float) -> bool:
    """Whether they are not, but their distances from 1 are."""
    return not by_factors(low, high) and high < 1 and round((1 - low) / (1 - high), 6) >= DECADE


def from_one(distance: float) -> float:
    """The value at this distance below 1, of which six digits are kept.

    >>> from_one(0.0012345678)
    0.99876543
    """
    return float(f"{1 - float(f'{distance:.6g}'):.12g}")
