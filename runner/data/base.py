"""What a data set is, and how a seed divides it into train, validation and test examples."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key

KINDS = ("signal", "image", "table")


@dataclass(frozen=True)
class Data:
    """A classification data set before any split."""

    name: str
    kind: str  # one of KINDS: x is [N, C, T], [N, C, H, W] or [N, F]
    x: Tensor  # float32, or uint8 for images
    y: Tensor  # int64 [N], in 0..classes-1
    classes: int
    official_test: Tensor | None  # int64 rows that are the official test set; None: drawn per seed

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])


class Split(NamedTuple):
    """The rows of one run's three sets, disjoint, and the statistics of its training inputs."""

    train: Tensor  # int64 [n_train]
    val: Tensor  # int64 [n_val]
    test: Tensor  # int64 [n_test]
    mean: Tensor  # float32, [C, 1, ...] per channel or [F] per column
    std: Tensor  # likewise, above 0


@dataclass(frozen=True)
class Splitter:
    """How a seed draws its sets, stratified by class; sizes are numbers of examples, or shares below 1."""

    train_size: float | None  # None: all that validation and test leave
    val_size: float
    test_size: float | None  # None: the official test set
    resplit: str  # "train_val": each seed its own sets; "none": all seeds the split of `seed0`
    seed0: int
    standardize: bool

    def sizes(self, data: Data) -> tuple[int, int, int]:
        """How many training, validation and test examples a run gets; refuses what the data cannot give."""
        total = len(data.y)
        if data.official_test is not None:
            if self.test_size is not None:
                raise Refusal(
                    f"data.test_size is {self.test_size:g}; {data.name} has an official test set of "
                    f"{len(data.official_test)}, so it must be null"
                )
            test = len(data.official_test)
        elif self.test_size is None:
            raise Refusal(f"data.test_size is null; {data.name} has no official test set, so give a number or a share")
        else:
            test = _count("data.test_size", self.test_size, total)
        pool = total - test
        val = _count("data.val_size", self.val_size, pool, least=0)
        train = pool - val if self.train_size is None else _count("data.train_size", self.train_size, pool)
        if train + val > pool or train < 1:
            raise Refusal(
                f"data.train_size={train} and data.val_size={val} need {train + val} examples; {data.name} has {pool} "
                "besides its test set (data.train_size=... data.val_size=...)"
            )
        return train, val, test

    def split(self, data: Data, seed: int) -> Split:
        """The sets of one seed, the same whatever the method."""
        n_train, n_val, n_test = self.sizes(data)
        key = Key.of(self.seed0 if self.resplit == "none" else seed).fold("split")
        if data.official_test is not None:
            test = data.official_test
            outside = torch.ones(len(data.y), dtype=torch.bool)
            outside[test] = False
            pool = outside.nonzero()[:, 0]
        else:
            rows = _stratified(data.y, torch.arange(len(data.y)), key.fold("test"))
            test, pool = rows[:n_test], rows[n_test:].sort().values
        rows = _stratified(data.y, pool, key.fold("pool"))
        val, train = rows[:n_val], rows[n_val : n_val + n_train]
        mean, std = _statistics(data, train)
        if not self.standardize:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        return Split(train, val, test, mean, std)


def _count(key: str, size: float, pool: int, least: int = 1) -> int:
    count = round(size * pool) if 0 < size < 1 else int(size)
    if not least <= count <= pool or (size >= 1 and size != int(size)):
        raise Refusal(
            f"{key} is {size:g}; it must be a whole number from {least} to {pool}, or a share between 0 and 1"
        )
    return count


def _stratified(y: Tensor, rows: Tensor, key: Key) -> Tensor:
    """The rows in random order, such that any leading part has the classes in nearly the proportions of all.

    Within its class, the k-th of m examples (in random order) stands at (k + u) / m, with one u for each class.
    """
    shuffled = rows[key.fold("order").permutation(len(rows))]
    labels = y[shuffled]
    offset = key.fold("offset").uniform(int(y.max()) + 1)
    place = torch.empty(len(rows), dtype=torch.float64)
    for label in labels.unique():
        mine = (labels == label).nonzero()[:, 0]
        place[mine] = (torch.arange(len(mine), dtype=torch.float64) + offset[label]) / len(mine)
    return shuffled[place.argsort(stable=True)]


def _statistics(data: Data, train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the training inputs, per column of a table and per channel of all else."""
    across = (0,) if data.kind == "table" else (0, *range(2, data.x.ndim))
    x = data.x[train].double()
    mean, std = x.mean(across), x.std(across, unbiased=False)
    std = torch.where(std > 0, std, 1.0)  # a constant column stays at 0
    shape = mean.shape + (1,) * (data.x.ndim - 2 if data.kind != "table" else 0)
    return mean.float().view(shape), std.float().view(shape)


def cached(name: str, make: Callable[[], dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """The arrays that `make` gives, kept in the user's cache folder under `name` so that they are made once.

    Written beside and renamed, so that two processes may make the same at once; a cache that cannot be written to is
    done without.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regrun"
    path = folder / f"{name}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    arrays = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            np.savez(part, allow_pickle=False, **arrays)
        os.replace(part.name, path)
    except OSError:
        return arrays  # no home, no space or no permission: slower the next time, and nothing else
    return arrays
