"""A sweep: every job composed and checked before the first one runs, the baseline added, the report made at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from runner.errors import Refusal
from runner.overrides import key_of

if TYPE_CHECKING:
    from runner.job import Job

ALIKE = ("optimizer", "schedule", "protocol")  # groups of which all jobs of a study have the same choice
Compose = Callable[[Sequence[str]], DictConfig]


class Planned(NamedTuple):
    """A job of a sweep that has been checked."""

    overrides: list[str]
    name: str  # of its folder
    method: str
    trackers: Sequence[str]
    shares: Sequence[int]  # how many processes train each of its stages; nothing where one trains them all


class Launch(NamedTuple):
    """What a launcher is to run in one process: a job, or a share of one."""

    number: int  # which of the planned jobs
    overrides: list[str]


def plan(
    compose: Compose, jobs: Sequence[Sequence[str]], axes: Sequence[str], command: Sequence[str]
) -> tuple[Path, list[Planned]]:
    """The study's folder and every job to run, in order: checked, each once, the baselines first.

    `jobs` are lists of overrides, "method=dropout", "epochs=5"; `axes` are the keys that the sweep varies;
    `command` is put on record. Refuses the whole sweep, and writes nothing, if any job is refused.
    """
    from runner import admission, trackers
    from runner.config import read

    varied = _varied(axes)
    methods = _methods(compose)
    wanted = [_fitting(list(job), methods) for job in jobs]
    used = {override for job in wanted for override in job}
    for job in jobs:
        for override in job:
            if override not in used:
                name = _owner(override)
                raise Refusal(f"{override}: no job of this sweep has the method {name!r} (method=...)")
    with_baselines = _unique([[*_without_method(job), "method=none"] for job in wanted] + wanted)
    first = read(compose([*with_baselines[0], _label(varied)]), with_baselines[0])
    named = first.study or stamp("sweep")
    folder = first.out / named
    label = _label([*varied, *admission.axes_of(folder)] if first.study else varied)
    kept: dict[tuple[str, ...], tuple[list[str], Job]] = {}
    for job in with_baselines:
        overrides = [*_without(job, "study"), label]
        checked = read(compose([*overrides, _study(named)]), job)
        if checked.marks:
            raise Refusal("marks is 'show', which describes one model and trains nothing; leave -m out (marks=null)")
        kept.setdefault(checked.identity, (overrides, admission.as_there(checked, folder) if first.study else checked))
    admitted = [checked for _, checked in kept.values()]
    folder = admission.begin(admitted, varied, folder, command, fresh=first.study is None)
    trackers.begin(first.trackers, folder)
    return folder, [
        Planned(
            [*overrides, _study(folder.name)], checked.name, checked.method, checked.trackers,
            admission.granted(checked, folder).shares,
        )
        for overrides, checked in kept.values()
    ]  # fmt: skip


def _varied(axes: Sequence[str]) -> list[str]:
    """The settings that a sweep varies, beside which methods; refuses those of which a study has one value."""
    from runner.config import OUTSIDE

    varied = [axis for axis in axes if axis != "method" and not axis.startswith("hydra.")]
    for axis in varied:
        if axis in OUTSIDE:
            raise Refusal(
                f"{axis} has several values; a sweep has one, since no run's numbers depend on it ({axis}=...)"
            )
        if axis in ALIKE:
            raise Refusal(
                f"{axis} has several choices; the methods of a study have one, so use a study for each ({axis}=...)"
            )
    return varied


def _label(axes: Sequence[str]) -> str:
    """The override that tells a job what names it."""
    return f"axes=[{','.join(sorted(set(axes)))}]"


def rounds(jobs: Sequence[Planned]) -> list[list[Launch]]:
    """What to launch together, round after round: a job that is split has a round for each of its stages.

    >>> [
    ...     [launch.overrides for launch in part]
    ...     for part in rounds([Planned(["a=1"], "", "", (), ()), Planned([], "", "", (), (1, 2))])
    ... ]
    [[['a=1'], ['share=0']], [['share=0'], ['share=1']]]
    """
    stages = max(len(job.shares) or 1 for job in jobs)
    return [
        [
            Launch(number, [*job.overrides, *more])
            for number, job in enumerate(jobs)
            for more in (
                [[f"share={share}"] for share in range(job.shares[stage])] if stage < len(job.shares) else [[]]
            )
            if stage == 0 or stage < len(job.shares)
        ]
        for stage in range(stages)
    ]


def another_round(folder: Path, jobs: Sequence[Planned], done: Sequence[int]) -> list[list[Launch]]:
    """One more round for split jobs that are unfinished though their shares have ended well at last; [] without such.

    The later stage of a share that lost a run of an earlier one has gone into making that run.
    """
    launches = [
        Launch(number, [*jobs[number].overrides, f"share={share}"])
        for number in done
        if is_unfinished(folder, jobs[number])
        for share in range(max(jobs[number].shares))
    ]
    return [launches] if launches else []


def is_unfinished(folder: Path, job: Planned) -> bool:
    """Whether a split job has not come to its tables."""
    from runner import records

    return bool(job.shares) and records.read_status(folder / job.name).get("state") != "complete"


def note_failure(folder: Path, job: Planned, error: BaseException | str) -> None:
    """Write into a job's folder that it failed, where it could not do so itself."""
    from runner import records

    told = str(error) if isinstance(error, str | RuntimeError) else f"{type(error).__name__}: {error}"
    place = folder / job.name
    try:
        records.write_status(place, "failed", method=job.method, command=["regrun", *job.overrides], error=told)
    except OSError as full:
        print(f"job {job.name} ({job.method}): {told} (not noted: {full})", file=sys.stderr)


