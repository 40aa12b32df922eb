"""What a data set is, and how a seed divides it into train, validation and test examples."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data.labels import CLEAN, LabelNoise
from runner.errors import Refusal
from runner.files import write_atomic
from runner.keys import Key
from runner.paths import cache_dir

KINDS = ("signal", "image", "table")
TASKS = ("classification", "regression")
NUMBERS = 2**24  # numbers that are worked on at a time, where all examples at once would not fit in memory


@dataclass(frozen=True, eq=False)
class Data:
    """A data set before any split: examples of classes, or with numbers to predict (`task`)."""

    name: str
    kind: str  # one of KINDS: x is [N, C, T], [N, C, H, W] or [N, F]
    x: Tensor  # float32, NaN where a table's number is missing; or uint8 for images
    y: Tensor  # int64 [N], in 0..classes-1; of a regression float32 [N], in its own units, less an offset at most
    classes: int  # outputs of a net: 1 of a regression
    official_test: Tensor | None  # int64 rows that are the official test set; None: drawn per seed
    indicators: Tensor | None = None  # bool [F]: the columns that are 1 for one category and 0 for the others
    content: str = ""  # of a user's files: the same for the same content
    truth: Tensor | None = None  # [N]: what the best predictor says, where it is known
    bayes_error: float | None = None  # its expected share of errors, or of the variance
    task: str = "classification"  # one of TASKS
    notes: tuple[str, ...] = ()  # what its user should know of it, a line each

    def __post_init__(self) -> None:
        self._check_labels()
        self._check_inputs()
        self._check_test()

    def _check_inputs(self) -> None:
        """Refuses numbers that are infinite, or missing anywhere but in a table."""
        if not self.x.is_floating_point():
            return
        for part in self.x.split(self.piece):
            if bool((part.isinf() if self.kind == "table" else ~part.isfinite()).any()):
                raise Refusal(
                    f"{self.name} has inputs that are infinite, or missing; only a table's numbers may be missing "
                    "(NaN), and none infinite"
                )

    def _check_test(self) -> None:
        """Refuses an official test set that is anything but rows, each there and named once."""
        rows = self.official_test
        if rows is None:
            return
        if rows.dtype != torch.int64 or rows.ndim != 1:
            raise Refusal(
                f"{self.name} has an official test set of {rows.dtype} {list(rows.shape)}; it must be the numbers of "
                "its rows, int64 [N] (of a mask: mask.nonzero()[:, 0])"
            )
        least, most = (int(end) for end in rows.aminmax()) if len(rows) else (0, 0)
        if len(rows) > len(rows.unique()) or not 0 <= least <= most < max(len(self.y), 1):
            raise Refusal(
                f"{self.name} has an official test set of {len(rows.unique())} different rows in {len(rows)}, from "
                f"{least} to {most}; each must be there once, from 0 to {len(self.y) - 1}"
            )

    def _check_labels(self) -> None:
        """Refuses other than one label, or number to predict, for each example."""
        if self.regression:
            if len(self.x) != len(self.y) or self.classes != 1 or not bool(self.y.isfinite().all()):
                raise Refusal(
                    f"{self.name} has {len(self.x)} examples and {len(self.y)} numbers to predict; there must be as "
                    "many, one for each example, and none missing or infinite"
                )
            return
        least, most = (int(self.y.min()), int(self.y.max())) if len(self.y) else (0, 0)
        if len(self.x) != len(self.y) or not 0 <= least <= most < self.classes:
            raise Refusal(
                f"{self.name} has {len(self.x)} examples and {len(self.y)} labels from {least} to {most}; there must "
                f"be as many, and labels from 0 to {self.classes - 1} for its {self.classes} classes"
            )

    @property
    def regression(self) -> bool:
        """Whether a number is to be predicted, and no class."""
        return self.task == "regression"

    @property
    def score(self) -> str:
        """What stands beside the loss: "acc", the accuracy, or "r2", the share of the variance explained."""
        return "r2" if self.regression else "acc"

    @property
    def strata(self) -> Tensor:
        """What every set has its share of, int64 [N]: the classes; of a regression all examples are alike."""
        return torch.zeros(len(self.y), dtype=torch.int64) if self.regression else self.y

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def piece(self) -> int:
        """How many examples have NUMBERS numbers, and at least one."""
        return max(1, NUMBERS // max(1, self.x[:1].numel()))

    @property
    def outside_test(self) -> Tensor:
        """The rows that are not in the official test set, in order: int64."""
        outside = torch.ones(len(self.y), dtype=torch.bool)
        if self.official_test is not None:
            outside[self.official_test] = False
        return outside.nonzero()[:, 0]


def tasked(task: str) -> str:
    """The task, which must be one of TASKS."""
    if task not in TASKS:
        raise Refusal(f"data.task is {task!r}; it must be {' or '.join(TASKS)} (data.task=...)")
    return task


class Split(NamedTuple):
    """The rows of one run's three sets, disjoint, its labels, and the statistics of its training inputs."""

    train: Tensor  # int64 [n_train]
    val: Tensor  # int64 [n_val]
    test: Tensor  # int64 [n_test]
    y: Tensor  # int64 [N]: the labels as this run is told them; of a regression float32, standardized
    mean: Tensor  # float32, [C, 1, ...] per channel or [F] per column
    std: Tensor  # likewise, above 0; infinite for a column that has one value in training, and so is 0 everywhere
    fill: Tensor  # likewise: what stands for a missing number, standardized
    unit: Tensor  # []: of a regression the standard deviation of the training targets, else 1


