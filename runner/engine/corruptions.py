"""Corruptions of inputs in five severities, in the manner of CIFAR-10-C  (Hendrycks and Dietterich 2019).

Each takes examples in input units, before standardization, and is keyed, so that every method meets the same ones.
Images are taken to [0, 1] first, and back. Their constants are those of CIFAR-10-C but for two blurs, defocus and
motion, whose kernels are of other forms; lengths, which are there in pixels of 32 x 32 images, go with the side. Where
ours is simpler than theirs, its docstring says so. Signals and tables have no such benchmark; theirs are in standard
deviations of the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from runner.keys import Key

SEVERITIES = (1, 2, 3, 4, 5)
# The luminance table of JPEG (ITU T.81, annex K.1).
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


class Frame(NamedTuple):
    """What the training rows of one run say about the range of its inputs."""

    low: Tensor  # []: the lowest training value
    high: Tensor  # []: the highest
    mean: Tensor  # per channel [C, 1] or column [F]; of an indicator 0; of images unused
    sd: Tensor  # likewise; of an indicator 0, so that it is neither noisy nor scaled


Change: TypeAlias = Callable[[Tensor, float, Key, Frame], Tensor]


class Corruption(NamedTuple):
    """What is done to examples x [B, ...], and how much of it at each severity."""

    change: Change
    levels: Sequence[float]
    common: bool = False  # whether one draw is for all examples of a run


def frame(x: Tensor, kind: str, indicators: Tensor | None) -> Frame:
    """The frame of a run with training inputs x [n, ...] of this kind of data."""
    if kind == "image":
        low, high = (end.double() for end in x.aminmax())
        return Frame(low, high, low, high - low)
    values = x.double()
    if kind == "signal":
        mean, sd = values.mean((0, 2))[:, None], values.std((0, 2), unbiased=False)[:, None]
    else:
        there = values.isfinite()
        count = there.sum(0).clamp_min(1)
        mean = torch.where(there, values, 0.0).sum(0) / count
        sd = (torch.where(there, (values - mean) ** 2, 0.0).sum(0) / count).sqrt()
        if indicators is not None:
            mean, sd = (torch.where(indicators.to(mean.device), 0.0, part) for part in (mean, sd))
    return Frame(values.nan_to_num().amin(), values.nan_to_num().amax(), mean, sd)


def corrupted(x: Tensor, kind: str, name: str, severity: int, key: Key, about: Frame) -> Tensor:
    """Examples x [B, ...] of a kind of data in input units, under the corruption of this name at a severity of 1 to 5.

    `key` is that of the run and these examples, or of the run where the corruption is common to all; the name and the
    severity are folded in here.
    """
    corruption = CORRUPTIONS[kind][name]
    about = Frame(*(part.to(x.dtype) for part in about))
    own = key.fold(name).fold(severity)
    level = corruption.levels[severity - 1]
    if kind != "image":
        return corruption.change(x, level, own, about)
    span = torch.where(about.high > about.low, about.high - about.low, 1.0)
    unit = ((x - about.low) / span).clamp(0, 1)
    return about.low + span * corruption.change(unit, level, own, about).clamp(0, 1)


# -- images [B, C, H, W] in [0, 1]; what leaves the range is clamped to it ---------------------------------------------
def _gaussian_noise(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    return x + level * key.normal(*x.shape)


def _shot_noise(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Noise of counted photons, `level` of them at 1, by the normal distribution of the Poisson's mean and variance."""
    return x + (x / level).sqrt() * key.normal(*x.shape)


