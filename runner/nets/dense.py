"""Fully connected nets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from runner.nets.sites import Mark, Slot


def linear(shape: Sequence[int], classes: int) -> nn.Module:
    """Multinomial logistic regression: x [B, *shape] -> logits [B, classes]."""
    return nn.Sequential(nn.Flatten(), Mark("input"), nn.Linear(math.prod(shape), classes))


def mlp(shape: Sequence[int], classes: int, width: int, depth: int) -> nn.Module:
    """`depth` hidden layers of `width` ReLU units: x [B, *shape] -> logits [B, classes]."""
    layers: list[nn.Module] = [nn.Flatten(), Mark("input")]
    inputs = math.prod(shape)
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), Slot(width), nn.ReLU(), Mark("hidden")]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
