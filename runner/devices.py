"""Which CUDA device a process of a parallel launcher takes; imports nothing heavy, since it comes before torch."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    told = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(line for line in told.stdout.splitlines() if "GPU" in line[:4])]


def take_one() -> None:
    """Leave this process one device, if it is a worker of a pool and there are several: by its number, in turn.

    Must be called before CUDA is first asked for anything.
    """
    process = multiprocessing.current_process()
    number = (process._identity or (0,))[0]  # of the workers of a pool: 1, 2, ...
    if process.name == "MainProcess" or not number:
        return
    found = devices()
    if len(found) > 1:
        os.environ[VISIBLE] = found[(number - 1) % len(found)]
