"""A study is a folder of jobs: what is there is kept, what is missing is run; `runner.admission` says what fits.

outputs/<study>/study.json      the settings that all its jobs share, fixed when it was begun
outputs/<study>/<job>/...       see runner.records
outputs/<study>/runs.csv        every run of every job, and report/: see runner.report
"""

from __future__ import annotations

import math
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

from runner import records
from runner.admission import granted
from runner.asking import Asking
from runner.engine.checkpoint import Checkpoints, kept_about
from runner.engine.loop import Progress
from runner.engine.packing import packed, prediction, threads
from runner.engine.workers import train_across, worth
from runner.files import clear_parts, held, held_within, write_atomic
from runner.grid import Run, best_point
from runner.job import Job
from runner.records import Ended, Row
from runner.rows import asked_of, curve_of, dtype_name, row_of, run_id_of

Say = Callable[[str], None]


class JobFailed(RuntimeError):
    """A job that broke while it ran; its folder says how, if that could be `noted` (exit code 1)."""

    noted = True


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
        "onednn": experiment.onednn,
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
