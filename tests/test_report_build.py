"""A whole report: files, figures, the command."""

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_data import METHODS, Plan, write_study

from runner.files import PART, held
from runner.report import figures
from runner.report.build import NoRuns, NotAStudy, Report, _drawn, build
from runner.report.cli import main
from runner.report.collect import collect, write_atomic
from runner.report.sheet import limits_of
from runner.report.style import own_settings
from runner.report.tables import by_strength, headline, in_order, read_curves, read_runs


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A study and its report, drawn."""
    plan = Plan(methods=("l2", "dropout"), report=4, diverged=(("dropout", "report", 5),))
    study = write_study(tmp_path_factory.mktemp("report") / "first", plan)
    return study, build(study)


def test_build_writes_everything(first: tuple[Path, Report]) -> None:
    study, report = first
    tables = {path.name for path in report.tables if path.suffix != ".parquet"}  # those need pyarrow
    assert tables == {"headline.csv", "headline.md", "headline.tex", "by_strength.csv", "report.html"}
    names = ["gap_vs_test", "learning_curves", "strength_curves", "strength_gap", "forest", "gap_decomposition"]
    names += ["cost_benefit", "seed_spread"]
    assert {path.name for path in report.figures} == {
        f"{name}.{kind}" for name in names for kind in ("csv", "pdf", "png", "svg")
    }
    assert all(path.stat().st_size > 0 for path in (*report.tables, *report.figures))
    text = (study / "report" / "headline.md").read_text()
    assert "### At the epoch of lowest validation loss (secondary)" in text
    assert "dropout 0.01: 1 of 4 report runs (seeds 5): diverged: loss is nan" in text
    frame = pd.read_csv(study / "report" / "headline.csv", keep_default_na=False)
    # 3 methods, by checkpoint last and best, accuracy and loss; only the primary table has p-values
    assert len(frame) == 12
    assert (frame["p"] != "").sum() == 2
    assert not list(study.rglob(".*"))


def test_figures_have_the_same_bytes_twice(first: tuple[Path, Report]) -> None:
    study, report = first
    before = {path: path.read_bytes() for path in report.figures}
    assert {path: path.read_bytes() for path in build(study).figures} == before


def test_a_caller_keeps_backend_and_settings(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2))
    code = (
        "import matplotlib; from matplotlib import rcsetup; import sys; from pathlib import Path;"
        "matplotlib.rcParams['font.size'] = 21; before = dict.__getitem__(matplotlib.rcParams, 'backend');"
        "from runner.report.build import build; build(Path(sys.argv[1]));"
        "assert matplotlib.rcParams['font.size'] == 21;"
        "assert dict.__getitem__(matplotlib.rcParams, 'backend') is before;"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "plan",
    [
        Plan(methods=()),
        Plan(methods=("l2", "dropout"), report=1, tune=1),
        Plan(methods=("l2",), report=2, protocol="fixed", strengths=()),
        Plan(methods=("l2", "mixup+l2"), report=2, protocol="fixed", strengths=(0, 0.01, 1.0)),
        Plan(methods=("l2",), report=2, diverged=(("l2", "report", 3), ("l2", "report", 4))),
        Plan(methods=("l2",), report=2, diverged=(("none", "report", 3), ("none", "report", 4))),
        Plan(methods=METHODS[:12], report=2, tune=2, strengths=(0.1, 0.2)),
        Plan(methods=("l2",), report=2, groups=(("a", "mlp", ""), ("b", "mlp", "lr=1"))),
    ],
    ids=[
        "none only",
        "one seed",
        "no strengths",
        "strength zero",
        "all diverged",
        "no baseline left",
        "many",
        "groups",
    ],
)
@pytest.mark.usefixtures("sketched")
def test_odd_studies_still_report(tmp_path: Path, plan: Plan) -> None:
    report = build(write_study(tmp_path / "study", plan))
    assert len(report.headline) >= len(plan.methods) + 1
    assert {path.suffix for path in report.figures} == {".csv", ".pdf", ".png", ".svg"}


@pytest.mark.usefixtures("sketched")
def test_without_validation_there_is_no_best_and_no_run_failed(tmp_path: Path) -> None:
    plan = Plan(methods=("l2",), report=3, protocol="fixed", groups=(("a", "mlp", ""), ("b", "mlp", "")))
    study = write_study(tmp_path / "study", plan)
    for path in study.glob("a-*/runs.csv"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows.loc[:, [name for name in rows.columns if name.startswith("best_") or "_val_" in name]] = ""
        rows.to_csv(path, index=False)
    report = build(study)
    assert {frame["checkpoint"].iloc[0]: set(frame["dataset"]) for frame in report.secondary} == {
        "last": {"a", "b"},
        "best": {"b"},
    }
    assert (report.by_strength["n_failed"] == 0).all()
    assert (headline(read_runs(study / "runs.csv"), "best")["n_failed"] == 0).all()
    assert "of 3 failed" not in (study / "report" / "headline.md").read_text()


def test_no_text_leaves_the_figure(tmp_path: Path) -> None:
    plan = Plan(methods=("mixup+label_smoothing+stochastic_depth", *METHODS[:7]), report=3, tune=2)
    study = write_study(tmp_path / "study", plan)
    runs = in_order(read_runs(collect(study)))
    frame, strengths = headline(runs), by_strength(runs)
    drawings = [
        figures.gap_vs_test(frame, strengths),
        figures.strength_curves(runs, frame, strengths),
        figures.learning_curves(runs, frame, read_curves(study)),
    ]
    for drawing in drawings:
        assert drawing is not None
        width, height = drawing.figure.canvas.get_width_height()
        renderer = drawing.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # an Agg canvas
        # Tick labels stay out: matplotlib keeps some beyond the limits and does not draw them.
        artists = [*drawing.figure.texts, *(child for axes in drawing.figure.axes for child in axes.get_children())]
        texts = [artist for artist in artists if isinstance(artist, Text) and artist.get_text()]
        assert len(texts) > len(drawing.figure.axes)
        for text in texts:
            box = text.get_window_extent(renderer)
            outside = box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
            assert not outside, text.get_text()


def test_the_frontier_by_hand() -> None:
    # (1, 5) starts; (2, 4) is beaten by it; (3, 6) is higher; (3, 5.5) has the same gap and less
    steps = figures._frontier(np.array([3.0, 2.0, 1.0, 3.0]), np.array([6.0, 4.0, 5.0, 5.5]))
    assert steps == [(1.0, 5.0), (3.0, 6.0)]


def test_only_what_is_far_below_none_leaves_the_axes() -> None:
    def outside(tests: list[float]) -> list[bool]:
        methods = ["none", *(f"m{at}" for at in range(len(tests) - 1))]
        far: list[bool] = figures._outside(pd.DataFrame({"method": methods, "mean": np.array(tests) / 100})).tolist()
        return far

    # the best, far above the others, stays; 7 below none is less than the 10.3 from the best to none
    assert outside([65.7, 76.0, 67.9, 66.9, 66.7, 66.4, 58.8]) == [False] * 7
    # without it 7 is more than the others span; two collapsed ones do not excuse each other
    assert outside([65.7, 67.9, 66.9, 58.8, 57.0]) == [False, False, False, True, True]
    # 4.5 below none is never far
    assert outside([65.7, 65.8, 61.2]) == [False] * 3


def _spread(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A study in which one method is far better with a far smaller gap, one far worse, and the rest near `none`."""
    plan = Plan(methods=METHODS[:8], report=4, tune=2)
    runs = in_order(read_runs(collect(write_study(folder, plan))))
    for method, test, gap in (("mixup", 0.12, -0.18), ("label_smoothing", -0.60, -0.20)):
        own = runs["method"] == method
        for name, moved in {"test_acc": test, "val_acc": test, "gap_acc": gap}.items():
            runs.loc[own, f"last_{name}"] += moved
    return runs, headline(runs), by_strength(runs)


