"""A study is a folder of jobs: what is there is kept, what is missing is run, what does not fit is refused.

outputs/<study>/study.json      the settings that all its jobs share, fixed when it was begun
outputs/<study>/<job>/...       see runner.records
outputs/<study>/runs.csv        every run of every job, and report/: see runner.report
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from runner import records
from runner.config import Job, flatten
from runner.engine.loop import Outcome, Progress
from runner.engine.packing import threads, width
from runner.engine.workers import train_across, worth
from runner.errors import Refusal
from runner.grid import Run
from runner.methods.base import ranges
from runner.records import Row

Say = Callable[[str], None]


class JobFailed(RuntimeError):
    """A job that broke while it ran; its folder says how (exit code 1)."""


def admit(jobs: Sequence[Job], axes: Sequence[str], folder: Path) -> None:
    """Refuse jobs that do not belong into the study at `folder`, before anything is written.

    Jobs on the same data set and model must share every setting but the method, the sweep's axes, and the number of
    seeds; otherwise they could not be compared.
    """
    standing = _standing(folder)
    known = set(standing.get("axes", ())) | set(axes)
    shared: dict[str, dict[str, Any]] = dict(standing.get("settings", {}))
    for job in jobs:
        mine = _comparable(job)
        theirs = shared.setdefault(f"{job.dataset}/{job.model}", mine)
        different = [k for k in sorted({*mine, *theirs} - known) if mine.get(k) != theirs.get(k)]
        if different:
            key = different[0]
            more = f" (and {len(different) - 1} more: {', '.join(different[1:4])})" if len(different) > 1 else ""
            raise Refusal(
                f"study {folder.name!r} has {key}={theirs.get(key)} and this command says {mine.get(key)}{more}; "
                f"results would not compare, so use another name (study=...) or {key}={theirs.get(key)}"
            )
        fixed = standing.get("margins", job.margins)
        if fixed != job.margins:
            raise Refusal(
                f"study {folder.name!r} was begun with margins {_said(fixed)} and this command says "
                f"{_said(job.margins)}; verdicts under other margins: regrun-report {folder} --margin acc=..."
            )
    _writable(folder)


def _said(margins: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in margins.items())


def begin(jobs: Sequence[Job], axes: Sequence[str], folder: Path) -> None:
    """Write down what the study's jobs share; a study that stands gains the data sets, models and axes that are new."""
    standing = _standing(folder)
    settings = {f"{job.dataset}/{job.model}": _comparable(job) for job in jobs} | dict(standing.get("settings", {}))
    noted = {
        "axes": sorted(set(standing.get("axes", ())) | set(axes)),
        "margins": standing.get("margins", dict(jobs[0].margins)),
        "settings": settings,
    }
    if noted != {key: standing.get(key) for key in noted}:
        begun = standing.get("begun_at", records.now())
        text = json.dumps({"begun_at": begun, **noted}, indent=1) + "\n"
        try:
            records.write(folder / "study.json", text)
        except OSError as error:  # the first thing that a study writes, where permissions did not say no
            raise Refusal(f"out is {str(folder.parent)!r}, which cannot be written to: {error} (out=...)") from error


def run_job(job: Job, folder: Path, command: Sequence[str], say: Say, watch: Callable[[Progress], None]) -> list[Row]:
    """Train what the job still lacks and give back all its rows.

    Rows are written after each stage, so that a job that was cut off goes on from there; a run's predictions are
    written before its row, so that no row is without them. Raises JobFailed, with the traceback in error.txt, if
    training breaks.
    """
    place = folder / job.name
    torch.set_num_threads(job.threads or threads(job.experiment.shaped(job.points[0])))
    rows = records.read_table(place / "runs.csv")
    curves = records.read_table(place / "curves.csv")
    asked = {name: records.read_table(place / f"{name}.csv") for name in records.ASKED}
    records.write(place / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(job.settings))))
    try:
        had = len(rows)
        chosen = None
        for stage in ("tune", "report"):
            wanted = job.tuning() if stage == "tune" else job.reporting(chosen)
            present = {row["run_id"] for row in rows}
            missing = [run for run in wanted if _run_id(job, run) not in present]
            if missing:
                if job.one_by_one:
                    say(f"{job.name}: runs go one by one, not side by side: {job.one_by_one}")
                records.write_status(place, "running", method=job.method, command=list(command))
                began = records.now()
                workers = job.workers or worth(job.experiment, len(missing))
                lanes = job.experiment.lanes or width(job.experiment, wanted, workers)
                for outcome in train_across(replace(job.experiment, lanes=lanes), missing, watch, workers):
                    if job.predictions and outcome.status == "ok":
                        run_id = _run_id(job, outcome.run)
                        records.write_predictions(place, run_id, outcome.hits, outcome.confidence)
                    rows.append(_row(job, folder.name, outcome, began))
                    curves += _curve(job, outcome)
                    for name, more in outcome.tables.items() if outcome.status == "ok" else ():
                        asked[name] += [{"run_id": _run_id(job, outcome.run), **row} for row in more]
            if stage == "tune" and job.tunes:
                chosen = choose(job, rows)
                for row in rows:
                    row["selected"] = str(row["role"] == "report" or int(row["strength_idx"]) == chosen).lower()
            if missing:
                records.write_table(place / "curves.csv", records.CURVE_COLUMNS, curves)
                for name, lines in asked.items():
                    if lines:
                        records.write_table(place / f"{name}.csv", records.ASKED[name], lines)
                records.write_table(place / "runs.csv", _columns(rows), rows)
        if len(rows) == had and records.read_status(place).get("state") == "complete":
            say(f"{job.name}: complete, nothing to run")
        else:
            records.write_status(place, "complete", method=job.method, command=list(command), error=None)
            (place / "error.txt").unlink(missing_ok=True)  # of an attempt before this one
        return records.read_table(place / "runs.csv")
    except Exception as error:
        records.write(place / "error.txt", traceback.format_exc())
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        records.write_status(place, "failed", method=job.method, command=list(command), error=told)
        raise JobFailed(f"{job.name} failed: {told} (traceback: {place / 'error.txt'})") from error


