"""What the last report left in its folder and this one does not make, such as figures of groups that are gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from runner.files import read_object, write_atomic

MADE = "made.json"  # in a report's folder: the files that it made, with the SHA-256 of each


def clear_leftovers(folder: Path, made: Iterable[Path]) -> None:
    """Remove from a report's folder what the last report made and this one, which `made` these files, did not.

    A file goes only as it was written: one that somebody has changed or put in its place, or that no report is known to
    have made, stays.
    """
    known = read_object(folder / MADE)
    kept = {path.relative_to(folder).as_posix(): _digest(path) for path in made}
    for path in (*folder.glob("*"), *folder.glob("figures/*")):  # and not what is read: that could name any place
        name = path.relative_to(folder).as_posix()
        if name in known and name not in kept and path.is_file() and _digest(path) == known[name]:
            path.unlink()
    write_atomic(folder / MADE, json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
