"""Augmentation policies that draw an operation and its amount for every example, batched and on the device.

Images have the operations of RandAugment but equalize (a histogram for every image) and colour, which grey ones have
not; standardized values are read as running from black to white between the smallest and the largest of the image,
and what moves in from outside is black. A grey image then runs from black to white as it is, so that autocontrast does
nothing to it where it acts first. Signals have operations of their own. Tables have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Batch, Method, Now, Seen, Strength, strength

# Operations and their amounts at full strength: shears as slopes, translations as shares of the side, rotations in
# degrees, brightness, contrast and sharpness as changes of a factor of 1, posterize in bits of 8 removed, coarsen in
# bits of 4 removed, solarize as the share of the range, from white down, that is inverted; autocontrast is done in full
# where it is drawn; shifts and cutouts as shares of the length, scale as a change of a factor of 1, tilt and noise in
# standardized units.
Menu: TypeAlias = Mapping[str, float]
Apply: TypeAlias = Callable[[Tensor, Tensor, Key], Tensor]  # (values, amounts that broadcast to them, key)

LEVELS = 30  # the magnitude of full strength
RAND: Mapping[str, Menu] = {  # of RandAugment in torchvision
    "image": {
        "identity": 0, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45, "translate_y": 0.45, "rotate": 30,
        "brightness": 0.9, "contrast": 0.9, "sharpness": 0.9, "posterize": 4, "solarize": 1, "autocontrast": 1,
    },
    "signal": {"identity": 0, "shift": 0.3, "scale": 0.6, "tilt": 1, "noise": 0.5, "smooth": 1, "cutout": 0.3},
}  # fmt: skip
WIDE: Mapping[str, Menu] = {  # of TrivialAugment in torchvision
    "image": {
        "identity": 0, "shear_x": 0.99, "shear_y": 0.99, "translate_x": 1, "translate_y": 1, "rotate": 135,
        "brightness": 0.99, "contrast": 0.99, "sharpness": 0.99, "posterize": 6, "solarize": 1, "autocontrast": 1,
    },
    "signal": {"identity": 0, "shift": 0.5, "scale": 0.99, "tilt": 2, "noise": 1, "smooth": 1, "cutout": 0.6},
}  # fmt: skip
MIXED: Mapping[str, Menu] = {  # of AugMix: nothing that is like the corruptions it should be robust to
    "image": {
        "shear_x": 0.3, "shear_y": 0.3, "translate_x": 1 / 3, "translate_y": 1 / 3, "rotate": 30, "coarsen": 4,
        "solarize": 1, "autocontrast": 1,
    },
    "signal": {"shift": 0.3, "scale": 0.6, "tilt": 1, "smooth": 1, "cutout": 0.3},
}  # fmt: skip
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")  # one resampling does them all
SIGNED = (*MOVES, "brightness", "contrast", "sharpness", "shift", "scale", "tilt")  # up or down with equal chances
DEPTH = 3  # operations in a chain of AugMix, at most


@dataclass(frozen=True)
class RandAugment(Method):
    """Change every example by `count` operations drawn for it, all of one magnitude  (Cubuk et al. 2020).

    `magnitude` is of 30, as in torchvision; the paper counts to 10 for the same amounts, so that its M is a third.
    """

    family: ClassVar[str] = "input"
    magnitude: Strength = strength(0, LEVELS, off=0)
    count: Strength = strength(1, whole=True, built=True)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] after its operations."""
        share = torch.as_tensor(self.magnitude / LEVELS, device=batch.x.device).expand(len(batch.x))
        menu = _menu("rand_augment", RAND, batch.x)
        return batch._replace(x=changed(batch.x, menu, [share] * int(self.count), now.key))


