"""One `runs.csv` of a study from those of its jobs; standard library only, so that the engine may call it too."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

ORDER = ("dataset", "model", "setting", "method", "role", "strength", "seed")


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to `path` through a file beside it, so that no reader meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        # mkstemp makes files that only their owner reads; results are for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    return path


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
        with source.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            columns |= dict.fromkeys(reader.fieldnames or ())
            rows.extend(dict(row) for row in reader)
    target = study_dir / "runs.csv"
    if not rows:
        return target
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=_position))
    return write_atomic(target, text.getvalue())
