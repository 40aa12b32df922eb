"""Large numbers that lie close together, as float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ENOUGH = 1e-5  # standard deviations: an error of rounding that no net notices
LARGEST = float(np.finfo(np.float32).max)


def offset(numbers: NDArray[np.float64]) -> float:
    """What to take from numbers (NaN: missing) before they become float32, in which close ones may be the same.

    It is 0 unless float32 is off by more than ENOUGH and makes distinct numbers the same; else their lower median.

    >>> offset(np.array([1_700_000_000.0, 1_700_000_001, 1_700_000_002])), offset(np.array([1.0, 2, 3]))
    (1700000001.0, 0.0)
    """
    there = numbers[np.isfinite(numbers)]
    if not len(there) or np.abs(there).max() > LARGEST:
        return 0.0
    single = there.astype(np.float32)
    if np.abs(there - single).max() <= ENOUGH * there.std() or len(np.unique(single)) == len(np.unique(there)):
        return 0.0
    return float(np.quantile(there, 0.5, method="lower"))


def told(what: str, taken: float) -> str:
    """The line that says what was taken from the numbers of a column, for instance."""
    return (
        f"{what} has numbers near {taken:.10g} that float32 cannot tell apart; {taken:.10g} is taken from each of them"
    )
