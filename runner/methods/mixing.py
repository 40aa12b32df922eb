"""Methods that disturb, blank out or mix the examples of a batch, whatever kind of data they are.

Of a table they take columns as they come. Those of a text are indicators of its values, one each, and are taken singly,
so that a row may be left with none of the values or with two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.keys import Key
from runner.methods.base import Batch, Method, Now, Params, Site, Strength, choice, strength
from runner.methods.structured_dropping import marked

PROPOSALS = 10  # rectangles that random erasing tries before it leaves an image as it is, as torchvision does


@dataclass(frozen=True)
class InputNoise(Method):
    """Add normal noise of standard deviation `scale` to the inputs  (Bishop 1995), in standardized units."""

    family: ClassVar[str] = "noise"
    scale: Strength = strength(0, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] + scale * N(0, 1)."""
        return batch._replace(x=batch.x + self.scale * now.key.normal(*batch.x.shape))


@dataclass(frozen=True)
class Cutout(Method):
    """Zero a rectangle of every image, `size` of each side long, about a uniform centre  (DeVries and Taylor 2017).

    The sides are rounded to whole pixels. The part that falls outside the image is lost, so that the zeroed area is
    smaller than size^2 on average: 0.77 of it at size 0.5. Zero is the mean of standardized inputs. On signals it is a
    window of that share of the length, likewise about a uniform centre; on tables exactly that share of the columns,
    indicators of texts singly, rounded, drawn for every example.
    """

    family: ClassVar[str] = "input"
    size: Strength = strength(0, 1, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] with a part of every example zeroed."""
        x = batch.x
        sides = [(self.size * torch.as_tensor(side, device=x.device)).round() for side in spread(x)]
        return batch._replace(x=torch.where(around(x, sides, now.key, x.shape[0]), 0.0, x))


@dataclass(frozen=True)
class RandomErasing(Method):
    """Erase a rectangle of each image with `probability`  (Zhong et al. 2020).

    Its area is a uniform share of the image between `smallest` and `largest`, its height over its width log-uniform
    between `aspect` and 1/aspect (as in torchvision; the paper draws the ratio uniformly, which favours tall ones), and
    it lies inside the image: of ten draws the first that fits is taken. `fill: mean` sets it to zero, the mean of
    standardized inputs, `fill: noise` to standard normal noise. On signals it is a window of that share of the length,
    on tables that share of the columns, indicators of texts singly, and `aspect` has no part.
    """

    family: ClassVar[str] = "input"
    probability: Strength = strength(0, 1, off=0)
    smallest: Strength = strength(0, 1)
    largest: Strength = strength(0, 1)
    aspect: Strength = strength(0, 1, open_low=True)
    fill: str = choice("mean", "noise")

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] with a part of some examples erased."""
        x, size = batch.x, batch.x.shape[0]
        whether, where, noise, area, shape = now.key.split(5)
        share = self.smallest + (self.largest - self.smallest) * area.uniform(PROPOSALS, size)
        if x.ndim == 4:
            height, width = spread(x)
            ratio = (torch.as_tensor(self.aspect).log() * (2 * shape.uniform(PROPOSALS, size) - 1)).exp()
            high = (share * height * width * ratio).sqrt().round()
            wide = (share * height * width / ratio).sqrt().round()
            fits = (high < height) & (wide < width)  # [PROPOSALS, B]
            first = fits.to(torch.int64).argmax(0, keepdim=True)
            sides = [(side * fits).gather(0, first)[0] for side in (high, wide)]  # none if none fits
        else:
            sides = [(share[0] * side).round() for side in spread(x)]
        inside = within(x, [side.view(size, 1) for side in sides], where)
        erased = inside & (whether.uniform(size, *[1] * (x.ndim - 1)) < self.probability)
        return batch._replace(x=torch.where(erased, noise.normal(*x.shape) if self.fill == "noise" else 0.0, x))


@dataclass(frozen=True)
class Mixup(Method):
    """Mix pairs of examples and their targets, in shares that are Beta(alpha, alpha)  (Zhang et al. 2018).

    x <- share * x + (1 - share) * x[pair], and y likewise: one share for a batch, as in the paper, and the pairs are a
    random order of the batch, so that an example may meet itself. As alpha goes to 0 the share goes to 0 or 1 and the
    batch to its own examples.
    """

    family: ClassVar[str] = "input"
    alpha: Strength = strength(0, open_low=True)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] and y [B, C], mixed."""
        share, pair = _share(self.alpha, now.key), _pairs(now.key, len(batch.x))
        return Batch(_mixed(batch.x, share, pair), _mixed(batch.y, share, pair))


@dataclass(frozen=True)
class ManifoldMixup(Method):
    """Mixup of the values at one place of the net, drawn in every step  (Verma et al. 2019).

    The place is the input or a hidden layer, each as likely as any other; never the end of a residual branch, where the
    way around the branch would stay unmixed. The targets are mixed as in mixup, with the same share and pairs, after
    all that other methods do to the batch, as the values in the net are. The share, which is dear to draw, is drawn
    once a step, at the end of the step before; that of the first step is uniform, whatever alpha.
    """

    family: ClassVar[str] = "input"
    comes_last: ClassVar[Collection[str]] = ("batch",)
    alpha: Strength = strength(0, open_low=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one that is not marked."""
        return marked(net, "manifold_mixup", "input", "hidden")

    def batch(self, batch: Batch, now: Now) -> Batch:
        """y [B, C], mixed."""
        return batch._replace(y=_mixed(batch.y, self._share(now), _pairs(now.key, len(batch.y))))

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...], mixed if this is the step's place."""
        if site.kind not in ("input", "hidden"):
            return h
        places = [index for index, kind in enumerate(site.kinds) if kind in ("input", "hidden")]
        here = (now.key.fold("place").uniform() * len(places)).long() == places.index(site.index)
        return _mixed(h, torch.where(here, self._share(now), 1.0), _pairs(now.key, len(h)))

    def recall(self, params: Params) -> Params:
        """No share yet: the first step draws its own, at every place, and so a cheap one."""
        return {"share": torch.ones((), device=next(iter(params.values())).device)}

    def remember(self, params: Params, now: Now) -> Params:
        """The share [] of the next step."""
        return {"share": _share(self.alpha, now.key)}

    def _share(self, now: Now) -> Tensor:
        first = now.key.fold("first").uniform()
        return torch.where(torch.as_tensor(now.step, device=first.device) == 0, first, now.memory.get("share", first))