def _impulse_noise(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A share of the values at 0 or 1, as many at the one as at the other."""
    which, salt = key.split(2)
    return torch.where(which.uniform(*x.shape) < level, (salt.uniform(*x.shape) < 0.5).to(x.dtype), x)


def _speckle_noise(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    return x + level * x * key.normal(*x.shape)


def _gaussian_blur(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    line = _bell(level * _pixels(x), x)
    return _filtered(x, line[:, None] * line[None])


def _defocus_blur(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """The mean over a disk of this radius, whose edge pixels count by how much it covers (theirs is blurred)."""
    radius = level * _pixels(x)
    reach = math.ceil(radius)
    fine = (torch.arange(9 * (2 * reach + 1), device=x.device, dtype=x.dtype) + 0.5) / 9 - reach - 0.5
    inside = ((fine[:, None] ** 2 + fine[None] ** 2) <= max(radius, 0.5) ** 2).to(x.dtype)
    return _filtered(x, F.avg_pool2d(inside[None], 9)[0])


def _motion_blur(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """The mean along a line of this length, within 45 degrees of level, one for all examples (theirs fades out)."""
    length = level * _pixels(x)
    reach = math.ceil(length / 2)
    angle = (key.uniform() - 0.5) * math.pi / 2
    along = torch.linspace(-0.5, 0.5, 64, device=x.device, dtype=x.dtype) * length
    columns, rows = along * angle.cos() + reach, along * angle.sin() + reach
    kernel = x.new_zeros(2 * reach + 1, 2 * reach + 1)
    for down, weigh_down in ((rows.floor(), 1 - rows.frac()), (rows.floor() + 1, rows.frac())):
        for right, weigh_right in ((columns.floor(), 1 - columns.frac()), (columns.floor() + 1, columns.frac())):
            place = (down.long().clamp(0, 2 * reach), right.long().clamp(0, 2 * reach))
            kernel = kernel.index_put(place, weigh_down * weigh_right, accumulate=True)
    return _filtered(x, kernel)


def _fog(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A cloud of noise in octaves, each half as strong as the one of twice its size, added and the maximum kept.

    Theirs is a plasma by midpoint displacement, whose octaves fade a little faster or slower with the severity.
    """
    side = max(x.shape[-2:])
    octaves = max(1, math.ceil(math.log2(side)))
    cloud = x.new_zeros(len(x), 1, *x.shape[-2:])
    for octave, own in enumerate(key.split(octaves)):
        coarse = own.uniform(len(x), 1, 2**octave + 1, 2**octave + 1).to(x.dtype)
        fine = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
        cloud = cloud + fine[..., : x.shape[-2], : x.shape[-1]] / 2**octave
    low, high = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + level * (cloud - low) / (high - low).clamp_min(1e-6)) * most / (most + level)


