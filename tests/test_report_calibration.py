"""Predictions of single examples in a report: what they add to intervals, the reliability figure, the tables."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from report_data import METHODS, Plan, example_predictions, write_study
from scipy import stats

from runner.report import page
from runner.report.answers import answers
from runner.report.build import build, secondary
from runner.report.cli import main
from runner.report.collect import collect
from runner.report.comparisons import gap_decomposition
from runner.report.predictions import Predictions, read_predictions
from runner.report.reliability import binned, reliability, wilson
from runner.report.sheet import save
from runner.report.stats import (
    example_error,
    paired_difference,
    seeds_needed,
    share_within,
    simultaneous,
    with_test_error,
)
from runner.report.tables import by_strength, headline, in_order, read_runs, without_tests
from runner.report.writers import caption, human

FIXED = Plan(methods=("l2", "dropout"), report=4, tune=1, split_mode="none", predictions=True)


def test_error_of_the_test_examples_by_hand() -> None:
    # means over two seeds [1, 1, 0, .5] and [.5, 0, .5, 1], apart by [.5, 1, -.5, -.5] with mean .125; squares from it
    # .140625 + .765625 + .390625 + .390625 = 1.6875, over 3 is .75^2, over the root of 4 examples .375
    ours = np.array([[1, 1, 0, 1], [1, 1, 0, 0]], dtype=np.bool_)
    theirs = np.array([[1, 0, 0, 1], [0, 0, 1, 1]], dtype=np.bool_)
    assert example_error(ours, theirs) == pytest.approx(0.375)
    assert example_error(ours, ours) == 0
    assert math.isnan(example_error(ours[:, :1], theirs[:, :1]))


def test_an_interval_with_the_test_examples_by_hand() -> None:
    # differences 1 and 3: mean 2, standard error 1, t(1) = 12.7062; with an error of 2, 1.95996 * 2 = 3.91993, and
    # together sqrt(12.7062^2 + 3.91993^2) = 13.2971
    seeds = paired_difference(np.array([1.0, 3.0]), np.zeros(2))
    both = with_test_error(seeds, 2.0)
    assert (both.mean, both.high - both.mean, both.mean - both.low) == pytest.approx((2.0, 13.2971, 13.2971), rel=1e-5)
    assert with_test_error(seeds, math.nan) == seeds
    assert with_test_error(seeds, 0.0) == seeds


@pytest.mark.parametrize("error", [0.01, 0.3, 5.0])
def test_p_is_where_the_interval_ends_at_0(error: float) -> None:
    seeds = paired_difference(np.array([0.4, 1.1, 0.9, 0.2]), np.zeros(4))
    both = with_test_error(seeds, error)
    at_p = with_test_error(seeds, error, level=1 - both.p)
    assert at_p.low == pytest.approx(0, abs=1e-9)
    assert both.p > seeds.p


def test_without_noise_of_seeds_p_is_that_of_a_normal() -> None:
    seeds = paired_difference(1 + np.array([0.0, 1e-7, -1e-7]), np.zeros(3))
    assert with_test_error(seeds, 0.5).p == pytest.approx(2 * stats.norm.sf(2.0), rel=1e-4)


def test_the_other_figures_of_a_difference_know_the_test_error() -> None:
    seeds = paired_difference(np.array([1.0, 3.0]), np.zeros(2))
    # Bonferroni over 2: t(1) at 0.9875 is 25.4517, z is 2.2414; of errors 1 and 2: sqrt(25.4517^2 + 4.4828^2) = 25.8435
    assert simultaneous(2.0, seeds.high, 2, 2, test_error=2.0)[1] - 2 == pytest.approx(25.8435, rel=1e-5)
    # 18 pairs narrow 2 sd to 1; with an error of 0.2 there is sqrt(1 - 0.392^2) = 0.92 left, which takes 21
    assert seeds_needed(2.0, 1.0) == 18
    needed = seeds_needed(2.0, 1.0, test_error=0.2)
    assert needed == 21
    assert stats.t.ppf(0.975, needed - 1) * 2 / math.sqrt(needed) <= 0.92 < stats.t.ppf(0.975, 19) * 2 / math.sqrt(20)
    assert seeds_needed(2.0, 1.0, test_error=0.6) is None  # 1.96 * 0.6 is above 1 already
    # a normal of standard deviation 1 about 0, and hardly any noise of seeds: 68.3 % within 1
    sharp = paired_difference(np.array([1e-6, -1e-6, 0.0]), np.zeros(3))
    assert share_within(with_test_error(sharp, 1.0), 1.0) == pytest.approx(0.6827, abs=1e-3)


def test_on_one_split_the_wider_interval_covers() -> None:
    """300 test sets of 400 examples; the effect differs by example, and seeds add little."""
    random = np.random.default_rng(0)
    n, seeds, narrow, wide = 400, 5, 0, 0
    for _ in range(300):
        gain = random.normal(0.03, 0.35, n)  # the true effect over all examples is that of the clipped shares below
        base = random.uniform(0.35, 0.65, n)
        ours, theirs = (random.random((seeds, n)) < share.clip(0, 1) for share in (base + gain, base))
        apart = paired_difference(ours.mean(1), theirs.mean(1))
        both = with_test_error(apart, example_error(ours, theirs))
        narrow += apart.low <= TRUE_GAIN <= apart.high
        wide += both.low <= TRUE_GAIN <= both.high
    assert narrow < 0.92 * 300
    assert wide > 0.95 * 300


def _true_gain() -> float:
    """The mean effect that the simulation clips to: by integration over its two distributions."""
    base = np.linspace(0.35, 0.65, 201)
    gain = stats.norm.ppf((np.arange(2000) + 0.5) / 2000, 0.03, 0.35)
    return float(np.mean((base[:, None] + gain).clip(0, 1)) - 0.5)


TRUE_GAIN = _true_gain()


def frames(folder: Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Predictions]]:
    runs = in_order(read_runs(collect(write_study(folder, plan))))
    said = read_predictions(folder, runs)
    return runs, headline(runs, said=said), said


def test_a_fixed_split_widens_by_the_test_examples(tmp_path: Path) -> None:
    runs, frame, said = frames(tmp_path / "study", FIXED)
    assert len(said) == 3 * 4  # report runs only
    plain = headline(runs)
    for method in ("l2", "dropout"):
        row, before = (part[part["method"] == method].iloc[0] for part in (frame, plain))
        matrices = [
            np.stack(
                [said[run].correct for run in runs[(runs["method"] == name) & (runs["role"] == "report")]["run_id"]]
            )
            for name in (method, "none")
        ]
        error = float(np.std(matrices[0].mean(0) - matrices[1].mean(0), ddof=1)) / math.sqrt(1000)
        assert row["se_test"] == pytest.approx(error)
        half, seeds = row["diff_hi"] - row["diff"], before["diff_hi"] - before["diff"]
        assert half == pytest.approx(math.hypot(seeds, 1.959964 * error))
        assert row["gap_diff_hi"] - row["gap_diff"] == pytest.approx(
            math.hypot(before["gap_diff_hi"] - before["gap_diff"], 1.959964 * error)
        )
        assert (row["diff_lo_seeds"], row["diff_hi_seeds"]) == (before["diff_lo"], before["diff_hi"])
        assert row["diff_hi_sim"] - row["diff"] > before["diff_hi_sim"] - before["diff"]
        assert row["p"] > before["p"]
        assert (row["mean"], row["lo"], row["diff"]) == (before["mean"], before["lo"], before["diff"])
    text = caption(frame)
    assert "half-widths of the seeds (t) and of the choice of test examples (normal), added in squares" in text
    assert text.count("The intervals cover") == 1
    assert (
        "The intervals cover seeds and, for differences to none, test examples; one fixed training set: the interval "
        "does not cover the choice of training data."
    ) in text


def test_captions_say_whose_predictions_are_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FIXED)
    runs = in_order(read_runs(collect(study)))
    one = next((study / "digits--l2" / "predictions").glob("*report*"))
    one.unlink()
    text = caption(headline(runs, said=read_predictions(study, runs)))
    assert "test examples, but not for l2 (predictions are missing, which evaluate.predictions=true keeps)" in text
    shutil.rmtree(study / "digits--none" / "predictions")
    frame = headline(runs, said=read_predictions(study, runs))
    assert "seeds only, not test examples (predictions are missing, which" in caption(frame)
    assert frame["se_test"].isna().all()


def test_the_bars_say_which_intervals_contain_test_examples(tmp_path: Path) -> None:
    runs, frame, _ = frames(tmp_path / "study", FIXED)

    def note(*headlines: pd.DataFrame) -> str:
        drawing = gap_decomposition(headlines)
        assert drawing is not None
        return " ".join(" ".join(text.get_text() for text in drawing.figure.texts).split())

    best = without_tests(headline(runs, "best"))
    told = "Those of Δ train, and all at the checkpoint of lowest validation loss, cover seeds only."
    assert told in note(frame, best)
    assert "Those of Δ train cover seeds only." in note(frame)
    assert "Those of" not in note(headline(runs), best)


def test_a_difference_without_an_interval_does_not_claim_one(tmp_path: Path) -> None:
    runs, frame, said = frames(tmp_path / "study", FIXED)
    assert "half-widths" in caption(frame)
    first = headline(runs[runs["seed"] == runs.loc[runs["role"] == "report", "seed"].min()], said=said)
    shifted = runs.assign(last_test_acc=0.7 + 0.01 * (runs["method"] != "none"))
    for alone in (first, headline(shifted, said=said)):
        assert not {"normal"} & set(alone["pairs"])
        assert alone["se_test"].notna().any()  # what pooling over data sets takes
        assert "half-widths" not in caption(alone)


def test_redrawn_splits_stay_as_they_were(tmp_path: Path) -> None:
    plan = Plan(methods=("l2",), report=4, tune=1, predictions=True)
    runs, frame, _ = frames(tmp_path / "study", plan)
    assert frame.equals(headline(runs))
    assert "The intervals cover seeds and training sets drawn from the examples there are." in caption(frame)


def test_other_splits_under_one_name_are_not_added(tmp_path: Path) -> None:
    runs, _, said = frames(tmp_path / "study", FIXED)
    apart = runs.assign(split_hash=[f"h{seed}" for seed in runs["seed"]])
    assert headline(apart, said=said)["se_test"].isna().all()


def test_where_more_seeds_do_not_help_no_number_is_named() -> None:
    rows = []
    random = np.random.default_rng(1)
    said = {}
    for method in ("none", "l2"):
        for seed in range(4):
            correct = random.random(200) < 0.5
            said[f"{method}{seed}"] = Predictions(correct, np.full(200, 0.5, dtype=np.float16))
            rows.append(
                {
                    "run_id": f"{method}{seed}", "dataset": "d", "model": "m", "setting": "", "method": method,
                    "family": "penalty", "strength": math.nan, "strengths": "", "seed": seed, "role": "report",
                    "protocol": "fixed", "selected": True, "split_mode": "none", "split_hash": "h", "status": "ok",
                    "train_s": 1.0, "last_epoch": 1.0, "last_train_acc": 0.9, "last_val_acc": 0.5,
                    "last_test_acc": correct.mean(), "last_gap_acc": 0.9 - correct.mean(),
                }
            )  # fmt: skip
    frame = headline(pd.DataFrame(rows), said=said)
    row = frame.iloc[1]
    assert row["verdict"] == "inconclusive"
    assert math.isnan(row["more_seeds"])
    assert human(frame)["Verdict"].iloc[1] == "inconclusive"
    assert "without +k where the test set is too small" in caption(frame)
    ((_, told),) = answers(frame)
    assert "which more seeds alone would not narrow to the margin" in told
    assert "nan" not in told


def test_files_that_do_not_agree_or_cannot_be_read_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "study", FIXED)
    path = next((study / "digits--l2" / "predictions").glob("*report*"))
    said = example_predictions({"seed": 0, "run_id": "x", "last_test_acc": 0.1})
    np.savez(path, allow_pickle=False, **said)
    assert main([str(study)]) == 2
    assert "has a test accuracy of 0.1 and the run's record one of" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:300])
    assert main([str(study)]) == 2
    error = capsys.readouterr().err
    assert f"{path} cannot be read" in error
    assert "remove the file" in error
    assert error.count("\n") == 1


def test_bins_by_hand() -> None:
    # two runs of three examples; 0.5 lies in the 8th bin of 15, and 15/15 in the last
    said = [
        Predictions(np.array(correct), np.array(sure, dtype=np.float16))
        for correct, sure in (([True, False, True], [0.5, 0.5, 1.0]), ([True, True, True], [0.5, 0.98, 1.0]))
    ]
    table = binned(said)
    assert table["bin"].tolist() == [8, 15]
    assert table["n"].tolist() == [3, 3]
    assert table["share"].tolist() == [0.5, 0.5]
    assert table["confidence"].tolist() == pytest.approx([0.5, 2.98 / 3], abs=1e-3)
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 1.0])
    # as of 1.5 examples, not of 3
    low, high = wilson(np.array([1.0]), np.array([1.5]))
    assert (table["lo"].iloc[0], table["hi"].iloc[0]) == pytest.approx((low[0], high[0]))


def test_wilson_interval_is_that_of_scipy() -> None:
    found = stats.binomtest(7, 20).proportion_ci(method="wilson")
    low, high = wilson(np.array([7.0]), np.array([20.0]))
    assert (low[0], high[0]) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("count", [3, 20])
def test_the_reliability_figure_is_the_same_twice_and_inside_its_sheet(tmp_path: Path, count: int) -> None:
    plan = Plan(methods=METHODS[:count], report=2, tune=1, strengths=(0.1,), predictions=True)
    runs, frame, said = frames(tmp_path / "study", plan)
    first, second = reliability(runs, frame, said), reliability(runs, frame, said)
    assert first is not None
    assert second is not None
    assert len(first.figure.axes) == count + 1
    width, height = first.figure.canvas.get_width_height()
    for text in first.figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 > -1, text.get_text()
            assert box.x1 < width + 1, text.get_text()
            assert -1 < box.y0 < box.y1 < height + 1, text.get_text()
    own = runs[(runs["method"] == "none") & (runs["role"] == "report")]
    shown = f"ECE {100 * own['last_test_ece'].mean():.1f}% (≤ 3.0%)"
    assert [text.get_text() for text in first.figure.axes[0].texts] == [shown]
    if count == 3:
        paths = [save(drawing, tmp_path / name, "r") for drawing, name in ((first, "a"), (second, "b"))]
        assert [p.read_bytes() for p in paths[0]] == [p.read_bytes() for p in paths[1]]
    shares = first.data.groupby(["method", "strengths"])["share"].sum()
    assert shares.tolist() == pytest.approx([1.0] * (count + 1))


def test_methods_without_predictions_are_named_below_the_figure(tmp_path: Path) -> None:
    runs, frame, said = frames(tmp_path / "study", FIXED)
    some = {run: one for run, one in said.items() if "l2" not in run}
    drawing = reliability(runs, frame, some)
    assert drawing is not None
    assert any(
        "Without predictions of some or all runs: l2." in " ".join(text.get_text().split())
        for text in drawing.figure.texts
    )
    assert set(drawing.data["n_runs"]) == {4}
    del some[min(run for run in some if "dropout" in run)]
    drawing = reliability(runs, frame, some)
    assert drawing is not None
    assert drawing.data.groupby("method")["n_runs"].max().to_dict() == {"none": 4, "dropout": 3}
    told = " ".join(" ".join(text.get_text().split()) for text in drawing.figure.texts)
    order = [name for name in frame["method"] if name != "none"]
    assert f"some or all runs: {', '.join(order)}." in told
    assert reliability(runs, frame, {}) is None


@pytest.mark.usefixtures("sketched")
def test_calibration_is_a_choice_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FIXED)
    report = build(study)
    text = (study / "report" / "report.html").read_text()
    for metric in ("test_acc", "test_loss", "test_nll_t", "test_brier", "test_ece"):
        assert f'value="{metric}"' in text
        for checkpoint in ("last", "best"):
            assert text.count(f'data-name="{checkpoint} {metric}"') == 1
    table = pd.read_csv(study / "report" / "headline.csv")
    brier = table[(table["metric"] == "test_brier") & (table["checkpoint"] == "last")].set_index("method")
    acc = table[(table["metric"] == "test_acc") & (table["checkpoint"] == "last")].set_index("method")
    # the synthetic score is 1.2 times the share of mistakes: less is better, so wins are those of the accuracy
    both = acc.merge(brier, left_index=True, right_index=True, suffixes=("", "_brier")).drop("none")
    assert both["diff_brier"].tolist() == pytest.approx((-1.2 * both["diff"]).tolist(), rel=1e-4)
    assert both["wins_brier"].tolist() == both["wins"].tolist()
    assert brier["best"].to_dict() == acc["best"].to_dict()
    assert brier["p"].isna().all()
    assert brier["gap_mean"].isna().all()
    errors = table[table["metric"] == "test_ece"]
    assert errors["diff"].isna().all()
    assert not errors["best"].any()
    assert errors["null_mean"].tolist() == [0.03] * 6
    text = (study / "report" / "headline.md").read_text()
    assert "| Method | Strength | ECE | Calibrated ≤ |" in text
    assert "| Method | Strength | Brier | Δ test [95% CI] | Wins | Time × |" in text
    assert "| Method | Strength | Loss at T | Δ test [95% CI] | T | Wins | Time × |" in text
    strengths = by_strength(read_runs(study / "runs.csv"))
    assert strengths["test_ece_null_mean"].tolist() == pytest.approx([0.03] * len(strengths))
    assert any(path.name == "reliability.svg" for path in report.figures)


def test_less_is_better_of_scaled_losses_and_scores(tmp_path: Path) -> None:
    runs, *_ = frames(tmp_path / "study", Plan(methods=("l2",), report=6, tune=1, predictions=True))
    acc, loss, score = (headline(runs, "last", name).iloc[1] for name in ("test_acc", "test_nll_t", "test_brier"))
    # both fall where accuracy rises
    assert acc["diff"] * loss["diff"] < 0
    assert str(acc["verdict"]).startswith(("better", "worse"))
    assert loss["verdict"] == acc["verdict"]
    assert (loss["rope"], loss["wins"], score["wins"]) == (0.02, acc["wins"], acc["wins"])
    # no margin was fixed for a score, so nothing is said of it
    assert score["verdict"] == ""


def test_studies_from_before_have_no_such_tables(tmp_path: Path) -> None:
    groups = (("a", "mlp", ""), ("b", "mlp", ""))
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2, strengths=(0.1,), groups=groups))
    runs = read_runs(collect(study))
    assert [frame["metric"].iloc[0] for frame in secondary(runs)] == ["test_acc", "test_loss", "test_loss"]
    # one group is run again with a version that records them: the other has its old tables
    for job in study.glob("a-*"):
        table = pd.read_csv(job / "runs.csv")
        table = table.assign(last_test_brier=0.3, last_test_ece=0.1, last_test_ece_null=0.02)
        table.to_csv(job / "runs.csv", index=False)
    runs = read_runs(collect(study))
    others = tuple(secondary(runs))
    shown = page.render(page.Study(study, runs, headline(runs), others, None, None, (), (), ()), [])
    assert shown.count('data-name="last test_brier"') == 1
    assert shown.count('data-name="last test_loss"') == 2
    brier = next(frame for frame in others if frame["metric"].iloc[0] == "test_brier")
    assert set(brier["dataset"]) == {"a"}
    assert (brier["n_failed"] == 0).all()
