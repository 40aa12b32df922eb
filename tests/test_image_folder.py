"""Folders of images: which are found, how they are decoded, and when they are decoded again."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Regrun, Terminal
from PIL import Image, ImageOps

from runner.data import image_folder as folders
from runner.data.base import Data
from runner.data.image_folder import decoded, image_folder
from runner.errors import Refusal
from runner.records import read_table

CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-jpeg.zip"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    folders._load.cache_clear()
    return place / "regrun"


def picture(path: Path, value: int, size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)


def split_folder(root: Path) -> None:
    """Two classes with images of one colour: three of each to train, one of each in val and test."""
    for c, label in enumerate(("cat", "dog")):
        for i in range(3):
            picture(root / "train" / label / f"{i}.png", 100 * c + i)
        picture(root / "val" / label / "3.png", 100 * c + 3)
        picture(root / "test" / label / "4.png", 100 * c + 4)


def load(root: Path, size: int = 6, channels: int = 3, on_error: str = "refuse") -> Data:
    folders._load.cache_clear()  # as another process would
    return image_folder(str(root), size, channels, on_error)


def test_train_and_val_make_the_pool_and_test_the_test_set(tmp_path: Path) -> None:
    split_folder(tmp_path / "pets")
    data = load(tmp_path / "pets")
    assert (data.name, data.kind, data.classes, tuple(data.x.shape)) == ("pets", "image", 2, (10, 3, 6, 6))
    red = data.x[:, 0, 0, 0]
    assert data.official_test is not None
    assert sorted(red[data.official_test].tolist()) == [4, 104]
    assert torch.equal(data.y, (red >= 100).long())
    assert data.x[:, 0].float().std((1, 2)).max() == 0


def test_a_folder_is_named_on_a_terminal_as_it_is(tmp_path: Path, opened: Callable[[], Terminal]) -> None:
    split_folder(tmp_path / "x[" / "a]")  # rich would take [/a] for the end of something
    terminal = opened()
    load(tmp_path / "x[" / "a]")
    assert f"decoding {tmp_path}/x[/a]" in terminal.shown


def test_one_folder_of_classes_has_no_test_set_of_its_own(tmp_path: Path) -> None:
    for value, name in enumerate(
        ("train/a.png", "plane/b.png", "plane/deeper/c.JPG", "plane/notes.txt", "plane/.d.png")
    ):
        picture(tmp_path / "x" / Path(name).with_suffix(".png"), 50 * value)
        (tmp_path / "x" / name).with_suffix(".png").rename(tmp_path / "x" / name)
    data = load(tmp_path / "x")  # train is a class here, beside plane
    assert data.official_test is None
    assert data.y.tolist() == [0, 0, 1]
    assert data.x[:, 0, 0, 0].tolist() == [50, 100, 0]


def test_the_parts_may_be_written_in_any_case(tmp_path: Path) -> None:
    split_folder(tmp_path / "pets")
    small = load(tmp_path / "pets")
    for part, name in (("train", "Train"), ("val", "VAL"), ("test", "Test")):
        (tmp_path / "pets" / part).rename(tmp_path / "pets" / name)
    data = load(tmp_path / "pets")
    assert data.classes == 2
    assert data.official_test is not None
    red = data.x[:, 0, 0, 0]
    assert sorted(red[data.official_test].tolist()) == [4, 104]
    assert torch.equal(data.y, (red >= 100).long())
    assert len(data.y) == len(small.y)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Testing", "Training"), "a folder 'Testing' beside Training"),
        (("train", "Validation"), "a folder 'Validation' beside train"),
        (("test", "val"), "a folder 'val' beside test"),
        (("Train", "train"), "a folder 'train' beside Train"),
        (("Test", "Train", "cat"), "a folder 'cat' beside Test"),
        (("day", "night"), r"'day' and 'night', which would be classes, .* the same folders \(cat, dog, \.\.\.\)"),
    ],
)
def test_parts_by_other_names_are_no_classes(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    for part in names:
        for label in ("cat", "dog"):
            picture(tmp_path / "pets" / part / label / "0.png", 9)
    with pytest.raises(Refusal, match=said) as refused:
        load(tmp_path / "pets")
    assert "pets" in str(refused.value)
    assert "train" in str(refused.value)


def test_folders_inside_the_classes_may_be_alike_beside_images_or_single(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        picture(tmp_path / "single" / label / "images" / "0.png", 9)  # as Tiny ImageNet has them
        for name in ("0.png", "old/0.png", "new/0.png"):
            picture(tmp_path / "beside" / label / name, 9)
    assert load(tmp_path / "single").y.tolist() == [0, 1]
    assert load(tmp_path / "beside").y.tolist() == [0, 0, 0, 1, 1, 1]


def gradient(height: int, width: int) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


def test_every_mode_becomes_the_channels_asked_for(tmp_path: Path) -> None:
    grey = gradient(8, 8)
    rgb = np.stack([grey, 255 - grey, np.full_like(grey, 7)], 2)
    sixteen = grey.astype(np.uint16) * 256
    made = {
        "L.png": Image.fromarray(grey),
        "RGB.png": Image.fromarray(rgb),
        "I16.png": Image.fromarray(sixteen),
        "bit.png": Image.fromarray(grey).convert("1"),
        "palette.gif": Image.fromarray(grey).convert("P"),
        "CMYK.tif": Image.fromarray(rgb).convert("CMYK"),
        "LA.png": Image.fromarray(grey).convert("LA"),
        "clear.png": Image.new("RGBA", (8, 8), (0, 0, 0, 0)),
        "drawing.png": Image.merge("LA", (Image.new("L", (8, 8), 0), Image.fromarray(255 - grey))),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
    seen = {
        name: [np.frombuffer(decoded(tmp_path / name, 8, c), np.uint8).reshape(c, 8, 8) for c in (1, 3)]
        for name in made
    }
    np.testing.assert_array_equal(seen["L.png"][0][0], grey)
    np.testing.assert_array_equal(seen["LA.png"][1], np.stack([grey] * 3))
    np.testing.assert_array_equal(seen["RGB.png"][1], rgb.transpose(2, 0, 1))
    np.testing.assert_array_equal(seen["I16.png"][0][0], grey)
    assert np.abs(seen["palette.gif"][1].astype(int) - grey).max() <= 1
    assert np.abs(seen["CMYK.tif"][1].astype(int) - rgb.transpose(2, 0, 1)).max() <= 1
    assert set(seen["bit.png"][0].flat) == {0, 255}
    assert seen["clear.png"][1].min() == 255
    np.testing.assert_array_equal(seen["drawing.png"][0][0], grey)  # in black on a ground that is clear


def test_the_middle_square_is_taken_and_the_camera_obeyed(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert set(decoded(tmp_path / "wide.png", 10, 3)) == {200}
    turned = Image.fromarray(np.vstack([np.full((4, 8, 3), 250, np.uint8), np.zeros((4, 8, 3), np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    pixels = np.frombuffer(decoded(tmp_path / "turned.png", 8, 1), np.uint8).reshape(8, 8)
    assert (pixels[0, 0], pixels[7, 0]) == (0, 250)


def test_the_cache_is_used_until_the_folder_or_a_setting_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_folder(tmp_path / "pets")
    first = load(tmp_path / "pets")
    made = set(cache.glob("*.bin"))
    assert len(made) == 1
    assert not list(cache.glob("*.part"))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "decoded", None)  # nothing is decoded again
        again = load(tmp_path / "pets")
    assert torch.equal(again.x, first.x)
    assert again.content == first.content

    picture(tmp_path / "pets" / "train" / "cat" / "0.png", 77)
    os.utime(tmp_path / "pets" / "train" / "cat" / "0.png", ns=(1, 1))  # whatever the clock's steps
    changed = load(tmp_path / "pets")
    assert 77 in changed.x[:, 0, 0, 0].tolist()
    assert changed.content != first.content
    assert load(tmp_path / "pets", 3, 1).x.shape == (10, 1, 3, 3)

    (tmp_path / "pets").rename(tmp_path / "other")
    assert load(tmp_path / "other").content == changed.content


@pytest.mark.parametrize("place", ["cut off", "the first image", "the last image"])
def test_a_damaged_cache_is_made_again_and_what_killed_processes_left_is_removed(
    tmp_path: Path, cache: Path, place: str
) -> None:
    split_folder(tmp_path / "pets")
    first = load(tmp_path / "pets")
    (path,) = cache.glob("*.bin")
    whole = path.read_bytes()
    at = {"the first image": 5, "the last image": 10 * 3 * 36 - 5}.get(place)
    path.unlink()  # another file, since the first one is in use
    path.write_bytes(whole[:-5] if at is None else whole[:at] + b"\1\2\3" + whole[at + 3 :])
    left, other = cache / f".{path.name}.abc.part", cache / ".images-of-another.bin.abc.part"
    left.write_bytes(b"half of it")
    other.write_bytes(b"half of it")
    again = load(tmp_path / "pets")
    assert torch.equal(again.x, first.x)
    assert path.read_bytes() == whole
    assert list(cache.glob("*.part")) == [other]


def test_a_cache_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_folder(tmp_path / "pets")
    forced: list[int] = []

    def force(handle: int) -> None:
        assert not list(cache.glob("*.bin"))
        forced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", force)
    load(tmp_path / "pets")
    (path,) = cache.glob("*.bin")
    assert forced == [path.stat().st_size]


def test_a_folder_that_differs_in_nothing_but_its_pixels_is_another(tmp_path: Path) -> None:
    """As bitmaps from an archive without times are: of one size, and changed at one moment."""
    for name, values in (("pets", (10, 110)), ("twin", (20, 120))):
        for label, value in zip(("cat", "dog"), values, strict=True):
            for i in range(3):
                picture(tmp_path / name / label / f"{i}.bmp", value)
                os.utime(tmp_path / name / label / f"{i}.bmp", ns=(1, 1))
    pets, twin = load(tmp_path / "pets"), load(tmp_path / "twin")
    assert [set(data.x[:, 0, 0, 0].tolist()) for data in (pets, twin)] == [{10, 110}, {20, 120}]
    assert twin.content != pets.content
    picture(tmp_path / "pets" / "cat" / "0.bmp", 30)  # the same after something is put in its place
    os.utime(tmp_path / "pets" / "cat" / "0.bmp", ns=(1, 1))
    assert 30 in load(tmp_path / "pets").x[:, 0, 0, 0].tolist()


TWO = """
import pathlib, sys, time
from runner.data import image_folder as folders
decode, count = folders.decoded, []
def slowly(*arguments):
    time.sleep(0.05)
    count.append(1)
    return decode(*arguments)
