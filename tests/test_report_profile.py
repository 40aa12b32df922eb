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

from runner.report.datasets import pool, pooled_markdown, scored
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
    ours, base = scored(frame[frame["method"] == "l2"], frame[frame["method"] == "none"], "last_test_acc")
    # none: 0.8 on average, an error of 0.2
    np.testing.assert_allclose(ours, [0.5, -1.0, -math.inf, 0.0], atol=1e-12)
    np.testing.assert_allclose(base, [-0.5, 0.5, 0.0, 0.0], atol=1e-12)


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


def test_a_method_that_one_data_set_lacks_is_in_no_profile(tmp_path: Path) -> None:
    study = write_study(
        tmp_path, Plan(methods=("l2", "dropout"), protocol="fixed", report=3, strengths=(0.1,), groups=TWO)
    )
    (study / "fashion--dropout" / "runs.csv").unlink()
    runs = pd.concat([pd.read_csv(path, keep_default_na=False) for path in sorted(study.glob("*/runs.csv"))])
    runs = runs.assign(strength=0.1)
    assert set(collected(runs, headline(runs))) == {"none", "l2"}
