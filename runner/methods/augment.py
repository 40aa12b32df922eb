"""Data augmentation: the standard one of each kind of data, on the device, its own draw for every example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Batch, Method, Now, Strength, given, strength

# What each operation does at amount a (already times the method's strength), and the kinds of data it suits.
OPERATIONS = {
    "shift": ("signal", "image"),  # move by up to a (a share of the length), edges repeated; signals wrap round
    "scale": ("signal",),  # multiply by a factor between 1 - a and 1 + a
    "rotate": ("image",),  # turn by up to a degrees
    "flip": ("image",),  # mirror left to right with probability a, at most one half
    "noise": ("signal", "image", "table"),  # add normal noise of standard deviation a (standardized units)
    "swap": ("table",),  # replace each cell, with probability a, by the same column of another row
}
KIND_OF_NDIM = {2: "table", 3: "signal", 4: "image"}


@dataclass(frozen=True)
class Augment(Method):
    """Show the net a randomly changed copy of every example, the label unchanged  (Simard et al. 2003).

    `policy` gives the amount of each operation at magnitude 1; conf/data has the usual one of each data set. The
    magnitude multiplies them all.
    """

    family: ClassVar[str] = "input"
    magnitude: Strength = strength(0, off=0)
    policy: dict[str, float] = given()

    def batch(self, batch: Batch, now: Now) -> Batch:
        """x [B, ...] changed by each operation of the policy in turn."""
        x = batch.x
        kind = KIND_OF_NDIM[x.ndim]
        for name, amount in self.policy.items():
            if kind not in OPERATIONS.get(name, ()):
                usable = ", ".join(n for n, kinds in OPERATIONS.items() if kind in kinds)
                raise Refusal(f"data.augment.{name} does not suit {kind} data; choose from: {usable} (conf/data)")
            if amount < 0:
                raise Refusal(f"data.augment.{name} is {amount:g}; it must be at least 0 (conf/data)")
            x = _FUNCTIONS[name](x, amount * torch.as_tensor(self.magnitude, device=x.device), now.key.fold(name))
        return batch._replace(x=x)


def shift(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Each example of x [B, C, T] rolled, or of x [B, C, H, W] moved with its edge repeated, by up to `amount`."""
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        along = [-1 if d == axis else 1 for d in range(x.ndim)]
        draw = 2 * key.fold(axis).uniform(x.shape[0], *[1] * (x.ndim - 1)) - 1  # [B, 1, ...]
        source = torch.arange(length, device=x.device).view(along) - (draw * amount * length).round().long()
        source = source % length if x.ndim == 3 else source.clamp(0, length - 1)
        x = x.gather(axis, source.expand(x.shape))
    return x


def scale(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Each example of x [B, ...] times its own factor in [1 - amount, 1 + amount]."""
    return x * (1 + amount * (2 * key.uniform(x.shape[0], *[1] * (x.ndim - 1)) - 1))


def rotate(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Each image of x [B, C, H, W] turned by up to `amount` degrees, bilinear, its edge repeated."""
    angle = (2 * key.uniform(x.shape[0], 1, 1) - 1) * amount * (math.pi / 180)  # [B, 1, 1]
    height, width = x.shape[2:]
    down = torch.arange(height, device=x.device)[:, None] - (height - 1) / 2  # pixels from the centre
    right = torch.arange(width, device=x.device)[None, :] - (width - 1) / 2
    source = torch.stack(  # grid_sample's coordinates run from -1 to 1 between the outer edges
        [
            (angle.cos() * right - angle.sin() * down) * (2 / width),
            (angle.sin() * right + angle.cos() * down) * (2 / height),
        ],
        dim=3,
    )  # [B, H, W, 2]
    turned = F.grid_sample(x, source.to(x.dtype), padding_mode="border", align_corners=False)
    return torch.where(angle[..., None] == 0, x, turned)  # an unturned image is not resampled


def flip(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Each image of x [B, C, H, W] mirrored left to right with probability `amount`, at most one half."""
    return torch.where(key.uniform(x.shape[0], 1, 1, 1) < amount.clamp_max(0.5), x.flip(-1), x)


def noise(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """x [B, ...] plus normal noise of standard deviation `amount`."""
    return x + amount * key.normal(*x.shape)


def swap(x: Tensor, amount: Tensor, key: Key) -> Tensor:
    """Each cell of x [B, F], with probability `amount`, from the same column of another row of the batch.

    The indicators of a text's values are columns of their own, so that a row may be left with none of them or with two.
    """
    where, partner = key.split(2)
    return torch.where(where.uniform(*x.shape) < amount, x[partner.permutation(x.shape[0])], x)


_FUNCTIONS = {"shift": shift, "scale": scale, "rotate": rotate, "flip": flip, "noise": noise, "swap": swap}