folders.decoded = slowly
here, other = map(pathlib.Path, sys.argv[2:])
here.touch()
while not other.exists():
    time.sleep(0.001)
print(folders.image_folder(sys.argv[1], 6, 3, "refuse").content, len(count))
"""


def test_two_processes_at_once_decode_once(tmp_path: Path, cache: Path) -> None:
    split_folder(tmp_path / "pets")

    def other(names: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        marks = [str(tmp_path / name) for name in names]
        command = [sys.executable, "-c", TWO, str(tmp_path / "pets"), *marks]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(other, [("one", "two"), ("two", "one")]))
    assert [done.returncode for done in told] == [0, 0], told
    found, counts = zip(*(done.stdout.split() for done in told), strict=True)
    assert set(found) == {load(tmp_path / "pets").content}
    assert sorted(counts) == ["0", "10"]
    assert len(list(cache.glob("*.bin"))) == 1
    assert not list(cache.glob("*.part"))


def test_without_a_cache_folder_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split_folder(tmp_path / "pets")
    kept = load(tmp_path / "pets")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(load(tmp_path / "pets").x, kept.x)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert torch.equal(load(tmp_path / "pets").x, kept.x)


def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path) -> None:
    split_folder(tmp_path / "pets")
    pets = tmp_path / "pets"
    cases = []
    with zipfile.ZipFile(tmp_path / "pets.zip", "w"):
        cases.append((tmp_path / "pets.zip", r"pets\.zip', which is not a folder; unpack it first"))
    cases.append((tmp_path / "nowhere", "nowhere', which is not a folder"))
    (tmp_path / "bare").mkdir()
    cases.append((tmp_path / "bare", "bare has no folder inside it"))
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    cases.append((tmp_path / "hollow", "hollow/a has no image in it"))
    picture(tmp_path / "single" / "a" / "0.png", 1)
    cases.append((tmp_path / "single", "images of one class only, 'a'"))
    picture(tmp_path / "named" / "train" / "a" / "0.png", 1)
    picture(tmp_path / "named" / "valid" / "a" / "0.png", 1)
    cases.append((tmp_path / "named", "a folder 'valid' beside train"))
    for path, said in cases:
        with pytest.raises(Refusal, match=said):
            load(path)
    with pytest.raises(Refusal, match=r"data\.channels is 4"):
        load(pets, channels=4)
    picture(pets / "test" / "emu" / "0.png", 1)
    with pytest.raises(Refusal, match=r"test/emu/0\.png is of the class 'emu', which .*train has not"):
        load(pets)


def test_links_to_folders_are_refused_and_links_to_images_read(tmp_path: Path) -> None:
    split_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / "9.png").symlink_to(tmp_path / "pets" / "train" / "cat" / "0.png")
    assert len(load(tmp_path / "pets").y) == 11
    (tmp_path / "pets" / "train" / "cat" / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(Refusal, match=r"gone\.png is a link to nothing"):
        load(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / "gone.png").unlink()
    (tmp_path / "pets" / "train" / "cat" / "loop").symlink_to(tmp_path / "pets")
    with pytest.raises(Refusal, match="loop is a link to a folder, which is not followed"):
        load(tmp_path / "pets")


@pytest.mark.parametrize("damage", [lambda b: b[:45], lambda b: b"hello", lambda b: b""])
def test_a_corrupt_image_is_named_and_leaves_no_cache(tmp_path: Path, cache: Path, damage: object) -> None:
    split_folder(tmp_path / "pets")
    path = tmp_path / "pets" / "test" / "dog" / "4.png"
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refusal, match=r"test/dog/4\.png cannot be read as an image") as refused:
        load(tmp_path / "pets")
    assert "\n" not in str(refused.value)
    assert not [*cache.glob("*.bin"), *cache.glob("*.part")]


def test_corrupt_images_are_left_out_and_counted_if_asked(tmp_path: Path, cache: Path) -> None:
    split_folder(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "dog" / "1.png").write_bytes(b"no image")
    (tmp_path / "pets" / "test" / "cat" / "4.png").write_bytes(b"")
    with pytest.raises(Refusal, match="cannot be read as an image"):
        load(tmp_path / "pets")
    for _ in range(2):  # decoded, and then from the cache
        data = load(tmp_path / "pets", on_error="skip")
        assert data.notes == ("2 of 10 images cannot be read and are left out, the first test/cat/4.png",)
        assert data.official_test is not None
        assert data.y[data.official_test].tolist() == [1]
        assert data.y.bincount().tolist() == [4, 4]
        assert sorted(data.x[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 100, 102, 103, 104]
    with pytest.raises(Refusal, match=r"data\.on_error is 'ignore'"):
        load(tmp_path / "pets", on_error="ignore")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("*/dog/*", r"none of the 4 images of the class 'dog' of .*pets can be read, the first train/dog/0\.png"),
        ("test/*/*", r"none of the 2 images of the test set of .*pets can be read, the first test/cat/4\.png"),
        ("*/*/*", "none of the 4 images of the class 'cat' of"),
    ],
)
def test_a_class_or_a_test_set_without_an_image_that_can_be_read_is_refused(
    tmp_path: Path, broken: str, said: str
) -> None:
    split_folder(tmp_path / "pets")
    for path in (tmp_path / "pets").glob(broken):
        path.write_bytes(b"no image")
    if broken == "*/dog/*":
        picture(tmp_path / "pets" / "train" / "emu" / "0.png", 1)  # two classes are left
    for _ in range(2):  # decoded, and then from the cache
        with pytest.raises(Refusal, match=said):
            load(tmp_path / "pets", on_error="skip")


@pytest.mark.parametrize("kind", [TypeError, KeyError, IndexError, OverflowError, OSError])
def test_whatever_pillow_raises_at_an_image_makes_it_one_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    split_folder(tmp_path / "pets")

    def spoiled(image: Image.Image) -> Image.Image:
        if str(getattr(image, "filename", "")).endswith("train/cat/1.png"):
            raise kind("of a library\n within")
        return image

    monkeypatch.setattr(ImageOps, "exif_transpose", spoiled)
    with pytest.raises(Refusal, match=r"1\.png cannot be read as an image \(.*of a library") as refused:
        load(tmp_path / "pets")
    assert "\n" not in str(refused.value)
    assert load(tmp_path / "pets", on_error="skip").notes[0].startswith("1 of 10 images cannot be read")


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE])
def test_an_image_that_cannot_be_read_now_is_neither_left_out_nor_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    split_folder(tmp_path / "pets")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(ImageOps, "exif_transpose", fail)
        with pytest.raises(Refusal, match=r"\.png cannot be read now \(.*; try again"):
            load(tmp_path / "pets", on_error="skip")
    assert not list(cache.glob("*.bin"))
    assert load(tmp_path / "pets", on_error="skip").notes == ()


def test_test_images_that_are_also_trained_on_are_counted(tmp_path: Path) -> None:
    split_folder(tmp_path / "pets")
    assert load(tmp_path / "pets").notes == ()
    shutil.copy(tmp_path / "pets" / "val" / "dog" / "3.png", tmp_path / "pets" / "test" / "dog" / "other.png")
    (note,) = load(tmp_path / "pets").notes
    assert note.startswith("1 of 3 test examples stand among the others")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(Refusal, match=r"f\.tif has floating-point pixels"):
        decoded(tmp_path / "f.tif", 4, 1)


def twelve_bits(path: Path, values: tuple[int, int]) -> None:
    """A grey TIFF file of two pixels of 12 bits each, in three bytes, which Pillow reads but does not write."""
    one, other = values
    tags = ((256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3))
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    pixels = ((one << 12) | other).to_bytes(3, "big") + b"\0"
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory)


def test_integers_are_scaled_by_the_bits_that_their_file_has(tmp_path: Path) -> None:
    twelve_bits(tmp_path / "12.tif", (4095, 0x123))
    Image.fromarray(np.array([[65535, 0x1234]], np.uint16)).save(tmp_path / "16.tif")
    (tmp_path / "16.pgm").write_bytes(b"P5 2 1 4095 " + bytes([15, 255, 1, 0x23]))  # its own white: Pillow scales it
    for name, grey in (("12.tif", 0x12), ("16.tif", 0x12), ("16.pgm", 0x12)):
        with Image.open(tmp_path / name) as image:
            bits = folders._bits(image)
            assert np.asarray(folders._eight_bits(image, tmp_path / name, bits)).tolist() == [[255, grey]], name
    Image.fromarray(np.full((4, 4), 255, np.int32)).save(tmp_path / "32.tif")
    with pytest.raises(Refusal, match=r"32\.tif has integers of Pillow's mode I, whose white is unknown"):
        decoded(tmp_path / "32.tif", 4, 1)


@pytest.mark.parametrize(("white", "dark"), [(4095, True), (65535, False)])
def test_images_that_are_all_dark_are_said(tmp_path: Path, white: int, dark: bool) -> None:
    for c, label in enumerate(("cat", "dog")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), white * c, np.uint16)).save(tmp_path / "pets" / label / "0.png")
    notes = load(tmp_path / "pets", 4, 1).notes
    assert [note[:55] for note in notes] == ["the brightest pixel of all images is 15 of 255; if they"] * dark


@pytest.mark.skipif(not CIFAR.is_file(), reason="the JPEG images of CIFAR-10 are not on this machine")
def test_real_photographs_are_learned_from(regrun: Regrun, tmp_path: Path) -> None:
    with zipfile.ZipFile(CIFAR) as archive:
        names = [name for name in archive.namelist() if name.endswith((*(f"00{i:02}.jpg" for i in range(24)),))]
        archive.extractall(tmp_path, names)
    data = load(tmp_path / "cifar10", 32)
    assert (len(data.y), data.classes) == (480, 10)
    assert 100 < data.x.float().mean().item() < 140  # the whole training set's is 120.7
    told = regrun(
        "data=image_folder", "data.path=cifar10", "data.name=photos", "model=linear", "epochs=2", "batch_size=20",
        "seeds=1", "data.val_size=40", "study=s", "progress=false",
    )  # fmt: skip
    assert told.code == 0, told.err
    (row,) = read_table(tmp_path / "outputs" / "s" / "runs.csv")
    assert (row["dataset"], row["n_train"], row["n_val"], row["n_test"]) == ("photos", "200", "40", "240")