def _brightness(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """All channels brighter by the same (theirs adds to the value of HSV)."""
    return x + level


def _contrast(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A share of the distance to each channel's mean."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + level * (x - mean)


def _pixelate(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Box means on a grid of this share of the side, and each spread out again."""
    small = [max(1, int(side * level)) for side in x.shape[-2:]]
    large: Tensor = F.interpolate(F.interpolate(x, small, mode="area"), x.shape[-2:], mode="nearest-exact")
    return large


def _jpeg(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """The 8 x 8 cosine transform rounded to JPEG's luminance table at this quality, in each channel.

    Without its change of colours, its coarser chroma and its rounding to bytes.
    """
    tall, wide = x.shape[-2:]
    whole = F.pad(x, (0, -wide % 8, 0, -tall % 8), mode="replicate") * 255 - 128
    rows, columns = whole.shape[-2] // 8, whole.shape[-1] // 8
    blocks = whole.unflatten(-1, (columns, 8)).unflatten(-3, (rows, 8)).transpose(-2, -3)  # [B, C, rows, columns, 8, 8]
    at = torch.arange(8, device=x.device, dtype=x.dtype)
    cosines = torch.cos((2 * at[None] + 1) * at[:, None] * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    factor = 5000 / level if level < 50 else 200 - 2 * level
    table = ((torch.tensor(LUMINANCE, device=x.device, dtype=x.dtype) * factor + 50) / 100).floor().clamp(1, 255)
    blocks = cosines.T @ ((cosines @ blocks @ cosines.T / table).round() * table) @ cosines
    whole = blocks.transpose(-2, -3).flatten(-4, -3).flatten(-2)[..., :tall, :wide]
    bright: Tensor = (whole + 128) / 255
    return bright


def _pixels(x: Tensor) -> float:
    """How many pixels of x one of a 32 x 32 image is."""
    return min(x.shape[-2:]) / 32


def _bell(sigma: float, like: Tensor) -> Tensor:
    """A normal density at whole numbers up to four sigma, of sum 1."""
    reach = max(1, math.ceil(4 * sigma))
    at = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    line = torch.exp(-((at / sigma) ** 2) / 2)
    return line / line.sum()


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """x [B, C, H, W] convolved with a kernel of any sum, here made 1, its edge pixels repeated outwards."""
    half = [side // 2 for side in kernel.shape]
    padded = F.pad(x, (half[1], half[1], half[0], half[0]), mode="replicate")
    flat = padded.flatten(0, 1)[:, None]
    return F.conv2d(flat, (kernel / kernel.sum())[None, None]).view(x.shape)


# -- signals [B, C, T] -------------------------------------------------------------------------------------------------
def _noise(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Normal noise, in standard deviations; of tables, too."""
    return x + level * about.sd * key.normal(*x.shape)


def _spikes(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A share of the values four standard deviations above or below the mean; of tables, too."""
    which, sign = key.split(2)
    far = about.mean + 4 * about.sd * _signs(sign, *x.shape)
    return torch.where((which.uniform(*x.shape) < level) & (about.sd > 0), far, x)


def _smoothing(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A normal density along time, `level` its standard deviation in fortieths of the length."""
    line = _bell(level * x.shape[-1] / 40, x)
    half = len(line) // 2
    flat = F.pad(x, (half, half), mode="replicate").flatten(0, 1)[:, None]
    return F.conv1d(flat, line[None, None]).view(x.shape)


def _shift(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Earlier or later by this share of the length, the end value repeated."""
    steps = round(level * x.shape[-1]) * _signs(key, len(x)).long()
    at = (torch.arange(x.shape[-1], device=x.device) - steps[:, None]).clamp(0, x.shape[-1] - 1)
    return x.gather(2, at[:, None].expand(x.shape))


def _offset(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Each channel of an example up or down."""
    return x + level * about.sd * _signs(key, *x.shape[:2], 1)


def _scale(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """The distance to the mean larger or smaller by this share, one draw an example; of tables, too."""
    stretched = x + level * _signs(key, len(x), *[1] * (x.ndim - 1)) * (x - about.mean)
    return torch.where(about.sd > 0, stretched, x)


def _drift(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A straight line from -level/2 to level/2 standard deviations, or the other way."""
    line = torch.linspace(-0.5, 0.5, x.shape[-1], device=x.device, dtype=x.dtype)
    return x + level * about.sd * _signs(key, len(x), 1, 1) * line


def _missing(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A share of the values at the training mean (of an indicator 0); of tables, too."""
    return torch.where(key.uniform(*x.shape) < level, about.mean, x)


def _gap(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A stretch of this share of the length at the training mean."""
    length = max(1, round(level * x.shape[-1]))
    start = (key.uniform(len(x), 1, 1) * (x.shape[-1] - length + 1)).long()
    at = torch.arange(x.shape[-1], device=x.device)
    return torch.where((at >= start) & (at < start + length), about.mean, x)


def _rounding(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """To the nearest of steps of so many standard deviations from the mean; of tables, too."""
    step = level * torch.where(about.sd > 0, about.sd, 1.0)
    return torch.where(about.sd > 0, about.mean + step * ((x - about.mean) / step).round(), x)


# -- tables [B, F] -----------------------------------------------------------------------------------------------------
def _swapped(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """A share of the cells with the value of another row in the same column."""
    which, whose = key.split(2)
    return torch.where(which.uniform(*x.shape) < level, x[whose.permutation(len(x))], x)


def _column_offset(x: Tensor, level: float, key: Key, about: Frame) -> Tensor:
    """Each column up or down in all rows, as an instrument that is set wrongly."""
    return x + level * about.sd * _signs(key, x.shape[1])


def _signs(key: Key, *shape: int) -> Tensor:
    return 1 - 2 * (key.uniform(*shape) < 0.5).to(torch.float32)


CORRUPTIONS: Mapping[str, Mapping[str, Corruption]] = {
    "image": {
        "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
        "shot_noise": Corruption(_shot_noise, (500, 250, 100, 75, 50)),
        "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
        "speckle_noise": Corruption(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
        "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
        "defocus_blur": Corruption(_defocus_blur, (0.7, 0.9, 1.1, 1.3, 1.6)),
        "motion_blur": Corruption(_motion_blur, (2, 3, 4, 5, 6), common=True),
        "fog": Corruption(_fog, (0.2, 0.5, 0.75, 1.0, 1.5)),
        "brightness": Corruption(_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
        "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
        "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
        "jpeg": Corruption(_jpeg, (80, 65, 58, 50, 40)),
    },
    "signal": {
        "noise": Corruption(_noise, (0.1, 0.2, 0.3, 0.5, 0.8)),
        "spikes": Corruption(_spikes, (0.01, 0.02, 0.04, 0.07, 0.10)),
        "smoothing": Corruption(_smoothing, (0.5, 1.0, 1.5, 2.0, 3.0)),
        "shift": Corruption(_shift, (0.025, 0.05, 0.1, 0.15, 0.2)),
        "offset": Corruption(_offset, (0.1, 0.2, 0.3, 0.5, 0.8)),
        "scale": Corruption(_scale, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "drift": Corruption(_drift, (0.25, 0.5, 1.0, 1.5, 2.0)),
        "missing": Corruption(_missing, (0.05, 0.1, 0.2, 0.3, 0.4)),
        "gap": Corruption(_gap, (0.05, 0.1, 0.15, 0.2, 0.3)),
        "rounding": Corruption(_rounding, (0.25, 0.5, 0.75, 1.0, 1.5)),
    },
    "table": {
        "noise": Corruption(_noise, (0.1, 0.2, 0.3, 0.5, 0.8)),
        "spikes": Corruption(_spikes, (0.01, 0.02, 0.04, 0.07, 0.10)),
        "missing": Corruption(_missing, (0.05, 0.1, 0.2, 0.3, 0.4)),
        "swapped": Corruption(_swapped, (0.05, 0.1, 0.2, 0.3, 0.4)),
        "offset": Corruption(_column_offset, (0.1, 0.2, 0.3, 0.5, 0.8), common=True),
        "scale": Corruption(_scale, (0.1, 0.2, 0.3, 0.4, 0.5)),
        "rounding": Corruption(_rounding, (0.25, 0.5, 0.75, 1.0, 1.5)),
    },
}
