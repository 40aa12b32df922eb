"""One `runs.csv` of a study from those of its jobs; standard library only, so that the engine may call it too."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from runner.files import read_csv
from runner.files import write_atomic as write_atomic

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
