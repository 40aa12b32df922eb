"""MNIST and the sets made in its likeness: 28 x 28 grey images in four IDX files.

The files, gzipped or not, are taken from where torchvision keeps them below `root`, or from `root` itself, else
torchvision downloads them. Three sets give their files the same names, so those in `root` itself may be another set's.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.data.base import Data
from runner.data.fetch import LOCK, alone, fetched
from runner.errors import Refusal, unknown

SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts the files
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PUBLISHED = {  # the MD5 checksums of the gzipped files NAMES of each set, as torchvision has them
    "MNIST": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "KMNIST": (
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
    "FashionMNIST": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}
SPLITS = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}  # classes of EMNIST


@lru_cache(maxsize=1)
def mnist(root: str) -> Data:
    """Handwritten digits (LeCun et al. 1998): 60,000 training and 10,000 test images in 10 classes."""
    return _data("mnist", "MNIST", root, NAMES, 10)


@lru_cache(maxsize=1)
def fashion_mnist(root: str) -> Data:
    """Images of clothes (Xiao et al. 2017): 60,000 to train and 10,000 to test, in 10 classes."""
    return _data("fashion_mnist", "FashionMNIST", root, NAMES, 10, SYSTEM)


@lru_cache(maxsize=1)
def kmnist(root: str) -> Data:
    """Cursive Japanese characters (Clanuwat et al. 2018): 60,000 to train and 10,000 to test, in 10 classes."""
    return _data("kmnist", "KMNIST", root, NAMES, 10)


@lru_cache(maxsize=1)
def emnist(root: str, split: str) -> Data:
    """Handwritten letters and digits (Cohen et al. 2017), upright; `split` is one of SPLITS.

    The letters' labels count from 1 in the files and from 0 here.
    """
    if split not in SPLITS:
        raise unknown("split of emnist", split, SPLITS, "data.split")
    names = tuple(
        f"emnist-{split}-{part}-{what}"
        for part in ("train", "test")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    data = _data("emnist", "EMNIST", root, names, SPLITS[split], first=1 if split == "letters" else 0, split=split)
    return Data("emnist", "image", data.x.transpose(2, 3).contiguous(), data.y, data.classes, data.official_test)


def _data(
    name: str, known_as: str, root: str, names: tuple[str, ...], classes: int, system: Path | None = None,
    first: int = 0, **options: str,
) -> Data:  # fmt: skip
    """The images and labels of four files; labels begin at `first`, and `options` are torchvision's."""
    folder, notes = _place(name, known_as, root, names, system, options)
    images, labels, test_images, test_labels = (_read(folder, name) for name in names)
    x = torch.cat([images, test_images])[:, None]
    y = torch.cat([labels, test_labels]).long() - first
    return Data(name, "image", x, y, classes, torch.arange(len(labels), len(y)), notes=notes)


def _place(
    name: str, known_as: str, root: str, names: tuple[str, ...], system: Path | None, options: dict[str, str]
) -> tuple[Path, tuple[str, ...]]:
    """The folder of the four files, which are fetched if need be, and a note where they may be another set's."""
    place = Path(root)
    raw = place / known_as / "raw"
    folder = _found(raw, place, system, names, known_as)
    if folder is None or (place / LOCK).exists():  # which another process may be writing
        with alone(root):
            folder = _found(raw, place, system, names, known_as)
            if folder is None:
                fetched(name, partial(_download, known_as, root, options), raw, names)
                return raw, ()
    if folder != place or known_as not in PUBLISHED or _published(folder, NAMES[0]):
        return folder, ()
    doubt = (
        f"nothing says that the files in {root} are of {name}, since {', '.join(PUBLISHED)} give theirs the same names"
    )
    return folder, (f"{doubt}; those in {raw} are taken first",)


def _found(raw: Path, root: Path, system: Path | None, names: Sequence[str], known_as: str) -> Path | None:
    """The first of these folders that has all of the files, passed over if it is root and has another set's."""
    there = [folder for folder in (raw, root, system) if folder and all(_find(folder, name) for name in names)]
    return next((folder for folder in there if folder != root or not _foreign(folder, known_as)), None)


def _foreign(folder: Path, known_as: str) -> bool:
    """Whether any of the files is certainly of another set, by its checksum."""
    return known_as in PUBLISHED and bool({_published(folder, name) for name in NAMES} - {known_as, ""})


def _published(folder: Path, name: str) -> str:
    """The set of PUBLISHED that a file of this name is of; "" where its checksum is not known, as of unpacked files."""
    path = folder / f"{name}.gz"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    return next((known_as for known_as, digests in PUBLISHED.items() if digest in digests), "")


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(known_as: str, root: str, options: dict[str, str]) -> None:
    from torchvision import datasets  # only when there is something to download

    getattr(datasets, known_as)(root, download=True, **options)


def _read(folder: Path, name: str) -> Tensor:
    """An IDX file of unsigned bytes (LeCun et al. 1998): uint8 [N] or [N, H, W]."""
    path = _find(folder, name)
    assert path is not None  # the caller looked
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Refusal(f"{path} is cut off or damaged ({error}); put the original file there or remove it") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise Refusal(f"{path} is not an IDX file of bytes; put the original file there or remove it")
    if len(raw) < 4 + 4 * raw[3]:
        raise Refusal(f"{path} is cut off within its header, at {len(raw)} bytes; put the original file there")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if values.size != shape.prod():
        raise Refusal(f"{path} is cut off: {values.size} of {shape.prod()} bytes; put the original file there")
    return torch.from_numpy(values.reshape(shape).copy())