def test_the_best_method_is_inside_the_axes_and_no_text_over_another(tmp_path: Path) -> None:
    _, frame, strengths = _spread(tmp_path / "study")
    drawing = figures.gap_vs_test(frame, strengths)
    assert drawing is not None
    left, right = drawing.figure.axes
    best = frame.set_index("method").loc["mixup"]
    for row in frame[frame["method"] != "label_smoothing"].to_dict("records"):
        x, y = 100 * row["gap_mean"], 100 * row["mean"]
        assert left.get_xlim()[0] < x < left.get_xlim()[1], row["method"]
        assert left.get_ylim()[0] < y < left.get_ylim()[1], row["method"]
    assert left.get_ylim()[0] > 50
    note = " ".join(text.get_text().replace("\n", " ") for text in drawing.figure.texts)
    assert "Outside the axes: label_smoothing (gap" in note
    assert right.get_ylim()[1] > 100 * best["mean"]
    pixels = [left.transData.transform((100 * row["gap_mean"], 100 * row["mean"])) for row in frame.to_dict("records")]
    for axes in (left, right):
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert len(boxes) >= 5
        for name, box in boxes.items():
            assert not any(box.overlaps(other) for text, other in boxes.items() if text != name), name
    words = [text.get_window_extent() for text in left.texts if "underfit" in text.get_text()]
    assert not any(box.padded(4).contains(x, y) for box in words for x, y in pixels)