def stamp(what: str) -> str:
    """A readable name for a study that was given none."""
    return f"{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}_{what}"


def _study(name: str) -> str:
    return f"study='{name}'"  # it may have a =, or be "true"


def report(folder: Path, shown_in: Sequence[str]) -> int:
    """Make the study's tables and figures, show the table, and say how many of its jobs have failed."""
    from runner import trackers
    from runner.report.build import NoRuns, build_alone, describe, unfinished_jobs
    from runner.report.cli import show
    from runner.report.tables import NoBaseline

    try:
        made = build_alone(folder)
    except (NoRuns, NoBaseline) as error:  # so much has failed that there is nothing to compare
        failed = [failure for failure in unfinished_jobs(folder) if failure.state == "failed"]
        for failure in failed:
            print(f"job {describe(failure)}", file=sys.stderr)
        if isinstance(error, NoBaseline):
            print(f"no report: {error}", file=sys.stderr)
        return len(failed)
    show(made)
    trackers.report(shown_in, folder, [*made.tables, *made.figures])
    return len(made.failed)


def _fitting(job: list[str], methods: Callable[[Sequence[str]], Collection[str]]) -> list[str]:
    """The job's overrides without the strengths of methods that it does not stack."""
    if all(_owner(o) is None for o in job):
        return job
    stacked = methods(job)
    return [o for o in job if _owner(o) is None or _owner(o) in stacked]


def _methods(compose: Compose) -> Callable[[Sequence[str]], Collection[str]]:
    """What gives the methods that a job stacks: as composed, wherever their files are; once for each choice of them."""

    @cache
    def chosen(choices: tuple[str, ...]) -> Collection[str]:
        found = compose(choices).get("method")
        return [str(name) for name in found] if isinstance(found, DictConfig) else ()

    return lambda job: chosen(tuple(o for o in job if key_of(o) in ("experiment", "method")))


def _owner(override: str) -> str | None:
    """The method of which an override sets something; None for one that sets something else."""
    group, _, within = key_of(override).partition(".")
    return within.partition(".")[0] if group == "method" and within else None


def _without_method(job: Sequence[str]) -> list[str]:
    return [o for o in _without(job, "method") if _owner(o) is None]


def _without(job: Sequence[str], key: str) -> list[str]:
    return [o for o in job if key_of(o) != key]


def _unique(jobs: Sequence[list[str]]) -> list[list[str]]:
    seen: dict[tuple[Any, ...], list[str]] = {}
    for job in jobs:
        seen.setdefault(tuple(job), job)
    return list(seen.values())
