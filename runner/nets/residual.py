"""Residual nets, whose branches methods can act on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from runner.nets.sites import Mark, Slot


class Residual(nn.Module):
    """h + branch(h)."""

    def __init__(self, branch: nn.Module) -> None:
        """Go around this branch."""
        super().__init__()
        self.branch = branch

    def forward(self, h: Tensor) -> Tensor:
        """h [B, ...] and what the branch adds to it."""
        added: Tensor = self.branch(h)
        return h + added


def resnet_mlp(shape: Sequence[int], classes: int, width: int, depth: int) -> nn.Module:
    """A residual MLP: x [B, *shape] -> logits [B, classes], in the form of He et al. (2016) with dense layers.

    A first layer of `width` ReLU units, then `depth` blocks ReLU(h + branch(h)) with branches of two dense layers, a
    ReLU between them. The "hidden" marks stand outside of the branches, where the whole of an example passes; the
    "branch" marks end the branches.
    """
    layers: list[nn.Module] = [
        nn.Flatten(), Mark("input"), nn.Linear(math.prod(shape), width), Slot(width), nn.ReLU(), Mark("hidden"),
    ]  # fmt: skip
    for _ in range(depth):
        branch = nn.Sequential(
            nn.Linear(width, width), Slot(width), nn.ReLU(), nn.Linear(width, width), Slot(width), Mark("branch")
        )
        layers += [Residual(branch), nn.ReLU(), Mark("hidden")]
    return nn.Sequential(*layers, nn.Linear(width, classes))
