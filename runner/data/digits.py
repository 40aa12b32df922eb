"""Handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), from scikit-learn; no download."""

from __future__ import annotations

from functools import lru_cache

import torch

from runner.data.base import Data


@lru_cache(maxsize=1)
def digits() -> Data:
    """1,797 images in 10 classes, without an official test set."""
    from sklearn.datasets import load_digits  # slow to import: only when needed

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    return Data("digits", "image", x, torch.from_numpy(bunch.target).long(), 10, None)