def prints(x: Tensor) -> list[bytes]:
    """A fingerprint of each example of x [N, ...]: the same for the same bits."""
    return [fingerprint(row.tobytes()) for row in x.numpy()]


def fingerprint(example: bytes) -> bytes:
    """16 bytes that tell an example from any other."""
    return hashlib.blake2b(example, digest_size=16).digest()


def overlap(examples: Sequence[bytes], test: Tensor | None) -> tuple[str, ...]:
    """A line that counts the test examples, rows `test` of the fingerprints, that stand among the others; or no line.

    >>> overlap([b"a", b"b", b"b", b"c"], torch.tensor([2, 3]))
    ('1 of 2 test examples stand among the others, too, from which training sets are drawn',)
    """
    tested = set() if test is None else set(test.tolist())
    others = {example for row, example in enumerate(examples) if row not in tested}
    count = sum(examples[row] in others for row in tested)
    what = "test examples stand among the others, too, from which training sets are drawn"
    return (f"{count} of {len(tested)} {what}",) if count else ()


@dataclass(frozen=True)
class Splitter:
    """How a seed draws its sets, stratified by class; sizes are numbers of examples, or shares below 1."""

    train_size: float | None  # None: all that validation and test leave
    val_size: float
    test_size: float | None  # None: the official test set
    resplit: str  # "train_val": each seed its own sets; "none": all seeds the split of `seed0`
    seed0: int
    standardize: bool
    imbalance: float = 1.0  # how many times as large the share kept of the first class is as that of the last; 1: off
    noise: LabelNoise = CLEAN
    one_test: bool = False  # whether all seeds have the test set of `seed0`, where there is no official one

    def mode(self, data: Data) -> str:
        """What a seed draws anew: "all" three sets, "train_val", or "none"."""
        redrawn = data.official_test is None and not self.one_test
        return "all" if self.resplit == "train_val" and redrawn else self.resplit

    def sizes(self, data: Data) -> tuple[int, int, int]:
        """How many training, validation and test examples a run gets; refuses what the data cannot give."""
        train, val, test = self._asked(data)
        return train if self.imbalance == 1 else int(self._profile(data, train).sum()), val, test

    def _asked(self, data: Data) -> tuple[int, int, int]:
        """The sizes before any imbalance."""
        total = len(data.y)
        if data.official_test is not None:
            if self.test_size is not None:
                raise Refusal(
                    f"data.test_size is {self.test_size:g}; {data.name} has an official test set of "
                    f"{len(data.official_test)}, so it must be null"
                )
            test = len(data.official_test)
        elif self.test_size is None:
            raise Refusal(
                f"data.test_size is null; {data.name} has no official test set, so give a number or a share "
                "(data.test_size=0.2)"
            )
        else:
            test = _count("data.test_size", self.test_size, total)
        pool = total - test
        val = _count("data.val_size", self.val_size, pool, least=0)
        train = pool - val if self.train_size is None else _count("data.train_size", self.train_size, pool)
        if self.train_size is not None and self.train_size + self.val_size <= 1 + 1e-9:
            train = min(train, pool - val)  # each share is rounded alone
        if train + val > pool or train < 1:
            raise Refusal(
                f"data.train_size={train} and data.val_size={val} need {train + val} examples; {data.name} has {pool} "
                "besides its test set (data.train_size=... data.val_size=...)"
            )
        return train, val, test

    def split(self, data: Data, seed: int) -> Split:
        """The sets of one seed, the same whatever the method."""
        asked, n_val, n_test = self._asked(data)
        root = Key.of(self.seed0 if self.resplit == "none" else seed)
        key = root.fold("split")
        if data.official_test is not None:
            test, pool = data.official_test, data.outside_test
        else:
            drawn = Key.of(self.seed0).fold("split") if self.one_test else key
            rows = _stratified(data.strata, torch.arange(len(data.y)), drawn.fold("test"))
            test, pool = rows[:n_test], rows[n_test:].sort().values
        rows = _stratified(data.strata, pool, key.fold("pool"))
        val, rest = rows[:n_val], rows[n_val:]
        train = rest[:asked] if self.imbalance == 1 else _first_of_each(data.y, rest, self._profile(data, asked))
        y, unit = data.y, torch.tensor(1.0)
        if data.regression:
            y, unit = _standardized(data.y, train)
        if self.noise.present:
            noisy = torch.cat([train, val]) if self.noise.on_val else train
            wrong = self.noise.of(data.y, data.classes, root.fold("label_noise"))
            y = data.y.index_copy(0, noisy, wrong[noisy])
        return Split(train, val, test, y, *_statistics(data, train, self.standardize), unit)

    def _profile(self, data: Data, train: int) -> Tensor:
        """How many of `train` examples are kept of each class: int64 [classes].

        Class c of C keeps the share imbalance^-(c / (C - 1)) of its part, the exponential profile of Cui et al. (2019);
        a class that is there at all keeps one example if so many are asked for.
        """
        there = torch.bincount(data.y[data.outside_test], minlength=data.classes).double()
        keeps = self.imbalance ** -(torch.arange(data.classes, dtype=torch.float64) / max(data.classes - 1, 1))
        kept = (train * there / there.sum() * keeps).round().long()
        one_each = torch.where(there > 0, kept.clamp_min(1), kept)
        return one_each if one_each.sum() <= train else kept


