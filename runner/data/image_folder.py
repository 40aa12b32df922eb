"""A folder of images of the user's, one folder inside it for each class.

Images are decoded once, in parallel, into one file of bytes in the user's cache folder that later runs map into memory.
Archives are not unpacked and links to folders not followed, so that nothing outside the folder is read by accident and
no link leads in a circle.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runner.data.base import Data, fingerprint, overlap
from runner.errors import Refusal
from runner.files import PART
from runner.paths import cache_dir

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
PARTS = ("train", "val", "test")
LIKE_PARTS = ("training", "valid", "validation", "dev", "testing")  # what others call them; no names of classes
MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
UNREADABLE = (  # what Pillow raises at files that it cannot decode
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
FORM = 4  # of the cache file; another number makes it anew
DIGEST = 32  # bytes at its end that tell its content
BROKEN = bytes(16)  # in the place of the fingerprint of an image that cannot be read
DARK = 64  # of 255: where no pixel of any image is as bright, they were hardly meant so
BITS_PER_SAMPLE = 258  # a tag of TIFF
SAMPLE = 16  # steps between the images of a cache file that are compared with their fingerprints
CHUNK = 500  # images decoded before they are written


class NoImage(Refusal):
    """A file that cannot be read as an image, however often that is tried."""


class Listed(NamedTuple):
    """An image that was found."""

    file: str  # relative to the folder
    part: str  # one of PARTS; "train" where there is one folder to split
    label: str
    size: int  # bytes
    changed: tuple[int, int]  # nanoseconds: its content; and its content or anything else of it, which nobody can set


def image_folder(path: str, size: int, channels: int, on_error: str) -> Data:
    """The images below `path` as uint8 [N, channels, size, size]: the middle square of each, at that size.

    `path` has the folders train and test in any case (and val, whose images join those of train: each seed draws its
    validation set from both), or one folder for each class, from which each seed draws its test set too. Refuses a
    folder without classes, links to folders, and an image that cannot be decoded, which it names; with `on_error`
    "skip" such images are left out, and counted in the notes.
    """
    if on_error not in ("refuse", "skip"):
        raise Refusal(f"data.on_error is {on_error!r}; it must be refuse or skip (data.on_error=...)")
    if channels not in MODES:
        raise Refusal(f"data.channels is {channels}; it must be 1 (grey) or 3 (colour) (data.channels=...)")
    folder = Path(path)
    if not folder.is_dir():
        more = "; unpack it first" if folder.is_file() else ""
        raise Refusal(f"data.path is {path!r}, which is not a folder{more} (data.path=...)")
    return _load(folder, tuple(_listed(folder)), size, channels, on_error == "skip")


@lru_cache(maxsize=1)
def _load(folder: Path, found: Sequence[Listed], size: int, channels: int, skip: bool) -> Data:
    pixels, examples, digest = _cached(folder, found, size, channels, skip)
    notes = []
    if broken := [image.file for image, example in zip(found, examples, strict=True) if example == BROKEN]:
        notes.append(f"{len(broken)} of {len(found)} images cannot be read and are left out, the first {broken[0]}")
        left = [image for image, example in zip(found, examples, strict=True) if example != BROKEN]
        _have_all(folder, found, left)
        found = left
        examples = [example for example in examples if example != BROKEN]
    classes = sorted({image.label for image in found if image.part != "test"})
    for image in found:
        if image.label not in classes:
            raise Refusal(f"{folder / image.file} is of the class {image.label!r}, which {folder / 'train'} has not")
    if len(classes) < 2:
        raise Refusal(f"{folder} has images of one class only, {classes[0]!r}; there must be two")
    if (brightest := int(pixels.max())) < DARK:
        notes.append(
            f"the brightest pixel of all images is {brightest} of 255; if they hold fewer bits than their files have "
            "room for, save them with 8 or 16 bits that are used in full"
        )
    number = {label: i for i, label in enumerate(classes)}
    test = torch.tensor([row for row, image in enumerate(found) if image.part == "test"], dtype=torch.int64)
    x = torch.from_numpy(pixels)
    return Data(
        name=folder.resolve().name,
        kind="image",
        x=x,
        y=torch.tensor([number[image.label] for image in found]),
        classes=len(classes),
        official_test=test if len(test) else None,
        content=digest,
        notes=(*notes, *overlap(examples, test)),
    )


def _have_all(folder: Path, found: Sequence[Listed], left: Sequence[Listed]) -> None:
    """Refuses a class to train on, or a test set, that has lost all its images because they cannot be read."""

    def owner(image: Listed) -> str:
        return "the test set" if image.part == "test" else f"the class {image.label!r}"

    for gone in sorted({owner(image) for image in found} - {owner(image) for image in left}):
        files = [image.file for image in found if owner(image) == gone]
        raise Refusal(
            f"none of the {len(files)} images of {gone} of {folder} can be read, the first {files[0]}; mend them "
            "(data.on_error=refuse says why)"
        )


def _listed(folder: Path) -> Iterator[Listed]:
    """All images below the folder, in the order of their names."""
    parts = _parts(folder)
    for there in parts or ("",):
        labels = _folders(folder / there)
        if not labels:
            raise Refusal(f"{folder / there} has no folder inside it; it must have one for each class")
        _are_classes(folder / there, labels)
        for label in labels:
            empty = True
            for file in _images(folder / there / label):
                empty, about = False, file.stat()
                where = file.relative_to(folder).as_posix()
                changed = about.st_mtime_ns, about.st_ctime_ns
                yield Listed(where, parts.get(there, "train"), label, about.st_size, changed)
            if empty:
                raise Refusal(
                    f"{folder / there / label} has no image in it ({' '.join(SUFFIXES)}); every folder there is a class"
                )


def _parts(folder: Path) -> dict[str, str]:
    """Which of PARTS each folder in it is, in any case of its letters; nothing where they are the classes' folders."""
    names = _folders(folder)
    parts = {name: name.lower() for name in names if name.lower() in PARTS + LIKE_PARTS}
    known = sorted(parts.values())
    if len(parts) == len(names) and "train" in known and known == sorted({*known} & {*PARTS}):
        return parts
    if len(parts) > 1:
        odd = next((name for name in names if name.lower() not in PARTS), names[-1])
        beside = next(name for name in parts if name != odd)
        raise Refusal(
            f"{folder} has a folder {odd!r} beside {beside}; it must have train (and val and test) and no "
            "other, or the classes' folders themselves"
        )
    return {}