def test_words_of_the_quadrant_give_way(tmp_path: Path) -> None:
    _, frame, _ = _spread(tmp_path / "study")
    shown = frame[frame["method"].isin(["none", "l2"])]

    def words(lines: list[tuple[float, float, float, float]]) -> list[tuple[float, float]]:
        axes = Figure().add_subplot()
        FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]  # a Figure
        x, y = (100 * float(shown.loc[shown["method"] == "none", name].iloc[0]) for name in ("gap_mean", "mean"))
        axes.set(xlim=(x - 20, x + 1), ylim=(y - 20, y + 5))
        figures._underfit_words(axes, shown, [(x + a, y + b, x + c, y + d) for a, b, c, d in lines])
        return [text.get_position() for text in axes.texts]

    ((free, _),) = words([])
    ((moved, _),) = words([(-1, -20, -1, 0)])  # an upright line through both right corners
    assert moved < free
    assert words([(-20, -19, 0, -19), (-20, -1, 0, -1)]) == []  # level ones through all four


def test_strength_axes_label_what_was_run(tmp_path: Path) -> None:
    plan = Plan(methods=("l2", "dropout", "mixup+l2", "l1"), tune=2, report=2, strengths=(2, 5, 10, 20, 40))
    runs = in_order(read_runs(collect(write_study(tmp_path / "study", plan))))
    drawing = figures.strength_curves(runs, headline(runs), by_strength(runs))
    assert drawing is not None
    assert {axes.get_title("left").replace("\n", " ") for axes in drawing.figure.axes} == {
        "l2: rate", "dropout: rate", "mixup+l2: mixup.rate, l2.rate", "l1: rate",
    }  # fmt: skip
    for axes in drawing.figure.axes:
        if "+" not in axes.get_title("left"):
            assert axes.get_xscale() == "log"
            assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "5", "10", "20", "40"]
            assert all(label.get_visible() for label in axes.get_xticklabels())


def test_tick_labels_never_touch(tmp_path: Path) -> None:
    grid = (0.01, 0.012, 0.014, 0.016, 0.02, 0.03, 0.05, 0.08, 0.081, 0.3)
    runs = in_order(read_runs(collect(write_study(tmp_path / "study", Plan(tune=2, report=2, strengths=grid)))))
    drawing = figures.strength_curves(runs, headline(runs), by_strength(runs))
    assert drawing is not None
    for axes in drawing.figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_visible()]
        assert {"0.01", "0.3"} < {label.get_text() for label in labels}
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        assert all(before.x1 < after.x0 for before, after in itertools.pairwise(boxes))


