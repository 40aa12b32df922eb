"""A study is a folder of jobs: what is there is kept, what is missing is run, what does not fit is refused.

outputs/<study>/study.json      the settings that all its jobs share, fixed when it was begun
outputs/<study>/<job>/...       see runner.records
outputs/<study>/runs.csv        every run of every job, and report/: see runner.report
"""

from __future__ import annotations

import json
import math
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from runner import extending, records
from runner.asking import Asking
from runner.engine.checkpoint import Checkpoints, kept_about
from runner.engine.loop import Progress
from runner.engine.packing import packed, prediction, threads
from runner.engine.workers import train_across, worth
from runner.errors import Refusal
from runner.files import clear_parts, held, held_within, write_atomic
from runner.grid import Run, best_point
from runner.job import Job
from runner.labels import LABEL, different, flatten, may_have, stored_settings, unshown
from runner.records import Ended, Row
from runner.rows import asked_of, curve_of, dtype_name, label_of, row_of, run_id_of

Say = Callable[[str], None]
Label = tuple[str, ...]  # of a configuration, as LABEL has it
LONGEST = 250  # bytes of the name of a job's folder; file systems have 255


class JobFailed(RuntimeError):
    """A job that broke while it ran; its folder says how, if that could be `noted` (exit code 1)."""

    noted = True


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
    job = replace(job, method=places[0].name.rpartition("-")[0])
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
    there = {method for *_, method, _ in standing} | {place.name.rpartition("-")[0] for place in unfinished}
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
                if place.name.rpartition("-")[0] == job.method and may_have(theirs, shown)
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
        if place.name in but or place.name.rpartition("-")[0] not in methods:
            continue
        if not (place / "runs.csv").is_file():
            unfinished[place] = _settings_of(place)
            continue
        for row in records.read_table(place / "runs.csv", lambda line: None):
            found.setdefault(tuple(row.get(column, "") for column in LABEL), place)
    return found, unfinished


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


def begin(jobs: Sequence[Job], axes: Sequence[str], folder: Path, command: Sequence[str]) -> None:
    """Write down what the study's jobs share; a study that stands gains the data sets, models and axes that are new.

    Report seeds that `command` adds to jobs that have some are put on record.
    """
    try:
        with held(folder, f"{folder}: another process begins it; waits for that", records.to_stderr):
            admit(jobs, axes, folder)  # again: another process may have begun it in the meantime
            _note(jobs, axes, folder, command)
    except OSError as error:  # the first thing that a study writes, where permissions did not say no
        raise Refusal(f"out is {str(folder.parent)!r}, which cannot be written to: {error} (out=...)") from error


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


def run_job(job: Job, folder: Path, command: Sequence[str], say: Say, watch: Callable[[Progress], None]) -> list[Row]:
    """Train what the job still lacks and give back all its rows.

    One process at a time has a job, or a share of one: another one waits, and then finds it done. A run that has ended
    is written down at once, first its predictions and then its row, and moves to the tables when its stage ends; those
    that have not are kept in checkpoints. The process that finds all shares of a job ended makes its tables. Raises
    JobFailed, with the traceback in error.txt if that can be written, if training breaks.
    """
    place = folder / job.name
    mine = place if job.share is None else place / f"share-{job.share}"
    waits = "another process has it; waits for that to end"
    asked, job = len(job.seeds), granted(job, folder)
    if len(job.seeds) > asked:
        say(f"{job.name}: {len(job.seeds)} report seeds, to which the study was extended")
    try:
        if job.share is not None:
            own = held_within(mine, place, f"{job.name}, share {job.share}: {waits}", say)
            with own, _failing(job, place, command):
                found = _run_share(job, folder, mine, command, say, watch)
            if _lacks(job, found):
                return found
        with held(place, f"{job.name}: {waits}", say), _failing(job, place, command):
            shares = _shares(place)  # no other can begin while this process has the whole
            with ExitStack() as stack:
                for share in shares:
                    stack.enter_context(held(share, f"{job.name}, {share.name}: {waits}", say))
                rows = _run_held(job, folder, command, say, watch, shares)
            for share in shares:  # only now: until all stages are in the tables, one may keep the state of its runs
                shutil.rmtree(share)
            return rows
    except OSError as error:  # a full disk or a folder that has become read-only: not even the failure can be written
        failed = JobFailed(f"{job.name} failed: {_told(error)}; what was written before is kept")
        failed.noted = False
        raise failed from error


