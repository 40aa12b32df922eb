"""Layers that compute with a function of their weights, in training and at evaluation alike.

Penalties, decay and constraints act on the weights that are trained, before these functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.keys import Key
from runner.methods.base import (
    Method,
    Now,
    Params,
    Strength,
    beside,
    beside_last,
    choice,
    given,
    kernels,
    last_layer,
    lengths,
    of_its_layer,
    penalized,
    strength,
)

RELU_GAIN = 1.7128585504496627  # sqrt(2 / (1 - 1/pi)): one over the standard deviation of a rectified standard normal
SETTLE = 20  # rounds of power iteration that begin a vector, or settle it for an average of weights
TINY = 1e-12  # keeps a division by the norm of a zero matrix finite


@dataclass(frozen=True)
class WeightNorm(Method):
    """Learn length and direction of each unit's weights apart: w = scale * g * v / |v|  (Salimans and Kingma 2016).

    g, one number per unit of every matrix and filter, begins at the |v| drawn, so that the net begins at `scale` times
    its ordinary weights and its lengths move `scale` times as far in a step; 1 is the published form. The
    data-dependent start of the paper is left out, since a seed's first weights must not depend on its data. Penalties
    and decay act on v, whose length changes nothing but its own learning rate, and on g only with `penalize_biases`;
    constraints act on v.
    """

    family: ClassVar[str] = "normalization"
    finishes: ClassVar[bool] = True
    scale: Strength = strength(0, open_low=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with the lengths of every layer's matrices and filters beside them, as its child `length`."""
        for module, own in kernels(net, "weight_norm"):
            module.add_module("length", Lengths(own))
        return net

    def weights(self, params: Params, now: Now) -> Params:
        """scale * g * v / |v|; a unit whose weights are all zero stays so, and its v learns as if it had length 1."""

        def layer(v: Tensor, g: Tensor) -> Tensor:  # [out, ...], [out]
            square = (v**2).flatten(1).sum(1)
            over = torch.where(square > 0, square, 1.0).rsqrt()
            return v * (self.scale * g * over).view(-1, *[1] * (v.ndim - 1))

        lengths = {g: kernel for g in params if (kernel := of_its_layer(g, "length", "g"))}
        return params | {kernel: layer(params[kernel], params[g]) for g, kernel in lengths.items()}

    def average(self, params: Params, now: Now) -> Params:
        """The same at evaluation."""
        return self.weights(params, now)


class Lengths(nn.Module):
    """The lengths [out] that a layer learns apart from the directions of its kernels: `g`, or `g_` and a name."""

    def __init__(self, of: Mapping[str, nn.Parameter]) -> None:
        """One length for each unit of each kernel [out, ...]."""
        super().__init__()
        self.of = dict(of)  # in a dict, so that the kernels stay their own layer's parameters alone
        for name, kernel in self.of.items():
            self.register_parameter(beside("g", name), nn.Parameter(lengths(kernel.detach()).flatten()))

    def reset_parameters(self) -> None:
        """Begin at the kernels' own lengths; their layer is reset before its parts."""
        with torch.no_grad():
            for name, kernel in self.of.items():
                self.get_parameter(beside("g", name)).copy_(lengths(kernel).flatten())