def _standardized(y: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Targets y [N] by the mean and standard deviation of the training rows: float32 [N], and the latter []."""
    told = y[train].double()
    sd = told.std(unbiased=False) if bool((told != told[0]).any()) else torch.ones((), dtype=torch.float64)
    return ((y.double() - told.mean()) / sd).float(), sd


def _first_of_each(y: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """The first counts[c] of `rows` of each class c, in their order; the next others where a class has fewer."""
    rank = torch.empty(len(rows), dtype=torch.int64)
    labels = y[rows]
    for label in labels.unique():
        mine = (labels == label).nonzero()[:, 0]
        rank[mine] = torch.arange(len(mine))
    first = rank < counts[labels]
    short = int(counts.sum() - first.sum())
    return torch.cat([rows[first], rows[~first][:short]])


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


def _statistics(data: Data, train: Tensor, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and fill of the training inputs, per column of a table and per channel of all else."""
    if data.kind == "table":
        return _column_statistics(data.x[train].double(), data.indicators, standardize)
    across = (0, *range(2, data.x.ndim))
    shape = (data.x.shape[1],) + (1,) * (data.x.ndim - 2)
    mean, std = torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
    if standardize:
        count = len(train) * data.x[0, 0].numel()
        parts = train.split(data.piece)
        mean = torch.stack([data.x[rows].double().sum(across) for rows in parts]).sum(0).view(shape) / count
        squares = [(data.x[rows].double() - mean).square().sum(across) for rows in parts]
        std = (torch.stack(squares).sum(0).view(shape) / count).sqrt()
    return mean.float(), torch.where(std > 0, std, torch.inf).float(), torch.zeros(shape)


def _column_statistics(x: Tensor, indicators: Tensor | None, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a table's training rows x [n, F], where a missing number counts as its column's (lower) median.

    Indicators stay 0 and 1, but one that is 0 in every training row is 0 in the other rows too: a category that
    training has never seen.
    """
    median = x.nanmedian(0).values.nan_to_num()  # 0 for a column that has no number at all
    x = torch.where(x.isnan(), median, x)
    indicates = torch.zeros(x.shape[1], dtype=torch.bool) if indicators is None else indicators
    kept = indicates if standardize else torch.ones_like(indicates)
    mean = torch.where(kept, 0.0, x.mean(0))
    std = torch.where(kept, 1.0, torch.where(x.amin(0) < x.amax(0), x.std(0, unbiased=False), torch.inf))
    std = torch.where(indicates & (x.amax(0) == 0), torch.inf, std)
    return mean.float(), std.float(), ((median - mean) / std).float()


def cached(name: str, make: Callable[[], dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """The arrays that `make` gives, kept in the user's cache folder under `name` so that they are made once.

    The file is put in place whole, so that two processes may make the same at once. One that is damaged is made again,
    and a cache that cannot be written to is done without.
    """
    path = cache_dir() / f"{name}.npz"
    damaged = EOFError, ValueError, zipfile.BadZipFile, zlib.error
    with suppress(OSError, *damaged):  # an OSError: it is not there yet
        stored = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        return {key: stored[key] for key in stored.files}
    arrays = make()
    with suppress(OSError):  # no home, no space or no permission: slower the next time, and nothing else
        whole = io.BytesIO()
        np.savez(whole, allow_pickle=False, **arrays)
        write_atomic(path, whole.getvalue())
    return arrays