@dataclass(frozen=True)
class CutMix(Method):
    """Paste a rectangle of another image into each, and its share of the target  (Yun et al. 2019).

    The rectangle has the image's proportions and a share 1 - Beta(alpha, alpha) of its area, about a uniform centre,
    the same for a whole batch; the targets are mixed by the area that is really pasted, after rounding to whole pixels
    and without what falls outside the image. On signals it is a window, on tables a random set of columns, in which
    indicators of texts are taken singly.
    """

    family: ClassVar[str] = "input"
    alpha: Strength = strength(0, open_low=True)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] with parts of other examples, y [B, C] in proportion."""
        share, pair = _share(self.alpha, now.key), _pairs(now.key, len(batch.x))
        axes = spread(batch.x)
        sides = [((1 - share) ** (1 / len(axes)) * side).round() for side in axes]
        pasted = around(batch.x, sides, now.key.fold("where"), 1)  # [1, ...]
        x = torch.where(pasted, batch.x[pair], batch.x)
        return Batch(x, _mixed(batch.y, 1 - pasted.float().mean(), pair))


def spread(x: Tensor) -> list[int]:
    """The lengths of the axes of x along which a part of an example can be cut out: T, or H and W, or columns F."""
    return list(x.shape[2:]) if x.ndim > 2 else [x.shape[1]]


def around(x: Tensor, sides: list[Tensor], key: Key, draws: int) -> Tensor:
    """The cells of x within `sides` of a uniform centre, of all channels: bool, [draws, 1, ...] or [draws, F].

    A side is a whole number []; what falls outside is left out. Of a table the part is that many random columns.
    """
    lengths = spread(x)
    centres = [(key.fold(axis).uniform(draws, 1) * length).floor() for axis, length in enumerate(lengths)]
    begins = [centre - (side / 2).floor() for centre, side in zip(centres, sides, strict=True)]
    return _part(x, begins, sides, key, draws)


def within(x: Tensor, sides: list[Tensor], key: Key) -> Tensor:
    """The cells of a uniform place of x where `sides` fit, of all channels: bool, [B, 1, ...] or [B, F].

    A side is [B, 1]. Of a table the part is that many random columns.
    """
    draws = x.shape[0]
    begins = [
        (key.fold(axis).uniform(draws, 1) * (length - side + 1)).floor()
        for axis, (length, side) in enumerate(zip(spread(x), sides, strict=True))
    ]
    return _part(x, begins, sides, key, draws)


def _part(x: Tensor, begins: list[Tensor], sides: list[Tensor], key: Key, draws: int) -> Tensor:
    """Of a table `sides` random columns; else the cells from `begins` [draws, 1] on, `sides` of them on each axis."""
    if x.ndim == 2:
        columns = key.bits(draws, x.shape[1]).argsort(dim=1, stable=True)  # each row a random order of 0..F-1
        return columns < sides[0]
    inside = torch.ones(draws, *[1] * (x.ndim - 1), dtype=torch.bool, device=x.device)
    for axis, (begin, side) in enumerate(zip(begins, sides, strict=True), start=2):
        at = torch.arange(x.shape[axis], device=x.device)
        band = (at >= begin) & (at < begin + side)  # [draws, length]
        inside = inside & band.view(draws, *[x.shape[axis] if d == axis else 1 for d in range(1, x.ndim)])
    return inside


def _share(alpha: Strength, key: Key) -> Tensor:
    """The share that an example keeps of itself, Beta(alpha, alpha): []."""
    return key.fold("share").beta(alpha, alpha)


def _pairs(key: Key, size: int) -> Tensor:
    """The other of each example's pair, a random order: int64 [size]. Two hooks that share a key share the pairs."""
    return key.fold("pairs").permutation(size)


def _mixed(v: Tensor, share: Tensor, pair: Tensor) -> Tensor:
    """share * v + (1 - share) * v[pair]."""
    return share * v + (1 - share) * v[pair]
