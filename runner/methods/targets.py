"""Methods that change what the net is asked to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runner.methods.base import OWN_LOSS, Batch, Method, Now, Seen, Strength, choice, strength


@dataclass(frozen=True)
class LabelSmoothing(Method):
    """Mix a share `rate` of the uniform distribution into the targets  (Szegedy et al. 2016).

    y <- (1 - rate) * y + rate/C: of C classes the true one has 1 - rate + rate/C, as in torch's CrossEntropyLoss.
    """

    family: ClassVar[str] = "target"
    classes: ClassVar[bool] = True
    rate: Strength = strength(0, 1, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """y [B, C] closer to uniform."""
        return batch._replace(y=(1 - self.rate) * batch.y + self.rate / batch.y.shape[1])


@dataclass(frozen=True)
class DisturbLabel(Method):
    """Replace each label, with probability `rate`, by a uniform draw from all classes  (Xie et al. 2016).

    The draw may be the true class: of C classes a share rate * (C - 1)/C of the labels becomes wrong, new ones in every
    step.
    """

    family: ClassVar[str] = "target"
    classes: ClassVar[bool] = True
    rate: Strength = strength(0, 1, off=0)

    def batch(self, batch: Batch, now: Now) -> Batch:
        """y [B, C] with some rows replaced by one-hot ones."""
        size, classes = batch.y.shape
        whether, which = now.key.split(2)
        drawn = (which.uniform(size, 1) * classes).long() == torch.arange(classes, device=batch.y.device)  # [B, C]
        return batch._replace(y=torch.where(whether.uniform(size, 1) < self.rate, drawn.to(batch.y.dtype), batch.y))


@dataclass(frozen=True)
class Bootstrap(Method):
    """Give a share `rate` of the targets to the net's own predictions: (1 - rate) * y + rate * p  (Reed et al. 2015).

    The paper's beta is 1 - rate. `form: soft` takes the predicted probabilities p and lets the gradient pass through
    them, which is the paper's minimum-entropy form: (1 - rate) * cross-entropy + rate * entropy of p. (With p held
    fixed in the target the gradient would be 1 - rate times the plain one: a smaller learning rate and nothing else.)
    `form: hard` takes the predicted class. The paper has rate 0.05 for the soft form and 0.2 for the hard one.
    """

    family: ClassVar[str] = "target"
    classes: ClassVar[bool] = True
    sole: ClassVar[str] = OWN_LOSS
    rate: Strength = strength(0, 1, off=0)
    form: str = choice("soft", "hard")

    def penalty(self, seen: Seen, now: Now) -> Tensor:
        """What takes the loss from the targets y to (1 - rate) * y + rate * p: []."""
        logp = seen.logits.log_softmax(1)  # [B, C]
        own = logp.exp()
        if self.form == "hard":
            own = (logp.argmax(1, keepdim=True) == torch.arange(logp.shape[1], device=logp.device)).to(logp.dtype)
        return self.rate * ((seen.batch.y - own) * logp).sum(1).mean()