def _are_classes(folder: Path, labels: Sequence[str]) -> None:
    """Refuses folders that all hold the same folders and no image: the classes are one level further down."""
    inside = [_folders(folder / label) for label in labels]
    alike = len(labels) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside)
    if alike and not any(path.suffix.lower() in SUFFIXES for label in labels for path in (folder / label).iterdir()):
        raise Refusal(
            f"{folder} has the folders {labels[0]!r} and {labels[1]!r}, which would be classes, but all of them hold "
            f"the same folders ({inside[0][0]}, {inside[0][1]}, ...) and no image; put a folder for each class there, "
            "or train and test with such folders in them"
        )


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, in order, hidden ones left out."""
    names = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")) or not path.is_dir():
            continue
        _no_link(path)
        names.append(path.name)
    return names


def _images(folder: Path) -> Iterator[Path]:
    """The image files below a folder of a class, in order; those of folders inside it too."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            _no_link(path)
            yield from _images(path)
        elif path.suffix.lower() in SUFFIXES:
            if not path.is_file():
                raise Refusal(f"{path} is a link to nothing; mend or remove it")
            yield path


def _no_link(path: Path) -> None:
    if path.is_symlink():
        raise Refusal(f"{path} is a link to a folder, which is not followed; put the folder itself there")


def _cached(
    folder: Path, found: Sequence[Listed], size: int, channels: int, skip: bool
) -> tuple[NDArray[np.uint8], list[bytes], str]:
    """The pixels of the images that can be read, a fingerprint of each that was found, and what tells their content.

    They are decoded if no earlier run has done so. A lock lets one process decode while others wait for it, and the
    file is put in place whole: the pixels, the fingerprints, and a digest of it all. Where the cache folder cannot be
    written to, the pixels are kept in memory.
    """
    about = json.dumps([FORM, str(folder.resolve()), size, channels, skip, found])
    path = cache_dir() / f"images-{hashlib.sha256(about.encode()).hexdigest()[:24]}.bin"
    tail, each = len(found) * len(BROKEN) + DIGEST, channels * size * size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _is_whole(path, len(found), each):
                mark = f".{path.name}."
                for left in path.parent.glob(f"{mark}*{PART}"):  # by a process that was killed: the lock is ours
                    left.unlink()
                with tempfile.NamedTemporaryFile(dir=path.parent, prefix=mark, suffix=PART, delete=False) as part:
                    try:
                        _decode_all(folder, found, size, channels, skip, part)
                        os.fsync(part.fileno())
                        os.replace(part.name, path)
                    except BaseException:
                        Path(part.name).unlink()
                        raise
    except OSError:
        memory = io.BytesIO()
        _decode_all(folder, found, size, channels, skip, memory)
        raw = np.frombuffer(memory.getbuffer(), np.uint8)
    else:
        raw = np.memmap(path, np.uint8, "c")  # copied where it is written to, which nothing does
    examples = _prints(raw[-tail:-DIGEST].tobytes())
    return raw[:-tail].reshape(-1, channels, size, size), examples, raw[-DIGEST:].tobytes().hex()[:16]


