"""One `runs.csv` of a study from those of its jobs; without pandas, so that the engine may call it too."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

from runner.errors import Refusal
from runner.files import read_csv
from runner.files import write_atomic as write_atomic
from runner.labels import LABEL, different, stored_settings, unshown

WHICH = (*LABEL, "role", "seed")  # one run each, whatever job it is of
ORDER = ("dataset", "model", "setting", "method", "role", "strength", "seed")


def _position(row: Mapping[str, str]) -> tuple[tuple[float, str], ...]:
    """The sort key of a row: numbers by value, blank first, then text."""

    def key(text: str) -> tuple[float, str]:
        try:
            return (float(text), "")
        except ValueError:
            return (-math.inf if not text else math.inf, text)

    return tuple(
        key(row.get(name, "")) if name in ("strength", "seed") else (0.0, row.get(name, ""))
        for name in (*ORDER, "strengths", "job", "run_id")
    )


def collect(study_dir: Path) -> Path:
    """Rebuild `<study_dir>/runs.csv` from every `<job>/runs.csv` and give its path.

    Jobs without one are skipped; columns are the union in order of appearance, a value that a job lacks is blank;
    values are copied as text. Where no job has rows, an existing `runs.csv` is left as it is.
    """
    columns: dict[str, None] = {}
    rows: list[dict[str, str]] = []
    for source in sorted(study_dir.glob("*/runs.csv")):
        if (source.parent / "study.json").is_file():  # a study that lies in this folder, and no job of it
            continue
        names, found = read_csv(source, lambda line: print(line, file=sys.stderr))
        columns |= dict.fromkeys(names)
        rows.extend(found)
    target = study_dir / "runs.csv"
    if not rows:
        return target
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=_position))
    return write_atomic(target, text.getvalue())


def refuse_alike(study_dir: Path, rows: Iterable[Mapping[Hashable, object]]) -> None:
    """Refuse two runs that the tables could not tell apart, of jobs whose settings differ or are not known.

    A run that was made twice, in two jobs of the same settings, stays, also where another machine rounded otherwise.
    """
    seen: dict[tuple[str, ...], Mapping[Hashable, object]] = {}
    for row in rows:
        which = tuple(str(row.get(name, "")) for name in WHICH)
        other = seen.setdefault(which, row)
        if row["run_id"] == other["run_id"] or _figures(row) == _figures(other):
            continue
        label, jobs = {name: str(row[name]) for name in LABEL}, [str(one.get("job", "")) for one in (other, row)]
        theirs, mine = (unshown(stored_settings(study_dir / job), label) for job in jobs)
        key = different(theirs, mine)
        if key or not (theirs and mine):
            why = f"{key} is {theirs.get(key)} in the one and {mine.get(key)} in the other" if key else "other figures"
            raise Refusal(
                f"jobs {' and '.join(jobs)} both have {row['method']} {row['strengths']} at seed {row['seed']} on "
                f"{row['dataset']}, but {why}: one table cannot tell them apart, so move one of the two folders away"
            )


def _figures(row: Mapping[Hashable, object]) -> list[str]:
    return [str(value) for name, value in row.items() if str(name).startswith(("last_", "best_", "status"))]
