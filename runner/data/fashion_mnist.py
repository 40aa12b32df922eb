"""Fashion-MNIST (Xiao et al. 2017): 28 x 28 grey images of clothes."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.data.base import Data
from runner.errors import Refusal

SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts the files
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@lru_cache(maxsize=1)
def fashion_mnist(root: str) -> Data:
    """60,000 training and 10,000 test images in 10 classes.

    The four IDX files, gzipped or not, are taken from `root` if they are there, else from the system's package, else
    downloaded into `root` by torchvision.
    """
    folder = next((f for f in (Path(root), _raw(root), SYSTEM) if all(_find(f, name) for name in NAMES)), None)
    if folder is None:
        folder = _download(root)
    images, labels, test_images, test_labels = (_read(folder, name) for name in NAMES)
    x = torch.cat([images, test_images])[:, None]
    y = torch.cat([labels, test_labels]).long()
    return Data("fashion_mnist", "image", x, y, 10, torch.arange(len(labels), len(y)))


def _raw(root: str) -> Path:
    return Path(root) / "FashionMNIST" / "raw"


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(root: str) -> Path:
    from torchvision.datasets import FashionMNIST  # only when there is something to download

    try:
        FashionMNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        raise Refusal(
            f"Fashion-MNIST is not in data.root={root} and could not be downloaded ({error}); put {', '.join(NAMES)} "
            "there (gzipped or not), or install the Debian package dataset-fashion-mnist"
        ) from error
    return _raw(root)


def _read(folder: Path, name: str) -> Tensor:
    """An IDX file of unsigned bytes (LeCun et al. 1998): uint8 [N] or [N, H, W]."""
    path = _find(folder, name)
    assert path is not None  # the caller looked
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise Refusal(f"{path} is not an IDX file of bytes; put the original file there or remove it")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if values.size != shape.prod():
        raise Refusal(f"{path} is cut off: {values.size} of {shape.prod()} bytes; put the original file there")
    return torch.from_numpy(values.reshape(shape).copy())
