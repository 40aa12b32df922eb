"""The performance profile, the interquartile mean and the probability of improvement, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_data import Plan, write_study
from scipy.stats import trim_mean
from test_report_figures import frames, texts_inside
from test_report_tables import by_hand

from runner.report import build
from runner.report.datasets import Runs, paired_runs, pool, pooled_markdown
from runner.report.profile import above, collected, profile
from runner.report.stats import improvement, interquartile_mean, percentiles, resampled
from runner.report.tables import headline

TWO = (("digits", "mlp", ""), ("fashion", "mlp", ""))


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    values = np.array([9.0, 1.0, 2.0, 3.0, 100.0, 4.0, -50.0, 5.0])
    assert interquartile_mean(values) == (2 + 3 + 4 + 5) / 4
    for size in (3, 5, 10, 11):
        some = np.random.default_rng(size).normal(size=(4, size))
        np.testing.assert_allclose(interquartile_mean(some), trim_mean(some, 0.25, axis=-1))
    assert interquartile_mean(np.array([-math.inf, 1.0, 2.0, 3.0])) == 1.5  # one failed run of four
    assert math.isnan(interquartile_mean(np.array([-math.inf, -math.inf, 2.0, 3.0])))


def test_the_probability_of_improvement_counts_pairs_and_half_of_the_ties() -> None:
    # 3 > 1, 3 > 2, 2 > 1 and half of 2 = 2, of 4 pairs
    assert improvement(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == 3.5 / 4
    assert improvement(np.array([[3.0], [1.0]]), np.array([[2.0], [2.0]])).tolist() == [1.0, 0.0]
    assert improvement(np.array([-math.inf]), np.array([0.0])) == 0.0


def test_a_score_is_the_share_of_the_error_of_none_that_is_taken_away() -> None:
    frame = by_hand({"none": [0.7, 0.9, 0.8, 0.8], "l2": [0.9, 0.6, math.nan, 0.8]})
    l2, none = frame[frame["method"] == "l2"], frame[frame["method"] == "none"]
    pair = paired_runs(l2, none, "last_test_acc")
    # none: 0.8 on average, an error of 0.2
    np.testing.assert_allclose(pair.scores, [0.5, -1.0, -math.inf, 0.0], atol=1e-12)
    np.testing.assert_allclose(paired_runs(none, none, "last_test_acc").scores, [-0.5, 0.5, 0.0, 0.0], atol=1e-12)
    # drawn anew none's mean is another: 0.7, an error of 0.3
    np.testing.assert_allclose(pair.again(np.array([[0, 0]])).scores, [[2 / 3, 2 / 3]], atol=1e-12)
    assert np.isnan(Runs(np.ones(2), np.ones(2)).scores).all()  # without an error there is no share of it
    assert np.isnan(Runs(np.ones(2), np.full(2, -math.inf)).scores).all()


def test_the_interval_of_the_interquartile_mean_knows_that_the_mean_of_none_is_one_of_few() -> None:
    """Two data sets, twenty seeds, no effect, and a baseline that varies twice as much: 0 is in 95 of 100 intervals.

    With none's mean taken as known it would be in 70 of them.
    """
    random, covered, held = np.random.default_rng(0), list[bool](), list[bool]()
    for _ in range(200):
        pairs = [Runs(random.normal(0.7, 0.007, 20), random.normal(0.7, 0.014, 20)) for _ in range(2)]
        places = resampled([20, 20])
        for found, scores in (
            (covered, [pair.again(at).scores for pair, at in zip(pairs, places, strict=True)]),
            (held, [pair.scores[at] for pair, at in zip(pairs, places, strict=True)]),
        ):
            low, high = percentiles(interquartile_mean(np.concatenate(scores, axis=1)))
            found.append(bool(low <= 0 <= high))
    assert 0.89 <= np.mean(covered) <= 0.99
    assert np.mean(held) < 0.75


def test_a_profile_by_hand() -> None:
    scores = [np.array([0.0, 1.0]), np.array([2.0, 2.0, -math.inf, 0.5])]
    # above 0: 1/2 and 3/4; above 1: 0 and 2/4; every data set weighs the same
    np.testing.assert_allclose(above(scores, np.array([-1.0, 0.0, 1.0, 2.0])), [0.875, 0.625, 0.25, 0.0])
    again = [values[places] for values, places in zip(scores, resampled([2, 4]), strict=True)]
    shares = above(again, np.array([0.0]))
    assert shares.shape == (2000, 1)
    assert shares.mean() == pytest.approx(0.625, abs=0.01)
    # of two runs 0, 1 or 2 are above, of four ... : the ends are attained
    low, high = percentiles(shares)
    assert low[0] < 0.4
    assert high[0] == 1.0


def test_the_pooled_table_and_the_figure_show_them(tmp_path: Path) -> None:
    plan = Plan(
        methods=("l2", "dropout", "batchnorm"), tune=2, report=6, strengths=(0.01, 0.1), groups=TWO,
        diverged=(("dropout", "report", 4),),
    )  # fmt: skip
    runs, frame = frames(tmp_path, plan)
    over = pool(runs, frame)
    assert over is not None
    rows = over.set_index("method")
    sound = over[over["method"] != "dropout"]  # in some resamples more than a quarter of its runs failed: no interval
    assert (sound["iqm_lo"] <= sound["iqm"]).all()
    assert (sound["iqm"] <= sound["iqm_hi"]).all()
    assert rows["iqm"].notna().all()
    assert rows["iqm_lo"].isna().tolist() == [name == "dropout" for name in rows.index]
    assert (over["p_improve_lo"] <= over["p_improve"]).all()
    assert (over["p_improve"] <= over["p_improve_hi"]).all()
    assert rows["iqm"].idxmax() == "l2"
    assert rows["p_improve"].between(0, 1).all()
    assert "| P(better), % [95% CI] |" in pooled_markdown(over)
    drawing = profile(runs, frame)
    assert drawing is not None
    texts_inside(drawing)
    data = drawing.data
    assert set(data["method"]) == {"l2", "dropout", "batchnorm", "none"}
    # one run of six failed on each data set: it is above no threshold
    assert data[data["method"] == "dropout"]["share"].max() == pytest.approx(5 / 6)
    for _, line in data.groupby("method"):
        assert (np.diff(line["share"]) <= 1e-12).all()
        assert ((line["lo"] <= line["share"] + 1e-12) & (line["share"] <= line["hi"] + 1e-12)).all()
    assert profile(runs, frame[frame["dataset"] == "digits"]) is None


def test_failed_runs_and_pairs_are_counted_beside_pooled_differences(tmp_path: Path) -> None:
    lost = tuple(("dropout", "report", seed) for seed in range(3, 9))
    plan = Plan(methods=("l2", "dropout"), tune=2, report=8, strengths=(0.01, 0.1), groups=TWO, diverged=lost)
    over = pool(*frames(tmp_path, plan))
    assert over is not None
    rows = over.set_index("method")
    failed = int(over.loc[over["method"] == "dropout", "n_failed"].iloc[0])
    assert failed >= 10
    assert (rows.loc["l2", "pairs"], rows.loc["l2", "n_failed"]) == ("8 8", 0)
    page = pooled_markdown(over)
    assert f"({failed} failed) |" in page
    assert "| l2 | 2 | 8 |" in page
    assert f"runs that failed are in no difference: {failed} of dropout; p: Holm over 2 comparisons." in page
    assert "A failed run counts as the lowest" in page


def test_profiles_of_accuracy_and_of_r2_are_apart(tmp_path: Path) -> None:
    groups = tuple((name, "mlp", "") for name in ("a", "b", "c", "d"))
    runs = frames(tmp_path, Plan(methods=("l2", "dropout"), tune=2, report=3, strengths=(0.01, 0.1), groups=groups))[0]
    regressions = runs["dataset"].isin(["b", "d"])
    runs = runs.assign(task=np.where(regressions, "regression", "classification"))
    frame = headline(runs)
    frame = frame.assign(metric=np.where(frame["dataset"].isin(["b", "d"]), "test_r2", "test_acc"))
    for split in ("train", "val", "test"):
        for checkpoint in ("last", "best"):
            runs[f"{checkpoint}_{split}_r2"] = runs[f"{checkpoint}_{split}_acc"]
    names = [name for name, _ in build._over_all(runs, frame, None) if name.startswith(("profile", "ranks"))]
    assert names == ["ranks-mlp_test_acc", "profile-mlp_test_acc", "ranks-mlp_test_r2", "profile-mlp_test_r2"]


def test_a_method_that_one_data_set_lacks_is_in_no_profile(tmp_path: Path) -> None:
    study = write_study(
        tmp_path, Plan(methods=("l2", "dropout"), protocol="fixed", report=3, strengths=(0.1,), groups=TWO)
    )
    (study / "fashion--dropout" / "runs.csv").unlink()
    runs = pd.concat([pd.read_csv(path, keep_default_na=False) for path in sorted(study.glob("*/runs.csv"))])
    runs = runs.assign(strength=0.1)
    assert set(collected(runs, headline(runs))) == {"none", "l2"}
