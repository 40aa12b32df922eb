"""What a study's records show in TensorBoard and MLflow, for those who look there: tracker=tensorboard,mlflow.

The records stay the truth. A tracker is told of the runs of a job when that has ended, from its tables, each run once,
and of the report when that is made; what goes wrong in a tracker is said in a line and hurts no study. Both are extras
that write into the study's folder, and no service is begun or asked:

    <study>/tensorboard/<job>/<role>-<point>-seed<seed>/  tensorboard --logdir outputs/<study>/tensorboard
    <study>/mlflow.db, <study>/mlflow/               mlflow ui --backend-store-uri sqlite:///outputs/<study>/mlflow.db
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from runner import records
from runner.errors import Refusal, unknown
from runner.files import held
from runner.records import Row

PARAMETERS = (
    "dataset", "model", "setting", "method", "strengths", "seed", "role", "protocol", "epochs", "batch_size", "lr",
    "optimizer", "schedule", "n_train",
)  # fmt: skip
FIGURES = (
    *(f"last_{split}_{metric}" for split in ("train", "val", "test") for metric in ("loss", "acc")),
    "last_gap_loss", "last_gap_acc", "train_s",
)  # fmt: skip
Curve = Mapping[tuple[str, int], float]  # {("val/loss", epoch): value}


class Tracker(Protocol):
    """One way to show a study."""

    def __init__(self, study: Path) -> None:
        """Shows the study in this folder."""

    def begin(self) -> None:
        """Make what the processes of a sweep would otherwise make all at once."""

    def runs(self, found: Sequence[tuple[Row, Curve]]) -> None:
        """Show these runs; those that it has already are left as they are."""

    def report(self, tables: Sequence[Path], figures: Sequence[Path]) -> None:
        """Show the tables, as Markdown, and the figures, as PNG, of the report."""


class TensorBoard:
    """Curves and figures as TensorBoard reads them."""

    def __init__(self, study: Path) -> None:
        """Writes into `<study>/tensorboard`."""
        self._folder = study / "tensorboard"

    def begin(self) -> None:
        """Nothing: each run has a folder of its own."""

    def runs(self, found: Sequence[tuple[Row, Curve]]) -> None:
        """A folder for each run; one that is there is whole, since it is written beside and renamed."""
        from torch.utils.tensorboard import SummaryWriter

        for row, curve in found:
            place = self._folder / row["job"] / f"{row['role']}-{row['strength_idx']}-seed{row['seed']}"
            if place.is_dir():
                continue
            part = place.with_name(f".{place.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            with SummaryWriter(str(part)) as writer:
                for (name, epoch), value in curve.items():
                    writer.add_scalar(name, value, epoch)
                writer.add_hparams(_parameters(row), _figures(row), run_name=".")
            part.rename(place)

    def report(self, tables: Sequence[Path], figures: Sequence[Path]) -> None:
        """The report as it is now, in place of an earlier one."""
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder / "report", ignore_errors=True)
        with SummaryWriter(str(self._folder / "report")) as writer:
            for table in tables:
                writer.add_text(table.stem, table.read_text("utf-8"))
            for figure in figures:
                with Image.open(figure) as image:
                    pixels = np.asarray(image.convert("RGB"))
                writer.add_image(figure.stem, pixels, dataformats="HWC")


class MLflow:
    """An experiment of MLflow's in an SQLite file; its telemetry is switched off."""

    def __init__(self, study: Path) -> None:
        """Writes into `<study>/mlflow.db` and `<study>/mlflow`."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        from mlflow.tracking import MlflowClient

        self._study = study.absolute()
        self._client = MlflowClient(f"sqlite:///{self._study / 'mlflow.db'}")

    def begin(self) -> None:
        """The database and the experiment: processes that begin at once cannot make them."""
        if self._client.get_experiment_by_name(self._study.name) is None:
            self._client.create_experiment(self._study.name, (self._study / "mlflow").as_uri())

    def runs(self, found: Sequence[tuple[Row, Curve]]) -> None:
        """A run of MLflow's for each; one that a process has left unfinished is made again."""
        from mlflow.entities import Metric, Param

        there = self._there()
        for row, curve in found:
            if row["run_id"] in there:
                continue
            run = self._made(row["run_id"], f"{row['job']} {row['role']} {row['strengths']} seed {row['seed']}")
            params = [Param(name, value) for name, value in _parameters(row).items()]
            metrics = [Metric(name, value, 0, epoch) for (name, epoch), value in curve.items()]
            metrics += [Metric(name, value, 0, int(row["epochs"])) for name, value in _figures(row).items()]
            self._client.log_batch(run, params=params)
            for at in range(0, len(metrics), 1000):  # as many as it takes at a time
                self._client.log_batch(run, metrics=metrics[at : at + 1000])
            self._client.set_terminated(run, "FINISHED" if row["status"] == "ok" else "FAILED")

    def report(self, tables: Sequence[Path], figures: Sequence[Path]) -> None:
        """The report's files as artifacts of a run of their own, in place of an earlier one."""
        self._there("report")
        run = self._made("report", "report")
        for path in (*tables, *figures):
            self._client.log_artifact(run, str(path))
        self._client.set_terminated(run)

    def _made(self, key: str, name: str) -> str:
        made: str = self._client.create_run(self._experiment(), tags={"regrun.run_id": key}, run_name=name).info.run_id
        return made

    def _there(self, again: str = "") -> set[str]:
        """The runs that are whole; those that are not, and the one to be made again, are removed."""
        whole = set()
        token = None
        while True:
            page = self._client.search_runs([self._experiment()], max_results=1000, page_token=token)
            for run in page:
                key = run.data.tags.get("regrun.run_id", "")
                if run.info.status == "RUNNING" or key == again:
                    self._client.delete_run(run.info.run_id)
                else:
                    whole.add(key)
            token = page.token
            if not token:
                return whole

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._study.name)
        if found is None:
            raise LookupError(f"{self._study / 'mlflow.db'} has no experiment {self._study.name}")
        made: str = found.experiment_id
        return made


