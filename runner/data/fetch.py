"""Public image data that torchvision knows: found in a folder, else downloaded into it, by its own checksums."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from runner.errors import Refusal

Found = TypeVar("Found")
LOCK = ".lock"  # beside the data while one process looks for them or fetches them


@contextmanager
def alone(root: str) -> Iterator[None]:
    """The folder, made if need be, for this process alone, so that no other one reads what is still being written.

    While it is held there is a file LOCK in it. Where that cannot be, as on a disk that is only read, nothing can be
    written there either. A folder that was made here and into which nothing came is removed again.
    """
    folder = Path(root)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK, mode=0o666)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        _remove_empty(new)


def fetched(what: str, get: Callable[[], Found], folder: Path, files: Sequence[str]) -> Found:
    """What `get` gives, which downloads what is missing, with a bar on stderr, and checks what it loads.

    Where there is no network, or what came is damaged, the refusal names the files to put into `folder`.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with redirect_stdout(io.StringIO()):  # torchvision prints each address there; its bar is on stderr
            return get()
    except (OSError, RuntimeError, HTTPException) as error:
        _remove_empty(new)  # which torchvision makes before it has anything to put there
        why = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(
            f"{what} is not in {folder}, or is damaged, and could not be downloaded ({why}); put {', '.join(files)} "
            "there (data.root=...)"
        ) from error


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
