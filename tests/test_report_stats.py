"""Intervals, pairs and Holm against numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from runner.report.stats import (
    budget_curve,
    correlation,
    example_error,
    holm,
    pair_by_seed,
    paired_difference,
    paired_ratio,
    pooled,
    seeds_needed,
    share_within,
    sign_flip,
    simultaneous,
    standardized,
    t_interval,
)


def test_t_interval_of_three_values() -> None:
    # 1, 2, 3: mean 2, sd 1, t(0.975, 2 df) = 4.30265, half-width 4.30265 / sqrt(3) = 2.48414
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (interval.mean, interval.sd, interval.n) == (2.0, 1.0, 3)
    assert interval.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert interval.high == pytest.approx(2 + 2.48414, abs=1e-5)


def test_t_interval_takes_its_level() -> None:
    # t(0.75, 1 df) = 1: the 50 % interval of 0, 2 (sd sqrt(2), standard error 1) is 1 -+ 1
    interval = t_interval(np.array([0.0, 2.0]), level=0.5)
    assert (interval.low, interval.high) == pytest.approx((0.0, 2.0))


@pytest.mark.parametrize("values", [[], [0.4]])
def test_t_interval_below_two_values_has_no_bounds(values: list[float]) -> None:
    interval = t_interval(np.array(values))
    assert interval.n == len(values)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(interval.sd)
    assert interval.mean == 0.4 if values else math.isnan(interval.mean)


def test_t_interval_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        t_interval(np.array([0.1, math.nan]))
    with pytest.raises(ValueError, match="level is 95"):
        t_interval(np.array([0.1, 0.2]), level=95)


def test_t_interval_covers_its_level() -> None:
    # 4,000 samples of 5: the share has a standard error of 0.0034; z-intervals would cover 0.87, the bootstrap 0.83.
    samples = np.random.default_rng(0).normal(size=(4000, 5))
    intervals = [t_interval(sample) for sample in samples]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.935 < covered < 0.965


def test_paired_difference_by_hand() -> None:
    # differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t = 3.4641 with 2 df;
    # p = 1 - t/sqrt(t^2 + 2) = 1 - 3.4641/sqrt(14) = 0.074180
    paired = paired_difference(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert (paired.mean, paired.n, paired.above, paired.equal, paired.kind) == (2.0, 3, 3, 0, "normal")
    assert paired.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert paired.p == pytest.approx(0.074180, abs=1e-6)


def test_two_pairs_still_have_an_interval() -> None:
    # differences 0, 2: mean 1, standard error 1, t = 1 with 1 df: p = 0.5; t(0.975, 1 df) = 12.7062
    paired = paired_difference(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    assert paired.p == pytest.approx(0.5)
    assert (paired.low, paired.high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)
    assert (paired.above, paired.equal) == (1, 1)


def test_identical_runs_differ_by_nothing() -> None:
    values = np.array([0.1, 0.2, 0.3])
    # 0.1 + 0.2 is not 0.3 in floating point: rounding of a fraction is no difference.
    paired = paired_difference(values, np.array([0.1, 0.2, 0.1 + 0.2]))
    assert (paired.mean, paired.low, paired.high, paired.p, paired.kind) == (0.0, 0.0, 0.0, 1.0, "identical")
    assert paired.equal == 3


def test_a_constant_shift_has_no_p_value() -> None:
    values = np.array([0.1, 0.2, 0.7])
    paired = paired_difference(values + 0.05, values)
    assert paired.kind == "constant"
    assert paired.mean == pytest.approx(0.05)
    assert math.isnan(paired.p)
    assert math.isnan(paired.low)
    assert math.isnan(paired.high)


@pytest.mark.parametrize("size", [1, 100])
def test_what_records_round_is_no_spread(size: float) -> None:
    # 17 and 23 of 30 right, nine digits each, and one more: 1/30 apart, but for 3e-10 of the last digit
    base = [float(f"{size * right / 30:.9g}") for right in (17, 23)]
    ours = [float(f"{size * (right + 1) / 30:.9g}") for right in (17, 23)]
    paired = paired_difference(np.array(ours), np.array(base))
    assert 0 < paired.sd < 1e-8 * size
    assert (paired.kind, math.isnan(paired.p)) == ("constant", True)
    again = paired_difference(np.array(base) + 3e-10 * size, np.array(base))
    assert (again.kind, again.equal) == ("identical", 2)
    # one test example out of ten million in one of the pairs is a difference
    assert paired_difference(np.array([0.5, 0.6]), np.array([0.5, 0.6 - 1e-7])).kind == "normal"
    assert math.isnan(standardized(np.array([3e-10, 0.0, 3e-10])))
    shifts = [np.array(ours) - np.array(base)] * 2
    assert math.isnan(pooled([shift / size for shift in shifts]).p)
    assert sign_flip(np.array([3e-10, 1.0, -1.0] * 3)) == 1.0


def test_one_pair_and_none() -> None:
    one = paired_difference(np.array([0.5]), np.array([0.4]))
    assert one.mean == pytest.approx(0.1)
    assert (one.kind, one.above) == ("few", 1)
    assert math.isnan(one.p)
    nothing = paired_difference(np.array([]), np.array([]))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)


def test_pairs_are_the_seeds_both_have_finite() -> None:
    # seed 4 is missing on the right, seed 5 on the left, seed 3 diverged: 1 and 2 remain, in the order of the seeds
    ours, theirs = pair_by_seed(
        np.array([3, 2, 1, 4]), np.array([math.nan, 0.2, 0.1, 0.4]),
        np.array([1, 5, 2, 3]), np.array([0.01, 0.05, 0.02, 0.03]),
    )  # fmt: skip
    assert ours.tolist() == [0.1, 0.2]
    assert theirs.tolist() == [0.01, 0.02]


def test_a_seed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        pair_by_seed(np.array([1, 1]), np.array([0.1, 0.2]), np.array([1]), np.array([0.1]))


def test_paired_ratio_is_geometric() -> None:
    # ratios 1 and 4: geometric mean 2 (the arithmetic one is 2.5); the pair with time 0 is left out
    ratio = paired_ratio(np.array([2.0, 8.0, 1.0]), np.array([2.0, 2.0, 0.0]))
    assert ratio.mean == pytest.approx(2.0)
    assert ratio.n == 2
    assert ratio.low < ratio.mean < ratio.high


@pytest.mark.parametrize(("sd", "tests", "n"), [(2.0, 1, 18), (2.0, 11, 37), (4.0, 1, 64), (0.5, 1, 4), (0.0, 1, 2)])
def test_seeds_needed(sd: float, tests: int, n: int) -> None:
    # t(0.975, 17 df) = 2.1098: 2.1098 * 2 / sqrt(18) = 0.9946 <= 1; with 17 pairs 2.1199 * 2 / sqrt(17) = 1.028 > 1
    assert seeds_needed(sd, 1.0, tests=tests) == n


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1 = 0.03, 0.06, 0.04; made monotone 0.03, 0.06, 0.06; nan is not in the family
    adjusted = holm(np.array([0.04, 0.01, math.nan, 0.03]))
    assert adjusted[[0, 1, 3]] == pytest.approx([0.06, 0.03, 0.06])
    assert math.isnan(adjusted[2])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_simultaneous_is_bonferroni() -> None:
    # 1, 2, 3: standard error 1 / sqrt(3); two tests: t(0.9875, 2 df) = 6.20535, half-width 3.58266
    interval = t_interval(np.array([1.0, 2.0, 3.0]))
    assert simultaneous(2.0, interval.high, 3, 2) == pytest.approx((2 - 3.58266, 2 + 3.58266), abs=1e-4)
    assert simultaneous(2.0, interval.high, 3, 1) == pytest.approx((interval.low, interval.high))
    assert all(math.isnan(bound) for bound in simultaneous(2.0, math.nan, 1, 2))


@pytest.mark.parametrize("n", [9, 10, 11])
def test_sign_flip_counts_all_signs(n: int) -> None:
    random = np.random.default_rng(n)
    for values in (random.normal(0.4, 1, n), np.round(random.normal(0.4, 1, n)), np.arange(1.0, n + 1)):
        sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in _signs(n)]
        share = float(np.mean(np.array(sums) >= abs(values.sum()) - 1e-9))
        assert sign_flip(values) == pytest.approx(share)
    # all differences on one side: only the two extreme choices of signs reach so far
    assert sign_flip(np.arange(1.0, n + 1)) == 2 / 2**n


def _signs(n: int) -> list[tuple[float, ...]]:
    return list(itertools.product((-1.0, 1.0), repeat=n))


def test_sign_flip_is_blank_where_it_could_say_nothing() -> None:
    assert math.isnan(sign_flip(np.ones(8)))
    assert math.isnan(sign_flip(np.ones(41)))
    assert sign_flip(np.array([1.0, -1.0] * 5)) == 1.0


def test_standardized_difference() -> None:
    # mean 2, sd 1, n = 3: Hedges' factor 1 - 3 / (4 * 2 - 1) = 4/7, so 8/7
    assert standardized(np.array([1.0, 2.0, 3.0])) == pytest.approx(8 / 7)
    assert math.isnan(standardized(np.array([1.0, 1.0, 1.0])))


def test_error_of_few_test_examples() -> None:
    # two seeds on three examples: mean differences 1, 1/2 and 0, sd 1/2 over n - 1 (0.408 over n), over sqrt(3)
    ours = np.array([[True, True, False], [True, False, False]])
    error = example_error(ours, np.zeros((2, 3), dtype=bool))
    assert error == pytest.approx(0.5 / math.sqrt(3))
    assert math.isnan(example_error(ours[:, :1], ours[:, :1]))


def test_correlation_of_pairs() -> None:
    # deviations -1, 0, 1 and -1, 1, 0: 1 / (sqrt(2) * sqrt(2)) = 0.5
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert math.isnan(correlation(np.array([1.0, 2.0, 3.0]), np.ones(3)))


def test_share_within_the_margin() -> None:
    # differences -1, 1: mean 0, standard error 1; Cauchy: between -1 and 1 lies half
    assert share_within(paired_difference(np.array([-1.0, 1.0]), np.zeros(2)), 1.0) == pytest.approx(0.5)
    assert share_within(paired_difference(np.ones(3), np.ones(3)), 0.1) == 1.0


@pytest.mark.parametrize("total", range(1, 7))
def test_budget_curve_is_every_draw(total: int) -> None:
    random = np.random.default_rng(total)
    validation, test = random.permutation(total).astype(float), random.normal(size=total)
    for k, value in enumerate(budget_curve(validation, test), start=1):
        draws = [max(draw, key=lambda at: validation[at]) for draw in itertools.combinations(range(total), k)]
        assert value == pytest.approx(np.mean([test[at] for at in draws]))


def test_budget_curve_of_thousands_of_runs() -> None:
    # of n runs that are as good as their place, the best of k is at k (n + 1) / (k + 1) on average
    n = 3000
    places = np.arange(1.0, n + 1)
    curve = budget_curve(places, places)
    np.testing.assert_allclose(curve, places * (n + 1) / (places + 1), rtol=1e-9)


def test_budget_curve_breaks_ties_by_lot() -> None:
    # two runs level in validation: drawing both gives either
    assert budget_curve(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx([0.5, 0.5])


def test_pooled_with_the_choice_of_test_examples() -> None:
    # as by hand below: half 3.2190 * 0.645497 = 2.078; examples 3 and 4, so 5 / 2 times 1.959964 = 4.900 in squares
    sets = [np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])]
    alone, both = pooled(sets), pooled(sets, 0.95, [3.0, 4.0])
    assert both.high - 2 == pytest.approx(math.hypot(2.078, 2.5 * 1.959964), rel=1e-3)
    assert (both.mean, both.freedom) == (alone.mean, alone.freedom)
    # p is 1 less the level at which the interval ends at 0
    assert pooled(sets, 1 - both.p, [3.0, 4.0]).low == pytest.approx(0.0, abs=1e-6)
    assert pooled(sets, 0.95, [math.nan, math.nan]) == alone
    assert alone.high < pooled(sets, 0.95, [math.nan, 4.0]).high < both.high


def test_pooled_without_spread_tests_nothing() -> None:
    shifts = [np.array([0.1, 0.1]), np.array([-0.1, -0.1])]
    assert math.isnan(pooled(shifts).p)
    assert math.isnan(pooled(shifts).low)
    assert pooled([np.zeros(2), np.zeros(3)]).p == 1.0


def test_pooled_by_hand() -> None:
    # sets 1, 2, 3 (mean 2, var 1) and 0, 2, 4 (mean 2, var 4): mean 2, error sqrt(1/3 + 4/3) / 2 = 0.645497;
    # freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17 = 2.941; t = 3.0984
    result = pooled([np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])])
    assert (result.mean, result.sets) == (2.0, 2)
    assert result.freedom == pytest.approx(50 / 17)
    # t(0.975, 2.941 df) = 3.2190, between t(3 df) = 3.1824 and t(2 df) = 4.3027
    assert result.high - 2 == pytest.approx(3.2190 * 0.645497, rel=2e-3)
    # p lies between those of t(2) = 0.0903 and t(3) = 0.0533
    assert 0.0533 < result.p < 0.0903
    assert math.isnan(pooled([np.array([1.0]), np.array([1.0, 2.0])]).low)
