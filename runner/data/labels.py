"""Wrong labels on purpose: how a seed's labels to train on differ from the data's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.keys import Key

FORMS = ("symmetric", "pairwise")


@dataclass(frozen=True)
class LabelNoise:
    """Which labels are wrong, and how. Test labels never are."""

    rate: float  # the probability that a label is wrong, in [0, 1]
    form: str  # symmetric: any other class, all alike; pairwise: the next class  (Patrini et al. 2017, Han et al. 2018)
    on_val: bool  # whether validation labels are as wrong as training labels, or all right
    random: bool  # every label drawn from all classes, whatever the rate  (Zhang et al. 2017)

    @property
    def present(self) -> bool:
        """Whether any label may differ from the data's."""
        return self.random or self.rate > 0

    def of(self, y: Tensor, classes: int, key: Key) -> Tensor:
        """The labels y [N] with the noise of this key.

        Each example has its own draw, so that it does not matter which others are trained on; and what is wrong at one
        rate is wrong in the same way at every higher one.
        """
        draw = key.fold("class").uniform(len(y))
        if self.random:
            return (draw * classes).long()
        step = 1 + (draw * (classes - 1)).long() if self.form == "symmetric" else 1
        return torch.where(key.fold("which").uniform(len(y)) < self.rate, (y + step) % classes, y)


CLEAN = LabelNoise(0.0, "symmetric", on_val=True, random=False)
