"""Arrays of the user's in a NumPy file."""

from __future__ import annotations

import hashlib
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runner.data.base import KINDS, Data, overlap, prints
from runner.data.precision import offset, told
from runner.errors import Refusal

NAMES = ("x", "y", "x_test", "y_test")


def npz(path: str, kind: str | None) -> Data:
    """The arrays x and y of an .npz file, and x_test and y_test, if they are there, as the official test set.

    x is a table [N, F], signals [N, C, T], or images [N, C, H, W], [N, H, W, C] or, as bytes, [N, H, W], which `kind`
    may say if the shape does not: "image" also says that [N, C, H, W] is meant where both may be. y [N] holds classes
    of any type. Bytes of images stay bytes, else x becomes float32. A table's missing numbers are NaN. Objects
    (pickles) are not loaded, since to load them is to run them.
    """
    if not Path(path).is_file():
        raise Refusal(f"data.path is {path!r}, which is not a file (data.path=...)")
    if kind is not None and kind not in KINDS:
        raise Refusal(f"data.kind is {kind!r}; it must be null or one of {', '.join(KINDS)} (data.kind=...)")
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return _load(path, digest, kind)


@lru_cache(maxsize=1)
def _load(path: str, digest: str, kind: str | None) -> Data:
    arrays = _arrays(path)
    x = arrays["x"]
    last = x.ndim == 4 and kind in (None, "image") and _channels_last(path, x.shape[1:], kind)
    kind = kind or _kind(path, x)
    x = _shaped(path, "x", x, kind, last)
    taken = _offsets(x, kind)
    x = _single(path, "x", x, kind, taken)
    values, y = np.unique(_labels(path, "y", arrays["y"]), return_inverse=True)
    if len(values) < 2:
        raise Refusal(f"{path}: y has {len(values)} classes; there must be two at least")
    if len(values) > len(y) / 2:
        raise Refusal(f"{path}: y has {len(values)} different values for {len(y)} examples; it must hold a few classes")
    test = None
    if "x_test" in arrays:
        x_test = _single(path, "x_test", _shaped(path, "x_test", arrays["x_test"], kind, last), kind, taken)
        labels = _labels(path, "y_test", arrays["y_test"])
        if x_test.shape[1:] != x.shape[1:] or x_test.dtype != x.dtype:
            raise Refusal(
                f"{path}: x_test holds {x_test.dtype} {x_test.shape[1:]} and x {x.dtype} {x.shape[1:]}; both must hold "
                "the same"
            )
        foreign = np.setdiff1d(labels, values)
        if len(foreign):
            raise Refusal(f"{path}: y_test has the class {str(foreign[0])!r}, which y has not")
        test = torch.arange(len(x), len(x) + len(x_test))
        x, y = np.concatenate([x, x_test]), np.concatenate([y, np.searchsorted(values, labels)])
    inputs: torch.Tensor = torch.from_numpy(x)
    what = "column" if kind == "table" else "channel"
    notes = tuple(told(f"{what} {i} of x", float(amount)) for i, amount in enumerate(taken.flat) if amount)
    notes += overlap(prints(inputs), test) if test is not None else ()
    return Data(
        Path(path).stem,
        kind,
        inputs,
        torch.from_numpy(y.astype(np.int64)),
        len(values),
        test,
        None,
        digest,
        notes=notes,
    )