TRACKERS: Mapping[str, tuple[type[Tracker], Sequence[str]]] = {  # and the packages that each needs
    "tensorboard": (TensorBoard, ("tensorboard",)),
    "mlflow": (MLflow, ("mlflow", "sqlalchemy", "alembic")),
}


def known(value: object) -> list[str]:
    """The names of the trackers of a study; refuses one that is unknown or not installed."""
    names = value if isinstance(value, list) else str(value).split(",") if value is not None else []
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", str(name), TRACKERS, "tracker=...")
        missing = [package for package in TRACKERS[name][1] if find_spec(package) is None]
        if missing:
            raise Refusal(f"tracker is {name!r}, which needs {missing[0]} (pip install 'regrun[{name}]')")
    return list(dict.fromkeys(names))


def begin(names: Sequence[str], study: Path) -> None:
    """Make ready, before the jobs of a study are launched."""
    _each(names, study, records.to_stderr, lambda tracker: tracker.begin())


def follow(names: Sequence[str], study: Path, job: str, say: Callable[[str], None]) -> None:
    """Show the runs in a job's tables."""
    if names:
        found = list(_recorded(study / job))
        _each(names, study, say, lambda tracker: tracker.runs(found))


def report(names: Sequence[str], study: Path, files: Sequence[Path]) -> None:
    """Show the report, of which these are the files."""
    tables = [path for path in files if path.suffix == ".md"]
    figures = [path for path in files if path.suffix == ".png"]
    _each(names, study, records.to_stderr, lambda tracker: tracker.report(tables, figures))


def _each(names: Sequence[str], study: Path, say: Callable[[str], None], does: Callable[[Tracker], None]) -> None:
    for name in names:
        try:
            # for this process alone: what is unfinished there is then of one that was killed
            with held(study / ".trackers", f"tracker {name}: another process shows its runs; waits for that", say):
                does(TRACKERS[name][0](study))
        except Exception as error:  # whatever a foreign package raises: the records do not need it
            said = " ".join(f"{type(error).__name__}: {error}".split())
            say(f"tracker {name}: {said[:300]}; the study goes on without it")


def _recorded(place: Path) -> Iterator[tuple[Row, Curve]]:
    rows = records.read_table(place / "runs.csv")  # first: a process that writes both writes the curves before
    curves: dict[str, dict[tuple[str, int], float]] = {}
    for point in records.read_table(place / "curves.csv"):
        if point["value"]:
            at = (f"{point['split']}/{point['metric']}", int(point["epoch"]))
            curves.setdefault(point["run_id"], {})[at] = float(point["value"])
    for row in rows:
        yield row, curves.get(row["run_id"], {})


def _parameters(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in PARAMETERS}


def _figures(row: Row) -> dict[str, float]:
    return {name: float(row[name]) for name in FIGURES if row[name]}
