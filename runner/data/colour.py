"""CIFAR-10, CIFAR-100, SVHN and STL-10: small colour images, read and checked by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runner.data.base import Data
from runner.data.fetch import alone, fetched


@lru_cache(maxsize=1)
def cifar10(root: str) -> Data:
    """Photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009): 50,000 to train, 10,000 to test."""
    return _data("cifar10", root, "CIFAR10", 10, ["cifar-10-python.tar.gz"], _by_train)


@lru_cache(maxsize=1)
def cifar100(root: str) -> Data:
    """Photographs of 32 x 32 pixels in 100 classes (Krizhevsky 2009): 50,000 to train, 10,000 to test."""
    return _data("cifar100", root, "CIFAR100", 100, ["cifar-100-python.tar.gz"], _by_train)


@lru_cache(maxsize=1)
def svhn(root: str) -> Data:
    """House numbers of 32 x 32 pixels in 10 classes (Netzer et al. 2011): 73,257 to train, 26,032 to test."""
    return _data("svhn", root, "SVHN", 10, ["train_32x32.mat", "test_32x32.mat"], _by_split)


@lru_cache(maxsize=1)
def stl10(root: str) -> Data:
    """Photographs of 96 x 96 pixels in 10 classes (Coates et al. 2011): 5,000 to train, 8,000 to test."""
    return _data("stl10", root, "STL10", 10, ["stl10_binary.tar.gz"], _by_split)


def _by_train(make: Callable[..., Any], root: str) -> list[Any]:
    return [make(root, train=train, download=True) for train in (True, False)]


def _by_split(make: Callable[..., Any], root: str) -> list[Any]:
    return [make(root, split=split, download=True) for split in ("train", "test")]


def _data(
    name: str, root: str, known_as: str, classes: int, files: Sequence[str], load: Callable[..., list[Any]]
) -> Data:
    from torchvision import datasets  # slow to import: only when needed

    with alone(root):
        parts = fetched(name, lambda: load(getattr(datasets, known_as), root), Path(root), files)
    images = np.concatenate([part.data for part in parts])
    if images.shape[-1] == 3:  # CIFAR's have their channels last
        images = images.transpose(0, 3, 1, 2)
    labels = [np.asarray(part.targets if hasattr(part, "targets") else part.labels) for part in parts]
    y = torch.from_numpy(np.concatenate(labels).astype(np.int64))
    x = torch.from_numpy(np.ascontiguousarray(images))
    return Data(name, "image", x, y, classes, torch.arange(len(labels[0]), len(y)))
