"""Whole studies, small: what is written, what is chosen, and what is run again."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from conftest import Regrun
from hydra import compose, initialize_config_dir

from runner import __version__
from runner.config import read
from runner.job import Job
from runner.paths import conf_dir
from runner.records import COLUMNS, CURVE_COLUMNS, read_table
from runner.study import choose

SMALL = [
    "data=digits", "data.train_size=100", "data.val_size=50", "data.test_size=200", "model.width=8", "model.depth=1",
    "epochs=2", "batch_size=50", "study=first", "progress=false",
]  # fmt: skip
MOVING = (
    "train_s",
    "s_per_step",
    "peak_mem_mb",
    "started_at",
    "lanes",
    "threads",
)  # what a second run of the same may change


def rows_of(study: Path, method: str | None = None) -> list[dict[str, str]]:
    """The rows of a study, or of one of its methods."""
    rows = [row for path in sorted(study.glob("*/runs.csv")) for row in read_table(path)]
    return [row for row in rows if method in (None, row["method"])]


def figures(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """What must be the same twice, by run."""
    return {row["run_id"]: {k: v for k, v in row.items() if k not in MOVING} for row in rows}


def predictions_of(study: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Packed hits and confidences by run."""
    found = {}
    for path in study.glob("*/predictions/*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            found[path.stem] = (stored["correct"], stored["confidence"])
    return found


def job_of(study: Path, method: str) -> Path:
    (folder,) = study.glob(f"{method}-*")
    return folder


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=snapshot_ensemble"], "the learning rate falls to zero 0 times (schedule=cyclic schedule.cycles=5)"),
        (
            ["method=snapshot_ensemble", "schedule=cyclic", "schedule.cycles=2"],
            "of 5 cycles, and the learning rate falls to zero 2 times",
        ),
        (["method=snapshot_ensemble", "schedule=cyclic"], ""),
        (["method=[l2,swa]", "schedule=cosine"], "swa averages weights that hardly move"),
        (["method=swa", "schedule=cyclic", "schedule.cycles=1"], "swa averages weights that hardly move"),
        (["method=swa", "schedule=cyclic"], ""),
        (["method=swa"], ""),
        (["method=l2", "schedule=cosine"], ""),
    ],
)
def test_a_schedule_that_does_not_suit_a_method_is_noted(overrides: list[str], said: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        notes = read(compose("config", [*SMALL, *overrides]), [*SMALL, *overrides]).experiment.notes
    assert len(notes) == (said != "")
    assert all(said in note for note in notes)


def test_notes_are_said_and_stored(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("method=snapshot_ensemble", "seeds=1", *SMALL)
    job = job_of(tmp_path / "outputs" / "first", "snapshot_ensemble")
    (note,) = json.loads((job / "status.json").read_text())["notes"]
    assert f"{job.name}: {note}\n" in told.err
    assert note.endswith("(schedule=cyclic schedule.cycles=5)")


def test_a_job_leaves_these_files_and_columns(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("method=[dropout,l2]", "seeds=2", *SMALL)
    assert told.code == 0, told.err
    study = tmp_path / "outputs" / "first"
    job = job_of(study, "dropout+l2")
    written = {str(path.relative_to(study)) for path in study.rglob("*") if path.is_file()}
    parts = ("config.yaml", "runs.csv", "curves.csv", "status.json")
    said = [f"predictions/{row['run_id']}.npz" for row in rows_of(study)]
    assert written == {".lock", "study.json", "runs.csv", *(f"{job.name}/{name}" for name in (".lock", *parts, *said))}
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert json.loads((job / "status.json").read_text())["state"] == "complete"
    assert (job / "runs.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert (job / "curves.csv").read_text().splitlines()[0] == ",".join(CURVE_COLUMNS)
    rows = rows_of(study)
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        # 100 examples in batches of 50, twice; one hidden layer: 64 * 8 + 8 + 8 * 10 + 10 weights
        expected = {
            "study": "first", "dataset": "digits", "model": "mlp", "method": "dropout+l2", "family": "dropping",
            "strength": "0.3", "strength_name": "dropout.rate", "strengths": "dropout.rate=0.3 l2.rate=0.001",
            "role": "report", "protocol": "fixed", "selected": "true", "status": "ok", "error": "", "epochs": "2",
            "steps": "4", "n_train": "100", "n_train_eval": "100", "n_val": "50", "n_test": "200", "n_params": "610",
            "lr": "0.01", "optimizer": "adam", "schedule": "constant", "penalize_biases": "false", "device": "cpu",
            "setting": "", "last_epoch": "2",
        }  # fmt: skip
        assert {name: row[name] for name in expected} == expected
        gap = float(row["last_test_loss"]) - float(row["last_train_loss"])
        assert float(row["last_gap_loss"]) == pytest.approx(gap, abs=1e-6)
        assert float(row["last_gap_acc"]) == pytest.approx(
            float(row["last_train_acc"]) - float(row["last_test_acc"]), abs=1e-6
        )
    curves = read_table(job / "curves.csv")
    # 2 runs, 2 evaluations, train and val, loss and acc; never test
    assert len(curves) == 16
    assert {row["split"] for row in curves} == {"train", "val"}
    last = {
        row["run_id"]: row["value"]
        for row in curves
        if (row["epoch"], row["split"], row["metric"]) == ("2", "val", "loss")
    }
    assert last == {row["run_id"]: row["last_val_loss"] for row in rows}


@pytest.mark.usefixtures("unreported")
def test_tuning_chooses_on_validation_and_reports_on_other_seeds(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("method=l2", "-m", "protocol=tuned", "seeds=2", "method.l2.rate=[1e-3,1.0,10.0]", *SMALL, "epochs=8")
    assert told.code == 0, told.err
    study = tmp_path / "outputs" / "first"
    rows = rows_of(study, "l2")
    assert {row["seed"] for row in rows if row["role"] == "tune"} == {"0", "1", "2"}
    assert {row["seed"] for row in rows if row["role"] == "report"} == {"3", "4"}
    assert [row["seed"] for row in rows_of(study, "none")] == ["3", "4"]
    accuracy = defaultdict(list)
    for row in rows:
        if row["role"] == "tune":
            accuracy[row["strength"]].append(float(row["last_val_acc"]))
    assert [len(values) for values in accuracy.values()] == [3, 3, 3]
    best = max(accuracy, key=lambda strength: statistics.fmean(accuracy[strength]))
    assert {row["strength"] for row in rows if row["selected"] == "true"} == {best}
    assert {row["strength"] for row in rows if row["role"] == "report"} == {best}
    assert sum(row["selected"] == "true" for row in rows) == 3 + 2
    assert {row["select"] for row in rows} == {"val_acc"}
    # one seed, one split, whatever the method, the strength and the role
    splits = defaultdict(set)
    for row in rows_of(study):
        splits[row["seed"]].add(row["split_hash"])
    assert {len(hashes) for hashes in splits.values()} == {1}
    assert len(set.union(*splits.values())) == 5
    # methods that do nothing leave every figure of the baseline as it is, since no stream is shared
    before = (study / "study.json").read_bytes(), job_of(study, "none").joinpath("runs.csv").read_bytes()
    assert (
        regrun("method=placebo", "method.placebo.dose=[1.0]", "protocol=tuned", "seeds=2", *SMALL, "epochs=8").code == 0
    )
    same = [name for name in COLUMNS if name.startswith(("last_", "best_", "w_")) or name == "split_hash"]
    pairs = zip(rows_of(study, "none"), rows_of(study, "placebo"), strict=True)
    assert all(none[name] == placebo[name] for none, placebo in pairs for name in same)
    assert before == ((study / "study.json").read_bytes(), job_of(study, "none").joinpath("runs.csv").read_bytes())


class _NoTest(dict[str, Any]):
    """A row whose test columns must not be looked at."""

    def __getitem__(self, name: str) -> Any:
        assert "test" not in name
        assert "gap" not in name
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        raise AssertionError(f"{name} is missing or may be")

    def items(self) -> Any:
        raise AssertionError("all columns are read")

    values = items


def _tuned(*overrides: str) -> Job:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        arguments = ["method=l2", "protocol=tuned", "method.l2.rate=[0.1,0.2,0.3]", *SMALL, *overrides]
        return read(compose("config", arguments), arguments)


def _tunings(
    figure: str,
    values: Mapping[int, list[str]],
    diverged: tuple[int, ...] = (),
    epochs: Mapping[int, int] = MappingProxyType({}),
) -> list[_NoTest]:
    return [
        _NoTest(
            {
                "role": "tune",
                "strength_idx": str(index),
                "seed": str(seed),
                figure: value,
                "last_test_acc": "1",
                "epochs": str(epochs.get(index, 9)),
                "status": "diverged" if index in diverged and seed == 1 else "ok",
            }
        )
        for index, column in values.items()
        for seed, value in enumerate(column)
    ]


def test_choose_takes_the_best_mean_and_of_equals_the_shorter_and_then_the_weaker() -> None:
    job = _tuned()
    # means 0.5, 0.6, 0.6: the best single run is the first point's
    values = {0: ["0.9", "0.3", "0.3"], 1: ["0.6", "0.6", "0.6"], 2: ["0.5", "0.6", "0.7"]}
    assert choose(job, _tunings("last_val_acc", values)) == 1
    assert choose(job, _tunings("last_val_acc", values, diverged=(1,))) == 2
    assert choose(job, _tunings("last_val_acc", values, diverged=(0, 1, 2))) == 0
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001 and 0.3 + 0.2 + 0.1 is 0.6: the order of the seeds breaks no tie
    level = {0: ["0.3", "0.2", "0.1"], 1: ["0.1", "0.2", "0.3"], 2: ["0.1", "0.1", "0.1"]}
    assert choose(job, _tunings("last_val_acc", level)) == 0
    assert choose(job, _tunings("last_val_acc", level, epochs={0: 9, 1: 8, 2: 7})) == 1
    assert choose(job, _tunings("last_val_acc", level, diverged=(0, 1, 2), epochs={0: 9, 1: 8})) == 0
    by_loss = _tuned("protocol.select=val_loss")
    assert choose(by_loss, _tunings("last_val_loss", values)) == 0
    reported = [_NoTest({"role": "report", "strength_idx": "2", "last_val_acc": "9", "status": "ok"})]
    assert choose(job, _tunings("last_val_acc", values) + reported) == 1


def test_a_diverged_lane_leaves_its_neighbours_as_they_were(regrun: Regrun, tmp_path: Path) -> None:
    small = [*SMALL, "seeds=2", "optimizer=sgd"]
    assert regrun("optimizer.lr=[0.01,1e30]", "out=both", *small).code == 0
    assert regrun("optimizer.lr=[0.01,0.02]", "out=sound", *small).code == 0
    both, sound = (rows_of(tmp_path / out / "first") for out in ("both", "sound"))
    assert [row["status"] for row in both] == ["ok", "ok", "diverged", "diverged"]
    shown = [name for name in COLUMNS if name.startswith(("last_", "best_", "w_"))]
    for row in both[2:]:
        assert "not finite" in row["error"]
        assert all(row[name] == "" for name in shown)
        assert (row["lr"], row["n_train"], row["split_hash"] != "") == ("1e+30", "100", True)
    for mine, theirs in zip(both[:2], sound[:2], strict=True):
        assert mine["lr"] == "0.01"
        assert all(mine[name] == theirs[name] for name in shown)


def test_a_study_that_was_cut_off_goes_on_to_the_same_numbers(regrun: Regrun, tmp_path: Path) -> None:
    command = ["method=l2", "protocol=tuned", "seeds=2", "method.l2.rate=[1e-3,10.0]", *SMALL]
    assert regrun(*command).code == 0
    study = tmp_path / "outputs" / "first"
    job = job_of(study, "l2")
    said = predictions_of(study)
    whole, curves = rows_of(study), read_table(job / "curves.csv")
    kept = [row for row in whole if row["role"] == "tune"]
    for path, columns, left in (
        (job / "runs.csv", COLUMNS, kept),
        (job / "curves.csv", CURVE_COLUMNS, [c for c in curves if c["run_id"] in {row["run_id"] for row in kept}]),
    ):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(left)
    (job / "status.json").write_text('{"state": "running"}\n')
    for row in whole:
        if row["role"] == "report":  # of the two that were trained but not recorded, one file was written
            (job / "predictions" / f"{row['run_id']}.npz").unlink()
            break
    assert regrun(*command).code == 0
    assert said.keys() == predictions_of(study).keys()
    for run, (hits, confidence) in predictions_of(study).items():
        assert np.array_equal(hits, said[run][0])
        assert np.array_equal(confidence, said[run][1])
    again = rows_of(study)
    assert [row["run_id"] for row in again] == [row["run_id"] for row in whole]
    assert figures(again) == figures(whole)
    assert again[: len(kept)] == kept  # not trained again
    assert read_table(job / "curves.csv") == curves
    assert json.loads((job / "status.json").read_text())["state"] == "complete"


def test_predictions_agree_with_the_records_and_change_none(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun("method=dropout", "seeds=2", *SMALL).code == 0
    study = tmp_path / "outputs" / "first"
    said = predictions_of(study)
    rows = rows_of(study)
    assert len(said) == len(rows) == 2
    for row in rows:
        packed, confidence = said[row["run_id"]]
        assert (str(packed.dtype), len(packed)) == ("uint8", 25)
        assert (str(confidence.dtype), len(confidence)) == ("float16", 200)
        hits = np.unpackbits(packed, count=200)
        assert hits.mean() == pytest.approx(float(row["last_test_acc"]))
        at = np.ceil(confidence.astype(float) * 15).astype(int)
        apart = np.bincount(at, weights=hits - confidence.astype(float), minlength=16)
        # half precision keeps 11 bits, and an example at the edge of a bin may change sides
        assert np.abs(apart).sum() / 200 == pytest.approx(float(row["last_test_ece"]), abs=0.01)
        assert 0 < float(row["last_test_ece_null"]) < 0.3
        assert 0 < float(row["last_test_brier"]) < 2
        assert float(row["last_test_nll_t"]) > 0
        assert float(row["best_temperature"]) > 0
    (tmp_path / "outputs" / "first").rename(tmp_path / "outputs" / "second")
    assert regrun("method=dropout", "seeds=2", *SMALL, "evaluate.predictions=false").code == 0
    assert not predictions_of(study)
    assert not (job_of(study, "dropout") / "predictions").exists()
    assert job_of(study, "dropout").name == job_of(tmp_path / "outputs" / "second", "dropout").name
    assert figures(rows_of(study)) == figures(rows)


@pytest.mark.usefixtures("undrawn")
def test_more_seeds_and_methods_run_only_what_is_missing(regrun: Regrun, tmp_path: Path) -> None:
    small = [argument for argument in SMALL if argument != "progress=false"]
    assert regrun("-m", "method=l2,none", "seeds=2", *small).code == 0
    study = tmp_path / "outputs" / "first"
    lines = {path: path.read_text().splitlines() for path in study.glob("*/runs.csv")}
    told = regrun("-m", "method=l2", "seeds=2", *small)
    assert told.code == 0
    assert [line for line in told.err.splitlines() if "nothing to run" in line] == [
        f"{job_of(study, method).name}: complete, nothing to run" for method in ("none", "l2")
    ]
    assert {path: path.read_text().splitlines() for path in lines} == lines
    told = regrun("-m", "method=l2,l1", "seeds=3", *small)
    assert told.code == 0
    for path, before in lines.items():
        after = path.read_text().splitlines()
        assert after[: len(before)] == before  # old seeds byte for byte
        assert len(after) == len(before) + 1
    assert [row["seed"] for row in rows_of(study, "l1")] == ["0", "1", "2"]
    assert len(read_table(study / "runs.csv")) == 9
    assert len((study / "report" / "headline.csv").read_text().splitlines()) > 3
    told = regrun("method=l1", "seeds=1", *small)  # fewer are there already
    assert "nothing to run" in told.err
    assert "nan" not in told.out


@pytest.mark.usefixtures("unreported")
def test_what_the_tables_could_not_tell_apart_is_refused(regrun: Regrun, tmp_path: Path) -> None:
    """A job whose name and strengths another has, with an option that neither shows, would take its place."""
    study = tmp_path / "outputs" / "first"
    dropout, listed = "method=dropout", "method.dropout.input_rate=[0.2]"

    def refused(*arguments: str) -> str:
        before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
        told = regrun(*arguments, "seeds=1", *SMALL)
        assert (told.code, told.err.count("\n")) == (2, 1), told.err
        assert before == {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
        return told.err

    # beside what stands there; a list keeps it apart, also beside itself
    assert regrun(dropout, "seeds=1", *SMALL).code == 0
    told = refused(dropout, "method.dropout.input_rate=0.2")
    assert "dropout dropout.rate=0.3 on digits would stand in study 'first' with" in told
    assert "method.dropout.input_rate=0.0 and with method.dropout.input_rate=0.2" in told
    assert "use another name (study=...) or sweep over it (-m method.dropout.input_rate=...)" in told
    assert "input_rate=0.2" in refused(dropout, "method.dropout.rate=[0.1,0.3]", "method.dropout.input_rate=0.2")
    for more in ([listed], ["method.dropout.input_rate=[0.1,0.2]"], ["method.dropout.rate=0.1"]):
        assert regrun(dropout, "seeds=1", *more, *SMALL).code == 0
    stopping = "method=early_stopping"
    assert regrun(stopping, "seeds=1", *SMALL).code == 0
    assert "min_delta=0.01" in refused(stopping, "method.early_stopping.min_delta=0.01")
    # the same run in two jobs is one that was made twice
    for more in (["method.l2.rate=[1e-4,1e-3]"], []):
        told_of = regrun("method=l2", "seeds=1", *more, *SMALL)
        assert told_of.code == 0, told_of.err


@pytest.mark.usefixtures("unreported")
def test_a_label_does_not_depend_on_the_command(regrun: Regrun, tmp_path: Path) -> None:
    few = ["method=none", *(a for a in SMALL if not a.startswith(("data.train_size", "epochs")))]
    study = tmp_path / "outputs" / "first"
    assert regrun("-m", "data.train_size=50,100", "epochs=1,2", "seeds=1", *few).code == 0
    labels = {f"data.train_size={size} epochs={epochs}" for size in (50, 100) for epochs in (1, 2)}
    assert {row["setting"] for row in rows_of(study)} == labels
    # the axes of the study name what one command does not vary, and the order in which they are written is no matter
    for more in (["-m", "epochs=2,1", "data.train_size=50"], ["epochs=2", "data.train_size=60"]):
        told = regrun(*more, "seeds=2", *few)
        assert told.code == 0, told.err
    rows = rows_of(study)
    assert {row["setting"] for row in rows} == labels | {"data.train_size=60 epochs=2"}
    assert len({(row["job"], row["setting"]) for row in rows}) == len({row["job"] for row in rows}) == 5


@pytest.mark.usefixtures("unreported")
def test_a_sweep_over_an_option_of_a_method_names_it(regrun: Regrun, tmp_path: Path) -> None:
    few = ["seeds=1", *SMALL]
    assert regrun("-m", "method=l2,[dropout,l1]", "method.l1.form=proximal,subgradient", *few).code == 0
    assert regrun("-m", "method=dropout", "method.dropout.input_rate=0,0.2", *few).code == 0
    study = tmp_path / "outputs" / "first"
    forms = {"dropout+l1.form=proximal", "dropout+l1.form=subgradient"}
    rates = {"dropout.input_rate=0", "dropout.input_rate=0.2"}
    rows = rows_of(study)
    # each is a row beside one baseline: what is varied of a method makes no comparison of its own
    assert sorted(row["method"] for row in rows) == sorted({"none", "l2"} | forms | rates)
    assert {row["setting"] for row in rows} == {""}
    assert len({row["last_train_loss"] for row in rows}) == len(rows)  # each was trained as it says
    # the strengths, which tables show anyway, name nothing
    assert regrun("-m", "method=l2", "method.l2.rate=1e-5,1e-4", *few).code == 0
    assert len(rows_of(study, "l2")) == 3
    # alone, too, each is what the sweep called it, however its number is written; there is nothing new to train
    before, dropped = rows_of(study), ["method.dropout.input_rate=0.20"]
    for alone in (["method=[dropout,l1]", "method.l1.form=subgradient"], ["method=dropout", *dropped]):
        assert regrun(*alone, *few).code == 0
        assert rows_of(study) == before
    assert regrun("method=dropout", *few).code == 0
    assert {row["method"] for row in rows_of(study)} == {"none", "l2"} | forms | rates


@pytest.mark.usefixtures("unreported")
def test_a_job_keeps_the_name_under_which_it_is_there(regrun: Regrun, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "first"
    small = ["seeds=1", *SMALL]
    assert regrun("-m", "method=l1", *small).code == 0
    # the study comes to vary the form: the one that is there is not trained again under another name
    both = ["-m", "method=l1", "method.l1.form=proximal,subgradient"]
    assert regrun(*both, *small).code == 0
    assert sorted(row["method"] for row in rows_of(study)) == ["l1", "l1.form=subgradient", "none"]
    told = regrun(*both, "extend=+1", *small)  # which has them all
    assert told.code == 0, told.err
    assert sorted(row["method"] for row in rows_of(study)) == sorted(2 * ["l1", "l1.form=subgradient", "none"])
    # a stack by its own name and by its methods is one job
    pair = tmp_path / "mine" / "method" / "pair.yaml"
    pair.parent.mkdir(parents=True)
    pair.write_text("defaults: [dropout, l2]\nstacks:\n  pair: [dropout, l2]\n", encoding="utf-8")
    assert regrun("--config-dir", str(tmp_path / "mine"), "method=pair", *small).code == 0
    before = rows_of(study)
    assert regrun("method=[dropout,l2]", *small).code == 0
    assert rows_of(study) == before
    assert {row["method"] for row in before} == {"l1", "l1.form=subgradient", "none", "pair"}


@pytest.mark.usefixtures("unreported")
def test_jobs_without_a_table_are_told_apart_too(regrun: Regrun, tmp_path: Path) -> None:
    study, dropout = tmp_path / "outputs" / "first", "method=dropout"
    assert regrun(dropout, "method.dropout.input_rate=0.2", "seeds=1", *SMALL).code == 0
    (job,) = study.glob("dropout-*")
    table, settings = (job / "runs.csv").read_text(), (job / "config.yaml").read_text()
    for gone, said in (("runs.csv", "tables could not tell apart"), ("config.yaml", "cannot be read")):
        (job / gone).unlink()
        told = regrun(dropout, "seeds=1", *SMALL)
        assert (told.code, told.err.count("\n")) == (2, 1), told.err
        assert said in told.err
        (job / "runs.csv").write_text(table)
        (job / "config.yaml").write_text(settings)
    (job / "runs.csv").unlink()
    for other in (["method.dropout.rate=0.4"], ["method=l2"]):  # these are no names that it will have
        assert regrun(dropout, *other, "seeds=1", *SMALL).code == 0


BREAKING = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from runner.methods.base import Method, strength


@dataclass(frozen=True)
class Breaking(Method):
    family: ClassVar[str] = "penalty"
    rate: float = strength(0, off=0)

    def penalty(self, seen, now):
        if Path("broken").exists():
            raise ZeroDivisionError("it broke\\non purpose")
        return 0.0
"""


BREAKING_NET = """

from torch import nn


class _Net(nn.Linear):
    def forward(self, x):
        if self.training and len(x) > 2:  # not yet when the net is looked at
            raise ZeroDivisionError("it broke")
        return super().forward(x.flatten(1))


def net(shape: tuple[int, ...], classes: int) -> nn.Module:
    return _Net(64, classes)
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of the user's own, which fails while there is a file `broken`."""
    (tmp_path / "ownmethods").mkdir()
    (tmp_path / "ownmethods" / "__init__.py").write_text(BREAKING + BREAKING_NET)
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "breaking.yaml").write_text(
        "# Fails on purpose.\nbreaking:\n  _target_: ownmethods.Breaking\n  rate: 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").touch()


@pytest.mark.usefixtures("own_package", "undrawn")
def test_a_job_that_fails_stops_no_other_and_is_tried_again(regrun: Regrun, tmp_path: Path) -> None:
    own = ["--config-dir", "mine", "allow=[ownmethods]"]
    command = ["-m", "method=breaking,l2", "seeds=2", *own, *SMALL]
    told = regrun(*command)
    study = tmp_path / "outputs" / "first"
    assert study.is_dir(), told.err
    job = job_of(study, "breaking")
    assert told.code == 1
    assert f"regrun: 1 of 3 jobs failed; see {Path('outputs/first')}" in told.err
    assert f"job {job.name} (breaking): failed: ZeroDivisionError: it broke" in told.err
    assert "Traceback" not in told.err
    assert "ZeroDivisionError: it broke" in (job / "error.txt").read_text()
    status = json.loads((job / "status.json").read_text())
    assert (status["state"], status["error"]) == ("failed", "ZeroDivisionError: it broke")
    assert {row["method"] for row in rows_of(study)} == {"none", "l2"}
    assert "ZeroDivisionError: it broke" in (study / "report" / "headline.md").read_text()
    alone = regrun(*command[2:], "method=breaking")
    assert alone.code == 1
    assert alone.err.count("\n") == 1
    assert alone.err.startswith(f"regrun: {job.name} failed: ZeroDivisionError: it broke (traceback: ")

    (tmp_path / "broken").unlink()
    told = regrun(*command)
    assert told.code == 0, told.err
    assert {row["method"] for row in rows_of(study)} == {"none", "l2", "breaking"}
    assert json.loads((job / "status.json").read_text())["state"] == "complete"
    assert not (job / "error.txt").exists()
    assert "Failures" not in (study / "report" / "headline.md").read_text()


@pytest.mark.usefixtures("own_package")
def test_an_own_method_is_named_on_the_command_line_or_refused(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("--config-dir", "mine", "method=breaking", *SMALL)
    assert told.code == 2
    assert "'ownmethods.Breaking'" in told.err
    assert "allow=[ownmethods]" in told.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("own_package")
def test_where_all_jobs_fail_there_is_no_report_and_no_traceback(regrun: Regrun, tmp_path: Path) -> None:
    small = [argument for argument in SMALL if not argument.startswith("model.")]
    told = regrun(
        "-m", "method=l2", "model=linear", "model._target_=ownmethods.net", "allow=[ownmethods]", "seeds=2", *small
    )  # fmt: skip
    assert told.code == 1
    lines = told.err.splitlines()
    assert [" (".join(line.split(" (")[1:]) for line in lines[:2]] == [
        "l2): failed: ZeroDivisionError: it broke",
        "none): failed: ZeroDivisionError: it broke",
    ]
    assert lines[2:] == [f"regrun: 2 of 2 jobs failed; see {Path('outputs/first')}"]
    assert not (tmp_path / "outputs" / "first" / "report").exists()


def test_a_folder_of_somebody_elses_is_left_alone(regrun: Regrun, tmp_path: Path) -> None:
    theirs = tmp_path / "outputs" / "first" / "runs.csv"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a,b\n1,2\n")
    told = regrun("method=l2", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "is no study and has a runs.csv, which would be written over; use another study=..." in told.err
    assert [path.name for path in theirs.parent.iterdir()] == ["runs.csv"]
    assert theirs.read_text() == "a,b\n1,2\n"


def test_the_version_is_that_of_regrun(regrun: Regrun) -> None:
    told = regrun("--version")
    assert (told.code, told.out, told.err) == (0, f"regrun {__version__}\n", "")