def choose(job: Job, rows: Sequence[Mapping[str, Any]]) -> int:
    """The point with the best mean validation figure over the tune seeds; ties go to the weaker strength.

    Only validation columns are read. A point that diverged on any seed is chosen only if all did.
    """
    less = job.protocol.select == "val_loss"
    column, sign = "last_val_loss" if less else f"last_val_{job.experiment.data.score}", -1 if less else 1
    means: dict[int, float] = {}
    for index in range(len(job.points)):
        mine = [row for row in rows if row["role"] == "tune" and int(row["strength_idx"]) == index]
        sound = all(row["status"] == "ok" for row in mine)
        means[index] = sign * sum(float(row[column]) for row in mine) / len(mine) if sound else -float("inf")
    return max(means, key=lambda index: (means[index], -index))


def _standing(folder: Path) -> dict[str, Any]:
    path = folder / "study.json"
    if not path.is_file():
        return {}
    try:
        standing = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(standing, dict)
    except (ValueError, AssertionError) as error:
        raise Refusal(f"{path} is not readable as JSON; mend or remove it, or use another study=...") from error
    return standing


def _comparable(job: Job) -> dict[str, Any]:
    """The settings that two jobs must share to be compared: all but the method."""
    flat = flatten({key: value for key, value in job.settings.items() if key != "method"})
    comparable: dict[str, Any] = json.loads(json.dumps(flat))  # as it will be read back
    return comparable


def _writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, without writing."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise Refusal(f"out is {str(folder.parent)!r}, and {place} cannot be written to (out=...)")


def _run_id(job: Job, run: Run) -> str:
    """The same for the same numbers, whatever study or command they came from."""
    text = json.dumps([job.name, run.role, run.seed, sorted(run.point.items())])
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]


def _row(job: Job, study: str, outcome: Outcome, began: str) -> Row:
    """A run as a row of runs.csv. A diverged run keeps its identity and cost and loses its figures."""
    run, experiment = outcome.run, job.experiment
    methods = experiment.shaped(run.point).stack.methods
    family = next((method.family for method in methods.values()), "baseline")
    drawn = job.protocol.trials > 0 and len(experiment.stack.methods) > 1  # points that no single strength orders
    first = next(((n, next(iter(ranges(m)), None)) for n, m in methods.items() if not drawn), ("", None))
    strength_name = f"{first[0]}.{first[1]}" if first[1] else ""
    strengths = {
        f"{name}.{field}": run.point.get(f"{name}.{field}", getattr(method, field))
        for name, method in methods.items()
        for field in ranges(method)
        if f"{name}.{field}" in run.point or field == next(iter(ranges(method)))
    }
    optimizer = {p: v for p, v in run.point.items() if p.startswith("optimizer.")}
    setting = " ".join([job.setting] * bool(job.setting) + [f"{p}={v:g}" for p, v in optimizer.items()])
    sound = outcome.status == "ok"
    figures = outcome.figures if sound else {}
    return {
        "run_id": _run_id(job, run),
        "study": study,
        "job": job.name,
        "dataset": job.dataset,
        "model": job.model,
        "setting": setting,
        "method": job.method,
        "family": family,
        "strength": strengths.get(strength_name),
        "strength_name": strength_name,
        "strength_idx": run.index,
        "strengths": " ".join(f"{path}={value:g}" for path, value in strengths.items()),
        "seed": run.seed,
        "role": run.role,
        "protocol": job.protocol.name,
        "selected": run.role == "report",
        "split_mode": experiment.splitter.resplit,
        "status": outcome.status,
        "error": None if sound else f"loss not finite by epoch {outcome.epochs}",
        "split_hash": outcome.split_hash,
        "task": experiment.data.task,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "batch_size": experiment.budget.batch_size,
        "lr": run.point.get("optimizer.lr", experiment.optimizer.lr),
        "optimizer": type(experiment.optimizer).__name__.lower(),
        "schedule": type(experiment.schedule).__name__.lower(),
        "penalize_biases": job.settings["penalize_biases"],
        "n_train_eval": outcome.counts["n_train"],
        **outcome.counts,
        **figures,
        "train_s": outcome.train_s,
        "s_per_step": outcome.train_s / outcome.steps,
        "lanes": outcome.lanes,
        "peak_mem_mb": _peak_memory(experiment.device),
        "device": experiment.device.type,
        "dtype": str(experiment.dtype).removeprefix("torch."),
        "deterministic": experiment.device.type == "cpu",
        "started_at": began,
        **records.versions(),
    }


def _curve(job: Job, outcome: Outcome) -> list[Row]:
    """A run's evaluations as rows of curves.csv."""
    return [
        dict(zip(records.CURVE_COLUMNS, (run_id, point.epoch, point.step, *name.split("_"), value), strict=True))
        for run_id in (_run_id(job, outcome.run),)
        for point in outcome.curve
        for name, value in point.figures.items()
    ]


def _columns(rows: Sequence[Row]) -> list[str]:
    """The columns of runs.csv; a row that has others is a mistake here, not the user's."""
    extra = {name for row in rows for name in row} - set(records.COLUMNS)
    assert not extra, extra
    return list(records.COLUMNS)


def _peak_memory(device: torch.device) -> float:
    """The process's peak memory so far, on the device, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
