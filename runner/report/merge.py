"""One study made of several: other data sets', other methods', other seeds', other machines'."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import records
from runner.errors import Refusal
from runner.files import held, is_held, read_csv, read_object, write_atomic
from runner.labels import LABEL, different, flatten, stored_settings, unshown
from runner.report.collect import WHICH

Row = dict[str, str]
CHOOSES = "protocol.tune_seeds"


def merge(studies: Sequence[Path], into: Path) -> Path:
    """Put the jobs of all studies into the folder `into`, as if one command had run them, and give that folder.

    A run that stands in two of them stands there once. Report seeds of a configuration that add up are on record as
    an extension, as nobody knows which of them were looked at first. Nothing of the studies is changed; the jobs of a
    folder that an earlier merging made are replaced, and of no other.

    Raises Refusal for studies that cannot be compared: with other margins, with other settings on one data set and
    model or of what the tables call the same, with other figures of one run, with other training sets at one seed, and
    with other first seeds where strengths are chosen, since one's seeds to choose on may be another's to report, or
    where all seeds share the split of the first; and where jobs or runs were added to what an earlier merging made.
    """
    stories = [_story(study) for study in studies]
    if into.exists() and "merged" not in read_object(into / "study.json"):
        raise Refusal(f"{into} is there and was not made by merging alone; name another folder (--into ...)")
    if any(into.resolve() == study.resolve() for study in studies):
        raise Refusal(f"{into} is one of the studies to merge; name another folder (--into ...)")
    joined = _joined(studies, stories)
    _check_settings(studies)
    into.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
    try:
        for study in studies:
            for job in sorted(path.parent for path in study.glob("*/status.json")):
                _take(job, fresh / job.name)
        _check_runs(fresh)
        write_atomic(fresh / "study.json", json.dumps(joined, indent=1) + "\n")
        if into.exists():
            _replace(into, fresh)
        else:
            fresh.rename(into)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # it is gone where all went well
    return into


def _replace(into: Path, fresh: Path) -> None:
    """Put the jobs of a fresh merging in the place of those of an earlier one; whatever else is there stays."""
    with held(into, f"{into}: another process has it; waits for that", records.to_stderr):
        if added := _added_to(into, fresh):
            raise Refusal(
                f"{into} has {added}, which none of these studies has; merging them again would remove it, so merge "
                f"{into} with them into another folder (--into ...), or move it away"
            )
        for job in _jobs(fresh):
            shutil.rmtree(into / job.name, ignore_errors=True)
            job.rename(into / job.name)
        (fresh / "study.json").replace(into / "study.json")
        (into / "runs.csv").unlink(missing_ok=True)  # the report's, of the jobs as they were


def _added_to(into: Path, fresh: Path) -> str | None:
    """What a merged study has that a fresh merging lacks, as in "the job l2-1a2b"; None where there is nothing."""
    for job in _jobs(into):
        anew = fresh / job.name
        if not anew.is_dir():
            return f"the job {job.name}"
        made = _ended(anew)
        for run_id, row in _ended(job).items():
            if run_id not in made:
                return f"a run of {row['method']} {row['strengths']} at seed {row['seed']} in the job {job.name}"
        if any(is_held(place) or any(place.glob("checkpoint-*")) for place in _places(job)):  # neither is copied
            return f"the job {job.name} with a run that has begun"
    return None


def _jobs(study: Path) -> list[Path]:
    return sorted({path.parent for name in ("status.json", "runs.csv") for path in study.glob(f"*/{name}")})


def _ended(job: Path) -> dict[str, records.Row]:
    """The runs of a job that have ended, by id: those of its table, and of a stage that is not done."""
    _, rows = read_csv(job / "runs.csv", lambda line: None)
    more = [one.row for place in _places(job) for one in records.read_ended(place, None)]
    return {row["run_id"]: row for row in [*rows, *more]}


def _places(job: Path) -> list[Path]:
    return [job, *job.glob("share-*")]


def _story(study: Path) -> Mapping[str, Any]:
    """What a study's own file says."""
    if not study.is_dir():
        raise Refusal(f"no folder {study} (studies are the folders in outputs/)")
    story = read_object(study / "study.json")
    if not isinstance(story.get("settings"), dict) or not any(study.glob("*/runs.csv")):
        raise Refusal(f"{study} is not a study with runs (studies are the folders in outputs/)")
    return story


