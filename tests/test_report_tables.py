"""The frames of the report and their text, on a synthetic study and on rows written by hand."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_data import Plan, write_study
from rich.console import Console

from runner.report.answers import answers
from runner.report.collect import collect
from runner.report.figures import gap_vs_test
from runner.report.tables import (
    Margins,
    NoBaseline,
    at_edge,
    by_strength,
    chosen_at_edge,
    groups,
    headline,
    in_order,
    read_runs,
    strengths_of,
    without_tests,
)
from runner.report.writers import (
    UNITS,
    caption,
    decimals,
    p_text,
    plus_minus,
    strength_text,
    terminal_table,
    to_latex,
    to_markdown,
    with_bounds,
    with_half,
    wrapped,
)

ACC = UNITS["test_acc"]


def runs_of(folder: Path, plan: Plan) -> pd.DataFrame:
    return read_runs(collect(write_study(folder, plan)))


def by_hand(values: dict[str, list[float]], **columns: object) -> pd.DataFrame:
    """Report rows with these test accuracies, seeds 0, 1, ..., train accuracy 0.9 throughout."""
    rows = []
    for method, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            row: dict[str, object] = {
                "run_id": f"{method}-{seed}", "study": "s", "dataset": "digits", "model": "mlp", "setting": "",
                "method": method, "family": "baseline" if method == "none" else "penalty",
                "strengths": "" if method == "none" else f"{method}.rate=0.01",
                "strength": math.nan if method == "none" else 0.01, "seed": seed, "role": "report",
                "protocol": "fixed", "selected": False, "split_mode": "train_val", "train_s": 2.0, "epochs": 9.0,
                "status": "ok" if math.isfinite(accuracy) else "diverged", "error": "", "last_epoch": 9.0,
                "last_train_acc": 0.9, "last_val_acc": accuracy, "last_test_acc": accuracy,
                "last_gap_acc": 0.9 - accuracy, "last_test_loss": 1 - accuracy, "last_train_loss": 0.1,
                "last_gap_loss": 0.9 - accuracy, "last_val_loss": 1 - accuracy,
            }  # fmt: skip
            rows.append(row | columns)
    return pd.DataFrame(rows)


THREE = by_hand({"none": [0.70, 0.72, 0.74], "l_2": [0.71, 0.74, 0.77]})


def test_headline_by_hand() -> None:
    # differences 0.01, 0.02, 0.03: mean 0.02, half-width 4.30265 * 0.01 / sqrt(3) = 0.0248414, t = 3.4641, p = 0.07418;
    # train does not move, so the gap moves by -0.02
    frame = headline(THREE)
    assert frame["method"].tolist() == ["none", "l_2"]
    row = frame.iloc[1]
    assert row["diff"] == pytest.approx(0.02)
    assert row["diff_lo"] == pytest.approx(0.02 - 0.0248414, abs=1e-6)
    assert row["gap_diff"] == pytest.approx(-0.02)
    assert (row["p"], row["p_holm"]) == pytest.approx((0.074180, 0.074180), abs=1e-6)
    assert (row["wins"], row["n_pairs"], row["family_size"]) == (3, 3, 1)
    assert row["d_train"] - row["d_test"] == pytest.approx(row["gap_diff"])
    assert (row["time_ratio"], row["base_mean"]) == pytest.approx((1.0, 0.72))
    assert row["interval_covers"] == "seeds and training sets drawn from the examples there are"
    assert set(headline(THREE.assign(split_mode="all"))["interval_covers"]) == {
        "seeds, training sets and test sets drawn from the examples there are"
    }


def test_times_are_of_pairs_of_one_study() -> None:
    # l_2 takes 1.5 times as long as none; seeds 1 and 2 of it are of a study whose machine is ten times as slow
    late = (THREE["method"] == "l_2") & (THREE["seed"] > 0)
    seconds = np.where(THREE["method"] == "l_2", 3.0, 2.0) * np.where(late, 10, 1)
    runs = THREE.assign(train_s=seconds, study=np.where(late, "b", "a"))
    row = headline(runs).iloc[1]
    assert (row["time_ratio"], row["n_timed"], row["n_pairs"]) == (pytest.approx(1.5), 1, 3)
    assert "paired, not across studies, which may be of several machines." in caption(headline(runs))
    assert "not across studies" not in caption(headline(THREE))
    alone = headline(runs.assign(study=np.where(runs["method"] == "l_2", "b", "a")))
    assert "| 3/3 | – |" in to_markdown(alone)


def test_times_of_packs_of_other_widths_are_marked() -> None:
    runs = by_hand({"none": [0.70, 0.72], "l_2": [0.71, 0.74], "l_1": [0.71, 0.73]}).assign(lanes=2.0)
    assert "packs" not in caption(headline(runs))
    runs.loc[runs["method"] == "l_2", ["lanes", "train_s"]] = [16.0, 0.4]
    frame = headline(runs)
    assert frame["other_lanes"].tolist() == [False, True, False]
    text = to_markdown(frame)
    assert "| 2/2 | 0.20‡ |" in text
    assert "| 2/2 | 1.00 |" in text
    assert "paired; ‡: in packs of another width than none's, and a run in a wider one costs less." in text
    assert "0.20$^\\ddagger$" in to_latex(frame)


def test_lower_loss_wins() -> None:
    frame = headline(THREE, metric="test_loss")
    assert frame.iloc[1]["diff"] == pytest.approx(-0.02)
    assert frame.iloc[1]["wins"] == 3


def test_shuffled_rows_give_the_same_tables(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, Plan(diverged=(("dropout", "report", 5),)))
    shuffled = runs.sample(frac=1, random_state=np.random.RandomState(0))
    # To the last bit: sums are taken in the order of the seeds, whatever the order of the rows.
    pd.testing.assert_frame_equal(headline(runs), headline(shuffled), check_exact=True)
    pd.testing.assert_frame_equal(by_strength(runs), by_strength(shuffled), check_exact=True)


def test_a_missing_seed_leaves_complete_pairs() -> None:
    runs = THREE[~((THREE["method"] == "none") & (THREE["seed"] == 1))]
    row = headline(runs).iloc[1]
    # seeds 0 and 2 remain: differences 0.01 and 0.03
    assert (row["n_report"], row["n_pairs"]) == (3, 2)
    assert row["diff"] == pytest.approx(0.02)
    assert "Fewer pairs than runs, for lack of the same seeds in none: l_2." in caption(headline(runs))


def test_diverged_runs_are_counted_and_not_averaged() -> None:
    runs = by_hand({"none": [0.7, 0.72, 0.74], "l2": [0.71, math.nan, 0.77]})
    row = headline(runs).iloc[1]
    assert (row["n_report"], row["n_failed"], row["n_pairs"]) == (2, 1, 2)
    assert row["mean"] == pytest.approx(0.74)
    text = to_markdown(headline(runs))
    assert "| l2 (1 of 3 failed) |" in text
    assert "not in its means" in text


def test_a_failed_run_with_a_number_is_not_averaged() -> None:
    runs = THREE.assign(status=["ok"] * 5 + ["failed"])
    assert headline(runs).iloc[1]["mean"] == pytest.approx(0.725)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds(seeds: int) -> None:
    frame = headline(THREE[THREE["seed"] < seeds])
    assert math.isnan(frame.iloc[1]["p"]) == (seeds == 1)
    assert math.isnan(frame.iloc[1]["diff_lo"]) == (seeds == 1)
    assert ("Below two pairs" in caption(frame)) == (seeds == 1)
    assert ("t-interval" in caption(frame)) == (seeds > 1)


def test_identical_and_shifted_methods_are_named() -> None:
    frame = headline(by_hand({"none": [0.7, 0.8], "same": [0.7, 0.8], "shifted": [0.6, 0.7]}))
    pairs = dict(zip(frame["method"], frame["pairs"], strict=True))
    assert pairs == {"none": "", "same": "identical", "shifted": "constant"}
    assert "are seeds applied? shifted." in caption(frame)
    assert "Identical to none in every pair: same." in caption(frame)
    # The refused test is not in the family.
    assert set(frame["family_size"]) == {1}


def test_equal_counts_of_unequal_nets_are_not_identical() -> None:
    # on few examples two nets are right as often by chance; their losses tell them apart
    runs = by_hand({"none": [0.7, 0.8], "even": [0.7, 0.8], "same": [0.7, 0.8]})
    even = runs["method"] == "even"
    runs.loc[even, ["last_test_loss", "last_gap_loss", "last_train_loss"]] += [0.01, 0.0, 0.01]
    frame = headline(runs).set_index("method")
    assert frame["pairs"].to_dict() == {"none": "", "even": "constant", "same": "identical"}
    assert frame["verdict"].to_dict() == {"none": "", "even": "", "same": "identical"}
    assert frame.loc["even", ["diff_lo", "diff_hi", "p", "p_in_rope", "d_train_lo"]].isna().all()
    assert (frame.loc["even", "diff"], frame.loc["even", "ties"]) == (0.0, 2)
    # the gap's losses are equal
    assert (frame.loc["even", "gap_diff_lo"], frame.loc["same", "diff_lo"]) == (0.0, 0.0)
    assert "As many test examples right as none in every pair, but other losses, hence no test: even." in caption(
        headline(runs)
    )
    assert "Identical to none in every pair: same." in caption(headline(runs))


def test_a_group_without_none_says_how_to_add_it() -> None:
    runs = THREE[THREE["method"] != "none"].assign(setting="optimizer.lr=0.1")
    with pytest.raises(
        NoBaseline, match=r"digits, mlp, optimizer.lr=0.1; .*regrun method=none study=s optimizer.lr=0.1"
    ):
        headline(runs)


def test_groups_do_not_mix() -> None:
    easy = THREE.assign(dataset="easy", last_test_acc=THREE["last_test_acc"] + 0.1)
    frame = headline(pd.concat([THREE, easy]))
    assert [title for title, _ in groups(frame)] == ["digits · mlp", "easy · mlp"]
    assert frame.loc[frame["method"] == "none", "mean"].tolist() == pytest.approx([0.72, 0.82])
    assert set(frame["family_size"]) == {1}


def test_a_repeated_run_counts_once_and_the_later_holds() -> None:
    first = THREE.assign(started_at="2025-01-01", last_test_acc=0.1)
    frame = headline(pd.concat([THREE.assign(started_at="2025-01-02"), first]))
    assert frame["mean"].tolist() == pytest.approx([0.72, 0.74])


def test_the_chosen_strength_is_that_of_the_report_rows(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, Plan(methods=("l2", "mixup")))
    before = headline(runs).set_index("method")["strengths"].to_dict()
    strengths = by_strength(runs)
    tune = strengths[(strengths["role"] == "tune") & (strengths["checkpoint"] == "last")]
    best = tune[tune["val_acc_rank"] == 1].set_index("method")["strengths"].to_dict()
    assert {name: before[name] for name in best} == best
    # However the test columns read, the strengths shown stay.
    flipped = runs.assign(**{name: 1 - runs[name] for name in runs.columns if "_test_" in name})
    assert headline(flipped).set_index("method")["strengths"].to_dict() == before
    ranks = by_strength(flipped)[["method", "strengths", "role", "selected", "edge_of_grid", "val_acc_rank"]]
    assert ranks.equals(strengths[ranks.columns])


def test_tuned_counts_and_caption(tmp_path: Path) -> None:
    frame = headline(runs_of(tmp_path, Plan(methods=("l2",), report=4, split_mode="none")))
    row = frame.iloc[1]
    assert (row["n_tune"], row["tuning_runs"], row["n_report"], row["shared_seeds"]) == (3, 15, 4, 0)
    text = caption(frame)
    assert text.startswith(
        "Test accuracy (%) after the last epoch, evaluated on clean data. n = 4 report seeds; strengths chosen on the "
        "mean validation metric of 3 other seeds (15 tuning runs per method)."
    )
    assert "Holm over the 1 comparison of this table" in text
    assert "The intervals cover seeds only, not test examples (predictions are missing, which" in text
    assert "; one fixed training set: the interval does not cover the choice of training data." in text


def test_shared_seeds_are_said() -> None:
    tune = THREE[THREE["method"] != "none"].assign(role="tune", protocol="tuned")
    assert "Selection and report share seeds, which flatters: l_2." in caption(headline(pd.concat([THREE, tune])))


def test_a_method_without_report_runs_keeps_its_row() -> None:
    tune = by_hand({"dropout": [math.nan, math.nan]}, role="tune", protocol="tuned")
    frame = headline(pd.concat([THREE, tune]))
    row = frame.set_index("method").loc["dropout"]
    assert (row["n_report"], row["n_tune_failed"], row["tuning_runs"]) == (0, 2, 2)
    assert "Tuned, but without report runs: dropout." in caption(frame)


def test_fixed_shows_every_configuration(tmp_path: Path) -> None:
    frame = headline(runs_of(tmp_path, Plan(methods=("l2",), protocol="fixed", strengths=(0.1, 0.2), report=3)))
    assert sorted(frame["strengths"]) == ["", "l2.rate=0.1", "l2.rate=0.2"]
    assert "nothing was chosen: every configuration that was run is a row of its own" in caption(frame)
    assert set(frame["family_size"]) == {2}


def test_underfit_needs_both_intervals() -> None:
    # test falls by 0.020, 0.021, 0.022 and train by more: the gap shrinks, test is clearly worse
    runs = by_hand({"none": [0.70, 0.72, 0.74], "l2": [0.68, 0.699, 0.718]})
    shrunk = runs.assign(last_gap_acc=runs["last_gap_acc"] - np.where(runs["method"] == "l2", 0.05, 0.0))
    assert headline(shrunk)["underfit"].tolist() == [False, True]
    assert headline(runs)["underfit"].tolist() == [False, False]
    # the gap shrinks by 0.05 on average, but by 0, 0.05 and 0.10: not certain
    loose = runs.assign(last_gap_acc=runs["last_gap_acc"] - np.where(runs["method"] == "l2", 0.07, 0.0))
    loose["last_gap_acc"] += np.where(runs["method"] == "l2", 0.05 * (runs["seed"] - 1), 0.0)
    row = headline(loose).iloc[1]
    assert row["gap_diff"] < 0 < row["gap_diff_hi"]
    assert not row["underfit"]


def test_underfit_is_what_holds_after_correction() -> None:
    # differences -0.02, -0.025, -0.03, p = 0.013: worse alone, inconclusive among six methods, and then no underfitting
    fallen = [0.70 - 0.02, 0.72 - 0.025, 0.74 - 0.03]
    others = {f"m_{i}": [0.70 + 0.01 * i, 0.73, 0.75 - 0.01 * i] for i in range(5)}
    alone, among = (by_hand({"none": [0.70, 0.72, 0.74], "l2": fallen} | more) for more in ({}, others))
    for runs, expected in ((alone, True), (among, False)):
        runs["last_gap_acc"] -= np.where(runs["method"] == "l2", 0.05, 0.0)
        row = headline(runs).set_index("method").loc["l2"]
        assert row["diff_hi"] < 0
        assert row["gap_diff_hi"] < 0
        assert bool(row["underfit"]) is expected
    # where no test is shown nothing is called worse
    alone["last_gap_loss"] -= np.where(alone["method"] == "l2", 0.05, 0.0)
    for metric in ("test_acc", "test_loss"):
        assert headline(alone, metric=metric)["underfit"].any()
        assert "underfitting" not in caption(without_tests(headline(alone, metric=metric)))


def test_holm_is_over_the_methods_of_a_group() -> None:
    # l_2 as by hand, p = 0.07418; twin has the same differences, so both are multiplied by 2 at the first step
    frame = headline(by_hand({"none": [0.70, 0.72, 0.74], "l_2": [0.71, 0.74, 0.77], "twin": [0.71, 0.74, 0.77]}))
    assert frame["p_holm"].tolist()[1:] == pytest.approx([0.14836, 0.14836], abs=1e-5)
    assert frame["family_size"].tolist() == [2, 2, 2]


def test_rows_go_from_best_to_worst_after_none() -> None:
    values = {"a": [0.60, 0.63, 0.64], "none": [0.70, 0.72, 0.74], "z": [0.71, 0.74, 0.77]}
    assert headline(by_hand(values))["method"].tolist() == ["none", "z", "a"]
    assert headline(by_hand(values), metric="test_loss")["method"].tolist() == ["none", "z", "a"]


def test_edge_of_grid() -> None:
    grid = ["a.rate=0.1 b.rate=1", "a.rate=0.2 b.rate=1", "a.rate=0.3 b.rate=1"]
    assert [at_edge(text, grid) for text in grid] == [True, False, True]
    assert not at_edge(grid[0], grid[:1])
    assert strengths_of("dropout.rate=0.3 l2.rate=1e-3") == {"dropout.rate": 0.3, "l2.rate": 0.001}
    # one strength needs no name, several do
    assert strength_text("dropout.rate=0.3 l2.rate=1e-3") == "dropout.rate=0.3, l2.rate=0.001"
    assert strength_text("dropout.rate=0.3") == "0.3"
    assert strength_text("") == "–"


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ([0.70, 0.60, 0.50], True),
        ([0.70, 0.70, 0.50], False),  # level with a point inside
        ([0.70, 0.70 - 1e-10, 0.50], False),  # likewise, but for rounding
        ([0.70, 0.60, 0.70], True),  # level with the other edge
        ([0.70, 0.70, 0.70], False),
        ([0.50, 0.70, 0.60], True),  # not the best, so chosen by another figure
    ],
)
def test_a_tie_is_at_no_edge(values: list[float], flagged: bool) -> None:
    tuned = by_hand({"l2": values}, role="tune", protocol="tuned")
    tuned["strengths"] = [f"l2.rate={rate:g}" for rate in (0.01, 0.1, 1.0)]
    runs = pd.concat([THREE.replace("l_2.rate=0.01", "l2.rate=0.01").replace("l_2", "l2"), tuned])
    assert headline(runs)["edge_of_grid"].tolist() == [False, flagged]


def test_the_edge_is_told_by_the_figure_that_chose() -> None:
    tuned = by_hand({"l2": [0.70, 0.70, 0.50]}, role="tune", protocol="tuned", select="val_loss")
    tuned["strengths"] = [f"l2.rate={rate:g}" for rate in (0.01, 0.1, 1.0)]
    tuned["last_val_loss"] = [0.1, 0.2, 0.3]  # level with a point inside by accuracy alone
    assert chosen_at_edge("l2.rate=0.01", tuned)
    assert not chosen_at_edge("l2.rate=0.01", tuned.assign(select="val_acc"))
    assert not chosen_at_edge("l2.rate=0.01", tuned.drop(columns="select"))  # of an older version


def test_a_point_drawn_at_random_is_at_no_edge_and_on_no_path(tmp_path: Path) -> None:
    runs = in_order(read_runs(collect(write_study(tmp_path, Plan(strengths=(0.1, 1.0))))))  # two: always at an edge
    others = headline(runs)["method"] != "none"
    assert headline(runs).loc[others, "edge_of_grid"].all()
    drawn = runs.assign(protocol="search", strength=math.nan)
    assert not headline(drawn)["edge_of_grid"].any()
    assert not by_strength(drawn)["edge_of_grid"].any()
    figures = [gap_vs_test(headline(frame), by_strength(frame)) for frame in (runs, drawn)]
    assert [len(figure.figure.axes) if figure else 0 for figure in figures] == [2, 1]  # without the strength paths


def test_rounding() -> None:
    # two significant digits of the half-width, at most two decimals in percentage points
    assert [decimals(half, 2) for half in (12.3, 1.23, 0.123, 0.0123, math.nan)] == [0, 1, 2, 2, 2]
    assert plus_minus(0.73914, 0.7342, 0.7440, ACC) == "73.91 ± 0.49"
    assert plus_minus(0.739, 0.719, 0.759, ACC) == "73.9 ± 2.0"
    assert plus_minus(0.73914, math.nan, math.nan, ACC) == "73.91"
    assert with_bounds(0.017, 0.0103, 0.0237, ACC) == "+1.70 [+1.03, +2.37]"
    assert with_bounds(-0.02, -0.045, 0.005, ACC) == "−2.0 [−4.5, +0.5]"
    # the lower bound +0.04 pp would round to 0.0 and hide that the interval excludes 0
    assert with_bounds(0.02, 0.0004, 0.0396, ACC) == "+2.00 [+0.04, +3.96]"
    # -0.504 pp lies outside a margin of 0.5 pp, which "-0.5" would hide
    assert with_bounds(0.013, -0.00504, 0.03104, ACC, rope=0.005) == "+1.30 [−0.50, +3.10]"
    assert with_bounds(0.013, -0.00504, 0.03104, ACC) == "+1.3 [−0.5, +3.1]"
    assert with_half(0.017, 0.0103, 0.0237, ACC) == "+1.70 ± 0.67"
    assert with_half(0.02, 0.0004, 0.0396, ACC) == "+2.00 ± 1.96"
    assert with_half(0.02, math.nan, math.nan, ACC) == "+2.00"
    assert with_bounds(0.0, 0.0, 0.0, ACC) == "0.00 [0.00, 0.00]"
    # what would be 0 throughout: a difference of 3e-6 in R², a loss of 2e-5
    assert with_bounds(3e-6, 2e-6, 4e-6, ACC) == "+0.0003 [+0.0002, +0.0004]"
    assert with_half(3e-6, 2e-6, 4e-6, ACC) == "+0.0003 ± 0.0001"
    assert plus_minus(2e-5, 1e-5, 3e-5, UNITS["test_loss"]) == "0.00002 ± 0.00001"
    assert plus_minus(0.0, -0.005, 0.005, ACC) == "0.00 ± 0.50"
    assert plus_minus(0.0, 0.0, 0.0, ACC) == "0.00 ± 0.00"
    # a half-width that rounds to the mean hides on which side of 0 the interval ends
    assert with_half(0.02049, 0.00098, 0.04, ACC) == "+2.05 ± 1.95"
    assert with_half(-0.204, -0.4, -0.008, ACC) == "−20.4 ± 19.6"
    assert with_half(0.0, 0.0, 0.0, ACC) == "0.00 ± 0.00"
    assert [p_text(p, 0.95) for p in (0.0004, 0.0374, math.nan)] == ["<0.001", "0.037", "–"]
    assert [p_text(p, 0.95) for p in (0.0503, 0.0497, 0.05)] == ["0.0503", "0.0497", "0.050"]
    assert p_text(0.0503, 0.9) == "0.050"


def test_markdown_golden() -> None:
    # none: mean 72, sd 2, half-width 4.30265 * 2 / sqrt(3) = 4.97; l_2: sd 3, half-width 7.45
    # -0.48 would round onto the margin of 0.5; sd 1, and 18 pairs reach the margin: 2.1098 / sqrt(18) = 0.497, so +15
    assert to_markdown(headline(THREE)).splitlines()[:4] == [
        "| Method | Strength | Test acc | Gap | Δ test [95% CI] | Δ gap [95% CI] | p (Holm) | Wins | Time × | "
        "Verdict |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|:--|",
        "| none | – | 72.0 ± 5.0† | 18.0 ± 5.0 | – | – | – | – | – | – |",
        "| l_2 | 0.01 | **74.0 ± 7.5** | 16.0 ± 7.5 | +2.00 [−0.48, +4.48] | −2.0 [−4.5, +0.5] | 0.074 | 3/3 | 1.00 | "
        "inconclusive (+15) |",
    ]


def test_latex_golden() -> None:
    package, *lines = to_latex(headline(THREE)).splitlines()
    assert package.startswith("% \\usepackage{booktabs}")
    assert lines[0].startswith("% digits · mlp: Test accuracy (%)")
    assert lines[1:4] == [
        "\\begin{tabular}{llrrrrrrrl}",
        "\\toprule",
        "Method & Strength & Test acc & Gap & $\\Delta$ test [95\\% CI] & $\\Delta$ gap [95\\% CI] & p (Holm) & Wins & "
        "Time $\\times$ & Verdict \\\\",
    ]
    assert lines[5].startswith("none & -- & 72.0 $\\pm$ 5.0$^\\dagger$ & ")
    assert lines[6] == (
        "l\\_2 & 0.01 & {\\boldmath\\textbf{74.0 $\\pm$ 7.5}} & 16.0 $\\pm$ 7.5 & +2.00 [$-$0.48, +4.48] & "
        "$-$2.0 [$-$4.5, +0.5] & 0.074 & 3/3 & 1.00 & inconclusive (+15) \\\\"
    )
    assert lines[-2:] == ["\\bottomrule", "\\end{tabular}"]


def test_secondary_tables_have_no_tests() -> None:
    text = to_markdown(without_tests(headline(THREE, metric="test_loss")))
    assert "p (Holm)" not in text
    assert "Verdict" not in text
    assert "†" not in text
    assert "no test was made" in text
    assert "Test loss (cross-entropy, nats)" in text


def around(differences: list[float], **others: list[float]) -> pd.DataFrame:
    """The headline of `none`, of one method "m" that differs from it by `differences`, and of others likewise."""
    base = [0.70 + 0.01 * (seed % 3) for seed in range(len(differences))]
    moved = {name: [a + b for a, b in zip(base, d, strict=True)] for name, d in {"m": differences, **others}.items()}
    return headline(by_hand({"none": base, **moved}))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.020, 0.021, 0.022, 0.021], "better"),
        ([-0.020, -0.021, -0.022, -0.021], "worse"),
        # mean 0.002, interval within +-0.005 and above 0
        ([0.0020, 0.0021, 0.0019, 0.0020], "better, negligible"),
        # mean 0, sd 0.00115, half-width 3.182 * 0.00115 / 2 = 0.0018
        ([0.001, -0.001, 0.001, -0.001], "equivalent"),
        ([0.0, 0.0, 0.0, 0.0], "identical"),
        ([0.02, 0.02, 0.02, 0.02], ""),  # no seed variance: no verdict
        ([0.02], ""),
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    row = around(differences).iloc[1]
    assert row["verdict"] == verdict
    assert math.isnan(row["more_seeds"])


def test_inconclusive_says_how_many_seeds() -> None:
    # mean 0, sd 0.01 * sqrt(4/3) = 0.011547; 23 pairs: t(22) = 2.0739 gives 2.0739 * 0.011547 / sqrt(23) =
    # 0.004993, within 0.005; with 22 pairs t(21) = 2.0796 gives 0.00512; 23 - 4 = 19
    row = around([0.01, -0.01, 0.01, -0.01]).iloc[1]
    assert (row["verdict"], row["more_seeds"], row["rope"]) == ("inconclusive", 19, 0.005)
    # a second comparison: t(29) = 2.3638 at 0.9875 gives 2.3638 * 0.011547 / sqrt(30) = 0.004983; 30 - 4 = 26
    assert around([0.01, -0.01, 0.01, -0.01], other=[0.01, -0.01, -0.01, 0.01]).iloc[1]["more_seeds"] == 26
    # a margin of 0.02 holds the interval 3.1824 * 0.011547 / 2 = 0.0184
    runs = by_hand({"none": [0.7, 0.72, 0.7, 0.71], "m": [0.71, 0.71, 0.71, 0.70]})
    assert headline(runs, margins=Margins(acc=0.02)).iloc[1]["verdict"] == "equivalent"
    assert "within ±2 percentage points" in caption(headline(runs, margins=Margins(acc=0.02)))
    assert headline(runs, metric="test_loss").iloc[1]["rope"] == 0.02


def test_less_loss_is_better() -> None:
    runs = by_hand({"none": [0.70, 0.72, 0.74, 0.72], "m": [0.72, 0.741, 0.762, 0.741]})
    assert headline(runs, metric="test_loss").iloc[1]["verdict"] == "better"
    assert headline(runs, metric="test_loss")["best"].tolist() == [False, True]
    assert "Bold: lowest mean test by Δ, none at 0." in caption(headline(runs, metric="test_loss"))


def test_a_margin_is_above_0() -> None:
    with pytest.raises(ValueError, match="margin gap is 0; it must be above 0"):
        Margins(gap=0)


def test_best_and_those_tied_with_it() -> None:
    # near differs from m by -0.002, +0.001, 0, 0 (tied), none by about -0.021 throughout (told apart)
    m, near = [0.020, 0.021, 0.022, 0.021], [0.018, 0.022, 0.022, 0.021]
    frame = around(m, near=near).set_index("method")
    assert frame["best"].to_dict() == {"none": False, "m": True, "near": False}
    assert frame["tied_best"].to_dict() == {"none": False, "m": False, "near": True}
    lines = to_markdown(frame.reset_index()).splitlines()
    # the mean of 0.72, 0.731, 0.742, 0.721
    assert "| **72.9 ± 1.6** |" in lines[3]
    assert "† |" in lines[4]
    assert "†" not in lines[2]
    assert "†: cannot be told from the bold one" in lines[-1]


def test_the_best_is_so_at_the_same_seeds() -> None:
    # m ran at the two easy seeds only: its mean is the highest, and it is below none at both of them
    runs = by_hand({"none": [0.60, 0.80, 0.82], "l2": [0.61, 0.805, 0.83], "m": [math.nan, 0.79, 0.815]})
    runs = runs[runs["last_test_acc"].notna()]
    frame = headline(runs).set_index("method")
    assert frame["mean"].idxmax() == "m"
    assert frame["best"].to_dict() == {"none": False, "l2": True, "m": False}
    apart = by_hand({"none": [0.6, 0.62], "l2": [0.8, 0.82]})
    apart.loc[apart["method"] == "l2", "seed"] += 5
    assert headline(apart)["best"].tolist() == [True, False]  # without a pair nothing says so


def test_ties_with_the_best_are_corrected_for() -> None:
    # m is best; each of the two others differs from it with the p below: Holm doubles it, so both stay tied
    runs = by_hand(
        {"none": [0.700, 0.712, 0.708, 0.716], "m": [0.71, 0.72, 0.73, 0.74], "n": [0.700, 0.712, 0.708, 0.716]}
    )
    frame = headline(runs).set_index("method")
    # m - none: 0.010, 0.008, 0.022, 0.024: mean 0.016, sd 0.00816, t = 3.919, p = 0.0296; times 2 is 0.0592
    assert frame.loc["m", "p"] == pytest.approx(0.0296, abs=1e-4)
    assert frame["tied_best"].to_dict() == {"none": True, "m": False, "n": True}


def test_the_best_is_bold_in_a_terminal() -> None:
    output = io.StringIO()
    Console(file=output, width=100, force_terminal=True, color_system="standard").print(terminal_table(headline(THREE)))
    assert "\x1b[1m74.0" in output.getvalue()
    assert "\x1b[1m72.0" not in output.getvalue()
    assert "72.0†" in output.getvalue()


def test_failed_runs_cost_the_bold() -> None:
    runs = by_hand({"none": [0.70, 0.72, 0.74], "l2": [0.71, math.nan, 0.79]})
    assert headline(runs)["best"].tolist() == [True, False]
    assert "Bold: highest mean test by Δ, none at 0, of those without failed runs." in caption(headline(runs))


def test_terminal_table_keeps_every_number() -> None:
    # names of 20 characters, one strength, wide numbers, an inconclusive one: still 100 columns, numbers in one piece
    far = [0.10 + 0.001 * (seed % 7) for seed in range(10)]
    loose = [0.02 * (-1) ** seed + 0.004 * (seed % 4) for seed in range(10)]
    frame = around(far, confidence_penalty_x=[-value for value in far], stochastic_depth=loose)
    output = io.StringIO()
    Console(file=output, width=100).print(terminal_table(frame.assign(time_ratio=12.345)))
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    for row in frame.iloc[1:].to_dict("records"):
        assert with_half(row["diff"], row["diff_lo"], row["diff_hi"], ACC, row["rope"]) in text
    assert text.count("12.35") == 4
    assert f"(+{frame['more_seeds'].max():.0f})" in text
    assert text.count("better") == text.count("worse") == 1
    assert "confidence_" in text


def test_terminal_table_fits_in_100_columns(tmp_path: Path) -> None:
    plan = Plan(methods=("mixup+label_smoothing+stochastic_depth", "dropout"), diverged=(("dropout", "report", 4),))
    for metric in ("test_acc", "test_loss"):
        output = io.StringIO()
        frame = headline(runs_of(tmp_path / metric, plan), metric=metric)
        Console(file=output, width=100).print(terminal_table(frame))
        lines = output.getvalue().splitlines()
        assert max(map(len, lines)) <= 100
        assert "…" not in output.getvalue()
        assert any(line.startswith("none") for line in lines)


def test_wrapped_breaks_where_a_reader_would() -> None:
    assert wrapped("mixup+label_smoothing", 12) == ["mixup+label_", "smoothing"]
    assert wrapped("abcdefgh", 3) == ["abc", "def", "gh"]


def test_collect_merges_jobs_and_keeps_text(tmp_path: Path) -> None:
    for job, text in {"b": "dataset,seed,x\nd,2,0.10\n", "a": "dataset,seed\nd,10\nd,1\n"}.items():
        (tmp_path / job).mkdir()
        (tmp_path / job / "runs.csv").write_text(text)
    (tmp_path / "empty").mkdir()
    assert collect(tmp_path).read_text() == "dataset,seed,x\nd,1,\nd,2,0.10\nd,10,\n"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["runs.csv"]


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("run_id,seed\na,1\n")
    with pytest.raises(ValueError, match="lacks the columns dataset, model"):
        read_runs(tmp_path / "runs.csv")


def test_the_worst_case_of_failed_runs_by_hand() -> None:
    # seed 1 of the method failed, seed 2 of none: the one pair that is left is 0.71 - 0.70
    values = {"none": [0.70, 0.72, math.nan], "l_2": [0.71, math.nan, 0.77], "l_1": [0.71, 0.74, 0.75]}
    frame = headline(by_hand(values, n_classes=10)).set_index("method")
    row = frame.loc["l_2"]
    assert row["diff"] == pytest.approx(0.01)
    # chance is 0.1: 0.01 and 0.1 - 0.72; at seed 2 there is nothing to compare with
    assert (row["worst_value"], row["diff_worst"]) == pytest.approx((0.1, -0.305))
    # sd 0.63 / sqrt(2), half-width 12.70620 * 0.63 / 2 = 4.002454
    assert row["diff_worst_lo"] == pytest.approx(-0.305 - 4.002454, abs=1e-5)
    assert frame["diff_worst"].isna().tolist() == [True, True, False]  # no run of l_1 failed
    text = to_markdown(frame.reset_index())
    assert "worst case −30.5 |" in text
    assert "counted as 10 % (chance, or the lowest run of the two if lower), at the seeds where none did" in text
    told = dict(answers(frame.reset_index()))["digits · mlp"]
    assert "Worst case, every failed run" in told


def test_the_worst_case_speaks_against_a_method_however_often_the_baseline_fails() -> None:
    none = [0.70, 0.71, 0.72, *[math.nan] * 5]
    frame = headline(by_hand({"none": none, "l_2": [0.73, 0.74, math.nan, *[0.75] * 5]}, n_classes=10))
    row = frame.set_index("method").loc["l_2"]
    assert row["diff"] == pytest.approx(0.03)
    assert row["diff_worst"] == pytest.approx((0.03 + 0.03 + 0.1 - 0.72) / 3)
    all_lost = headline(by_hand({"none": [math.nan] * 3, "l_2": [math.nan] * 3}, n_classes=10))
    assert all_lost["diff_worst"].isna().all()


def test_a_failed_regression_counts_as_the_mean() -> None:
    runs = by_hand({"none": [0.70, 0.72, 0.74], "l_2": [0.71, math.nan, 0.77]}, n_classes=1).assign(task="regression")
    frame = headline(runs)
    assert (frame.iloc[1]["worst_value"], frame.iloc[1]["diff_worst"]) == pytest.approx((0.0, -0.68 / 3))
    assert "counted as 0 % (R² 0, what the mean gets, or the lowest run of the two" in to_markdown(frame)
    # a net can be worse than the mean
    below = by_hand({"none": [0.70, 0.72], "l_2": [-0.5, math.nan]}, n_classes=1).assign(task="regression")
    assert "counted as −50 % (" in caption(headline(below))


def test_a_run_below_chance_is_the_worst_plausible_one() -> None:
    values = {"none": [0.70, 0.72, 0.74], "l_2": [0.05, math.nan, 0.77]}
    assert headline(by_hand(values, n_classes=10)).iloc[1]["worst_value"] == pytest.approx(0.05)
    # without the number of classes on record nothing is ruled out
    assert headline(by_hand(values)).iloc[1]["worst_value"] == 0.0
    assert headline(by_hand({"none": [0.7, 0.72], "l_2": [0.71, 0.74]}))["diff_worst"].isna().all()
    assert without_tests(headline(by_hand(values)))["diff_worst"].isna().all()
    assert headline(by_hand(values), metric="test_loss")["diff_worst"].isna().all()
