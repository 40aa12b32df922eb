"""Intervals, paired differences and the Holm correction: pure functions on arrays with one value per seed.

Student's t throughout: at 3, 5 and 10 seeds its nominal 95 % interval covers about 95 %, where the percentile
bootstrap covers 75, 83 and 90 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special  # type: ignore[import-untyped, unused-ignore]  # scipy ships no type information

Values = NDArray[np.float64]
Seeds = NDArray[np.int64]

# Two metrics that agree to this are the same number read twice: float64 rounding of fractions is near 1e-16,
# one test example out of ten million is 1e-7.
SAME = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its t-interval; `low`, `high` and `sd` (ddof=1) are nan below two values, `mean` below one."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True)
class Paired:
    """Differences value - baseline over `n` pairs, their t-interval and the two-sided paired t-test.

    `kind` says how far the numbers go: "normal"; "identical" (every pair equal: interval [0, 0], p = 1); "constant"
    (every pair differs by the same amount, so seeds may not be applied: no interval, no p); "few" (below two pairs).
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int
    p: float
    above: int
    equal: int
    kind: Literal["normal", "identical", "constant", "few"]


def t_interval(values: Values, level: float = 0.95) -> Interval:
    """The mean of `values` [n] and its two-sided t-interval at `level`.

    Raises ValueError for a value that is not finite (a failed run must be counted, not averaged) and for a level
    outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    if not np.all(np.isfinite(values)):
        raise ValueError("values must be finite: set failed runs aside and count them first")
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n)
    sd = float(np.std(values, ddof=1))
    half = float(special.stdtrit(n - 1, 0.5 + level / 2)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def pair_by_seed(seeds: Seeds, values: Values, base_seeds: Seeds, base_values: Values) -> tuple[Values, Values]:
    """The values and baseline values of the seeds that both have finite, in the order of the seeds.

    Raises ValueError for a seed that occurs twice on one side: such a pair would be a guess.
    """
    for side in (seeds, base_seeds):
        if len(np.unique(side)) != len(side):
            raise ValueError(f"a seed occurs twice among {sorted(side.tolist())}")
    ours, theirs = np.isfinite(values), np.isfinite(base_values)
    _, at, base_at = np.intersect1d(seeds[ours], base_seeds[theirs], return_indices=True)
    return values[ours][at], base_values[theirs][base_at]


def paired_difference(values: Values, baseline: Values, level: float = 0.95) -> Paired:
    """The paired differences `values - baseline`, both [n] in the same seed order, as a `Paired`."""
    apart = values - baseline
    apart = np.where(np.abs(apart) <= SAME, 0.0, apart)
    interval = t_interval(apart, level)
    above, equal = int(np.sum(apart > 0)), int(np.sum(apart == 0))

    def result(low: float, high: float, p: float, kind: Literal["normal", "identical", "constant", "few"]) -> Paired:
        return Paired(interval.mean, low, high, interval.sd, interval.n, p, above, equal, kind)

    if interval.n < 2:
        return result(math.nan, math.nan, math.nan, "few")
    if equal == interval.n:
        return result(0.0, 0.0, 1.0, "identical")
    if interval.sd <= SAME * max(1.0, abs(interval.mean)):
        return result(math.nan, math.nan, math.nan, "constant")
    t = interval.mean / (interval.sd / math.sqrt(interval.n))
    return result(interval.low, interval.high, 2 * float(special.stdtr(interval.n - 1, -abs(t))), "normal")


def paired_ratio(values: Values, baseline: Values, level: float = 0.95) -> Interval:
    """The geometric mean of `values / baseline` [n] and its interval: the t-interval of the log ratios, back on the
    scale of ratios. Pairs with a value that is not above 0 are left out; `sd` is that of the logs."""
    positive = (values > 0) & (baseline > 0)
    logs = t_interval(np.log(values[positive]) - np.log(baseline[positive]), level)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.sd, logs.n)


def seeds_needed(sd: float, margin: float, level: float = 0.95, tests: int = 1) -> int:
    """The fewest pairs whose t-interval, corrected for `tests`, reaches no further than `margin` to either side.

    >>> seeds_needed(sd=2.0, margin=1.0)
    18
    """
    share = 0.5 + level / 2 if tests == 1 else 1 - (1 - level) / (2 * tests)
    # The normal quantile is below every t quantile, so the search starts at or below the answer.
    n = max(2, math.floor((float(special.ndtri(share)) * sd / margin) ** 2))
    while float(special.stdtrit(n - 1, share)) * sd > margin * math.sqrt(n):
        n += 1
    return n


def holm(p_values: Values) -> Values:
    """Step-down adjusted p-values  (Holm 1979); the family is the entries that are not nan, which stay nan."""
    adjusted = np.full(len(p_values), math.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return adjusted
