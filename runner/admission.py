"""Which jobs a study takes, what it calls them, and what it writes down before the first of them runs: study.json.

{"begun_at": ..., "axes": [what its sweeps vary], "margins": {...}, "settings": {"mnist1d/mlp": {...}}, "extensions": [...]}
"""  # noqa: E501  # the entry reads best on one line

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import extending, records
from runner.errors import Refusal
from runner.files import claimed, held, unused, write_atomic
from runner.job import Job
from runner.labels import LABEL, different, flatten, may_have, stored_settings, unshown
from runner.rows import label_of

Label = tuple[str, ...]  # of a configuration, as LABEL has it
LONGEST = 250  # bytes of the name of a job's folder; file systems have 255


def axes_of(folder: Path) -> list[str]:
    """The settings that the study at `folder` varies: what a job of it is called depends on all of them."""
    return list(_standing(folder).get("axes", ()))


def as_there(job: Job, folder: Path) -> Job:
    """The job as the study at `folder` calls it, where it has it: of one job there is one folder, and one label.

    It may be called otherwise there: `l1` before the study came to vary `method.l1.form`, and a stack by its methods or
    by a name of its own.
    """
    places = sorted(folder.glob(f"*-{job.digest}"), key=lambda place: (place.name != job.name, place.name))
    stack = list(job.settings["method"])
    places = [place for place in places if list(stored_settings(place).get("method") or ()) == stack]
    if not places:
        return job
    job = replace(job, method=_word(places[0]))
    table = places[0] / "runs.csv"
    for row in records.read_table(table, lambda line: None)[:1] if table.is_file() else ():
        items = [item for item in row["setting"].split(" ") if item.partition("=")[0] not in job.points[0]]
        job = replace(job, setting=" ".join(items))
    return job


def admit(jobs: Sequence[Job], axes: Sequence[str], folder: Path) -> None:
    """Refuse jobs that do not belong into the study at `folder`, before anything is written.

    Jobs on the same data set and model must share every setting but the method, the sweep's axes, and the number of
    seeds; otherwise they could not be compared. And what differs must be told apart by its name in the tables.
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
    for job in jobs:
        if len(job.name.encode()) > LONGEST:
            raise Refusal(
                f"the stack {job.method!r} has a name of {len(job.name.encode())} bytes, and a folder's has at most "
                f"{LONGEST}; give the stack a name of its own (stacks: in a file of conf/method)"
            )
    _refuse_alike(jobs, folder)
    extending.refuse(jobs, folder)
    _ours(folder)
    _writable(folder)


def _refuse_alike(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse configurations that have one name in the tables and differ in what it does not show.

    A run of two jobs, such as that of l2.rate=1e-3 in those of [1e-4,1e-3] and of 1e-3, is one run made twice.
    """
    counts = Counter((job.dataset, job.model, job.method) for job in jobs)
    standing, unfinished = _labels(folder, {job.method for job in jobs}, {job.name for job in jobs})
    there = {method for *_, method, _ in standing} | {_word(place) for place in unfinished}
    known: dict[Label, dict[str, Any]] = {}
    for job in jobs:
        if counts[(job.dataset, job.model, job.method)] < 2 and job.method not in there:
            continue
        settings = json.loads(json.dumps(job.settings))  # as they will be read back
        for point in job.points:
            shown = label_of(job, point)
            label, mine = tuple(shown.values()), unshown(settings, shown)
            if label not in known and label in standing:
                known[label] = unshown(_settings_of(standing[label]), shown)
            known.setdefault(label, mine)
            may = [
                unshown(theirs, shown)
                for place, theirs in unfinished.items()
                if _word(place) == job.method and may_have(theirs, shown)
            ]
            for theirs in (known[label], *may):
                if key := different(theirs, mine):
                    raise Refusal(
                        f"{job.method} {label[-1]} on {job.dataset} would stand in study {folder.name!r} with {key}="
                        f"{theirs.get(key)} and with {key}={mine.get(key)}, which its tables could not tell apart; "
                        f"use another name (study=...) or sweep over it (-m {key}=...)"
                    )


