"""Public image sets: files of each format, and what is said where they are missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import time
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import Regrun
from filelock import FileLock
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets import utils

from runner.data import colour, idx
from runner.data.base import Data
from runner.errors import Refusal

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and nothing kept from a test before."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, max_hops=3: url)
    for load in (idx.mnist, idx.kmnist, idx.fashion_mnist, idx.emnist, colour.cifar10, colour.cifar100, colour.svhn):
        load.cache_clear()
    colour.stl10.cache_clear()


def idx_file(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    return head + values.astype(np.uint8).tobytes()


def idx_files(folder: Path, names: tuple[str, ...], labels: np.ndarray) -> np.ndarray:
    """Six images to train and two to test, with the labels given, the last file gzipped; gives the images."""
    images = np.arange(8 * 28 * 28).reshape(8, 28, 28) % 251
    folder.mkdir(parents=True)
    parts = (images[:6], labels[:6], images[6:], labels[6:])
    for name, part in zip(names, parts, strict=True):
        if part is parts[-1]:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_file(part)))
        else:
            (folder / name).write_bytes(idx_file(part))
    return images


@pytest.mark.parametrize(("load", "folder"), [(idx.mnist, "MNIST"), (idx.kmnist, "KMNIST"), (idx.fashion_mnist, ".")])
def test_idx_files_are_read_where_torchvision_keeps_them_or_in_root(
    tmp_path: Path, load: Callable[[str], Data], folder: str
) -> None:
    labels = np.array([0, 1, 2, 3, 4, 5, 9, 0])
    place = tmp_path / "data" / folder / "raw" if folder != "." else tmp_path / "data"
    images = idx_files(place, idx.NAMES, labels)
    data = load(str(tmp_path / "data"))
    assert data.x.shape == (8, 1, 28, 28)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), images)
    assert data.y.tolist() == labels.tolist()
    assert data.official_test is not None
    assert data.official_test.tolist() == [6, 7]


def test_a_sets_own_folder_is_taken_before_root(tmp_path: Path) -> None:
    idx_files(tmp_path / "data", idx.NAMES, np.arange(8))
    idx_files(tmp_path / "data" / "KMNIST" / "raw", idx.NAMES, np.arange(8)[::-1])
    assert idx.kmnist(str(tmp_path / "data")).y.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert idx.kmnist.__wrapped__(str(tmp_path / "data")).notes == ()
    data = idx.mnist(str(tmp_path / "data"))
    assert data.y.tolist() == list(range(8))
    (note,) = data.notes
    assert note.startswith(f"nothing says that the files in {tmp_path / 'data'} are of mnist")


@pytest.mark.parametrize("packed", idx.NAMES)
def test_files_in_root_that_are_published_for_another_set_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    root = tmp_path / "data"
    idx_files(root, idx.NAMES, np.arange(8))
    if (root / packed).is_file():
        (root / f"{packed}.gz").write_bytes(gzip.compress((root / packed).read_bytes()))
    number = idx.NAMES.index(packed)
    known = [f"no{i}" for i in range(4)]
    known[number] = md5(root / f"{packed}.gz")
    monkeypatch.setitem(idx.PUBLISHED, "MNIST", tuple(known))
    with pytest.raises(Refusal, match=r"kmnist is not in .*KMNIST/raw, .*no network"):
        idx.kmnist(str(root))
    monkeypatch.setattr(idx, "SYSTEM", tmp_path / "nowhere")
    with pytest.raises(Refusal, match="fashion_mnist is not in"):
        idx.fashion_mnist(str(root))
    assert bool(idx.mnist(str(root)).notes) is (number > 0)  # the training images tell the set


def test_checksums_are_torchvisions() -> None:
    for known_as, digests in idx.PUBLISHED.items():
        resources = getattr(datasets, known_as).resources
        assert resources == [(f"{name}.gz", digest) for name, digest in zip(idx.NAMES, digests, strict=True)]


def test_two_jobs_that_begin_without_files_download_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[int] = []

    def download(known_as: str, root: str, options: dict[str, str]) -> None:
        began.append(1)
        folder = Path(root) / known_as / "raw"
        folder.mkdir(parents=True)
        for name in idx.NAMES:  # there, as they are while they come, but not whole
            (folder / name).write_bytes(b"")
        time.sleep(0.3)
        shutil.rmtree(folder)
        idx_files(folder, idx.NAMES, np.arange(8))

    monkeypatch.setattr(idx, "_download", download)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(idx.mnist.__wrapped__, [str(tmp_path / "data")] * 2))
    assert [data.y.tolist() for data in found] == [list(range(8))] * 2
    assert len(began) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_files_are_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idx_files(tmp_path / "MNIST" / "raw", idx.NAMES, np.arange(8))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    (tmp_path / ".lock").touch()  # of a process that was killed, or that is at it
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert idx.mnist(str(tmp_path)).y.tolist() == list(range(8))


@pytest.mark.parametrize(("split", "first", "classes"), [("letters", 1, 26), ("balanced", 0, 47)])
def test_emnist_is_turned_upright_and_counts_from_zero(tmp_path: Path, split: str, first: int, classes: int) -> None:
    names = tuple(
        f"emnist-{split}-{p}-{w}" for p in ("train", "test") for w in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    labels = np.arange(8) + first
    images = idx_files(tmp_path / "EMNIST" / "raw", names, labels)
    data = idx.emnist(str(tmp_path), split)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), images.transpose(0, 2, 1))
    assert (data.y.tolist(), data.classes) == (list(range(8)), classes)


def test_labels_that_the_set_does_not_have_are_refused(tmp_path: Path) -> None:
    idx_files(tmp_path / "MNIST" / "raw", idx.NAMES, np.array([0, 1, 2, 3, 4, 5, 10, 0]))
    with pytest.raises(
        Refusal, match=r"mnist has 8 examples and 8 labels from 0 to 10; .* from 0 to 9 for its 10 classes"
    ):
        idx.mnist(str(tmp_path))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def cifar_files(root: Path, which: type[datasets.CIFAR10], label: str, patch: pytest.MonkeyPatch) -> None:
    """Ten images to train and two to test as the pickles of CIFAR, and their checksums in place of the real ones."""
    folder = root / which.base_folder
    folder.mkdir(parents=True)
    flat = PHOTOS.reshape(12, -1)
    for part, name, rows in (("train_list", "data_batch", slice(0, 10)), ("test_list", "test_batch", slice(10, 12))):
        (folder / name).write_bytes(pickle.dumps({"data": flat[rows], label: [i % 10 for i in range(12)][rows]}))
        patch.setattr(which, part, [[name, md5(folder / name)]])
    (folder / "meta").write_bytes(pickle.dumps({"names": [str(i) for i in range(12)]}))
    patch.setattr(which, "meta", {"filename": "meta", "key": "names", "md5": md5(folder / "meta")})


@pytest.mark.parametrize(
    ("load", "which", "label"),
    [(colour.cifar10, datasets.CIFAR10, "labels"), (colour.cifar100, datasets.CIFAR100, "fine_labels")],
)
def test_cifar_is_read_and_its_checksums_are_held_against_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: Callable[[str], Data],
    which: type[datasets.CIFAR10],
    label: str,
) -> None:
    cifar_files(tmp_path, which, label, monkeypatch)
    data = load(str(tmp_path))
    np.testing.assert_array_equal(data.x.numpy(), PHOTOS)
    assert data.y.tolist() == [*range(10), 0, 1]
    assert data.official_test is not None
    assert data.official_test.tolist() == [10, 11]

    (tmp_path / which.base_folder / "test_batch").write_bytes(b"not what was there")
    load.cache_clear()  # type: ignore[attr-defined]  # of functools' wrapper
    with pytest.raises(Refusal, match=r"cifar.* is damaged, .*no network.*put cifar-100?-python.tar.gz"):
        load(str(tmp_path))


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {}
    for part, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        path = tmp_path / f"{part}_32x32.mat"
        labels = np.array([*range(1, 11), 10, 3])[rows, None]  # SVHN's label of the digit 0 is 10
        savemat(path, {"X": PHOTOS[rows].transpose(2, 3, 1, 0), "y": labels})
        lists[part] = ["nowhere", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = colour.svhn(str(tmp_path))
    np.testing.assert_array_equal(data.x.numpy(), PHOTOS)
    assert data.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 3]


def test_stl10_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (6, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        images[rows].transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")  # columns first
        (np.arange(6, dtype=np.uint8)[rows] + 1).tofile(folder / f"{part}_y.bin")
        names = (f"{part}_X.bin", f"{part}_y.bin")
        monkeypatch.setattr(datasets.STL10, f"{part}_list", [[name, md5(folder / name)] for name in names])
    data = colour.stl10(str(tmp_path))
    np.testing.assert_array_equal(data.x.numpy(), images)
    assert data.y.tolist() == list(range(6))
    assert data.official_test is not None
    assert data.official_test.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnist", ["mnist is not in data/MNIST/raw", "train-images-idx3-ubyte"]),
        ("kmnist", ["kmnist is not in data/KMNIST/raw", "t10k-labels-idx1-ubyte"]),
        ("emnist", ["emnist is not in data/EMNIST/raw", "emnist-balanced-train-images-idx3-ubyte"]),
        ("cifar10", ["cifar10 is not in data,", "cifar-10-python.tar.gz"]),
        ("cifar100", ["cifar100 is not in data,", "cifar-100-python.tar.gz"]),
        ("svhn", ["svhn is not in data,", "train_32x32.mat, test_32x32.mat"]),
        ("stl10", ["stl10 is not in data,", "stl10_binary.tar.gz"]),
    ],
)
def test_without_a_network_the_files_to_get_are_named(
    regrun: Regrun, tmp_path: Path, name: str, said: list[str]
) -> None:
    told = regrun(f"data={name}")
    assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1), told
    for part in [*said, "no network", "data.root"]:
        assert part in told.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_of_emnist_is_refused(regrun: Regrun) -> None:
    told = regrun("data=emnist", "data.split=letter")
    assert told.code == 2
    assert "no split of emnist 'letter'; did you mean 'letters'?" in told.err


def test_a_set_of_colour_images_trains(regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files(tmp_path / "data", datasets.CIFAR10, "labels", monkeypatch)
    told = regrun(
        "data=cifar10", "model=convnet", "model.width=4", "model.hidden=16", "epochs=1", "batch_size=3",
        "data.train_size=6", "data.val_size=4", "seeds=1", "method=augment", "progress=false",
    )  # fmt: skip
    assert told.code == 0, told.err
