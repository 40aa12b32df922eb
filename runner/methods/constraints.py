"""Constraints on the weights, put back in force after every step, behind all else that moves the weights then."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from runner.methods.base import Method, Now, Params, Strength, given, lengths, penalized, strength


@dataclass(frozen=True)
class MaxNorm(Method):
    """Shorten every unit's incoming weights to at most `limit`: w <- w * min(1, limit / |w|)  (Srivastava et al. 2014).

    A unit is a row of a matrix or a filter of a convolution; biases and norm parameters are left alone, and so are
    weights within the limit. Averages are brought within it too, since some begin with weights beyond it.
    """

    family: ClassVar[str] = "constraint"
    finishes: ClassVar[bool] = True
    comes_last: ClassVar[Collection[str]] = ("project",)
    limit: Strength = strength(0, off=torch.inf, open_low=True)

    def project(self, params: Params, now: Now) -> Params:
        """Every matrix and filter w [out, ...] with its units shortened."""
        kernels = penalized(params, biases=False)
        return params | {n: w * (self.limit / lengths(w)).clamp_max(1.0) for n, w in kernels.items()}

    def average(self, params: Params, now: Now) -> Params:
        """The same at evaluation."""
        return self.project(params, now)


@dataclass(frozen=True)
class UnitNorm(Method):
    """Bring every unit's incoming weights a share `rate` of the way to length 1  (Keras: `MinMaxNorm` with both at 1).

    |w| <- rate + (1 - rate) |w| after each step, for rows of matrices and filters; a unit whose weights are all zero
    has no direction and is left alone. The logits' scale is then fixed as well, unless norm layers free it. At rate 1
    averages are brought to length 1 too, since a mean of unit vectors is shorter.
    """

    family: ClassVar[str] = "constraint"
    finishes: ClassVar[bool] = True
    comes_last: ClassVar[Collection[str]] = ("project",)
    rate: Strength = strength(0, 1, off=0)

    def project(self, params: Params, now: Now) -> Params:
        """Every matrix and filter w [out, ...] with its units lengthened or shortened."""

        def moved(w: Tensor) -> Tensor:
            length = lengths(w)
            length = torch.where(length > 0, length, 1.0)
            return w * ((self.rate + (1 - self.rate) * length) / length)

        return params | {name: moved(w) for name, w in penalized(params, biases=False).items()}

    def average(self, params: Params, now: Now) -> Params:
        """Units of length 1 at rate 1; as they are at rates below, which promise nothing of a single step."""
        whole, moved = torch.as_tensor(self.rate) >= 1, self.project(params, now)
        return params | {n: torch.where(whole, moved[n], w) for n, w in penalized(params, biases=False).items()}


@dataclass(frozen=True)
class NonNegative(Method):
    """Take a share `rate` off every negative weight: w <- w - rate * min(w, 0)  (Chorowski and Zurada 2015).

    At rate 1 no weight is ever below zero after a step (the `NonNeg` of Keras), nor in an average that is evaluated,
    though some begin with the initial weights; below 1 a negative weight decays geometrically.
    """

    family: ClassVar[str] = "constraint"
    finishes: ClassVar[bool] = True
    comes_last: ClassVar[Collection[str]] = ("project",)
    rate: Strength = strength(0, 1, off=0)
    biases: bool = given()

    def project(self, params: Params, now: Now) -> Params:
        """Every weight, its negative part times 1 - rate."""
        return params | {n: w - self.rate * w.clamp_max(0.0) for n, w in penalized(params, self.biases).items()}

    def average(self, params: Params, now: Now) -> Params:
        """No weight below zero at rate 1; as they are at rates below, which promise nothing of a single step."""
        whole = torch.as_tensor(self.rate) >= 1
        return params | {n: torch.where(whole & (w < 0), 0.0, w) for n, w in penalized(params, self.biases).items()}


@dataclass(frozen=True)
class Prune(Method):
    """Zero the smallest weights of every layer, ever more of them, up to `share`  (Zhu and Gupta 2017).

    After every `every`-th step, and the last, the pruned share of each matrix and filter is share * (1 - (1 - t)^3),
    where t runs from 0 to 1 between `begin` and `end`, both shares of training (all at `end`, if `begin` is not before
    it). What is pruned stays so, whatever its gradient makes of it, as it is the first to be pruned next. Ties go by
    place, so that the share is met to within one weight; of more zeros than that, as non_negative makes, the others may
    grow again. The weights evaluated are masked too, which makes an average as sparse as its last member; those of a
    best epoch before `end` are less sparse.
    """

    family: ClassVar[str] = "constraint"
    finishes: ClassVar[bool] = True
    comes_last: ClassVar[Collection[str]] = ("project",)
    share: Strength = strength(0, 1, off=0)
    begin: Strength = strength(0, 1)
    end: Strength = strength(0, 1)
    every: Strength = strength(1, whole=True, built=True)  # steps: ranking weights costs more than a small net's step

    def recall(self, params: Params) -> Params:
        """Which weights are in use, bool: all."""
        return {name: torch.ones_like(w, dtype=torch.bool) for name, w in penalized(params, biases=False).items()}

    def project(self, params: Params, now: Now) -> Params:
        """Every matrix and filter with the share of this step at zero."""
        return self.average(params, replace(now, memory=self.remember(params, now)))

    def remember(self, params: Params, now: Now) -> Params:
        """Which weights are in use: all but the share of this step, or as before between two rankings."""
        if (now.step + 1) % int(self.every) and now.step + 1 < now.steps:
            return now.memory
        done = (now.step + 1) / now.steps
        span = torch.as_tensor(self.end - self.begin).clamp_min(1e-6)
        ramp = (((done - self.begin) / span).clamp(0, 1) + (done >= self.end)).clamp_max(1)
        share = self.share * (1 - (1 - ramp) ** 3)
        return {name: ~_least(params[name], used, share) for name, used in now.memory.items()}

    def average(self, params: Params, now: Now) -> Params:
        """The weights with those not in use at zero."""
        return params | {name: torch.where(used, params[name], 0.0) for name, used in now.memory.items()}


def _least(w: Tensor, used: Tensor, share: Tensor) -> Tensor:
    """Which entries of w [...] are its least share: first those not in use, then the smallest: bool [...]."""
    order = torch.where(used, w.abs(), -1.0).flatten().argsort(stable=True)
    least = torch.arange(w.numel(), device=w.device) < (share * w.numel()).round()  # by rank
    return torch.zeros_like(least).scatter(0, order, least).view_as(w)
