"""Averages of the weights along the way, which evaluation uses in the place of the newest ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runner.methods.base import Method, Now, Params, Seen, Strength, strength


@dataclass(frozen=True)
class SWA(Method):
    """Evaluate the mean of the weights that steps end with, from `start` of training on  (Izmailov et al. 2018).

    `start` is a share of the steps, rounded to whole ones, and the weights of every `every`-th step after it count.
    Before the first of them, and throughout at `start` 1, the newest weights are evaluated. A learning rate that has
    fallen to zero has nothing to average: use a constant or a cyclic one.
    """

    family: ClassVar[str] = "averaging"
    start: Strength = strength(0, 1, off=1)
    every: Strength = strength(1, whole=True)

    def unsuited(self, falls: int) -> str:
        """That there is little to average, where the last weights hardly move."""
        hardly = "averages weights that hardly move, since the learning rate falls to zero (schedule=constant)"
        return hardly if falls == 1 else ""

    def recall(self, params: Params) -> Params:
        """No weights yet: their mean, and how many there are."""
        return {"count": torch.zeros_like(_any(params).flatten()[0]), **_labelled("mean", params)}

    def remember(self, params: Params, now: Now) -> Params:
        """The mean and the count, with the new weights if this step counts."""
        before = torch.as_tensor(self.start * now.steps).round()
        counts = ((now.step + 1 > before) & _is_due(self.every, now)).to(now.memory["count"])
        count = now.memory["count"] + counts
        share = counts / count.clamp_min(1)
        return {"count": count, **_labelled("mean", _towards(_part("mean", now.memory), params, share))}

    def average(self, params: Params, now: Now) -> Params:
        """The mean, or the newest weights while there is none."""
        mean, some = _part("mean", now.memory), now.memory["count"] > 0
        return {name: torch.where(some, mean[name], w) for name, w in params.items()}


@dataclass(frozen=True)
class EMA(Method):
    """Evaluate a forgetful average: kept <- decay * kept + (1 - decay) * w  (Polyak and Juditsky 1992).

    After t steps the decay is at most (1 + t) / (10 + t), so that the first weights are soon forgotten however short
    the run. It averages over about 1 / (1 - decay) steps: one half of them at the most is a good rule.
    """

    family: ClassVar[str] = "averaging"
    decay: Strength = strength(0, 1, off=0, open_high=True)

    def recall(self, params: Params) -> Params:
        """The initial weights."""
        return params

    def remember(self, params: Params, now: Now) -> Params:
        """The average, moved towards the new weights."""
        return _towards(now.memory, params, _new_share(self.decay, now))

    def average(self, params: Params, now: Now) -> Params:
        """The average."""
        return now.memory


@dataclass(frozen=True)
class Lookahead(Method):
    """Every `every` steps, slow <- slow + share * (w - slow) and w <- slow  (Zhang et al. 2019).

    Evaluation uses the slow weights, as they would be if these steps were the last before they move: right after a
    move they are the weights themselves. The optimizer's moments go on as they are.
    """

    family: ClassVar[str] = "averaging"
    share: Strength = strength(0, 1, off=1, open_low=True)
    every: Strength = strength(1, whole=True)

    def recall(self, params: Params) -> Params:
        """The initial weights, which are the first slow ones."""
        return params

    def project(self, params: Params, now: Now) -> Params:
        """The weights, pulled back to the slow ones where these move."""
        slow = _towards(now.memory, params, torch.as_tensor(self.share))
        return _towards(params, slow, _is_due(self.every, now))

    def remember(self, params: Params, now: Now) -> Params:
        """The slow weights, which are the weights where they have just moved."""
        return _towards(now.memory, params, _is_due(self.every, now))

    def average(self, params: Params, now: Now) -> Params:
        """slow + share * (w - slow)."""
        return _towards(now.memory, params, torch.as_tensor(self.share))


@dataclass(frozen=True)
class MeanTeacher(Method):
    """+ rate * mean (p - p of the teacher)^2, p the probabilities  (Tarvainen and Valpola 2017).

    The teacher is the exponential moving average of the net's weights (`decay`, warmed up as in EMA) and predicts with
    fresh noise on hidden values where the stack has any; noise on the batch or on the weights it shares with the net.
    The mean is over examples and classes. The rate rises as exp(-5 (1 - t)^2) while t goes from 0 to 1 in the first
    `ramp` of the steps. Evaluation uses the teacher, so that rate 0 is EMA, and the baseline at decay 0 only. Both see
    one augmented copy of an example where the paper has two.
    """

    family: ClassVar[str] = "consistency"
    classes: ClassVar[bool] = True
    passes: ClassVar[float] = 4 / 3  # the teacher's pass has no way back, and costs a third of one that has
    rate: Strength = strength(0, off=0)
    decay: Strength = strength(0, 1, off=0, open_high=True)
    ramp: Strength = strength(0, 1)

    def recall(self, params: Params) -> Params:
        """The teacher, who begins as the net does."""
        return params

    def penalty(self, seen: Seen, now: Now) -> Tensor:
        """rate * exp(-5 (1 - t)^2) * mean (p - teacher's p)^2: []."""
        teacher = seen.forward(seen.batch.x, now.key, now.memory)
        apart = (seen.logits.softmax(1) - teacher.detach().softmax(1)) ** 2
        passed = (now.step + 1) / torch.as_tensor(self.ramp * now.steps).clamp_min(1)
        return self.rate * torch.exp(-5 * (1 - passed.clamp_max(1)) ** 2) * apart.mean()

    def remember(self, params: Params, now: Now) -> Params:
        """The teacher, moved towards the new weights."""
        return _towards(now.memory, params, _new_share(self.decay, now))

    def average(self, params: Params, now: Now) -> Params:
        """The teacher."""
        return now.memory


def _towards(kept: Params, params: Params, share: Tensor) -> Params:
    """kept + share * (w - kept), which is exactly w at share 1 and exactly kept at share 0."""
    return {name: torch.lerp(kept[name], w, share.to(w)) for name, w in params.items()}


def _is_due(every: Strength, now: Now) -> Tensor:
    """Whether this step is an `every`-th one: bool []."""
    return (now.step + 1) % torch.as_tensor(every) == 0


def _new_share(decay: Strength, now: Now) -> Tensor:
    """1 - min(decay, (1 + t) / (10 + t)) after t steps: how far a moving average moves."""
    return 1 - torch.as_tensor((1 + now.step) / (10 + now.step)).clamp_max(decay)


def _labelled(label: str, params: Params) -> Params:
    return {f"{label}/{name}": w for name, w in params.items()}


def _part(label: str, memory: Params) -> Params:
    lead = f"{label}/"
    return {name.removeprefix(lead): w for name, w in memory.items() if name.startswith(lead)}


def _any(params: Params) -> Tensor:
    return next(iter(params.values()))
