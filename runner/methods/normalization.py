"""Normalization layers, put into the net's slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.errors import Refusal
from runner.methods.base import Method, Strength, strength
from runner.nets.sites import fill_slots


@dataclass(frozen=True)
class BatchNorm(Method):
    """Normalize every channel over the batch before the activation  (Ioffe and Szegedy 2015).

    h <- scale * (h - mean) / sqrt(var + epsilon) + shift, with the batch's own mean and variance in training. For
    evaluation the statistics are measured on training data for the very weights evaluated, so no running average is
    kept and nothing done to a training batch (mixing, noise, a second pass) leaks into it. With a larger `epsilon`
    quiet channels are normalized less, which is the one strength this method has.
    """

    family: ClassVar[str] = "normalization"
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with a batch norm in every slot; refuses a net that has none."""
        if not fill_slots(net, lambda width: BatchNormLayer(width, self.epsilon)):
            raise Refusal("method.batch_norm needs a model with hidden layers to normalize; this model has no slots")
        return net


class BatchNormLayer(nn.Module):
    """Batch statistics in training; in evaluation those that `runner.engine.evaluate` measured."""

    measuring = False
    mean: Tensor
    var: Tensor

    def __init__(self, width: int, epsilon: float) -> None:
        """Normalize `width` channels."""
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        """h [B, width, ...], each channel at mean 0 and variance 1 over the batch, then scaled and shifted."""
        shape = [1, -1] + [1] * (h.ndim - 2)
        mean, var = self.mean, self.var
        if self.training or self.measuring:
            across = [d for d in range(h.ndim) if d != 1]
            mean = h.mean(across)
            var = ((h - mean.view(shape)) ** 2).mean(across)
        if self.measuring:
            self.mean, self.var = mean, var
        factor = self.scale * (var + self.epsilon).rsqrt()
        return (h - mean.view(shape)) * factor.view(shape) + self.shift.view(shape)
