"""Penalties on the weights, in the loss or as a move after the optimizer's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runner.methods.base import Method, Now, Params, Seen, Strength, choice, given, penalized, strength, total


@dataclass(frozen=True)
class L1(Method):
    """rate * sum |w|  (Tibshirani 1996), so that weights become exactly zero.

    `form: proximal` moves every weight towards zero by lr * rate after the optimizer's step and stops it there (the
    proximal step, Parikh and Boyd 2014); `form: subgradient` adds the penalty to the loss, and no weight is ever
    exactly zero. Under SGD with momentum m, rate in the proximal form weighs as (1 - m) * rate does in the loss, since
    momentum lengthens the loss's steps and not this one.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    form: str = choice("proximal", "subgradient")
    biases: bool = given()

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * sum |w|, in the subgradient form: []."""
        if self.form == "proximal":
            return 0.0
        return self.rate * total(w.abs().sum() for w in penalized(seen.params, self.biases).values())

    def project(self, params: Params, now: Now) -> Params:
        """sign(w) * max(|w| - lr * rate, 0), in the proximal form."""
        if self.form == "subgradient":
            return params
        shift = now.lr * self.rate
        return params | {n: w.sign() * (w.abs() - shift).relu() for n, w in penalized(params, self.biases).items()}


@dataclass(frozen=True)
class L2(Method):
    """rate/2 * sum w^2 added to the loss  (Krogh and Hertz 1991), the form of torch.optim.SGD's weight_decay."""

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    biases: bool = given()

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * sum w^2: []."""
        return self.rate / 2 * total((w**2).sum() for w in penalized(seen.params, self.biases).values())


@dataclass(frozen=True)
class WeightDecay(Method):
    """w <- (1 - lr * rate) * w after the step  (Loshchilov and Hutter 2019), the form of torch.optim.AdamW."""

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    biases: bool = given()

    def project(self, params: Params, now: Now) -> Params:
        """(1 - lr * rate) * w."""
        keep = 1 - torch.as_tensor(now.lr * self.rate)
        return params | {name: keep * w for name, w in penalized(params, self.biases).items()}
