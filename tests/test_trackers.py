"""Trackers, the real ones: what they hold is what the records hold, and what breaks in them breaks nothing else."""

from __future__ import annotations

import csv
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Regrun
from test_study import SMALL, figures, rows_of

from runner import records, trackers
from runner.records import CURVE_COLUMNS, Row, read_table, write_table

STUDY = Path("outputs") / "first"
SWEEP = ["-m", "method=l2", "method.l2.rate=[1e-3,1e-2]", "seeds=2", *SMALL]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The curves that a TensorBoard folder holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0})
        events.Reload()
        found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        return found | {"images": dict.fromkeys(range(len(events.Tags()["images"])), 1.0)}


def curves_of(job: Path) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for point in read_table(job / "curves.csv"):
        name = f"{point['split']}/{point['metric']}"
        found.setdefault(point["run_id"], {}).setdefault(name, {})[int(point["epoch"])] = float(point["value"])
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_curves_the_figures_and_the_report(regrun: Regrun, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    told = regrun(*SWEEP, "tracker=tensorboard")
    assert told.code == 0, told.err
    assert "tracker" not in told.err
    rows = rows_of(STUDY)
    for row in rows:
        shown = scalars(STUDY / "tensorboard" / row["job"] / f"report-{row['strength_idx']}-seed{row['seed']}")
        for name, curve in curves_of(STUDY / row["job"])[row["run_id"]].items():
            assert shown[name] == pytest.approx(curve, rel=1e-6)
        assert list(shown["last_test_acc"].values()) == pytest.approx([float(row["last_test_acc"])], rel=1e-6)
    report = scalars(STUDY / "tensorboard" / "report")
    assert len(report["images"]) == len(list((STUDY / "report" / "figures").glob("*.png"))) > 3
    before = {path: path.stat().st_mtime_ns for path in (STUDY / "tensorboard").glob("*-*/*/*")}
    assert regrun(*SWEEP, "tracker=tensorboard", "seeds=3").code == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}  # each run once
    assert len(list((STUDY / "tensorboard").glob("*-*/*"))) == len(rows_of(STUDY)) == 9


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_parameters_the_curves_and_the_report(regrun: Regrun, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    for package in ("sqlalchemy", "alembic"):
        pytest.importorskip(package)
    for seeds in (2, 3):
        told = regrun(*SWEEP, "tracker=[mlflow]", f"seeds={seeds}")
        assert told.code == 0, told.err
        assert "tracker" not in told.err
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    client = tracking.MlflowClient(f"sqlite:///{(STUDY / 'mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("first")
    runs: dict[str, Any] = {r.data.tags["regrun.run_id"]: r for r in client.search_runs([experiment.experiment_id])}
    rows = rows_of(STUDY)
    assert set(runs) == {row["run_id"] for row in rows} | {"report"}
    assert len(client.search_runs([experiment.experiment_id])) == len(runs)  # each once
    for row in rows:
        run = runs[row["run_id"]]
        assert run.info.status == "FINISHED"
        assert run.data.params["strengths"] == row["strengths"]
        assert run.data.params["seed"] == row["seed"]
        assert run.data.metrics["last_test_acc"] == pytest.approx(float(row["last_test_acc"]))
        for name, curve in curves_of(STUDY / row["job"])[row["run_id"]].items():
            history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
            assert history == pytest.approx(curve)
    kept = {path.name for path in (STUDY / "mlflow").rglob("*") if path.is_file()}
    assert {"headline.md", "forest.png"} <= kept


@pytest.mark.usefixtures("undrawn")
def test_a_tracker_that_breaks_is_a_line_and_the_study_goes_on(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, study: Path) -> None:
            raise OSError("no such\nthing")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", (Broken, ()))
    assert regrun(*SWEEP, "out=whole").code == 0
    told = regrun(*SWEEP, "tracker=tensorboard", "progress=true")
    assert told.code == 0
    lines = [line for line in told.err.splitlines() if "tracker" in line]
    assert (
        lines == ["tracker tensorboard: OSError: no such thing; the study goes on without it"] * 4
    )  # begin, jobs, report
    assert figures(rows_of(STUDY)) == figures(rows_of(Path("whole") / "first"))


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(regrun: Regrun, monkeypatch: pytest.MonkeyPatch) -> None:
    told = regrun("method=l2", *SMALL, "tracker=tensorbord")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "did you mean 'tensorboard'?" in told.err
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    told = regrun("method=l2", *SMALL, "tracker=mlflow")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "pip install 'regrun[mlflow]'" in told.err
    assert not Path("outputs").exists()


def test_the_figures_are_columns_of_the_records(regrun: Regrun) -> None:
    assert regrun("method=l2", *SMALL).code == 0
    with next(STUDY.glob("*/runs.csv")).open() as file:
        columns = next(csv.reader(file))
    assert {*trackers.PARAMETERS, *trackers.FIGURES} <= set(columns)


def test_one_process_at_a_time_shows_its_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What another one finds unfinished is then of a process that was killed, and not of one that is writing it."""
    inside, most = [0], [0]

    class Slow:
        def __init__(self, study: Path) -> None:
            self.study = study

        def runs(self, found: object) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.1)
            inside[0] -= 1

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", (Slow, ()))
    lines: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(trackers.follow, ["tensorboard"], tmp_path, "job", lines.append)
    assert most == [1]
    assert set(lines) == {"tracker tensorboard: another process shows its runs; waits for that"}


def test_a_run_is_shown_with_its_curves_while_another_process_writes_the_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tables come to be, the curves and then the rows, between the two that are read; each run is shown once."""
    shown: list[tuple[Row, trackers.Curve]] = []

    class Listed:
        def __init__(self, study: Path) -> None:
            self.study = study

        def runs(self, found: list[tuple[Row, trackers.Curve]]) -> None:
            shown.extend(found)

    def then_written(path: Path) -> list[Row]:
        found = read_table(path)
        point = {"run_id": "a", "epoch": 1, "step": 1, "split": "val", "metric": "loss", "value": 0.5}
        write_table(tmp_path / "job" / "curves.csv", CURVE_COLUMNS, [point])
        write_table(tmp_path / "job" / "runs.csv", ("run_id",), [{"run_id": "a"}])
        return found

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", (Listed, ()))
    monkeypatch.setattr(records, "read_table", then_written)
    for _ in range(2):
        trackers.follow(["tensorboard"], tmp_path, "job", pytest.fail)
    assert shown == [({"run_id": "a"}, {("val/loss", 1): 0.5})]
