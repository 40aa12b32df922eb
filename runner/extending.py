"""Report seeds that a study gains after it was begun: how many each job gets, and the record of every such step.

A study that is looked at and then given more seeds is not the study that was planned, so each step is on record in
study.json under "extensions", one entry for each group (data set and model) that it touched:

    {"group": "mnist1d/mlp", "methods": ["l2", "none"], "from": 10, "to": 15, "asked": "extend=+5", "at": ..., "command": [...]}

Nothing here reads a figure of a run: how many seeds to add is decided by people, from the spread alone.
"""  # noqa: E501  # the entry reads best on one line

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import records
from runner.errors import Refusal
from runner.job import Job

Entry = Mapping[str, Any]


def group_of(job: Job) -> str:
    """What a job is compared within: "mnist1d/mlp"."""
    return f"{job.dataset}/{job.model}"


def reached(folder: Path) -> dict[str, dict[str, int]]:
    """The number of report seeds that each job of a study has, by group and then by the job's folder."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob("*/runs.csv")):
        rows = [row for row in records.read_table(path, _unsaid) if row["role"] == "report"]
        for group in {f"{row['dataset']}/{row['model']}" for row in rows}:
            found.setdefault(group, {})[path.parent.name] = len({row["seed"] for row in rows})
    return found


def _unsaid(line: str) -> None:
    """A torn table is told of where the job that has it begins."""


def refuse(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse to extend a study that is not there, or only some of the configurations that are compared in it."""
    there = reached(folder)
    for job in jobs:
        if not job.extend:
            continue
        group = group_of(job)
        if group not in there:
            known = f" on {group}" if there else ""
            raise Refusal(
                f"extend is +{job.extend}, and study {folder.name!r} has no runs{known} to add seeds to "
                "(study=..., or leave extend out to begin it)"
            )
        left_out = sorted(set(there[group]) - {other.name for other in jobs})
        if left_out:
            raise Refusal(
                f"extend is +{job.extend} and the command leaves out {', '.join(left_out)}; seeds are added to every "
                f"configuration of a study or to none, so repeat the study's command with its settings (method=... -m)"
            )


def entries(jobs: Sequence[Job], folder: Path, known: Sequence[Entry], command: Sequence[str]) -> list[Entry]:
    """`known` and what this command adds to it: an entry for each group of which some job gets more report seeds.

    An extension that was cut off is gone on with: it adds no entry.
    """
    there, found = reached(folder), list(known)
    for group in dict.fromkeys(group_of(job) for job in jobs):
        mine = [job for job in jobs if group_of(job) == group]
        have = {job.name: there.get(group, {}).get(job.name, 0) for job in mine}
        least = floor(group, known)
        if more := max(job.extend for job in mine):
            if any(0 < count < least for count in have.values()):
                continue
            start, asked, grown = max(have.values()), f"extend=+{more}", mine
            stop = start + more
        else:
            grown = [job for job in mine if 0 < have[job.name] < len(job.seeds) and len(job.seeds) > least]
            if not grown:
                continue
            start, stop = min(have[job.name] for job in grown), max(len(job.seeds) for job in grown)
            asked = f"seeds={stop}"
        methods = sorted({job.method for job in grown})
        entry = {"group": group, "methods": methods, "from": start, "to": stop, "asked": asked}
        if any(entry == {key: old.get(key) for key in entry} for old in known):
            continue  # the same step again, after it was cut off
        found.append(entry | {"at": records.now(), "command": list(command)})
    return found


def floor(group: str, known: Sequence[Entry]) -> int:
    """The report seeds that every job of a group gets at least, since the group was extended to as many."""
    return max((int(e["to"]) for e in known if e["group"] == group and str(e["asked"]).startswith("extend")), default=0)


def granted(job: Job, known: Sequence[Entry]) -> Job:
    """The job with the report seeds that its study's extensions give it, if those are more than it asks for itself."""
    least = floor(group_of(job), known)
    count = least if job.extend else max(len(job.seeds), least)
    return job if count == len(job.seeds) else replace(job, seeds=range(job.seeds[0], job.seeds[0] + count))