def _is_whole(path: Path, count: int, each: int) -> bool:
    """Whether the cache file has as many images of `each` bytes as it says of `count` found, and a few are unspoiled.

    These are compared with their fingerprints; to compare all would be to read all of the file.
    """
    tail = count * len(BROKEN) + DIGEST
    if not path.is_file() or path.stat().st_size < tail:
        return False
    with path.open("rb") as file:
        file.seek(-tail, os.SEEK_END)
        there = [example for example in _prints(file.read(tail - DIGEST)) if example != BROKEN]
        if path.stat().st_size != len(there) * each + tail:
            return False
        for row in {round(i * (len(there) - 1) / SAMPLE) for i in range(SAMPLE + 1)} if there else ():
            file.seek(row * each)
            if fingerprint(file.read(each)) != there[row]:
                return False
    return True


def _prints(raw: bytes) -> list[bytes]:
    return [raw[i : i + len(BROKEN)] for i in range(0, len(raw), len(BROKEN))]


def _decode_all(folder: Path, found: Sequence[Listed], size: int, channels: int, skip: bool, into: IO[bytes]) -> None:
    """Write the pixels of all images that can be read, the fingerprints of all, and a digest of this and the names."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    def one(image: Listed) -> bytes:
        try:
            return decoded(folder / image.file, size, channels)
        except NoImage:
            if not skip:
                raise
            return b""

    digest = hashlib.sha256(json.dumps([image[:3] for image in found]).encode())
    examples = bytearray()
    chunks = [found[i : i + CHUNK] for i in range(0, len(found), CHUNK)]
    console = Console(stderr=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        for chunk in track(chunks, f"decoding {escape(str(folder))}", console=console, disable=not sys.stderr.isatty()):
            for pixels in pool.map(one, chunk):
                into.write(pixels)
                digest.update(pixels)
                examples += fingerprint(pixels) if pixels else BROKEN
    into.write(examples)
    digest.update(examples)
    into.write(digest.digest())
    into.flush()


def decoded(file: Path, size: int, channels: int) -> bytes:
    """One image's middle square as bytes [channels, size, size], turned as its camera says, white where it is clear."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            square = ImageOps.fit(_eight_bits(upright, file, _bits(image)), (size, size), Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        if isinstance(error, Refusal):
            raise
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: it seeks before its begin
            raise Refusal(f"{file} cannot be read now ({error}); try again, or mend or remove it") from error
        why = " ".join(str(error).split()) or type(error).__name__
        raise NoImage(f"{file} cannot be read as an image ({why}); mend or remove it") from error
    pixels = np.asarray(square.convert(MODES[channels]))
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)).tobytes()


def _bits(image: Image.Image) -> int:
    """How many bits the white of an image as it was opened has: 8, or of integers what the file says; 0: unknown."""
    if not image.mode.startswith("I"):
        return 8
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have 16 bits there, whatever Pillow's version
        return 0
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return int(bits[0])


def _eight_bits(image: Image.Image, file: Path, bits: int) -> Image.Image:
    """The image, whose white has so many bits, in a mode of 8 bits without transparency."""
    if image.mode == "F" or not bits:
        what = "floating-point pixels" if image.mode == "F" else f"integers of Pillow's mode {image.mode}"
        raise NoImage(f"{file} has {what}, whose white is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # which Pillow would cut off at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) // 2 ** (bits - 8)).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
