"""Predictions of several nets, averaged: of one run's past, of runs side by side, or of one net under noise.

What is averaged are the probabilities, in a regression the predictions themselves, and each member's batch norms have
the statistics of that member.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Method, Now, Params, Site, Strength, mean_prediction, strength
from runner.nets.sites import Mark, tapped


@dataclass(frozen=True)
class SnapshotEnsemble(Method):
    """Average the predictions of the weights at the ends of the last `last` of `cycles` cycles  (Huang et al. 2017).

    The steps are divided into `cycles` equal parts, and the weights at the end of each are kept. Where fewer than
    `last` cycles are over, the newest weights stand in for those to come, and with `last` 1 they are the prediction.
    The learning rate should fall to zero in each cycle and jump back: schedule=cyclic, with as many cycles as here.
    """

    family: ClassVar[str] = "averaging"
    last: Strength = strength(1, off=1, whole=True, built=True)
    cycles: Strength = strength(1, whole=True, built=True)

    @property
    def members(self) -> int:
        """How many snapshots are averaged."""
        return int(self.last)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses to keep more snapshots than there are."""
        if self.last > self.cycles:
            raise Refusal(
                f"method.snapshot_ensemble.last is {self.last:g}; there are as many snapshots as cycles, which are "
                f"{self.cycles:g} (method.snapshot_ensemble.last=... or .cycles=...)"
            )
        return net

    def unsuited(self, falls: int) -> str:
        """That cycles are not those of the learning rate."""
        if falls == self.cycles:
            return ""
        return (
            f"averages nets from the ends of {self.cycles:g} cycles, and the learning rate falls to zero {falls} times "
            f"(schedule=cyclic schedule.cycles={self.cycles:g})"
        )

    def recall(self, params: Params) -> Params:
        """As many slots as there are members, of the initial weights: [M, ...] each."""
        if self.members == 1:
            return {}
        return {name: w.expand(self.members, *w.shape) for name, w in params.items()}

    def remember(self, params: Params, now: Now) -> Params:
        """The slots, with the weights in the last and the first gone if this step ends a cycle."""
        if self.members == 1 or self._over(int(now.step) + 1, now.steps) == self._over(int(now.step), now.steps):
            return now.memory
        return {name: torch.cat([now.memory[name][1:], w[None]]) for name, w in params.items()}

    def average(self, params: Params, now: Now) -> Params:
        """The slots that hold a snapshot, and the newest weights in those that do not yet: [M, ...]."""
        if self.members == 1:
            return params
        empty = max(0, self.members - self._over(int(now.step), now.steps))
        return {name: torch.cat([w.expand(empty, *w.shape), now.memory[name][empty:]]) for name, w in params.items()}

    def _over(self, step: int, steps: int) -> int:
        """How many cycles are over after so many steps; at most one ends with each step."""
        return min(step * int(self.cycles) // steps, step)


@dataclass(frozen=True)
class Ensemble(Method):
    """Train `size` nets from their own initial weights, average their predictions  (Lakshminarayanan et al. 2017).

    Each is a run of its own, with its own noise and the optimizer, the penalties and all other methods to itself; they
    share the order of the examples. The first is the run that there would be without this method, bit for bit. All of
    their training counts as the cost of the run. (Without the adversarial examples of the paper, which are `fgsm`.)
    """

    family: ClassVar[str] = "averaging"
    size: Strength = strength(1, off=1, whole=True, built=True)

    @property
    def copies(self) -> int:
        """How many nets are trained."""
        return int(self.size)


@dataclass(frozen=True)
class MCDropout(Method):
    """Dropout in training, and the mean prediction of `samples` passes with dropout  (Gal and Ghahramani 2016).

    `rate` is the probability of dropping a hidden unit. The masks of evaluation are the same every time, so that it
    stays a function of the weights; batch norm's statistics are those without dropout.
    """

    family: ClassVar[str] = "dropping"
    comes_last: ClassVar[Collection[str]] = ("build",)  # what it changes is the prediction of the whole net
    rate: Strength = strength(0, 1, off=0, open_high=True, built=True)
    samples: Strength = strength(1, whole=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net, which in evaluation gives the log of the mean probability of its passes; refuses one unmarked."""
        if not any(isinstance(module, Mark) and module.kind == "hidden" for module in net.modules()):
            raise Refusal("method.mc_dropout needs a model with hidden layers to drop; this model has no hidden marks")
        if self.rate > 0:  # a float, since it is built in
            net.register_forward_hook(self._sampled)
        return net

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] with a share of its entries zeroed and the rest over (1 - rate)."""
        return self._dropped(h, site.kind, site.key)

    def _dropped(self, h: Tensor, kind: str, key: Key) -> Tensor:
        if kind != "hidden":
            return h
        return h * (key.kept_like(self.rate, h) / (1 - self.rate))

    def _sampled(self, net: nn.Module, inputs: tuple[Tensor, ...], plain: Tensor) -> Tensor | None:
        """Called after a forward pass: what it gives in the place of the plain logits [B, C]; None leaves them."""
        if net.training or any(getattr(module, "measuring", False) for module in net.modules()):
            return None
        key = Key.of(0, plain.device)

        def sampled(sample: int) -> Tensor:
            visited = iter(range(10**9))
            with tapped(lambda h, kind: self._dropped(h, kind, key.fold(sample).fold(next(visited)))):
                logits: Tensor = net.forward(*inputs)
            return logits

        return mean_prediction(torch.stack([sampled(i) for i in range(int(self.samples))]))
