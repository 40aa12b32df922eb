"""A run that has ended as rows of the tables."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

import torch

from runner import records
from runner.engine.finish import Outcome
from runner.grid import Run
from runner.job import Job
from runner.labels import LABEL
from runner.methods.base import ranges
from runner.records import Row


def run_id_of(job: Job, run: Run) -> str:
    """The same for the same numbers, whatever study or command they came from."""
    text = json.dumps([job.name, run.role, run.seed, sorted(run.point.items())])
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]


def strengths_of(job: Job, point: Mapping[str, float]) -> dict[str, float]:
    """The strengths of a configuration by name: of each method that is on the first, and those that the job varies."""
    return {
        f"{name}.{field}": point.get(f"{name}.{field}", getattr(method, field))
        for name, method in job.experiment.shaped(point).stack.methods.items()
        for field in ranges(method)
        if f"{name}.{field}" in point or field == next(iter(ranges(method)))
    }


def label_of(job: Job, point: Mapping[str, float]) -> dict[str, str]:
    """What tells the configuration from the others of its study: the columns of LABEL."""
    optimizer = {p: v for p, v in point.items() if p.startswith("optimizer.")}
    # What is tuned for each method is part of its configuration; what is not makes a comparison of its own.
    tuned, apart = (optimizer, {}) if job.protocol.tune_seeds else ({}, optimizer)
    setting = " ".join([job.setting] * bool(job.setting) + [f"{p}={v:g}" for p, v in apart.items()])
    strengths = " ".join(f"{path}={value:g}" for path, value in (strengths_of(job, point) | tuned).items())
    return dict(zip(LABEL, (job.dataset, job.model, setting, job.method, strengths), strict=True))


def row_of(job: Job, study: str, outcome: Outcome, began: str) -> Row:
    """A run as a row of runs.csv. A diverged run keeps its identity and cost and loses its figures."""
    run, experiment = outcome.run, job.experiment
    methods = experiment.shaped(run.point).stack.methods
    family = next((method.family for method in methods.values()), "baseline")
    drawn = job.protocol.trials > 0 and len(experiment.stack.methods) > 1  # points that no single strength orders
    first = next(((n, next(iter(ranges(m)), None)) for n, m in methods.items() if not drawn), ("", None))
    strength_name = f"{first[0]}.{first[1]}" if first[1] else ""
    strengths, label = strengths_of(job, run.point), label_of(job, run.point)
    sound = outcome.status == "ok"
    figures = outcome.figures if sound else {}
    return {
        "run_id": run_id_of(job, run),
        "study": study,
        "job": job.name,
        **label,
        "family": family,
        "strength": strengths.get(strength_name),
        "strength_name": strength_name,
        "strength_idx": run.index,
        "seed": run.seed,
        "role": run.role,
        "protocol": job.protocol.name,
        "select": job.protocol.select,
        "selected": run.role == "report",
        "split_mode": experiment.splitter.mode(experiment.data),
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
        "n_classes": experiment.data.classes,
        **outcome.counts,
        **figures,
        "train_s": outcome.train_s,
        "s_per_step": outcome.train_s / outcome.steps,
        "lanes": outcome.lanes,
        "compiled": outcome.compiled,
        "peak_mem_mb": _peak_memory(experiment.device),
        "device": experiment.device.type,
        "dtype": dtype_name(experiment.dtype),
        "deterministic": experiment.deterministic or experiment.device.type == "cpu",
        "started_at": began,
        **records.versions(),
    }


def curve_of(job: Job, outcome: Outcome) -> list[Row]:
    """A run's evaluations as rows of curves.csv."""
    return [
        dict(zip(records.CURVE_COLUMNS, (run_id, point.epoch, point.step, *name.split("_"), value), strict=True))
        for run_id in (run_id_of(job, outcome.run),)
        for point in outcome.curve
        for name, value in point.figures.items()
    ]


def asked_of(job: Job, outcome: Outcome) -> dict[str, list[Row]]:
    """A run's rows of the tables that were asked for, as text."""
    run_id = run_id_of(job, outcome.run)
    return {
        name: [records.as_text(records.ASKED[name], {"run_id": run_id, **row}) for row in rows]
        for name, rows in outcome.tables.items()
        if outcome.status == "ok"
    }


def dtype_name(dtype: torch.dtype | None) -> str:
    """A type of numbers as it is written in the configuration."""
    return str(dtype).removeprefix("torch.") if dtype else "auto"


def _peak_memory(device: torch.device) -> float:
    """The process's peak memory so far, on the device, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
