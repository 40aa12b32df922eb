"""The figures of differences, single runs and data sets; leave-one-seed-out and pooling behind them."""

import itertools
import math
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from report_data import METHODS, Plan, write_study
from test_report_tables import by_hand

from runner.report import comparisons, datasets, figures, spread
from runner.report.build import build
from runner.report.collect import collect
from runner.report.loso import choices, leave_one_seed_out, loso_caption
from runner.report.sheet import Drawing, in_view
from runner.report.tables import by_strength, headline, in_order, read_runs, weakest_first, without_tests
from runner.report.writers import to_markdown


def frames(folder: Path, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = in_order(read_runs(collect(write_study(folder, plan))))
    return runs, headline(runs)


def texts_inside(drawing: Drawing) -> list[str]:
    """All texts of a figure, each checked to lie within it, but for the numbers at ticks."""
    drawing.figure.draw_without_rendering()
    # matplotlib keeps labels of ticks beyond the limits and does not draw them; the names of rows are set one by one
    ticks = [
        label
        for axes in drawing.figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if not isinstance(axis.get_major_locator(), FixedLocator)
        for label in axis.get_ticklabels()
    ]
    width, height = drawing.figure.canvas.get_width_height()
    found = []
    for text in drawing.figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_text() or not text.get_visible():
            continue
        box = text.get_window_extent()
        if text in ticks:
            continue
        assert box.x0 > -1, text.get_text()
        assert box.y0 > -1, text.get_text()
        assert box.x1 < width + 1, text.get_text()
        assert box.y1 < height + 1, text.get_text()
        found.append(text.get_text())
    return found


PLANS = {
    "three": Plan(diverged=(("dropout", "report", 5),)),
    "twenty": Plan(methods=METHODS[:20], report=3, tune=2, strengths=(0.1, 1.0)),
    "one seed, long names": Plan(
        methods=("mixup+label_smoothing+stochastic_depth", "confidence_penalty+weight_noise"), tune=1, report=1
    ),
    "no baseline left": Plan(methods=("l2",), report=2, diverged=(("none", "report", 3), ("none", "report", 4))),
    "one method": Plan(methods=("l2",), report=3, tune=1),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_figure_is_drawn_inside_its_sheet(tmp_path: Path, plan: Plan) -> None:
    runs, frame = frames(tmp_path / "study", plan)
    runs = runs.assign(w_l2=50.0, w_near_zero=0.01 * runs["seed"], w_zero=0.0, w_dead_inputs=0.0)
    best = without_tests(headline(runs, "best"))
    drawings = {
        "forest": comparisons.forest(runs, frame),
        "decomposition": comparisons.gap_decomposition([frame, best]),
        "cost": comparisons.cost_benefit(runs, frame),
        "weights": spread.weights(runs, frame),
        "spread": spread.seed_spread(runs, frame),
    }
    for name, drawing in drawings.items():
        if frame["diff"].isna().all() and name in ("forest", "decomposition"):
            assert drawing is None
            continue
        assert drawing is not None, name
        assert texts_inside(drawing)
        assert len(drawing.data)


def test_the_forest_says_what_the_table_says() -> None:
    base = [0.70, 0.71, 0.72, 0.70]
    runs = by_hand(
        {
            "none": base,
            "up": [value + more for value, more in zip(base, (0.020, 0.021, 0.022, 0.021), strict=True)],
            "loose": [value + more for value, more in zip(base, (0.01, -0.01, 0.01, -0.01), strict=True)],
            "down": [value - more for value, more in zip(base, (0.020, 0.021, 0.022, 0.021), strict=True)],
        }
    )
    frame = headline(runs)
    drawing = comparisons.forest(runs, frame)
    assert drawing is not None
    words = texts_inside(drawing)
    assert {"better", "worse", "inconclusive", "+2.10 [+1.97, +2.23]", "test accuracy", "+seeds"} <= set(words)
    more = frame.set_index("method")["more_seeds"].to_dict()
    assert f"+{more['loose']:.0f}" in words
    left = drawing.figure.axes[0]
    marks = {
        (line.get_marker(), line.get_color(), float(line.get_ydata()[0]))  # type: ignore[index,arg-type]  # an array
        for line in left.lines
        if line.get_marker() in ("^", "v", "o")
    }
    assert marks == {("^", "#0072B2", 0.0), ("o", "#8a8a8a", 1.0), ("v", "#D55E00", 2.0)}
    # four seeds as dots in every row
    dots = [line for line in left.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [4, 4, 4]  # type: ignore[arg-type]  # an array
    assert sorted(np.asarray(dots[0].get_xdata())) == pytest.approx([2.0, 2.1, 2.1, 2.2])


def test_gains_are_always_in_view() -> None:
    assert in_view(np.array([30.0, 1.0, -2.0])).tolist() == [1.0, -2.0, 30.0]
    # -60 is 30 times as far as the next; -7 is within 4 times of 2
    assert in_view(np.array([2.0, -7.0, -60.0, math.nan])).tolist() == [2.0, -7.0]
    assert in_view(np.array([-60.0])).tolist() == [-60.0]


def test_the_budget_is_of_strengths_that_are_chosen_by_their_means(tmp_path: Path) -> None:
    # validation means 0.6, 0.7, 0.5; the luckiest run is the second of the third strength
    runs = grid_runs({0.01: [0.6, 0.5, 0.7], 0.02: [0.7, 0.7, 0.7], 0.03: [0.2, 0.9, 0.4]})
    frame = headline(runs)
    # test means 61, 72, 53: one by lot 62; of two 0.72 in two cases and 61 in one; of three 72
    assert comparisons.budget_curves(runs, frame)["l2"] == pytest.approx([62, (72 + 72 + 61) / 3, 72])
    by_loss = runs.assign(select="val_loss", last_val_loss=runs["strength"])  # the weakest is the best
    assert comparisons.budget_curves(by_loss, frame)["l2"] == pytest.approx([62, (61 + 61 + 72) / 3, 61])
    lost = runs.assign(status=np.where((runs["strength"] == 0.02) & (runs["seed"] == 1), "diverged", "ok"), n_classes=5)
    # 0.02 is chosen last, and alone it counts as chance
    assert comparisons.budget_curves(lost, frame)["l2"] == pytest.approx([(61 + 20 + 53) / 3, (61 + 61 + 53) / 3, 61])
    assert comparisons.budget_curves(runs[runs["strength"] != 0.01].groupby("method").head(3), frame) == {}


def test_the_budget_of_many_strengths_goes_to_two_thirds_of_them(tmp_path: Path) -> None:
    runs, frame = frames(tmp_path / "study", Plan(methods=("l2",), tune=3, report=2))
    curve = comparisons.budget_curves(runs, frame)["l2"]
    tune = runs[runs["role"] == "tune"]
    assert len(curve) == 5
    assert curve[0] == pytest.approx(100 * tune["last_test_acc"].mean())
    many = grid_runs({0.001 * at: [0.6, 0.5, 0.7] for at in range(1, 13)})
    drawing = comparisons.cost_benefit(many, headline(many))
    assert drawing is not None
    assert len(drawing.data[drawing.data["panel"] == "budget"]) == 8
    words = " ".join(" ".join(text.get_text() for text in drawing.figure.texts).split())
    assert "of more than 10 up to two thirds" in words
    assert "none: mean of its report seeds." in words
    tuned = comparisons.cost_benefit(runs, frame)
    assert tuned is not None
    words = " ".join(" ".join(text.get_text() for text in tuned.figure.texts).split())
    assert "both as means over the tune seeds; none: mean of its report seeds, which are other seeds." in words


def grid_runs(val: dict[float, list[float]]) -> pd.DataFrame:
    """A fixed grid of l2: validation accuracies per strength and seed, test accuracy = validation + strength."""
    parts = [by_hand({"none": [0.5, 0.5, 0.5]})]
    for strength, values in val.items():
        part = by_hand({"l2": values}).assign(strength=strength, strengths=f"l2.rate={strength:g}")
        part["last_test_acc"] = part["last_val_acc"] + strength
        part["run_id"] = [f"{strength:g}-{seed}" for seed in part["seed"]]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_leaving_one_seed_out_by_hand() -> None:
    # seed 0: means of the others 0.60 and 0.55 -> weak; seed 1: 0.55 and 0.60 -> strong; seed 2: 0.65, 0.65 -> a tie
    runs = grid_runs({0.01: [0.6, 0.7, 0.5], 0.1: [0.7, 0.6, 0.5]})
    picked = choices(runs[runs["method"] == "l2"])
    assert picked["strength"].tolist() == [0.01, 0.1, 0.01]
    frame = leave_one_seed_out(runs)
    assert frame is not None
    row = frame.set_index("method").loc["l2"]
    # test 0.6 + 0.01, 0.6 + 0.1, 0.5 + 0.01 minus 0.5
    assert row["diff"] == pytest.approx((0.11 + 0.20 + 0.01) / 3)
    assert row["chosen"] == "0.01 at 2, 0.1 at 1"
    assert row["verdict"] == ""
    text = to_markdown(frame, loso_caption(frame))
    assert "Selection and report share seeds" in text
    assert "| l2 | 0.01 at 2, 0.1 at 1 |" in text


@pytest.mark.parametrize(
    ("grid", "chosen"),
    [
        # 0.1 has no seed but the first to be judged by
        ({0.01: [0.6, 0.7, 0.5], 0.1: [0.9]}, [0.01, 0.01, 0.01]),
        # compared over the other two of the first three seeds; 0.01 would be the best over all
        ({0.01: [0.6, 0.7, 0.5], 0.1: [0.7, 0.6, 0.6, 0.1, 0.1]}, [0.01, 0.1, 0.01, 0.1, 0.1]),
        # no other run to choose by: the weaker
        ({0.01: [0.6, math.nan, math.nan], 0.1: [0.7, math.nan, math.nan]}, [0.01, 0.1, 0.1]),
    ],
    ids=["one run", "fewer seeds", "failed"],
)
def test_leaving_out_keeps_every_seed_and_compares_over_the_same_ones(
    grid: dict[float, list[float]], chosen: list[float]
) -> None:
    runs = grid_runs(grid)
    own = runs[runs["method"] == "l2"]
    assert choices(own)["strength"].tolist() == chosen
    frame = leave_one_seed_out(runs)
    assert frame is not None
    row = frame.set_index("method").loc["l2"]
    assert row["n_report"] + row["n_failed"] == own["seed"].nunique()


def test_a_grid_goes_from_weak_to_strong_also_where_smaller_is_stronger() -> None:
    # a patience of 2 is stronger than one of 40; at each seed both are level on the others
    runs = grid_runs({2.0: [0.6, 0.6, 0.6], 10.0: [0.5, 0.5, 0.5], 40.0: [0.6, 0.6, 0.6]})
    runs["strength_idx"] = runs["strength"].map({40.0: 0, 10.0: 1, 2.0: 2})
    own = runs[runs["method"] == "l2"]
    assert weakest_first(own) == ["l2.rate=40", "l2.rate=10", "l2.rate=2"]
    assert choices(own)["strength"].tolist() == [40.0] * 3
    assert choices(own.drop(columns="strength_idx"))["strength"].tolist() == [2.0] * 3
    sooner = own.assign(epochs=own["epochs"].where(own["strength"] != 2.0, 8.0))
    assert choices(sooner)["strength"].tolist() == [2.0] * 3
    path = figures._path(by_strength(runs), "l2", "last")
    assert path["strength"].tolist() == [40.0, 10.0, 2.0]
    assert weakest_first(own.assign(strength_idx=0)) == ["l2.rate=2", "l2.rate=10", "l2.rate=40"]  # a job for each


def test_leaving_one_seed_out_reads_no_test() -> None:
    runs = grid_runs({0.01: [0.6, 0.7, 0.5], 0.1: [0.7, 0.6, 0.5]})
    own = runs[runs["method"] == "l2"]
    blind = own.drop(columns=[name for name in own.columns if "test" in name or "gap" in name])
    assert choices(blind)["strength"].tolist() == choices(own)["strength"].tolist()


def test_no_leaving_out_where_each_seed_draws_its_own_test_set() -> None:
    runs = grid_runs({0.01: [0.6, 0.7, 0.5], 0.1: [0.7, 0.6, 0.5]})
    assert leave_one_seed_out(runs.assign(split_mode="all")) is None
    frame = leave_one_seed_out(pd.concat([runs, runs.assign(split_mode="all", dataset="iris")]))
    assert frame is not None
    assert set(frame["dataset"]) == set(runs["dataset"])


@pytest.mark.usefixtures("undrawn")
def test_no_leaving_out_without_a_grid_or_in_a_tuned_study(tmp_path: Path) -> None:
    assert leave_one_seed_out(grid_runs({0.01: [0.6, 0.7, 0.5]})) is None
    runs = grid_runs({0.01: [0.6, 0.7, 0.5], 0.1: [0.7, 0.6, 0.5]})
    assert leave_one_seed_out(runs.assign(last_val_acc=math.nan)) is None
    assert leave_one_seed_out(frames(tmp_path / "tuned", Plan(methods=("l2",), tune=3, report=3))[0]) is None
    plan = Plan(methods=("l2",), protocol="fixed", report=3, strengths=(0.1, 0.2))
    report = build(write_study(tmp_path / "fixed", plan))
    assert "loso.csv" in {path.name for path in report.tables}
    assert "leaving one seed out" in (tmp_path / "fixed" / "report" / "report.html").read_text()


def two_sets() -> pd.DataFrame:
    easy = by_hand({"none": [0.70, 0.72, 0.74], "l2": [0.71, 0.74, 0.77]}, dataset="easy")
    hard = by_hand({"none": [0.30, 0.32, 0.34], "l2": [0.30, 0.34, 0.38]}, dataset="hard")
    return pd.concat([easy, hard], ignore_index=True)


def test_pooling_by_hand() -> None:
    runs = two_sets()
    frame = datasets.pool(runs, headline(runs))
    assert frame is not None
    row = frame.iloc[0]
    # differences 1, 2, 3 and 0, 2, 4 points: see test_pooled_by_hand
    assert (row["diff"], row["n_datasets"], row["datasets"]) == (pytest.approx(0.02), 2, "easy hard")
    assert row["freedom"] == pytest.approx(50 / 17)
    assert not row["heterogeneous"]
    assert math.isnan(row["p_datasets"])
    assert "these 2 data sets and no others" in datasets.pooled_caption(frame)
    assert datasets.pool(runs[runs["dataset"] == "easy"], headline(runs[runs["dataset"] == "easy"])) is None


def test_pooling_takes_what_the_data_sets_intervals_contain() -> None:
    runs = two_sets()
    frame = headline(runs)
    compared = frame["method"] == "l2"
    sampled = frame.assign(
        se_test=np.where(compared, 0.03, math.nan), interval_covers=np.where(compared, "seeds and examples", "seeds")
    )
    alone, both = datasets.pool(runs, frame), datasets.pool(runs, sampled)
    assert alone is not None
    assert both is not None
    # 0.03 on each of two sets: sqrt(2 * 0.03^2) / 2
    assert both.loc[0, "se_test"] == pytest.approx(0.03 / math.sqrt(2))
    assert (both["diff_hi"] > alone["diff_hi"]).all()
    assert (both["p"] > alone["p"]).all()
    text = datasets.pooled_caption(both)
    assert "of the choice of test examples (normal), added in squares" in text
    assert "and cover seeds and examples." in text
    assert "normal" not in datasets.pooled_caption(alone)


def test_equal_counts_on_all_data_sets_are_not_pooled_to_nothing() -> None:
    even = two_sets()
    method = even["method"] == "l2"
    even.loc[method, "last_test_acc"] = even.loc[~method, "last_test_acc"].to_numpy()
    frame = headline(even)
    assert set(frame.loc[frame["method"] == "l2", "pairs"]) == {"constant"}
    pooled = datasets.pool(even, frame)
    assert pooled is not None
    assert pooled[["diff_lo", "p"]].isna().all(axis=None)


def test_opposite_effects_are_heterogeneous() -> None:
    base = [0.70, 0.71, 0.72]
    moved = {"easy": (0.020, 0.021, 0.022), "hard": (-0.020, -0.021, -0.022)}
    runs = pd.concat(
        [
            by_hand({"none": base, "l2": [b + d for b, d in zip(base, more, strict=True)]}, dataset=name)
            for name, more in moved.items()
        ]
    )
    frame = datasets.pool(runs, headline(runs))
    assert frame is not None
    assert frame["heterogeneous"].tolist() == [True]
    assert "worse on another: l2" in datasets.pooled_caption(frame)


def test_the_heat_strip_has_a_cell_for_each_pair(tmp_path: Path) -> None:
    sets = tuple((name, "mlp", "") for name in ("a", "bb", "ccc"))
    runs, frame = frames(tmp_path / "study", Plan(methods=("l2", "dropout"), tune=2, report=3, groups=sets))
    over = datasets.pool(runs, frame)
    drawing = datasets.heat_strip(frame, over)
    assert drawing is not None
    cells = [text for text in texts_inside(drawing) if text[:1] in "+−"]
    assert len(cells) == 2 * 4
    assert list(drawing.data.columns) == ["method", "strengths", "a · mlp", "bb · mlp", "ccc · mlp", "mean"]
    assert over is not None
    assert drawing.data.set_index("method")["mean"].to_dict() == pytest.approx(
        over.set_index("method")["diff"].to_dict()
    )
    assert datasets.heat_strip(frame[frame["dataset"] == "a"]) is None

    def hatched(p: float) -> int:
        drawn = datasets.heat_strip(frame, over.assign(p_holm=p))
        assert drawn is not None
        return sum(patch.get_hatch() is not None for patch in drawn.figure.axes[0].patches)

    # the two means where nothing is decided over all data sets
    assert hatched(0.06) == hatched(math.nan) == hatched(0.04) + 2


def rank_frame(sets: int) -> pd.DataFrame:
    """`good` is always first and `none` and `other` share the rest, on `sets` data sets."""
    rows = []
    for at in range(sets):
        jitter = 0.001 * (at % 3)
        values = {"none": 0.5 + jitter, "other": 0.5 + 0.002 * (at % 2), "good": 0.6 + jitter}
        for name, value in values.items():
            rows.append({"dataset": f"d{at}", "model": "m", "setting": "", "method": name, "strengths": "",
                         "family": "penalty", "metric": "test_acc", "mean": value, "n_failed": 0,
                         "base_mean": values["none"], "diff": value - values["none"]})  # fmt: skip
    return pd.DataFrame(rows)


def test_ranks_are_tested_from_eight_data_sets() -> None:
    strip, diagram = datasets.ranks(rank_frame(7)), datasets.ranks(rank_frame(8))
    assert strip is not None
    assert diagram is not None
    assert any("no bars of significance" in text.replace("\n", " ") for text in texts_inside(strip))

    def bars(drawing: Drawing) -> int:
        return sum(line.get_color() == "#333333" for line in drawing.figure.axes[0].lines)

    # good differs from both on all 8: p = 2 / 2^8 = 0.0078, times 3 = 0.023; the other two are joined
    assert (bars(strip), bars(diagram)) == (0, 1)
    assert diagram.data["method"].tolist()[0] == "good"
    table = datasets.rank_table(rank_frame(8))
    assert table is not None
    told_apart = {frozenset(("good", "none")), frozenset(("good", "other"))}
    assert datasets.told_apart(table) == told_apart
    for many in (40, 42):  # all flips of signs, and some of them by lot
        wide = datasets.rank_table(rank_frame(many))
        assert wide is not None
        assert datasets.told_apart(wide) == told_apart


def test_ranks_are_over_data_sets_and_over_methods_whose_runs_all_ended() -> None:
    """One data set at eight training sizes is one; a mean of the runs that did not fail has no rank."""
    frame = rank_frame(8)
    assert datasets.rank_table(frame.assign(dataset="d0", setting=frame["dataset"])) is None
    lost = frame.assign(n_failed=(frame["method"] == "other") & (frame["dataset"] == "d3"))
    assert datasets.rank_table(lost) is None  # two are left
    more = pd.concat([lost, lost[lost["method"] == "good"].assign(method="best", diff=0.4)])
    table = datasets.rank_table(more)
    assert table is not None
    assert sorted(table.index) == ["best", "good", "none"]
    drawing = datasets.ranks(more)
    assert drawing is not None
    assert any("since runs of them failed: other" in text.replace("\n", " ") for text in texts_inside(drawing))


def test_ranks_are_of_what_is_paired() -> None:
    # good has easier seeds at its higher mean
    table = datasets.rank_table(rank_frame(8).assign(mean=lambda frame: 0.5 - 0.1 * (frame["method"] == "good")))
    assert table is not None
    assert (table.rank(ascending=False).loc["good"] == 1).all()
    assert table.loc["good", "d0"] == pytest.approx(0.6)


def test_cliques_by_hand() -> None:
    apart = {frozenset("ac"), frozenset("ad"), frozenset("bd")}
    # a-b, b-c and c-d cannot be told apart, longer runs can
    assert datasets.cliques("abcd", apart) == [(0, 1), (1, 2), (2, 3)]
    assert datasets.cliques("abc", set()) == [(0, 2)]
    assert datasets.cliques("ab", {frozenset("ab")}) == []


def test_forty_methods_name_the_ends_of_the_times_and_no_more(tmp_path: Path) -> None:
    stacks = [f"{one}+{other}" for one, other in zip(METHODS, METHODS[3:], strict=False)]
    plan = Plan(methods=[*METHODS, *stacks][:40], report=3, tune=2, strengths=(0.1, 1.0))
    runs, frame = frames(tmp_path, plan)
    drawing = comparisons.cost_benefit(runs, frame)
    assert drawing is not None
    shown = {text.replace("\n", "") for text in texts_inside(drawing)}
    named = [name for name in plan.methods if name in shown]
    # 14 beside the times, and at most 5 beside the curves that are not among them
    assert comparisons.NAMED <= len(named) <= comparisons.NAMED + comparisons.LEADING
    others = frame[frame["method"] != "none"]
    for column in ("diff", "time_ratio"):
        ordered = others.sort_values(column)["method"]
        assert {ordered.iloc[0], ordered.iloc[-1]} <= set(named)
    assert len(drawing.data[drawing.data["panel"] == "time"]) == 40


def test_a_figure_says_what_its_times_cannot_tell(tmp_path: Path) -> None:
    runs, frame = frames(tmp_path, Plan(methods=("l2",), report=3, tune=2))
    two = runs.assign(study=np.where(runs["seed"] % 2, "one", "two"))
    for shown, claimed in ((runs, True), (two, False)):
        drawing = comparisons.cost_benefit(shown, frame)
        assert drawing is not None
        words = " ".join(" ".join(texts_inside(drawing)).split())
        assert ("with the runs side by side on one machine." in words) is claimed
        assert ("with the runs of one study side by side." in words) is not claimed
        assert "packs" not in words
    drawing = comparisons.cost_benefit(runs, frame.assign(other_lanes=frame["method"] == "l2"))
    assert drawing is not None
    assert "a run in a wider one costs less: l2." in " ".join(" ".join(texts_inside(drawing)).split())


def test_the_rows_of_a_stack_show_all_its_strengths() -> None:
    row: dict[Hashable, object] = {
        "method": "l2+dropout",
        "strengths": "l2.rate=0.01 dropout.rate=0.3 optimizer.lr=0.01",
        "n_failed": 0,
    }
    assert comparisons._row_names([row]) == ["l2+dropout  (0.01, 0.3,\nlr=0.01)"]


def test_the_titles_of_three_panels_do_not_meet(tmp_path: Path) -> None:
    plan = Plan(methods=("l2", "mixup+dropout", "dropout"), rates=(0.01, 0.03), report=3)
    runs, frame = frames(tmp_path, plan)
    drawing = figures.strength_curves(runs, frame, by_strength(runs))
    assert drawing is not None
    drawing.figure.draw_without_rendering()
    boxes = [
        axes._left_title.get_window_extent()  # type: ignore[attr-defined]  # titles stand on the left
        for axes in drawing.figure.axes
    ]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_curves_over_strengths_say_at_which_learning_rate_they_are(tmp_path: Path) -> None:
    for rates in ((0.01, 0.03), ()):
        runs, frame = frames(tmp_path / str(len(rates)), Plan(methods=("l2",), rates=rates, report=3))
        strengths = by_strength(runs)
        for line, drawing in (
            ("path", figures.gap_vs_test(frame, strengths)),
            ("curve", figures.strength_curves(runs, frame, strengths)),
        ):
            assert drawing is not None
            words = " ".join(" ".join(text.get_text() for text in drawing.figure.texts).split())
            said = f"Each {line} at the learning rate that was chosen for its method." in words
            assert said == bool(rates)


def test_a_seed_beyond_the_axes_is_marked_at_their_edge() -> None:
    random = np.random.default_rng(0)
    none = 0.7 + 0.01 * random.normal(size=40)
    small = {f"m_{at}": list(none + 0.01 + 0.003 * random.normal(size=40)) for at in range(4)}
    lost = none - 0.012 + 0.004 * random.normal(size=40)
    lost[-1] = none[-1] - 0.09

    def carets(values: dict[str, list[float]]) -> int:
        runs = by_hand({"none": list(none)} | values)
        drawing = comparisons.forest(runs, headline(runs))
        assert drawing is not None
        left, _ = drawing.figure.axes[0].get_xlim()
        assert left > -9
        return sum(line.get_marker() == 4 for line in drawing.figure.axes[0].lines)

    assert carets(small) == 0
    assert carets(small | {"lost": list(lost)}) == 1


def test_the_spread_says_how_far_seeds_go_together() -> None:
    # 1, 2, 3 and 1, 3, 2: half (see test_correlation_of_pairs); with two pairs nothing is known
    runs = by_hand({"none": [0.71, 0.72, 0.73], "m": [0.71, 0.73, 0.72]})
    for known, seeds in ((True, 3), (False, 2)):
        part = runs[runs["seed"] < seeds]
        drawing = spread.seed_spread(part, headline(part))
        assert drawing is not None
        words = " ".join(" ".join(text.get_text() for text in drawing.figure.texts).split())
        assert ("Correlation with none over seeds, which pairing gains from: 0.50 (median)." in words) == known