def _arrays(path: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of the file that have names we know; both of a pair, and x and y at least."""
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise Refusal(
                f"{path} holds one array; it must hold several by name, as numpy.savez(path, x=..., y=...) writes"
            )
        with stored:
            arrays = {name: stored[name] for name in NAMES if name in stored.files}
            there = stored.files
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, Refusal):
            raise
        raise Refusal(f"{path} cannot be read: {' '.join(str(error).split())} (objects are not loaded)") from error
    wanted = NAMES if {"x_test", "y_test"} & set(arrays) else NAMES[:2]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise Refusal(
            f"{path} has no array {missing[0]!r}; it has {', '.join(there) or 'none'} and needs {', '.join(wanted)}"
        )
    for one, other in (NAMES[:2], NAMES[2:]):
        if one in arrays and (not arrays[one].ndim or not arrays[one].size or len(arrays[one]) != arrays[other].size):
            shapes = f"{arrays[one].shape} and {arrays[other].shape}"
            raise Refusal(f"{path}: {one} and {other} are {shapes}; they must have one label for each of some examples")
    return arrays


def _kind(path: str, x: NDArray[np.generic]) -> str:
    if x.ndim == 3:
        return "image" if x.dtype == np.uint8 else "signal"
    if x.ndim not in (2, 4):
        raise Refusal(f"{path}: x is {x.shape}; it must be [N, F], [N, C, T], [N, H, W], [N, C, H, W] or [N, H, W, C]")
    return "table" if x.ndim == 2 else "image"


def _channels_last(path: str, shape: tuple[int, ...], kind: str | None) -> bool:
    """Whether images of this shape are [H, W, C], not [C, H, W]; refuses a shape that does not say, nor `kind`.

    One or three channels are told by their number, and so are four behind; others by sides of one length.
    """
    one, two, three = shape
    first, last = one in (1, 3), three in (1, 3, 4)
    if not first and not last:
        first, last = two == three, one == two
    if first == last and kind != "image":
        raise Refusal(
            f"{path}: x is [N, {one}, {two}, {three}], either {one} channels of {two} x {three} pixels or {three} of "
            f"{one} x {two}; say data.kind=image if the first, else store [N, C, H, W] and say so"
        )
    return last and not first


def _shaped(path: str, name: str, x: NDArray[np.generic], kind: str, channels_last: bool) -> NDArray[np.generic]:
    """The examples as [N, F], [N, C, T] or [N, C, H, W]."""
    if kind == "image":
        if x.ndim == 3:
            x = x[:, None]
        elif channels_last and x.ndim == 4:
            x = x.transpose(0, 3, 1, 2)
    elif kind == "signal" and x.ndim == 2:
        x = x[:, None]
    if x.ndim != {"table": 2, "signal": 3, "image": 4}[kind]:
        raise Refusal(f"{path}: {name} is {x.shape}, which is no {kind}s (data.kind=...)")
    if x.dtype.kind not in "buif":
        raise Refusal(f"{path}: {name} holds {x.dtype}; it must hold numbers")
    return x


def _offsets(x: NDArray[np.generic], kind: str) -> NDArray[np.float64]:
    """What is taken from each column or channel before it becomes float32, mostly 0: [F], or [C, 1, ...].

    The channels of an image keep their differences: nothing is taken from any but what suits them all.
    """
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    if x.dtype.itemsize < 4 or x.dtype == np.float32:  # all their numbers are different in float32
        return np.zeros(shape)
    if kind == "image":
        return np.full(shape, offset(x.astype(np.float64).reshape(-1)))
    return np.array([offset(x[:, i].astype(np.float64).reshape(-1)) for i in range(x.shape[1])]).reshape(shape)


def _single(path: str, name: str, x: NDArray[np.generic], kind: str, taken: NDArray[np.float64]) -> NDArray[np.generic]:
    """The examples as float32, or bytes of images as they are; what is no number is refused but in a table."""
    if kind == "image" and x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(x.astype(np.float64) - taken if taken.any() else x, dtype=np.float32)
    if np.isinf(numbers).any() or (kind != "table" and np.isnan(numbers).any()):
        raise Refusal(
            f"{path}: {name} has numbers that are infinite, above 3e38, or missing (a table may miss some: NaN)"
        )
    return numbers


def _labels(path: str, name: str, y: NDArray[np.generic]) -> NDArray[np.generic]:
    y = y.reshape(-1)
    if y.dtype.kind not in "buifUS" or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise Refusal(
            f"{path}: {name} holds {y.dtype}, or is missing or infinite for some; it must hold numbers or texts"
        )
    return y
