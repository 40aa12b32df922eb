"""Files that are there whole or not at all, whatever ends the process or fills the disk."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PART = ".part"  # ends the name of a file that is being written


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Put `content` (text as UTF-8) at `path`, all of it or none, so that it survives a loss of power.

    Written beside, forced to the disk, and renamed. Nothing is left behind where that fails; a process that is killed
    leaves a file that ends in PART, for `clear_parts`.
    """
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    _settle(path.parent)
    return path


def append_line(path: Path, line: str) -> None:
    """Add a line, which has no line break of its own, to the end of a file, and force it to the disk."""
    with path.open("ab") as file:
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def held(folder: Path, waits: str, say: Callable[[str], None]) -> Iterator[None]:
    """The folder, which is made if need be, for this process alone; `waits` is said if another one has it.

    The system takes the lock back from a process that ends, however it does. Raises OSError where nothing can be
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waits)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process has the folder at this moment."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def held_within(folder: Path, whole: Path, waits: str, say: Callable[[str], None]) -> Iterator[None]:
    """The folder for this process alone, taken at a moment at which no other one has the `whole` that it is a part of.

    The whole is not held while the part is waited for, so that other parts of it can be taken.
    """
    lock = FileLock(folder / ".lock", mode=0o666)
    while True:
        with held(whole, waits, say), contextlib.suppress(Timeout):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            break
        say(waits)
        with contextlib.suppress(FileNotFoundError), lock:  # it goes when the whole is done
            pass
    try:
        yield
    finally:
        lock.release()


def unused(folder: Path) -> Path:
    """The folder, if there is nothing of that name; else the first such one among others called after it."""
    return next(place for place in _numbered(folder) if not place.exists())


def claimed(folder: Path) -> Path:
    """A folder that this process has made and no other one has: this one, or else one that is called after it.

    Raises OSError where none can be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for place in _numbered(folder):
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            return place
    raise AssertionError  # there is no end to them


def _numbered(folder: Path) -> Iterator[Path]:
    """The folder, and beside it those that have a number behind its name: sweep, sweep-2, sweep-3, ..."""
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in count(2))


def clear_parts(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder; its lock must be held."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Force a rename in the folder to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not on every file system; the file itself is on the disk
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or one that is torn or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_csv(path: Path, say: Callable[[str], None]) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV file with a header; none of either if there is no file.

    Lines that a write has left torn (the last one without its line break, one with too few cells or with bytes that are
    no text) are left out, and a line is said for the file; the rest is kept.
    """
    if not path.is_file():
        return [], []
    raw = path.read_bytes()
    whole, _, torn = raw.rpartition(b"\n")
    lines = (whole.decode("utf-8", "replace") + "\n" * bool(whole)).splitlines(keepends=True)
    reader = csv.reader((line for line in lines if "\0" not in line), strict=True)
    columns = next(reader, [])
    rows: list[dict[str, str]] = []
    lost = bool(torn) + sum("\0" in line for line in lines)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error:  # a quotation that does not end
            lost += 1
            continue
        if len(cells) != len(columns) or any("\ufffd" in cell for cell in cells):
            lost += 1
            continue
        rows.append(dict(zip(columns, cells, strict=True)))
    if lost:
        lines_are = "a line is" if lost == 1 else f"{lost} lines are"
        say(f"{path}: {lines_are} torn and left out, {len(rows)} kept; the command of the study makes them again")
    return columns, rows