@contextmanager
def _failing(job: Job, place: Path, command: Sequence[str]) -> Iterator[None]:
    """Write down what breaks a job, and raise JobFailed in its place."""
    try:
        yield
    except Exception as error:
        write_atomic(place / "error.txt", traceback.format_exc())
        told = _told(error)
        records.write_status(place, "failed", method=job.method, command=list(command), error=told)
        raise JobFailed(f"{job.name} failed: {told} (traceback: {place / 'error.txt'})") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _run_held(
    planned: Job,
    folder: Path,
    command: Sequence[str],
    say: Say,
    watch: Callable[[Progress], None],
    shares: Sequence[Path],
) -> list[Row]:
    place = folder / planned.name
    torch.set_num_threads(planned.threads or threads(planned.experiment.shaped(planned.points[0])))
    for written in (place, place / "predictions"):
        clear_parts(written)
    rows, curves, asked = _recorded(planned, place, say)
    present = {row["run_id"] for row in rows}
    ended = _new(present, [one for part in (place, *shares) for one in records.read_ended(part, say)])
    write_atomic(place / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(planned.settings))))
    complete, chosen = records.read_status(place).get("state") == "complete", None
    notes = list(planned.experiment.notes)
    for note in notes:
        records.to_stderr(f"{planned.name}: {note}")  # a warning, whether or not progress is shown
    for job, stage in _stages(planned, place, rows):
        wanted = job.tuning() if stage == "tune" else job.reporting(chosen)
        order = {run_id_of(job, run): number for number, run in enumerate(wanted)}
        present = {row["run_id"] for row in rows} | {one.row["run_id"] for one in ended}
        missing = [run for run in wanted if run_id_of(job, run) not in present]
        if missing:
            records.write_status(place, "running", method=job.method, command=list(command), notes=notes)
            ended += _trained(job, folder, place, wanted, missing, say, watch)
        moved = [one for one in ended if one.row["run_id"] in order or stage == "report"]
        moved.sort(key=lambda one: order.get(one.row["run_id"], len(order)))
        rows += [one.row for one in moved]
        if stage == "tune" and job.tunes:
            chosen = choose(job, rows)
            for row in rows:
                row["selected"] = str(row["role"] == "report" or int(row["strength_idx"]) == chosen).lower()
        if moved:
            complete, ended = False, [one for one in ended if one not in moved]
            curves += [point for one in moved for point in one.curve]
            records.write_table(place / "curves.csv", records.CURVE_COLUMNS, curves)
            for name, lines in asked.items():
                lines += [line for one in moved for line in one.asked.get(name, ())]
                if lines:
                    records.write_table(place / f"{name}.csv", records.ASKED[name], lines)
            records.write_table(place / "runs.csv", records.COLUMNS, rows)
            if not ended:
                (place / "ended.jsonl").unlink(missing_ok=True)
    if complete:
        say(f"{planned.name}: complete, nothing to run")
    else:
        records.write_status(place, "complete", method=planned.method, command=list(command), notes=notes, error=None)
        (place / "error.txt").unlink(missing_ok=True)  # of an attempt before this one
    return rows


