"""The figure over a numeric axis of a study."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report_data import METHODS, Plan, write_study
from test_report_figures import frames, texts_inside

from runner.report.axes import axis_curves
from runner.report.build import build
from runner.report.writers import to_markdown

SIZES = (100, 200, 400, 3200)


def grid(*settings: str, methods: tuple[str, ...] = ("l2", "dropout")) -> Plan:
    return Plan(
        methods=methods, report=4, tune=0, strengths=(0.1,), protocol="fixed",
        groups=tuple(("digits", "mlp", setting) for setting in settings),
    )  # fmt: skip


def test_a_line_for_each_method_over_the_values_in_their_order(tmp_path: Path) -> None:
    runs, frame = frames(tmp_path / "study", grid(*(f"data.train_size={size}" for size in SIZES)))
    ((name, drawing),) = axis_curves(frame, runs)
    assert name == "digits · mlp data.train_size"
    said = texts_inside(drawing)
    assert {"none", "l2", "dropout", "data.train_size", "test accuracy (%)"} <= set(said)
    left, right = drawing.figure.axes
    assert left.get_xscale() == "log"
    assert drawing.data.groupby("method")["value"].apply(list).to_dict() == {
        method: list(map(float, SIZES)) for method in ("none", "l2", "dropout")
    }
    own = drawing.data[(drawing.data["method"] == "l2") & (drawing.data["value"] == 400)].iloc[0]
    reported = runs[(runs["method"] == "l2") & (runs["setting"] == "data.train_size=400")]
    assert own["mean"] == pytest.approx(reported["last_test_acc"].mean())
    half = 3.1824463 * reported["last_test_acc"].std() / math.sqrt(4)  # t at 0.975 with 3 degrees of freedom
    assert own["hi"] - own["mean"] == pytest.approx(half)
    assert own["gap_mean"] == pytest.approx(reported["last_gap_acc"].mean())
    line = next(line for line in right.get_lines() if len(line.get_xdata()) == 4)  # type: ignore[arg-type]  # an array
    assert line.get_ydata()[0] == pytest.approx(100 * frame.loc[  # type: ignore[index]  # an array
        (frame["method"] == "none") & (frame["setting"] == "data.train_size=100"), "gap_mean"
    ].iloc[0])  # fmt: skip


def test_one_drawing_for_each_axis_at_each_value_of_the_others(tmp_path: Path) -> None:
    settings = [f"data.train_size={size} data.label_noise={rate}" for size in (100, 200) for rate in (0, 0.2, 0.4)]
    runs, frame = frames(tmp_path / "study", grid(*settings))
    drawings = dict(axis_curves(frame, runs))
    assert sorted(drawings) == [
        *(f"digits · mlp · data.label_noise={rate} data.train_size" for rate in ("0", "0.2", "0.4")),
        *(f"digits · mlp · data.train_size={size} data.label_noise" for size in (100, 200)),
    ]
    noise = drawings["digits · mlp · data.train_size=200 data.label_noise"]
    assert noise.figure.axes[0].get_xscale() == "linear"  # a rate of 0 has no logarithm
    assert "Training labels are noisy" in " ".join(" ".join(texts_inside(noise)).split())


@pytest.mark.parametrize(
    "settings", [("",), ("data.train_size=100",), ("optimizer=sgd", "optimizer=adam"), ("a=x", "a=1")]
)
def test_no_axis_no_figure(tmp_path: Path, settings: tuple[str, ...]) -> None:
    runs, frame = frames(tmp_path / "study", grid(*settings))
    assert list(axis_curves(frame, runs)) == []


def test_the_leading_methods_of_many_and_the_best_possible_accuracy(tmp_path: Path) -> None:
    plan = grid(*(f"data.noise={rate}" for rate in (0.1, 0.2)), methods=METHODS[:12])
    runs, frame = frames(tmp_path / "study", plan)
    runs["bayes_acc"] = 1 - runs["setting"].str.removeprefix("data.noise=").astype(float)
    ((_, drawing),) = axis_curves(frame, runs)
    assert drawing.data["method"].nunique() == 9  # none and eight others
    assert "the 8 of 12" in " ".join(" ".join(texts_inside(drawing)).split())
    (best,) = (
        line
        for line in drawing.figure.axes[0].get_lines()
        if line.get_linestyle() == ":" and line.get_color() == "black"
    )
    assert pd.Series(best.get_ydata()).tolist() == pytest.approx([90, 80])


def test_the_baseline_is_a_line_of_its_own_beside_any_number_of_strengths(tmp_path: Path) -> None:
    settings = [f"data.noise={rate}" for rate in (0.1, 0.2)]
    plan = replace(grid(*settings, methods=METHODS[:5]), strengths=(0.01, 0.1, 1.0))
    runs, frame = frames(tmp_path / "study", plan)
    ((_, drawing),) = axis_curves(frame, runs)
    said = texts_inside(drawing)
    assert "none" in said
    assert "the 8 of 15" in " ".join(" ".join(said).split())
    assert (drawing.data["method"] == "none").sum() == len(settings)


@pytest.mark.usefixtures("sketched")
def test_it_is_in_the_report_and_noise_is_in_the_caption(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", grid("data.label_noise=0", "data.label_noise=0.2"))
    for path in study.glob("*/runs.csv"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows["label_noise"] = ["" if text.endswith("=0") else "0.21" for text in rows["setting"]]
        rows.to_csv(path, index=False)
    report = build(study)
    names = {path.name for path in report.figures}
    assert {f"axis_curves-digits_mlp_data.label_noise.{kind}" for kind in ("pdf", "svg", "png", "csv")} <= names
    assert "Over an axis" in (study / "report" / "report.html").read_text()
    clean, noisy = (report.headline[report.headline["setting"] == f"data.label_noise={rate}"] for rate in ("0", "0.2"))
    assert "21.0% of the training labels are wrong" in to_markdown(noisy)
    assert "labels are wrong" not in to_markdown(clean)
