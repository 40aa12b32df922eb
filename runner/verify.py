"""Run one run of a study again, from what is stored of it, and compare all that it left."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import OmegaConf

from runner import records
from runner.aliases import refuse_bomb
from runner.building import takes, trusting
from runner.config import DTYPES, OUTSIDE, read
from runner.engine.loop import train
from runner.engine.products import exact
from runner.errors import Refusal
from runner.grid import Run, runs
from runner.job import Job
from runner.labels import LABEL
from runner.paths import conf_dir
from runner.rows import asked_of, curve_of, row_of, run_id_of
from runner.study import searched

# Cost, and where and when a run was trained: what a second run of the same may change.
MOVING = (
    "train_s", "s_per_step", "lanes", "mapped", "channels_last", "onednn", "compiled", "threads", "peak_mem_mb",
    "torch", "regrun", "git_sha", "started_at",
)  # fmt: skip
WITH = ("torch", "regrun", "git_sha")  # versions that are told where they differ


def verify(folder: Path, seed: int | None, allow: Sequence[str]) -> tuple[bool, str]:
    """Whether a run of the study, drawn by `seed`, gives the same figures, curve and predictions; and that in a line.

    On a CPU they are compared bit for bit, as the records have them: nine digits. `allow` are packages of the user's
    own that the stored configuration may name. Raises Refusal for a study without runs or with a stored configuration
    that is not that of its folder.
    """
    drawn = random.SystemRandom().randrange(2**31) if seed is None else seed
    recorded = [(path.parent, row) for path in sorted(folder.glob("*/runs.csv")) for row in records.read_table(path)]
    if not recorded:
        raise Refusal(f"{folder} has no runs to verify (studies are the folders in outputs/)")
    place, row = random.Random(drawn).choice(recorded)
    job = searched(stored_job(place, allow), place)
    run = _run(job, row)
    mine, points, asked, predicted = _again(job, run, row)
    apart = [name for name in records.COLUMNS if name not in MOVING and name in row and mine[name] != row[name]]
    apart = [name for name in apart if name not in ("selected", "study", *LABEL)]  # of the study, not of the run
    curves = records.read_table(place / "curves.csv")
    theirs = [point for point in curves if point["run_id"] == row["run_id"]]
    apart += ["curve"] * (points != theirs)
    for name, lines in asked.items():
        stored = records.read_table(place / f"{name}.csv")
        apart += [name] * (lines != [line for line in stored if line["run_id"] == row["run_id"]])
    apart += ["predictions"] * (not _same_predictions(place, row["run_id"], predicted))
    what = f"run {row['run_id']} of {place.name} ({row['role']}, seed {row['seed']}; --seed {drawn})"
    other = [f"{name} {mine[name]}, then {row[name]}" for name in WITH if row.get(name) != mine[name]]
    more = f"; now with {', '.join(other)}" * bool(other)
    if not apart:
        return (
            True,
            f"{what}: {len(mine) - len(MOVING)} figures and {len(points)} points of its curve are the same{more}",
        )
    first = next((f": {name} is {mine[name]} and was {row[name]}" for name in apart if name in mine), "")
    return False, f"{what}: {', '.join(apart[:5])} not the same{first}{more}"


def stored_job(place: Path, allow: Sequence[str] = ()) -> Job:
    """The job of a folder, read from its config.yaml as if that had been composed, and so checked.

    Raises Refusal for a file that is not what was stored.
    """
    path = place / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        refuse_bomb(text, path)
        stored = yaml.safe_load(text)
        defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
        axes = json.loads((place.parent / "study.json").read_text(encoding="utf-8")).get("axes", [])
        assert isinstance(stored, dict)
        assert isinstance(stored["data"], dict)
        assert isinstance(stored["evaluate"], dict)
        assert isinstance(stored["protocol"], dict)
    except (OSError, ValueError, yaml.YAMLError, AssertionError, LookupError, AttributeError, RecursionError) as error:
        raise Refusal(
            f"{path} is not a configuration that regrun has stored: {' '.join(str(error).split())[:200]}"
        ) from error
    outside = {key: defaults[key] for key in OUTSIDE} | {"progress": False, "allow": list(allow), "axes": axes}
    outside |= {key: stored.get(key, "off") for key in ("compile", "onednn")}
    outside["deterministic"] = stored.get("deterministic", False)
    outside["evaluate"] = {**defaults["evaluate"], **stored["evaluate"]}
    data = {key: value for key, value in stored["data"].items() if key != "content"} | {"smoke": None}
    if takes("data", data, "task", trusting(allow)):
        data = {"task": "classification"} | data  # which is left out of what is stored
    protocol = {**stored["protocol"], "tune": []}  # what it named is stored as the lists that it stood for
    overrides = [f"allow=[{','.join(allow)}]"] if allow else []
    job = read(OmegaConf.create({**stored, **outside, "data": data, "protocol": protocol}), overrides)
    method, _, digest = place.name.rpartition("-")
    if job.name.rpartition("-")[2] != digest:
        raise Refusal(
            f"{path} describes the job {job.name}, and its folder is {place.name}: the file, or the data or the "
            "device it speaks of, is no longer what it was"
        )
    return replace(job, method=method)  # a stack that has a name of its own is stored by its methods


def _run(job: Job, row: records.Row) -> Run:
    """The run of a record."""
    index, seed = int(row["strength_idx"]), int(row["seed"])
    for run in runs(job.points, [seed], row["role"]):
        if run.index == index and run_id_of(job, run) == row["run_id"]:
            return run
    raise Refusal(f"{job.name} has no run {row['run_id']}; its runs.csv is not what it was")


def _again(
    job: Job, run: Run, row: records.Row
) -> tuple[records.Row, list[records.Row], dict[str, list[records.Row]], Any]:
    """The run's row, curve, tables that were asked for and predictions, trained again as it was.

    That is mapped or not, with the same layout, precision and products, compiled or not, and on as many threads.
    """
    if row.get("threads"):
        torch.set_num_threads(int(row["threads"]))
    mapped = row["mapped"] == "true" if row.get("mapped") else int(row["lanes"]) > 1
    # Beside a copy of itself where it was mapped: a convolution mapped over one lane takes another path.
    pack = [run, run] if mapped and int(row["lanes"]) > 1 else [run]
    fused = row.get("compiled") == "true"
    lanes = (int(row["lanes"]) if fused else None) if mapped else 1  # for so many the step was compiled
    experiment = replace(
        job.experiment, lanes=lanes, channels_last=row.get("channels_last") == "true", compiled=fused,
        onednn=row.get("onednn") == "true" and exact(), dtype=DTYPES.get(row["dtype"], job.experiment.dtype),
    )  # fmt: skip
    outcome = next(train(experiment, pack))
    mine = records.as_text(records.COLUMNS, row_of(replace(job, experiment=experiment), row["study"], outcome, ""))
    points = [records.as_text(records.CURVE_COLUMNS, point) for point in curve_of(job, outcome)]
    return mine, points, asked_of(job, outcome), (outcome.hits, outcome.confidence)


def _same_predictions(place: Path, run_id: str, mine: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether the stored predictions are these; true where none were stored."""
    path = place / "predictions" / f"{run_id}.npz"
    if not path.is_file():
        return True
    try:
        with np.load(path, allow_pickle=False) as stored:
            hits, confidence = stored["correct"], stored["confidence"]
    except (OSError, EOFError, KeyError, ValueError):
        return False
    return np.array_equal(hits, np.packbits(mine[0].numpy())) and np.array_equal(confidence, mine[1].numpy())
