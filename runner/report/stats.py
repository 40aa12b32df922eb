"""Intervals, paired differences, tests and budget curves: pure functions on arrays with one value per seed.

Student's t throughout: at 3, 5 and 10 seeds its nominal 95 % interval covers about 95 %, where the percentile
bootstrap covers 75, 83 and 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special  # type: ignore[import-untyped, unused-ignore]  # scipy ships no type information

Values = NDArray[np.float64]
Seeds = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Two figures that agree to this are one figure read twice: records keep nine digits, so a difference of two fractions
# is off by up to 1e-9, and one test example out of ten million is 1e-7. Of figures above 1 (losses) it is a share.
SAME = 1e-8


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

    `test_error` is the standard error of the mean from the choice of test examples, as far as the interval and p
    contain it (`with_test_error`). `kind` says how far the numbers go: "normal"; "identical" (every pair equal:
    interval [0, 0], p = 1); "constant" (every pair differs by the same amount, by chance on few test examples or since
    seeds are not applied: no interval, no p); "few" (below two pairs).
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
    test_error: float = 0.0


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
    apart, rounding = values - baseline, SAME * np.maximum(1.0, np.maximum(np.abs(values), np.abs(baseline)))
    apart = np.where(np.abs(apart) <= rounding, 0.0, apart)
    interval = t_interval(apart, level)
    above, equal = int(np.sum(apart > 0)), int(np.sum(apart == 0))

    def result(low: float, high: float, p: float, kind: Literal["normal", "identical", "constant", "few"]) -> Paired:
        return Paired(interval.mean, low, high, interval.sd, interval.n, p, above, equal, kind)

    if interval.n < 2:
        return result(math.nan, math.nan, math.nan, "few")
    if equal == interval.n:
        return result(0.0, 0.0, 1.0, "identical")
    if interval.sd <= rounding.max():
        return result(math.nan, math.nan, math.nan, "constant")
    t = interval.mean / (interval.sd / math.sqrt(interval.n))
    return result(interval.low, interval.high, 2 * float(special.stdtr(interval.n - 1, -abs(t))), "normal")


def with_test_error(paired: Paired, error: float, level: float = 0.95) -> Paired:
    """The difference with an interval and a p-value that also contain the choice of test examples.

    The half-width is sqrt((t se_seeds)^2 + (z `error`)^2); p is 1 - the level at which the interval ends at 0. What has
    no interval over seeds, or an empty one, stays as it is.
    """
    if paired.kind != "normal" or not error > 0:
        return paired
    reach, p = _of_both(paired.mean, paired.sd / math.sqrt(paired.n), paired.n - 1, error, level)
    return replace(paired, low=paired.mean - reach, high=paired.mean + reach, p=p, test_error=error)


def _of_both(mean: float, seeds: float, freedom: float, error: float, level: float) -> tuple[float, float]:
    """The half-width and p of a mean with standard errors of the seeds (t) and of the test examples (normal)."""

    def half(p: float) -> float:
        return math.hypot(float(special.stdtrit(freedom, p / 2)) * seeds, float(special.ndtri(p / 2)) * error)

    least, most = 1e-300, 1.0
    for _ in range(100):  # halvings of the logarithm's range: to about 1e-28 of itself
        middle = math.sqrt(least) * math.sqrt(most)
        least, most = (middle, most) if half(middle) > abs(mean) else (least, middle)
    return half(1 - level), most


def example_error(correct: Flags, base_correct: Flags) -> float:
    """The standard error, from the choice of test examples, of a mean paired difference in accuracy.

    correct and base_correct are [seeds, examples], the same seeds and test examples in the same order: sd over the
    examples of their mean difference over the seeds, over the root of their number. nan below two examples.
    """
    apart = correct.mean(axis=0) - base_correct.mean(axis=0)
    return float(np.std(apart, ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan


def paired_ratio(values: Values, baseline: Values, level: float = 0.95) -> Interval:
    """The geometric mean of `values / baseline` [n] and its interval: the t-interval of the log ratios, back on the
    scale of ratios. Pairs with a value that is not above 0 are left out; `sd` is that of the logs."""
    positive = (values > 0) & (baseline > 0)
    logs = t_interval(np.log(values[positive]) - np.log(baseline[positive]), level)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.sd, logs.n)


def simultaneous(
    mean: float, high: float, n: int, tests: int, level: float = 0.95, test_error: float = 0.0
) -> tuple[float, float]:
    """The Bonferroni interval over `tests` comparisons, from the t-interval of one of them, which ends at `high`.

    All of them cover at once with probability `level`. `test_error` is added in squares, as in `with_test_error`. nan
    below two pairs and without tests.
    """
    if n < 2 or tests < 1 or not math.isfinite(high):
        return math.nan, math.nan
    wider = special.stdtrit(n - 1, 1 - (1 - level) / (2 * tests)) / special.stdtrit(n - 1, 0.5 + level / 2)
    half = math.hypot((high - mean) * float(wider), float(special.ndtri((1 - level) / (2 * tests))) * test_error)
    return mean - half, mean + half


def sign_flip(apart: Values) -> float:
    """The exact two-sided p-value of the mean of `apart` [n] under all 2^n choices of signs; a check on the t-test.

    nan below 9 pairs, where even the smallest possible p, 2 / 2^n, is too large to survive a correction over a dozen
    methods, and above 40, where the t-test needs no check. The 2^n sums are counted from two sorted halves.
    """
    n = len(apart)
    if not 9 <= n <= 40:
        return math.nan

    def sums(values: Values) -> Values:
        found = np.zeros(1)
        for value in values:
            found = np.concatenate([found - value, found + value])
        return np.sort(found)

    left, right = sums(apart[: n // 2]), sums(apart[n // 2 :])
    reach = abs(float(apart.sum())) - SAME * n  # sums equal but for rounding count as reaching it
    above = len(right) - np.searchsorted(right, reach - left, side="left")
    return 1.0 if reach <= 0 else min(1.0, 2 * int(above.sum()) / 2.0**n)


def standardized(apart: Values) -> float:
    """The mean difference in standard deviations of the differences, with Hedges' factor for few pairs: d_z."""
    n = len(apart)
    sd = float(np.std(apart, ddof=1)) if n > 1 else 0.0
    if n < 3 or sd <= SAME:
        return math.nan
    return float(np.mean(apart)) / sd * (1 - 3 / (4 * (n - 1) - 1))