def _labels(
    folder: Path, methods: Collection[str], but: Collection[str]
) -> tuple[dict[Label, Path], dict[Path, dict[str, Any]]]:
    """The configurations that a study has of these methods in jobs of other names, and a job of each.

    And the settings of such jobs that have no table yet, since they still train, or were cut off.
    """
    found: dict[Label, Path] = {}
    unfinished: dict[Path, dict[str, Any]] = {}
    for place in sorted({path.parent for name in ("config.yaml", "runs.csv") for path in folder.glob(f"*/{name}")}):
        if place.name in but or _word(place) not in methods:
            continue
        if not (place / "runs.csv").is_file():
            unfinished[place] = _settings_of(place)
            continue
        for row in records.read_table(place / "runs.csv", lambda line: None):
            found.setdefault(tuple(row.get(column, "") for column in LABEL), place)
    return found, unfinished


def _word(place: Path) -> str:
    """What the study calls the stack of a job's folder."""
    return place.name.rpartition("-")[0]


def _settings_of(place: Path) -> dict[str, Any]:
    """The settings that a job of the study has; refuses a study that does not say."""
    if not (settings := stored_settings(place)):
        raise Refusal(
            f"{place / 'config.yaml'} cannot be read, so that nothing says how these runs were made; "
            "move the job's folder out of the study"
        )
    return settings


def _said(margins: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in margins.items())


def begin(jobs: Sequence[Job], axes: Sequence[str], folder: Path, command: Sequence[str], *, fresh: bool) -> Path:
    """Admit the jobs, write down what they share, and give the study's folder.

    A study that stands gains the data sets, models and axes that are new, and report seeds that `command` adds to jobs
    that have some are put on record. A `fresh` one must be no other study's: its name is of the clock, and gets a
    number behind it where another process that began in the same second was faster.
    """
    admit(jobs, axes, unused(folder) if fresh else folder)
    try:
        folder = claimed(folder) if fresh else folder
        with held(folder, f"{folder}: another process begins it; waits for that", records.to_stderr):
            admit(jobs, axes, folder)  # again: another process may have begun it in the meantime
            _note(jobs, axes, folder, command)
    except OSError as error:  # the first thing that a study writes, where permissions did not say no
        raise Refusal(f"out is {str(folder.parent)!r}, which cannot be written to: {error} (out=...)") from error
    return folder


def _note(jobs: Sequence[Job], axes: Sequence[str], folder: Path, command: Sequence[str]) -> None:
    standing = _standing(folder)
    settings = {f"{job.dataset}/{job.model}": _comparable(job) for job in jobs} | dict(standing.get("settings", {}))
    noted = {
        "axes": sorted(set(standing.get("axes", ())) | set(axes)),
        "margins": standing.get("margins", dict(jobs[0].margins)),
        "settings": settings,
    }
    extensions = extending.entries(jobs, folder, standing.get("extensions", ()), command)
    if extensions:
        noted["extensions"] = extensions
    if noted != {key: standing.get(key) for key in noted}:
        begun = standing.get("begun_at", records.now())
        text = json.dumps({"begun_at": begun, **noted}, indent=1) + "\n"
        write_atomic(folder / "study.json", text)


def granted(job: Job, folder: Path) -> Job:
    """The job with as many report seeds as its study was extended to; `begin` comes first."""
    return extending.granted(job, _standing(folder).get("extensions", ()))


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


def _ours(folder: Path) -> None:
    """Refuse a folder that is no study of regrun's and has what a study would write over."""
    taken = [name for name in ("runs.csv", "report") if (folder / name).exists()]
    if taken and not (folder / "study.json").is_file() and not any(folder.glob("*/status.json")):
        raise Refusal(f"{folder} is no study and has a {taken[0]}, which would be written over; use another study=...")


def _writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, without writing."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise Refusal(f"out is {str(folder.parent)!r}, and {place} cannot be written to (out=...)")