def test_learning_curves_show_all_down_to_a_thousandth() -> None:
    # one in a thousand of the values is low: quantiles would cut it
    train, val = np.array([*[0.5] * 999, 0.002]), np.full(1000, 1.0)
    low, high = figures._log_limits(train, val)
    assert 0.001 < low < 0.002
    assert 1.0 < high < 3.0
    assert 0.0003 < figures._log_limits(np.array([0.5, 1e-9]), val)[0] < 0.001
    # but validation is shown whole
    assert figures._log_limits(np.array([0.5, 1e-9]), np.array([1.0, 1e-4]))[0] < 1e-4


def test_a_median_goes_as_far_as_all_runs_do(tmp_path: Path) -> None:
    """Runs that have stopped early leave no median to those that go on; a failed run ends none."""
    study = write_study(tmp_path, Plan(methods=("l2",), protocol="fixed", strengths=(0.1,), report=3))
    runs, curves = in_order(read_runs(collect(study))), read_curves(study)
    stopped = runs.loc[(runs["method"] == "l2") & (runs["seed"] == 1), "run_id"].iloc[0]
    curves = curves[(curves["run_id"] != stopped) | (curves["epoch"] < 7)]

    def reached(runs: pd.DataFrame) -> tuple[dict[str, int], set[int]]:
        drawing = figures.learning_curves(runs, headline(runs), curves)
        assert drawing is not None
        own = drawing.data[drawing.data["method"] == "l2"]
        panel = drawing.figure.axes[0]
        seeds = [line for line in panel.lines if line.get_linewidth() == 0.4]
        assert max(np.max(np.asarray(line.get_xdata())) for line in seeds) == 19  # single seeds go on
        return {str(split): int(part["epoch"].max()) for split, part in own.groupby("split")}, set(own["n"])

    assert reached(runs) == ({"train": 6, "val": 6}, {3})
    assert reached(runs.assign(status=np.where(runs["run_id"] == stopped, "diverged", "ok"))) == (
        {"train": 19, "val": 19},
        {2},
    )


def test_learning_curves_of_very_many_are_those_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_PANELS", 2)
    study = write_study(tmp_path / "study", Plan(methods=METHODS[:3], report=3))
    runs = in_order(read_runs(collect(study)))
    frame = headline(runs)
    drawing = figures.learning_curves(runs, frame, read_curves(study))
    assert drawing is not None
    assert len(drawing.figure.axes) == 2
    assert set(drawing.data["method"]) == {"none", *frame["method"][1:3]}
    texts = " ".join(text.get_text().replace("\n", " ") for text in drawing.figure.findobj(Text))
    assert "The first 2 of 3 configurations" in texts


def test_so_many_comparisons_are_drawn_as_a_page_can_carry() -> None:
    def drawn(*rows: int) -> int:
        return len(_drawn([("", pd.DataFrame(index=range(count))) for count in rows]))

    assert drawn(5, 5) == 2
    assert drawn(*[5] * 20) == 12
    assert drawn(100, 100, 1) == 2  # 200 configurations at most
    assert drawn(1000, 1) == 1  # but one always


@pytest.mark.usefixtures("sketched")
def test_what_was_made_is_told_by_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2))
    assert main([str(study)]) == 0
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(tmp_path))]
    assert last[0] == str(study / "report" / "report.html")
    folders = [line.partition(": ")[0] for line in last[1:]]
    assert folders == [str(study / "report"), str(study / "report" / "figures")]
    named = {name for line in last[1:] for name in line.partition(": ")[2].rpartition(" (")[0].split(", ")}
    assert named == {path.stem for path in (study / "report").rglob("*.*") if path.suffix not in (".html", ".json")}


def test_one_collapsed_method_does_not_flatten_the_others() -> None:
    values = np.array([70.0, 71.0, 72.0, 73.0, 74.0, 10.0])
    low, high = limits_of(values, np.full(6, math.nan), np.full(6, math.nan))
    assert 65 < low < 70
    assert 74 < high < 80