def _stages(job: Job, place: Path, rows: Sequence[Row]) -> Iterator[tuple[Job, str]]:
    """The stages of a job: "tune", again and again with more points where a search asks for them, and "report".

    `rows` must have those of all points by the time that the next stage is asked for.
    """
    if job.space is None:
        yield job, "tune"
    else:
        asking = Asking(place / "optuna.db", job.space, job.points, job.tune_seeds[0])
        more = asking.ask(job.protocol.trials, job.protocol.batch) or bool(asking.points())
        while more:
            job = replace(job, points=asking.points())
            yield job, "tune"
            asking.tell(_means(job, rows))
            more = asking.ask(job.protocol.trials, job.protocol.batch)
    yield job, "report"


def searched(job: Job, place: Path) -> Job:
    """The job with all points that a search has asked for; the job itself if it asks for none."""
    if job.space is None or not (place / "optuna.db").is_file():
        return job
    return replace(job, points=Asking(place / "optuna.db", job.space, job.points, job.tune_seeds[0]).points())


def _run_share(
    job: Job, folder: Path, mine: Path, command: Sequence[str], say: Say, watch: Callable[[Progress], None]
) -> list[Row]:
    """Train this process's share of the first stage that lacks runs; all rows of the job that there are then."""
    place = folder / job.name
    torch.set_num_threads(job.threads or threads(job.experiment.shaped(job.points[0])))
    clear_parts(mine)
    records.read_ended(mine, say)  # a torn line goes
    rows = _found(job, place)
    stage = _open_stage(job, rows)
    present = {row["run_id"] for row in rows}
    missing = [run for run in job.mine(stage) if run_id_of(job, run) not in present]
    if not missing:
        say(f"{job.name}, share {job.share}: complete, nothing to run")
        return rows
    write_atomic(place / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(job.settings))))
    notes = list(job.experiment.notes)
    records.write_status(place, "running", method=job.method, command=list(command), notes=notes)
    for _ in _trained(job, folder, mine, stage, missing, say, watch):
        pass
    return _found(job, place)


def _found(job: Job, place: Path) -> list[Row]:
    """The rows of a job in its tables and of what has ended in any of its shares, read while others write."""
    rows = _recorded(job, place, lambda line: None)[0]
    ended = [one for part in (place, *_shares(place)) for one in records.read_ended(part, None)]
    return rows + [one.row for one in _new({row["run_id"] for row in rows}, ended)]


def _new(present: Collection[str], ended: Sequence[Ended]) -> list[Ended]:
    """Those that have ended and are not present, each once."""
    return list({one.row["run_id"]: one for one in ended if one.row["run_id"] not in present}.values())


def _shares(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("share-*") if path.is_dir())


def _open_stage(job: Job, rows: Sequence[Row]) -> list[Run]:
    """The runs of the first stage that lacks some; those of the last one if none does."""
    present = {row["run_id"] for row in rows}
    tuning = job.tuning()
    if any(run_id_of(job, run) not in present for run in tuning):
        return tuning
    return job.reporting(choose(job, rows) if job.tunes else None)


def _lacks(job: Job, rows: Sequence[Row]) -> bool:
    present = {row["run_id"] for row in rows}
    return any(run_id_of(job, run) not in present for run in _open_stage(job, rows))


def _recorded(job: Job, place: Path, say: Say) -> tuple[list[Row], list[Row], dict[str, list[Row]]]:
    """The rows of a job that are whole, the points of their curves, and what else was asked for, by table."""
    torn: list[str] = []
    rows = records.read_table(place / "runs.csv", say)
    points = records.read_table(place / "curves.csv", torn.append)
    asked = {name: records.read_table(place / f"{name}.csv", torn.append) for name in records.ASKED}
    for line in torn:
        say(line)
    curves: dict[str, list[Row]] = {row["run_id"]: [] for row in rows}
    for point in points:
        if point["run_id"] in curves:  # a process that was ended between two tables leaves curves without a row
            curves[point["run_id"]].append(point)
    every = job.experiment.budget.evaluate_every
    if torn:
        known = [Counter(line["run_id"] for line in lines) for lines in asked.values()]
        most = [max(count.values(), default=0) for count in known]
        rows = [
            row
            for row in rows
            if _is_whole(curves[row["run_id"]], int(row["epochs"]), every)
            and (row["status"] != "ok" or [count[row["run_id"]] for count in known] == most)
        ]
    kept = {row["run_id"] for row in rows}
    return (
        rows,
        [point for row in rows for point in curves[row["run_id"]]],
        {name: [line for line in lines if line["run_id"] in kept] for name, lines in asked.items()},
    )