@dataclass(frozen=True)
class TrivialAugment(Method):
    """Change every example by one operation of a magnitude drawn for it  (Müller and Hutter 2021).

    The amounts are uniform between 0 and `magnitude` times those of the paper's wide space; the paper has 1, and
    nothing to tune.
    """

    family: ClassVar[str] = "input"
    magnitude: Strength = strength(0, 1, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] after its operation."""
        share, operation = now.key.split(2)
        shares = self.magnitude * share.uniform(len(batch.x))
        return batch._replace(x=changed(batch.x, _menu("trivial_augment", WIDE, batch.x), [shares], operation))


@dataclass(frozen=True)
class AugMix(Method):
    """x <- x + m * sum_i w_i (chain_i(x) - x), over `width` chains of operations  (Hendrycks et al. 2020).

    A chain is one to three operations, each of an amount uniform between 0 and a tenth of `severity` times that of the
    menu; w is uniform on the simplex and m on [0, 1] (the paper's Dirichlet(1) and Beta(1, 1)), all drawn for every
    example. The cross-entropy is that of the mixed examples; `aug_mix_jsd` has the paper's consistency loss.
    """

    family: ClassVar[str] = "input"
    severity: Strength = strength(0, 10, off=0)
    width: Strength = strength(1, whole=True, built=True)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] mixed with its changed copies."""
        return batch._replace(x=self._mixed(batch.x, now.key))

    def _mixed(self, x: Tensor, key: Key) -> Tensor:
        menu, size = _menu("aug_mix", MIXED, x), len(x)
        weights, mix, *chains = key.split(2 + int(self.width))
        w = -torch.log1p(-weights.uniform(len(chains), size))  # exponential: their shares of the sum are uniform
        w = w / w.sum(0).clamp_min(1e-30) * mix.uniform(size)  # [width, B]
        moved = torch.zeros_like(x)
        for share, chain in zip(w, chains, strict=True):
            depth, amounts, operations = chain.split(3)
            steps = 1 + (depth.uniform(size) * DEPTH).floor()
            shares = self.severity / 10 * amounts.uniform(DEPTH, size)
            kept = [torch.where(step < steps, shares[step], 0.0) for step in range(DEPTH)]
            moved = moved + _along(share, x) * (changed(x, menu, kept, operations) - x)
        return x + moved


@dataclass(frozen=True)
class AugMixJSD(AugMix):
    """+ rate * Jensen-Shannon divergence of the predictions for x and two mixed copies  (Hendrycks et al. 2020).

    The copies are those of AugMix; the cross-entropy is that of x, which stays as it is.
    """

    classes: ClassVar[bool] = True
    passes: ClassVar[float] = 3.0
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("Mixup", "CutMix", "ManifoldMixup"),
        "its loss compares views of one example, and mixing pairs every example with another",
    )
    rate: Strength = strength(0, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """The batch as it is."""
        return batch

    def penalty(self, seen: Seen, now: Now) -> Tensor:
        """rate * mean over the three of KL(p_i || mean p), and exactly 0 at severity 0: []."""
        logits = [seen.logits]
        for key in now.key.split(2):
            draw, noise = key.split(2)
            logits.append(seen.forward(self._mixed(seen.batch.x, draw), noise))
        logp = torch.stack(logits).log_softmax(2)  # [3, B, C]
        mean = logp.logsumexp(0) - math.log(3)
        apart = (logp.exp() * (logp - mean)).sum(2).mean()
        return self.rate * torch.where(torch.as_tensor(self.severity, device=apart.device) > 0, apart, 0.0)


def changed(x: Tensor, menu: Menu, shares: Sequence[Tensor], key: Key) -> Tensor:
    """x [B, ...] after one operation of the menu for each of `shares` [B], drawn for every example.

    A share is that of the operation's amount; what is not changed, and all where it is 0, stays as it is bit for bit.
    """
    black, span = torch.zeros_like(x[:1]), torch.ones_like(x[:1])
    if x.ndim == 4:
        around = (1, 2, 3)
        black = x.amin(around, keepdim=True)
        span = x.amax(around, keepdim=True) - black
        span = torch.where(span > 0, span, 1.0)
    before = u = (x - black) / span
    for step, share in enumerate(shares):
        u = _operated(u, menu, share.to(u.dtype), key.fold(step))
    return torch.where(u == before, x, black + span * u)


def _operated(u: Tensor, menu: Menu, share: Tensor, key: Key) -> Tensor:
    """u [B, ...] after the one operation drawn for every example, at its share [B] of the menu's amount."""
    pick, sign, own = key.split(3)
    which = (pick.uniform(len(u)) * len(menu)).long()
    signed = torch.where(sign.uniform(len(u)) < 0.5, -share, share)
    drawn = {name: (which == place) & (share > 0) for place, name in enumerate(menu)}
    amounts = {
        name: _along(torch.where(drawn[name], amount * (signed if name in SIGNED else share), 0.0), u)
        for name, amount in menu.items()
    }
    if any(name in MOVES for name in menu):
        u = moved(u, {name: amounts[name] for name in MOVES})
    for name in menu:
        if name in APPLY:
            u = torch.where(_along(drawn[name], u), APPLY[name](u, amounts[name], own), u)
    return u


def moved(u: Tensor, amounts: Mapping[str, Tensor]) -> Tensor:
    """Images u [B, C, H, W] after one of MOVES by an amount [B, 1, 1, 1] about the centre, bilinear, black outside.

    Translations are by whole pixels. At most one amount of an image is other than 0; without any it is as it was.
    """
    height, width = u.shape[2:]
    down = torch.arange(height, device=u.device, dtype=u.dtype)[:, None] - (height - 1) / 2  # pixels from the centre
    right = torch.arange(width, device=u.device, dtype=u.dtype)[None, :] - (width - 1) / 2
    shear_x, shear_y, left, up, angle = (amounts[name][:, 0] for name in MOVES)  # [B, 1, 1]
    angle = angle * (math.pi / 180)
    source_right = angle.cos() * right + (angle.sin() + shear_x) * down - (left * width).round()
    source_down = (shear_y - angle.sin()) * right + angle.cos() * down - (up * height).round()
    # grid_sample's coordinates run from -1 to 1 between the outer edges
    source = torch.stack([source_right * (2 / width), source_down * (2 / height)], dim=3)  # [B, H, W, 2]
    sampled = F.grid_sample(u, source, padding_mode="zeros", align_corners=False)
    still = torch.stack([amount == 0 for amount in amounts.values()]).all(0)
    return torch.where(still, u, sampled)


def brightness(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W] times 1 + amount, within black and white."""
    return (u * (1 + amount)).clamp(0, 1)


def contrast(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W], their distance from their mean grey times 1 + amount, within black and white."""
    grey = u.mean((1, 2, 3), keepdim=True)
    if u.shape[1] == 3:  # the luminance of ITU-R BT.601, as in torchvision
        luminance = torch.tensor([0.2989, 0.587, 0.114], dtype=u.dtype, device=u.device)
        grey = (u.mean((2, 3)) * luminance).sum(1)[:, None, None, None]
    return (grey + (1 + amount) * (u - grey)).clamp(0, 1)


def sharpness(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W], their distance from a smoothed copy times 1 + amount, within black and white.

    The copy is the mean of 3 x 3 pixels in which the middle one counts five times; the outermost pixels stay.
    """
    if min(u.shape[2:]) < 3:
        return u
    inner = (9 * F.avg_pool2d(u, 3, stride=1) + 4 * u[:, :, 1:-1, 1:-1]) / 13
    inside = F.pad(torch.ones_like(inner), (1, 1, 1, 1))
    smooth = torch.where(inside > 0, F.pad(inner, (1, 1, 1, 1)), u)
    return (smooth + (1 + amount) * (u - smooth)).clamp(0, 1)


def posterize(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W] in 2^(8 - amount) steps from black up, the amount rounded."""
    levels = torch.exp2(8 - amount.round())
    return (u * levels).floor().clamp_min(0).minimum(levels - 1) / levels


def coarsen(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W] in 2^(4 - amount) steps, the amount rounded down: what posterize is in AugMix's code."""
    return posterize(u, 4 + amount.floor(), key)


def solarize(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W], inverted where they are brighter than 1 - amount."""
    return torch.where(u > 1 - amount, 1 - u, u)


def autocontrast(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Images u [B, C, H, W], every channel stretched to run from black to white, whatever the amount."""
    low, high = u.amin((2, 3), keepdim=True), u.amax((2, 3), keepdim=True)
    return torch.where(high > low, (u - low) / torch.where(high > low, high - low, 1.0), u)


def shift(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] rolled by a share `amount` of their length, in whole points."""
    length = u.shape[2]
    source = (torch.arange(length, device=u.device) - (amount * length).round().long()) % length  # [B, 1, T]
    return u.gather(2, source.expand(u.shape))


def scale(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] times 1 + amount."""
    return u * (1 + amount)


def tilt(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] plus a line from -amount to amount."""
    return u + amount * torch.linspace(-1, 1, u.shape[2], device=u.device, dtype=u.dtype)


def noise(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] plus normal noise of standard deviation `amount`."""
    return u + amount * key.fold("noise").normal(*u.shape)


def smooth(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] a share `amount` of the way to the mean of three neighbours; the ends stay."""
    middle = (u[:, :, :-2] + u[:, :, 1:-1] + u[:, :, 2:]) / 3
    return u + amount * (torch.cat([u[:, :, :1], middle, u[:, :, -1:]], 2) - u)


def cutout(u: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Signals u [B, C, T] at 0 in a window of a share `amount` of their length about a random point."""
    at = (torch.arange(u.shape[2], device=u.device) + 0.5) / u.shape[2]
    inside = (at - key.fold("cutout").uniform(len(u), 1, 1)).abs() < amount / 2
    return torch.where(inside, 0.0, u)


APPLY: Mapping[str, Apply] = {
    "brightness": brightness, "contrast": contrast, "sharpness": sharpness, "posterize": posterize,
    "coarsen": coarsen, "solarize": solarize, "autocontrast": autocontrast,
    "shift": shift, "scale": scale, "tilt": tilt, "noise": noise, "smooth": smooth, "cutout": cutout,
}  # fmt: skip


def _menu(method: str, menus: Mapping[str, Menu], x: Tensor) -> Menu:
    """The operations for data of the kind of x; refuses tables."""
    kind = {3: "signal", 4: "image"}.get(x.ndim)
    if kind is None:
        raise Refusal(
            f"method is {method}, which has operations for images and signals; these examples are tables "
            "(another method=..., as augment, or another data=...)"
        )
    return menus[kind]


def _along(v: Tensor, like: Tensor) -> Tensor:
    """v [B], so that it broadcasts over the examples of `like` [B, ...]."""
    return v.view(-1, *[1] * (like.ndim - 1))