def test_empty_and_repeated_curves(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2))
    once = read_curves(study)
    lines = (study / "digits--l2" / "curves.csv").read_text().splitlines(keepends=True)
    for job, text in {"empty": "", "header": lines[0], "again": "".join(lines)}.items():
        (study / job).mkdir()
        (study / job / "curves.csv").write_text(text)
    assert len(read_curves(study)) == len(once)
    (tmp_path / "bare").mkdir()
    assert read_curves(tmp_path / "bare").empty


@pytest.mark.usefixtures("undrawn")
def test_failed_jobs_are_listed_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2))
    assert main([str(study)]) == 0
    assert "none" in capsys.readouterr().out
    for job, state, code in (("swa", "running", 0), ("sam", "failed", 1)):
        (study / job).mkdir()
        (study / job / "status.json").write_text(json.dumps({"state": state, "error": "out of\nmemory", "method": job}))
        assert main([str(study)]) == code
    assert "job sam (sam): failed: out of memory" in capsys.readouterr().err
    text = (study / "report" / "headline.md").read_text()
    assert "- job sam (sam): failed: out of memory\n" in text
    assert "- job swa (swa): running, not all its runs are in this report\n" in text


def test_what_is_not_a_study_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "is not a study" in errors[1]
    with pytest.raises(NotAStudy):
        build(tmp_path)
    assert not (tmp_path / "report").exists()
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2, baseline=False))
    assert main([str(study)]) == 2
    assert "regrun method=none study=synthetic" in capsys.readouterr().err


