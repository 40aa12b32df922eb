"""Optimizers as pure functions over the weights, each number a float or a tensor with one value per lane.

Their formulas and defaults are those of torch.optim, which tests compare them with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from runner.methods.base import Now, Params, Strength, given, penalized, strength

Hyper: TypeAlias = Mapping[str, Tensor | float]  # the optimizer's numbers at this step, by field name


@dataclass(frozen=True)
class Optimizer:
    """Rules that turn a gradient into a move. `now.lr` is the learning rate of the step, schedule included."""

    lr: Strength = strength(0, open_low=True)  # at 0 nothing is trained

    def begin(self, params: Params) -> Params:
        """The moments before the first step."""
        raise NotImplementedError

    def move(self, params: Params, gradient: Params, moments: Params, hyper: Hyper, now: Now) -> tuple[Params, Params]:
        """The weights and the moments after one step."""
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimizer):
    """v <- momentum v + g;  w <- w - lr v, or w - lr (g + momentum v) with Nesterov's look ahead  (Sutskever 2013)."""

    momentum: Strength = strength(0, 1, open_high=True)
    nesterov: bool = given()

    def begin(self, params: Params) -> Params:
        """One velocity for each weight, at zero."""
        return {name: torch.zeros_like(w) for name, w in params.items()}

    def move(self, params: Params, gradient: Params, moments: Params, hyper: Hyper, now: Now) -> tuple[Params, Params]:
        """One step of SGD."""
        like = next(iter(params.values()))
        momentum, back = torch.as_tensor(hyper["momentum"]).to(like), -torch.as_tensor(now.lr).to(like)
        velocity = {n: torch.addcmul(g, moments[n], momentum) for n, g in gradient.items()}
        ahead = {n: torch.addcmul(g, velocity[n], momentum) for n, g in gradient.items()} if self.nesterov else velocity
        return {n: torch.addcmul(w, ahead[n], back) for n, w in params.items()}, velocity


@dataclass(frozen=True)
class Adam(Optimizer):
    """w <- w - lr m / (sqrt(v) + epsilon), m and v debiased moving means of g and g^2  (Kingma and Ba 2015)."""

    beta1: Strength = strength(0, 1, open_high=True)
    beta2: Strength = strength(0, 1, open_high=True)
    epsilon: Strength = strength(0)

    def begin(self, params: Params) -> Params:
        """Two moments for each weight, at zero."""
        return {f"{moment}/{name}": torch.zeros_like(w) for moment in "mv" for name, w in params.items()}

    def move(self, params: Params, gradient: Params, moments: Params, hyper: Hyper, now: Now) -> tuple[Params, Params]:
        """One step of Adam."""
        like = next(iter(params.values()))
        beta1, beta2 = torch.as_tensor(hyper["beta1"]).double(), torch.as_tensor(hyper["beta2"]).double()
        # lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon), with the corrections taken out of the tensors
        # and computed in double precision: 1 - beta2 is small
        root = (1 - beta2 ** (now.step + 1)).sqrt()
        back = (-now.lr * root / (1 - beta1 ** (now.step + 1))).to(like)
        floor = (hyper["epsilon"] * root).to(like)
        new1, new2 = (1 - beta1).to(like), (1 - beta2).to(like)
        mean = {n: torch.lerp(moments[f"m/{n}"], g, new1) for n, g in gradient.items()}
        square = {n: torch.lerp(moments[f"v/{n}"], g * g, new2) for n, g in gradient.items()}
        # in place where the tensor is new: fresh memory is most of what these operations cost
        moved = {n: torch.addcdiv(w, mean[n], square[n].sqrt().add_(floor).div_(back)) for n, w in params.items()}
        return moved, _labelled("m", mean) | _labelled("v", square)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam after w <- (1 - lr weight_decay) w  (Loshchilov and Hutter 2019)."""

    weight_decay: Strength = strength(0, off=0)
    biases: bool = given()

    def move(self, params: Params, gradient: Params, moments: Params, hyper: Hyper, now: Now) -> tuple[Params, Params]:
        """One step of AdamW."""
        keep = 1 - torch.as_tensor(now.lr * hyper["weight_decay"]).to(next(iter(params.values())))
        decayed = params | {name: keep * w for name, w in penalized(params, self.biases).items()}
        return super().move(decayed, gradient, moments, hyper, now)


def _labelled(moment: str, values: Params) -> dict[str, Any]:
    return {f"{moment}/{name}": value for name, value in values.items()}