def _is_whole(curve: Sequence[Row], epochs: int, every: int) -> bool:
    """Whether a curve has all evaluations of so many epochs, and as many figures at each."""
    figures = Counter(point["epoch"] for point in curve)
    return len(figures) == math.ceil(epochs / every) and len(set(figures.values())) == 1


def _trained(
    job: Job,
    folder: Path,
    mine: Path,
    wanted: Sequence[Run],
    missing: Sequence[Run],
    say: Say,
    watch: Callable[[Progress], None],
) -> Iterator[Ended]:
    """The missing runs of a stage, each written down, in `mine`, before it is given."""
    place, began = folder / job.name, records.now()
    if job.one_by_one and len(missing) > 1:
        say(f"{job.name}: runs go one by one, not side by side: {job.one_by_one}")
    # by all runs of the stage, and as those of them that are part of the way have begun: each is of one piece
    workers = job.workers or worth(len(wanted))
    experiment = packed(job.experiment, wanted, workers, kept_about(mine))
    workers = min(workers, len(missing))
    wide = min(experiment.lanes or len(missing), math.ceil(len(missing) / workers))
    say(f"{job.name}: {prediction(job.experiment, missing[0], wide, workers)}")
    way = {
        "mapped": experiment.lanes != 1,
        "channels_last": experiment.channels_last,
        "dtype": dtype_name(experiment.dtype),
    }
    about = {**records.versions(), "device": experiment.device.type, **way, "compiled": experiment.compiled}
    keeper = Checkpoints(mine, about, job.keep_every, lambda line: say(f"{job.name}: {line}"))
    with keeper.listening():
        for outcome in train_across(experiment, missing, watch, workers, keeper):
            run_id = run_id_of(job, outcome.run)
            if job.predictions and outcome.status == "ok":
                records.write_predictions(place, run_id, outcome.hits, outcome.confidence)
            used = {**way, "threads": 1 if workers > 1 else torch.get_num_threads()}
            row = records.as_text(records.COLUMNS, row_of(job, folder.name, outcome, began) | used)
            curve = [records.as_text(records.CURVE_COLUMNS, point) for point in curve_of(job, outcome)]
            ended = Ended(row, curve, asked_of(job, outcome))
            records.write_ended(mine, ended)
            yield ended
        keeper.clear()
        keeper.check()


def choose(job: Job, rows: Sequence[Mapping[str, Any]]) -> int:
    """The point with the best mean validation figure over the tune seeds; of ties see `runner.grid.best_point`.

    Only validation columns are read. A point that diverged on any seed is chosen only if all did.
    """
    means = _means(job, rows)
    return best_point(means, {index: _epochs(rows, index) for index in means})


def _epochs(rows: Sequence[Mapping[str, Any]], index: int) -> int:
    """The epochs that all tune seeds of a point trained for."""
    return sum(int(row["epochs"]) for row in rows if row["role"] == "tune" and int(row["strength_idx"]) == index)


def _means(job: Job, rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """The mean validation figure of each point that has been tuned, the more the better; -inf if it diverged."""
    less = job.protocol.select == "val_loss"
    column, sign = "last_val_loss" if less else f"last_val_{job.experiment.data.score}", -1 if less else 1
    means: dict[int, float] = {}
    for index in range(len(job.points)):
        mine = [row for row in rows if row["role"] == "tune" and int(row["strength_idx"]) == index]
        sound = all(row["status"] == "ok" for row in mine)
        if mine:
            means[index] = sign * sum(float(row[column]) for row in mine) / len(mine) if sound else -float("inf")
    return means


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
