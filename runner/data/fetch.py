"""Public image data that torchvision knows: found in a folder, else downloaded into it, by its own checksums."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from runner.errors import Refusal

Found = TypeVar("Found")


def fetched(what: str, get: Callable[[], Found], folder: Path, files: Sequence[str]) -> Found:
    """What `get` gives, which downloads what is missing, with a bar on stderr, and checks what it loads.

    Where there is no network, or what came is damaged, the refusal names the files to put into `folder`.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with redirect_stdout(io.StringIO()):  # torchvision prints each address there; its bar is on stderr
            return get()
    except (OSError, RuntimeError, HTTPException) as error:
        for path in new:  # which torchvision makes before it has anything to put there
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        why = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(
            f"{what} is not in {folder}, or is damaged, and could not be downloaded ({why}); put {', '.join(files)} "
            "there (data.root=...)"
        ) from error
