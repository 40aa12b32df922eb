"""Normalization layers, put into the net's slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from runner.errors import Refusal
from runner.methods.base import Method, Strength, strength
from runner.nets.norms import BatchNormLayer, GhostBatchNormLayer, GroupNormLayer, NormLayer, RMSNormLayer
from runner.nets.sites import Slot, fill_slots


@dataclass(frozen=True)
class BatchNorm(Method):
    """Normalize every channel over the batch before the activation  (Ioffe and Szegedy 2015).

    h <- scale * (h - mean) / sqrt(var + epsilon) + shift, with the batch's own mean and variance in training. For
    evaluation the statistics are measured on training data for the very weights evaluated, so no running average is
    kept and nothing done to a training batch (mixing, noise, a second pass) leaks into it. With a larger `epsilon`
    quiet channels are normalized less, which is the one strength this method has.
    """

    family: ClassVar[str] = "normalization"
    sole: ClassVar[str] = "fill the model's slots with a norm"
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with a batch norm in every slot."""
        return normalized(net, "batch_norm", lambda width: BatchNormLayer(width, self.epsilon))


@dataclass(frozen=True)
class GhostBatchNorm(Method):
    """Batch norm over virtual batches of `size` examples, not over the whole batch  (Hoffer et al. 2017).

    The batch is cut into as many nearly equal parts as hold at least `size` each, so that no part is a small rest: 100
    examples at size 32 are parts of 34, 33 and 33, and at a size above 50 this is batch norm. Smaller parts, noisier
    statistics. For evaluation they are measured as those of batch norm are.
    """

    family: ClassVar[str] = "normalization"
    sole: ClassVar[str] = "fill the model's slots with a norm"
    size: Strength = strength(2, whole=True, built=True)
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with a ghost batch norm in every slot."""
        make = partial(GhostBatchNormLayer, size=int(self.size), epsilon=self.epsilon)
        return normalized(net, "ghost_batch_norm", make)


@dataclass(frozen=True)
class LayerNorm(Method):
    """Normalize every example over all its units before the activation  (Ba et al. 2016).

    h <- scale * (h - mean) / sqrt(var + epsilon) + shift, for feature maps over channels and positions together, with
    one scale and shift for each channel. With a larger `epsilon` quiet layers are normalized less.
    """

    family: ClassVar[str] = "normalization"
    sole: ClassVar[str] = "fill the model's slots with a norm"
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with a layer norm in every slot."""
        return normalized(net, "layer_norm", lambda width: GroupNormLayer(width, 1, self.epsilon))


@dataclass(frozen=True)
class GroupNorm(Method):
    """Normalize every example over each of `groups` groups of channels before the activation  (Wu and He 2018).

    One group is layer norm, as many as channels is instance norm. `groups` must divide the width of every layer.
    """

    family: ClassVar[str] = "normalization"
    sole: ClassVar[str] = "fill the model's slots with a norm"
    groups: Strength = strength(1, whole=True, built=True)
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with a group norm in every slot; refuses a number of groups that does not divide their widths."""
        groups, widths = int(self.groups), {m.width for m in net.modules() if isinstance(m, Slot)}
        if any(width % groups for width in widths):
            allowed = ", ".join(str(n) for n in range(1, min(widths) + 1) if not any(width % n for width in widths))
            raise Refusal(
                f"method.group_norm.groups is {groups}; it must divide the width of every layer ({_listed(widths)}): "
                f"{allowed} (method.group_norm.groups=... or model.width=...)"
            )
        return normalized(net, "group_norm", lambda width: GroupNormLayer(width, groups, self.epsilon))


@dataclass(frozen=True)
class RMSNorm(Method):
    """Divide every example by the root mean square of all its units before the activation  (Zhang and Sennrich 2019).

    h <- scale * h / sqrt(mean of h^2 + epsilon): layer norm without centring and without shift.
    """

    family: ClassVar[str] = "normalization"
    sole: ClassVar[str] = "fill the model's slots with a norm"
    epsilon: Strength = strength(0, open_low=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with an RMS norm in every slot."""
        return normalized(net, "rms_norm", lambda width: RMSNormLayer(width, self.epsilon))


def normalized(net: nn.Module, name: str, make: Callable[[int], NormLayer]) -> nn.Module:
    """The net with `make(width)` in every slot; refuses one that has none, or whose slots are taken."""
    there = next((type(m).__name__ for m in net.modules() if isinstance(m, NormLayer)), None)
    if there:
        raise Refusal(
            f"method.{name} finds a {there} in the model's slots; a net may have one norm "
            "(method=[...], or model.norm=none where the model brings its own)"
        )
    if not fill_slots(net, make):
        raise Refusal(f"method.{name} needs a model with hidden layers to normalize; this model has no slots")
    return net


def _listed(widths: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(widths)))