def correlation(values: Values, baseline: Values) -> float:
    """Pearson's correlation of the pairs, what pairing gains from; nan below three or for a side that is constant."""
    if len(values) < 3 or min(np.ptp(values), np.ptp(baseline)) <= SAME:
        return math.nan
    return float(np.corrcoef(values, baseline)[0, 1])


def share_within(paired: Paired, margin: float) -> float:
    """The posterior probability that the mean difference lies within `margin` to either side, under a flat prior.

    The posterior is Student's t with n - 1 degrees of freedom about the mean difference, convolved with the normal
    distribution of `test_error` where the interval contains that (the mean over 2,000 of its quantiles).
    """
    if paired.kind == "identical":
        return 1.0
    if paired.kind != "normal":
        return math.nan
    error, freedom = paired.sd / math.sqrt(paired.n), paired.n - 1
    centers = paired.mean + paired.test_error * special.ndtri((np.arange(2000) + 0.5) / 2000)
    below, above = ((side * margin - centers) / error for side in (-1, 1))
    return float(np.mean(special.stdtr(freedom, above) - special.stdtr(freedom, below)))


def budget_curve(validation: Values, test: Values) -> Values:
    """The expected test value of the validation-best of k runs drawn without replacement, for k = 1 to B: [B].

    Exact: with the runs sorted by validation, run i is the best of k in C(i - 1, k - 1) of the C(B, k) draws. Runs
    level in validation share their mean test value, as if the tie were broken by lot.
    """
    total = len(validation)
    levels, place = np.unique(validation, return_inverse=True)
    means = np.bincount(place, test, len(levels)) / np.bincount(place, minlength=len(levels))
    kept = means[np.sort(place)]
    of_all = _log_choose(total, np.arange(1, total + 1))
    curve = []
    for k in range(1, total + 1):  # by logarithms, since the numbers of draws have no end
        last = np.arange(k - 1, total)
        curve.append(float(np.exp(_log_choose(last, k - 1) - of_all[k - 1]) @ kept[last]))
    return np.array(curve)


