"""Noise on the weights of the forward pass: one draw for each step, shared by its examples and passes.

It comes after what gives the layers their weights, such as weight norm, which would take a part of it out again: the
mean of the weights would no longer be that which evaluation has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from runner.methods.base import Method, Now, Params, Strength, given, penalized, strength


@dataclass(frozen=True)
class WeightNoise(Method):
    """Compute with w + normal noise of standard deviation `scale`, descend at w  (Graves 2011).

    The same `scale` for every weight; evaluation uses w itself.
    """

    family: ClassVar[str] = "noise"
    comes_last: ClassVar[Collection[str]] = ("weights",)
    scale: Strength = strength(0, off=0)
    biases: bool = given()

    def weights(self, params: Params, now: Now) -> Params:
        """w + scale * N(0, 1)."""
        noisy = penalized(params, self.biases)
        return params | {n: w + self.scale * now.key.fold(n).normal(*w.shape) for n, w in noisy.items()}


@dataclass(frozen=True)
class DropConnect(Method):
    """Zero each weight with probability `rate` in the forward pass, scale up the rest  (Wan et al. 2013).

    Matrices and filters of all layers, not biases. The paper draws a mask for every example; one for the batch costs
    a pass over the weights instead of one for every example. Evaluation uses w itself, the mean, where the paper
    samples from a normal approximation. It is not the "drop connect" of EfficientNet, which drops residual branches.
    """

    family: ClassVar[str] = "dropping"
    comes_last: ClassVar[Collection[str]] = ("weights",)
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def weights(self, params: Params, now: Now) -> Params:
        """w with a share of its entries zeroed and the rest over (1 - rate)."""
        kernels = penalized(params, biases=False)
        keep = {n: now.key.fold(n).kept(self.rate, *w.shape) for n, w in kernels.items()}
        return params | {n: w * (keep[n] / (1 - self.rate)) for n, w in kernels.items()}
