"""Images and signals of another size."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F

from runner.data.base import Data
from runner.errors import Refusal


@lru_cache(maxsize=2)
def resized(data: Data, size: int) -> Data:
    """The data with images of `size` x `size` pixels (bilinear, smoothed where they shrink) or signals of that length.

    Refuses a table, whose columns have no neighbours.
    """
    if data.kind == "table":
        raise Refusal(
            f"data.input_dim is {size}; {data.name} is a table, whose columns cannot be resized (data.input_dim=null)"
        )
    if data.kind == "image":
        parts = [
            F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True) for x in data.x.split(data.piece)
        ]
    else:
        parts = [F.interpolate(x, size, mode="linear") for x in data.x.split(data.piece)]
    if data.x.dtype == torch.uint8:
        parts = [part.round().clamp(0, 255).to(torch.uint8) for part in parts]
    return replace(data, x=torch.cat(parts))
