"""Settings of the process that make many small steps faster, and change no number but denormal ones."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import torch

# mallopt's parameters of the C library (malloc.h): above which size memory is mapped from the system and handed back at
# once, and how much freed memory at the top of the heap is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@cache
def prepare() -> None:
    """Flush denormal numbers to zero, and keep freed memory for the next step where the C library allows it.

    Weights that a penalty drives to zero pass through denormal numbers, which are up to a hundred times as slow.
    Weights of a megabyte would be mapped from the system and handed back in every step (docs/benchmarks.md).
    """
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)