@dataclass(frozen=True)
class SpectralNorm(Method):
    """Scale every layer's weights to the spectral norm `limit`: w = limit * v / sigma(v)  (Miyato et al. 2018).

    sigma is the largest singular value of the kernel as a matrix [out, the rest], as published (that of a convolution
    as an operator is larger, up to the root of its kernel's size). With `form: at_most` only what exceeds the limit is
    scaled. One round of power iteration a step, on a vector that is remembered; the gradient flows through sigma but
    not through the vectors. A second forward pass in the same step uses the same vector. At evaluation, whose weights
    may be averages, the vector is settled first. It is the vector of the weights that are trained, so that no other
    function of them may stand between.
    """

    family: ClassVar[str] = "constraint"
    finishes: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("WeightNorm", "WeightStandardization", "L0"),
        "both give the layers their weights, and the spectral norm would be that of others than the net computes with",
    )
    limit: Strength = strength(0, open_low=True)
    form: str = choice("equal", "at_most")

    def recall(self, params: Params) -> Params:
        """The left singular vector of every matrix and filter, about: {name: [out]}."""
        return {
            name: _left(w, Key.of(0, w.device).fold(name).normal(len(w)).to(w), SETTLE)
            for name, w in penalized(params, biases=False).items()
        }

    def weights(self, params: Params, now: Now) -> Params:
        """limit * w / sigma, with the remembered vector."""
        return params | {name: self._scaled(params[name], u) for name, u in now.memory.items()}

    def remember(self, params: Params, now: Now) -> Params:
        """The vector after one more round, at the new weights."""
        return {name: _left(params[name], u, 1) for name, u in now.memory.items()}

    def average(self, params: Params, now: Now) -> Params:
        """limit * w / sigma at evaluation."""
        return params | {n: self._scaled(params[n], _left(params[n], u, SETTLE)) for n, u in now.memory.items()}

    def _scaled(self, w: Tensor, u: Tensor) -> Tensor:
        v = (w.detach().flatten(1) * u[:, None]).sum(0)
        v = v / v.norm().clamp_min(TINY)
        scale = self.limit / (u[:, None] * w.flatten(1) * v).sum().clamp_min(TINY)
        scaled: Tensor = w * (scale if self.form == "equal" else scale.clamp_max(1.0))
        return scaled


def _left(w: Tensor, u: Tensor, rounds: int) -> Tensor:
    """u [out] after some rounds of power iteration on w [out, ...]; as it was, if w is zero.

    Sums of products instead of matrix products, which autocast would round to half precision.
    """
    w, begun = w.detach().flatten(1), u
    for _ in range(rounds):
        v = (w * u[:, None]).sum(0)
        u = (w * (v / v.norm().clamp_min(TINY))).sum(1)
        u = u / u.norm().clamp_min(TINY)
    return torch.where(u.norm() > 0, u, begun)


@dataclass(frozen=True)
class WeightStandardization(Method):
    """Standardize each unit's incoming weights: w = (v - mean) / sqrt(var + epsilon)  (Qiao et al. 2019).

    All layers but the last, mean and variance (over n, not n - 1) of each row or filter. The published form is meant
    to be followed by a norm, since each unit then sums n terms of variance 1; `scaled` makes up for that by
    1.71 / sqrt(n) (Brock et al. 2021, for ReLU), which keeps the variances before the ReLUs without one: at 2.9, the
    square of 1.71, since the first layer, whose inputs no ReLU has cut, has that gain too. An `epsilon` that is not
    small against the weights' variance (about 1 / 3n at the start) standardizes less. Units with one incoming weight,
    whose mean it is, are left alone: they would no longer see their input.
    """

    family: ClassVar[str] = "normalization"
    finishes: ClassVar[bool] = True
    refuses: ClassVar[Mapping[str, str]] = {
        "WeightNorm": "standardized weights do not depend on the lengths that weight norm would learn"
    }
    epsilon: Strength = strength(0, open_low=True)
    scaled: bool = given()

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one whose only layer is its last."""
        return beside_last(net, "weight_standardization")

    def weights(self, params: Params, now: Now) -> Params:
        """The standardized weights of all layers but the last."""

        def layer(w: Tensor) -> Tensor:
            rows = w.flatten(1)  # [out, n]
            rows = rows - rows.mean(1, keepdim=True)
            unit = rows * ((rows**2).mean(1, keepdim=True) + self.epsilon).rsqrt()
            return (unit * (RELU_GAIN / rows.shape[1] ** 0.5) if self.scaled else unit).view_as(w)

        last = last_layer(params)
        several = {n: w for n, w in penalized(params, biases=False).items() if w.numel() > len(w)}
        return params | {n: layer(w) for n, w in several.items() if n not in last}

    def average(self, params: Params, now: Now) -> Params:
        """The same at evaluation."""
        return self.weights(params, now)