def _joined(studies: Sequence[Path], stories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The file of the merged study."""
    axes = sorted({axis for story in stories for axis in story.get("axes", ())})
    settings: dict[str, Mapping[str, Any]] = {}
    first: dict[str, Path] = {}  # of the studies that have a group
    for study, story in zip(studies, stories, strict=True):
        if story.get("margins") != stories[0].get("margins"):
            raise Refusal(
                f"{studies[0]} has the margins {stories[0].get('margins')} and {study} {story.get('margins')}; "
                "verdicts of one table need one margin, so report them apart"
            )
        for group, mine in story["settings"].items():
            theirs = settings.setdefault(group, mine)
            other = first.setdefault(group, study)
            free = {*axes} if mine.get(CHOOSES) else {*axes, "seed0"}
            for key in sorted({*mine, *theirs} - free):
                if mine.get(key) != theirs.get(key):
                    raise Refusal(
                        f"{other} and {study} do not compare: on {group} {key} is {theirs.get(key)!r} in the one and "
                        f"{mine.get(key)!r} in the other"
                    )
    return {
        "begun_at": min(str(story.get("begun_at", "")) for story in stories),
        "axes": axes,
        "margins": stories[0].get("margins"),
        "settings": settings,
        "extensions": [step for story in stories for step in story.get("extensions", ())] + _added(studies),
        "merged": [study.name for study in studies],
    }


def _check_settings(studies: Sequence[Path]) -> None:
    """Refuse two jobs that differ in what the tables do not show of a configuration, or of a comparison.

    An axis of one study is fixed in another, each at its own value, and `_joined` does not see the options of methods.
    First seeds may differ where each seed draws its own split, as far as `_joined` lets them.
    """
    known: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for path in (path for study in studies for path in sorted(study.glob("*/runs.csv"))):
        job, settings = path.parent, stored_settings(path.parent)
        if not settings:
            _refused(f"{job / 'config.yaml'} cannot be read, and nothing else says how {job.name} was run")
        for label in sorted({tuple(row.get(name, "") for name in LABEL) for row in _rows(path)[1]}):
            mine = unshown(settings, dict(zip(LABEL, label, strict=True)))
            if flatten(settings).get("data.resplit") != "none":  # else all seeds share the split of the first
                mine.pop("seed0", None)
            shared = {key: value for key, value in mine.items() if not key.startswith("method.")}
            for which, compared in ((label, mine), (label[:3], shared)):  # a configuration, and what it is compared in
                other, theirs = known.setdefault(which, (job, compared))
                if key := different(theirs, compared):
                    raise Refusal(
                        f"{other} and {job} do not compare: {key} is {theirs.get(key)!r} in the one and "
                        f"{mine.get(key)!r} in the other, which one table could not tell apart; leave one of the "
                        f"studies out, or run one study that sweeps over it (-m {key}=...)"
                    )


def _added(studies: Sequence[Path]) -> list[dict[str, Any]]:
    """An extension for each group in which a configuration gets more report seeds than one of the studies gave it."""
    seeds: dict[tuple[str, ...], dict[Path, set[str]]] = {}
    for study in studies:
        for path in sorted(study.glob("*/runs.csv")):
            for row in _rows(path)[1]:
                if row["role"] == "report":
                    label = tuple(row.get(name, "") for name in LABEL)
                    seeds.setdefault(label, {}).setdefault(study, set()).add(row["seed"])
    grown: dict[str, list[tuple[int, int, str]]] = {}
    for (dataset, model, _, method, _), parts in sorted(seeds.items()):
        most, all_of_them = max(map(len, parts.values())), len(set().union(*parts.values()))
        if all_of_them > most:
            grown.setdefault(f"{dataset}/{model}", []).append((most, all_of_them, method))
    return [
        {
            "group": group, "methods": sorted({method for *_, method in steps}), "from": min(step[0] for step in steps),
            "to": max(step[1] for step in steps), "asked": "merging", "at": records.now(),
            "command": ["regrun-report", *map(str, studies)],
        }
        for group, steps in grown.items()
    ]  # fmt: skip


def _take(job: Path, into: Path) -> None:
    """Copy a job's folder, or add its runs to those that another study has of the same job."""
    if not into.exists():
        shutil.copytree(job, into, ignore=shutil.ignore_patterns("checkpoint-*", "*.lock", ".*", "*.part"))
        return
    present = {row["run_id"] for row in _rows(into / "runs.csv")[1]}
    for source in sorted(job.glob("*.csv")):
        names, rows = _rows(source)
        there, kept = _rows(into / source.name)
        if source.name == "runs.csv":
            _check_same(job, into, rows, kept)
        columns = list(dict.fromkeys([*there, *names]))
        _write(into / source.name, columns, [*kept, *(row for row in rows if row.get("run_id") not in present)])
    for predictions in sorted(job.glob("predictions/*.npz")):
        target = into / "predictions" / predictions.name
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            shutil.copy2(predictions, target)
    if records.read_status(into).get("state") == "complete" != records.read_status(job).get("state"):
        shutil.copy2(job / "status.json", into / "status.json")  # what is not complete is told of


def _check_same(job: Path, into: Path, rows: Sequence[Row], kept: Sequence[Row]) -> None:
    """Refuse a run that the folder has with other figures."""
    known = {row["run_id"]: row for row in kept}
    for row in rows:
        other = known.get(row["run_id"], row)
        for name, value in row.items():
            if (name.startswith(("last_", "best_")) or name == "status") and other.get(name) != value:
                raise Refusal(
                    f"{job} has {name}={value} of {row['method']} at seed {row['seed']}, and another of these studies "
                    f"has {other.get(name)}: one run with two outcomes (other versions or another machine?), so leave "
                    "one of the studies out, or give one other seeds (seed0=...)"
                )


def _check_runs(folder: Path) -> None:
    """Refuse two runs of one configuration at one seed, and two training sets of one seed."""
    seen: dict[tuple[str, ...], str] = {}
    sets: dict[tuple[str, ...], str] = {}
    for path in sorted(folder.glob("*/runs.csv")):
        for row in _rows(path)[1]:
            which = tuple(row.get(name, "") for name in WHICH)
            if seen.setdefault(which, row["run_id"]) != row["run_id"]:
                raise Refusal(
                    f"two studies have {row['method']} {row['strengths']} at seed {row['seed']} on {row['dataset']} "
                    "with other settings; leave one of the studies out, or give one other seeds (seed0=...)"
                )
            place = (row["dataset"], row["setting"], row["seed"])
            if row.get("status") == "ok" and sets.setdefault(place, row["split_hash"]) != row["split_hash"]:
                raise Refusal(
                    f"at seed {row['seed']} the studies have other training sets of {row['dataset']}, so that methods "
                    "cannot be paired: the data, or the versions, are not the same"
                )


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    names, rows = read_csv(path, _refused)
    return list(names), list(rows)


def _refused(line: str) -> None:
    raise Refusal(f"{line}: mend the study first (the command that made it, again)")


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