def _log_choose(n: int | NDArray[np.int64], k: int | NDArray[np.int64]) -> Values:
    """The logarithm of how many ways there are to choose k of n."""
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1), dtype=np.float64)


@dataclass(frozen=True)
class Pooled:
    """The mean over data sets of the mean differences, its interval and its p-value; `freedom` by Satterthwaite."""

    mean: float
    low: float
    high: float
    p: float
    freedom: float
    sets: int


def pooled(differences: Sequence[Values], level: float = 0.95, test_errors: Sequence[float] = ()) -> Pooled:
    """The stratified mean of paired differences, one array per data set: what holds on average on these data sets.

    Every data set weighs the same; the error is that of the seeds within them and, in squares as in `with_test_error`,
    that of the means from the choice of test examples where it is known (`test_errors`, by data set). nan bounds where
    a set has fewer than two pairs, and where no set has a spread and some a difference.
    """
    sets = len(differences)
    if not sets or any(len(apart) == 0 for apart in differences):
        return Pooled(math.nan, math.nan, math.nan, math.nan, math.nan, sets)
    mean = float(np.mean([np.mean(apart) for apart in differences]))
    if any(len(apart) < 2 for apart in differences):
        return Pooled(mean, math.nan, math.nan, math.nan, math.nan, sets)
    errors = np.array([np.var(apart, ddof=1) / len(apart) for apart in differences])
    if errors.sum() <= SAME**2:
        equal = all(np.abs(apart).max() <= SAME for apart in differences)
        ends, p = ((mean, mean), 1.0) if equal else ((math.nan, math.nan), math.nan)
        return Pooled(mean, *ends, p, math.nan, sets)
    freedom = float(
        errors.sum() ** 2 / sum(e**2 / (len(apart) - 1) for e, apart in zip(errors, differences, strict=True))
    )
    error = math.sqrt(errors.sum()) / sets
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(mean) / error))
    if (test_error := math.sqrt(sum(e**2 for e in test_errors if e > 0)) / sets) > 0:
        half, p = _of_both(mean, error, freedom, test_error, level)
    return Pooled(mean, mean - half, mean + half, p, freedom, sets)


RESAMPLES = 2000


def resampled(sizes: Sequence[int]) -> list[Seeds]:
    """For each data set (stratum) of a size the places of its runs, drawn with replacement: [RESAMPLES, size] each.

    The draws are the same at every call, so that a report can be made again to the last digit.
    """
    random = np.random.default_rng(0)
    return [random.integers(0, size, (RESAMPLES, size)) for size in sizes]


def interquartile_mean(values: Values) -> Values:
    """The mean of the middle half along the last axis, a quarter (rounded down) cut from either end: [...].

    Minus infinity stands for a run that failed; where the middle half holds one the result is nan.
    """
    cut = values.shape[-1] // 4
    middle = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    means = np.where(
        np.isfinite(middle).all(axis=-1), np.where(np.isfinite(middle), middle, 0.0).mean(axis=-1), math.nan
    )
    return np.asarray(means, dtype=np.float64)


def improvement(values: Values, baseline: Values) -> Values:
    """The share of all pairs of a run [..., n] and a baseline run [..., m] in which the run is higher, half of the ties
    included: [...]."""
    ours, theirs = values[..., :, None], baseline[..., None, :]
    return np.asarray(((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(-2, -1)), dtype=np.float64)


def percentiles(values: Values, level: float = 0.95) -> tuple[Values, Values]:
    """The ends of the central `level` of resampled values along the first axis; nan where one of them is nan."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def seeds_needed(sd: float, margin: float, level: float = 0.95, tests: int = 1, test_error: float = 0.0) -> int | None:
    """The fewest pairs whose t-interval, corrected for `tests`, reaches no further than `margin` to either side.

    None where `test_error`, which no seed makes smaller, reaches further by itself.

    >>> seeds_needed(sd=2.0, margin=1.0)
    18
    """
    share = 0.5 + level / 2 if tests == 1 else 1 - (1 - level) / (2 * tests)
    left = margin**2 - (float(special.ndtri(share)) * test_error) ** 2
    if left <= 0:
        return None
    margin = math.sqrt(left)
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
