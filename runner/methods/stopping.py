"""When to stop training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runner.methods.base import Method, Strength, strength


@dataclass(frozen=True)
class EarlyStopping(Method):
    """Stop after `patience` evaluations without a new best validation loss, and keep the best weights  (Prechelt 1998).

    A loss is a new best if it is lower than the best so far by more than `min_delta` (nats). An evaluation is an epoch
    unless evaluate.every says otherwise. The run ends with the weights of its lowest validation loss.
    """

    family: ClassVar[str] = "stopping"
    restores: ClassVar[bool] = True
    patience: Strength = strength(1, whole=True)
    min_delta: Strength = strength(0)

    def stop(self, curve: Tensor) -> Tensor:
        """Whether the last new best in curve [E] is `patience` or more evaluations ago: bool []."""
        best, waited = torch.full_like(curve[0], torch.inf), torch.zeros_like(curve[0])
        for loss in curve:
            improved = loss < best - self.min_delta
            best = torch.where(improved, loss, best)
            waited = torch.where(improved, 0.0, waited + 1)
        return waited >= self.patience