def test_only_failed_jobs_exit_1(tmp_path: Path) -> None:
    (tmp_path / "l2").mkdir()
    (tmp_path / "l2" / "status.json").write_text('{"state": "failed", "error": "no", "method": "l2"}')
    with pytest.raises(NoRuns, match=r"l2 \(l2\): failed: no"):
        build(tmp_path)
    assert main([str(tmp_path)]) == 1


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_made_while_no_other_process_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what one of them writes is what the other removes as left behind."""
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=2))
    part, heard = study / "report" / f".headline.csv.x{PART}", []
    part.parent.mkdir()
    with ExitStack() as stack:

        def say(line: str) -> None:
            heard.append(line)
            assert [path.name for path in part.parent.iterdir()] == [part.name]
            stack.close()

        monkeypatch.setattr("runner.report.build._say", say)
        stack.enter_context(held(study, "", print))
        part.touch()
        assert main([str(study)]) == 0
    assert heard == [f"{study}: another process makes the report; waits for that"]
    assert (part.parent / "headline.csv").is_file()
    assert not part.exists()  # it was left behind
    (tmp_path / "none").mkdir()
    assert main([str(tmp_path / "none")]) == 2
    assert not any((tmp_path / "none").iterdir())  # a folder that is no study gets no lock


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("sketched")
def test_what_an_earlier_report_made_goes_and_nothing_else(tmp_path: Path) -> None:
    """A study that has gained or lost groups has no figures and tables of those it had before."""
    one, two = ("digits", "mlp", ""), ("mnist1d", "mlp", "")
    study = write_study(tmp_path / "study", Plan(methods=("l2", "dropout"), report=3, groups=(one,)))
    folder = study / "report"
    (folder / "figures").mkdir(parents=True)
    own = [folder / "pooled.md", folder / "figures" / "forest-mine.png"]
    for path in own:
        path.write_text("of the user's own")

    def files() -> set[Path]:
        return {path for path in folder.rglob("*") if path.is_file() and path.name != "made.json"}

    def made() -> set[Path]:
        report = build(study)
        return {*report.tables, *report.figures}

    first = made()
    assert folder / "figures" / "forest.png" in first
    assert files() == {*first, *own}
    write_study(study, Plan(methods=("l2", "dropout"), report=3, groups=(two,)))
    second = made()
    assert not second & {folder / "figures" / "forest.png"}
    assert folder / "pooled.csv" in second
    assert files() == {*second, *own}
    # what somebody has changed is no longer the report's; a list that somebody has changed removes nothing elsewhere
    (folder / "pooled.csv").write_text("of the user's own")
    outside = tmp_path / "outside"
    outside.write_text("of the user's own")
    listed = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps(listed | {"../../outside": sha256(outside.read_bytes()).hexdigest()}))
    for job in study.glob("mnist1d-*"):
        shutil.rmtree(job)
    assert made() == first
    assert files() == {*first, *own, folder / "pooled.csv"}
    assert outside.exists()
    (folder / "made.json").write_text("{")
    assert made() == first
    assert files() == {*first, *own, folder / "pooled.csv"}


def test_settings_come_back() -> None:
    size = matplotlib.rcParams["font.size"]
    with own_settings():
        assert matplotlib.rcParams["svg.hashsalt"] == "regrun"
    assert matplotlib.rcParams["font.size"] == size
    assert matplotlib.rcParams["svg.hashsalt"] is None


@pytest.mark.usefixtures("sketched")
def test_a_learning_rate_that_is_tuned_for_every_method_is_part_of_its_configuration(tmp_path: Path) -> None:
    study = write_study(tmp_path, Plan(methods=("l2", "dropout"), report=5, rates=(0.003, 0.01, 0.03)))
    report = build(study)
    chosen = dict(zip(report.headline["method"], report.headline["strengths"], strict=True))
    # the best rate is 10^-2.5 for none and 10^-1.5 for a method, by construction
    assert chosen["none"] == "optimizer.lr=0.003"
    assert chosen["l2"].startswith("l2.rate=")
    assert chosen["l2"].endswith(" optimizer.lr=0.03")
    assert dict(zip(report.headline["method"], report.headline["tuning_runs"], strict=True)) == {
        "none": 9, "l2": 45, "dropout": 45,
    }  # fmt: skip
    text = (study / "report" / "headline.md").read_text()
    runs = "(45 tuning runs per method, 9 runs for none)"
    assert (
        f"strengths and the learning rate of each method chosen on the mean validation metric of 3 other seeds {runs}"
        in text
    )
    assert "not re-tuned" not in text
    assert "| none | lr=0.003 |" in text
    curves = pd.read_csv(study / "report" / "figures" / "strength_curves.csv")
    # five strengths of each method, all at the rate that was chosen for it
    assert len(curves) == 10
    assert set(curves["strengths"].str.split().str[-1]) == {"optimizer.lr=0.03"}
    page = (study / "report" / "report.html").read_text()
    assert "<dt>tuned for every method, none included</dt><dd>learning rate</dd>" in page
    assert re.search(r"<td>none</td><td>baseline</td>.*<td>9</td><td>14</td>", page)


@pytest.mark.usefixtures("undrawn")
def test_a_learning_rate_that_was_not_tuned_is_said_to_be_so(tmp_path: Path) -> None:
    study = write_study(tmp_path, Plan(methods=("l2",), report=3))
    build(study)
    assert "Learning rate not re-tuned per method." in (study / "report" / "headline.md").read_text()
    assert "nothing: learning rate not re-tuned" in (study / "report" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_runs_that_a_table_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    """Of two jobs with one name in the tables none is silently left out, unless they are the same."""
    study = write_study(tmp_path / "study", Plan(methods=("l1",), protocol="fixed", strengths=(0.1,), report=3))
    job, other = study / "digits--l1", study / "digits--l1-again"
    shutil.copytree(job, other)
    text = (other / "runs.csv").read_text().replace("digits--l1-0", "other-0").replace("digits--l1,", f"{other.name},")
    (other / "runs.csv").write_text(text)
    build(study)  # the same figures
    (other / "runs.csv").write_text(re.sub(r"0\.7(\d)", r"0.6\1", text))
    with pytest.raises(ValueError, match=r"both have l1 l1\.rate=0\.1 at seed 0 on digits, but other figures: one"):
        build(study)
    for place, form in ((job, "proximal"), (other, "subgradient")):
        (place / "config.yaml").write_text(f"method:\n  l1:\n    rate: 0.1\n    form: {form}\n")
    with pytest.raises(ValueError, match=r"method.l1.form is proximal in the one and subgradient in the other"):
        build(study)
    assert main([str(study)]) == 2
    (other / "config.yaml").write_text((job / "config.yaml").read_text())
    build(study)  # one run on two machines
