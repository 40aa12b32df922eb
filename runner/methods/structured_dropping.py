"""Methods that drop or disturb hidden values in other ways than unit by unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.errors import Refusal
from runner.methods.base import Method, Now, Site, Strength, strength
from runner.nets.residual import Residual, TwoBranches
from runner.nets.sites import Mark

SELU_FLOOR = -1.7580993408473766  # what SELU tends to for very negative inputs: -scale * alpha (Klambauer 2017)
NEWTON_STEPS = 5  # leave the dropped share within 2e-5 of itself, for maps of up to 32 a side and rates up to 0.99


@dataclass(frozen=True)
class GaussianDropout(Method):
    """Multiply each hidden unit by its own normal number of mean 1 and variance rate/(1 - rate)  (Srivastava 2014).

    These are the mean and the variance of dropout's factor at the same `rate`, so that the two can be compared at equal
    strength; no unit is ever exactly zero, and some change their sign.
    """

    family: ClassVar[str] = "dropping"
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return marked(net, "gaussian_dropout", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] times N(1, rate/(1 - rate)), its own draw for every entry."""
        if site.kind != "hidden":
            return h
        spread = torch.as_tensor(self.rate / (1 - self.rate)).sqrt()
        return h * (1 + spread * site.key.normal(*h.shape))


@dataclass(frozen=True)
class AlphaDropout(Method):
    """Set each hidden unit to SELU's floor with probability `rate`, then shift and scale all  (Klambauer et al. 2017).

    h <- a * (h, or the floor -1.758 where dropped) + b, with a and b such that values of mean 0 and variance 1 keep
    both: q = 1 - rate, a = 1/sqrt(q + 1.758^2 * q * rate), b = a * rate * 1.758. That is meant for SELU nets, whose
    values have this mean and variance. On ReLU nets, as most models here are, it still trains, but means something
    else: dropped units take a value that no ReLU gives, and a mean m becomes a * q * m (0.83 m at rate 0.1), while
    evaluation sees m.
    """

    family: ClassVar[str] = "dropping"
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return marked(net, "alpha_dropout", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] with a share of its entries at the floor, then all of them shifted and scaled."""
        if site.kind != "hidden":
            return h
        q = 1 - torch.as_tensor(self.rate)
        a = (q + SELU_FLOOR**2 * q * self.rate).rsqrt()
        kept = torch.where(site.key.kept(self.rate, *h.shape).bool(), h, SELU_FLOOR)
        return a * kept - a * self.rate * SELU_FLOOR


@dataclass(frozen=True)
class ChannelDropout(Method):
    """Zero each whole channel with probability `rate`, scale up the rest  (Tompson et al. 2015).

    Every example and channel has its own draw. A dense layer's channels are its units, so that it is dropout there.
    """

    family: ClassVar[str] = "dropping"
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return marked(net, "channel_dropout", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, C, ...] with a share of its channels zeroed and the rest over (1 - rate)."""
        if site.kind != "hidden":
            return h
        keep = site.key.kept(self.rate, *h.shape[:2], *[1] * (h.ndim - 2))
        return h * (keep / (1 - self.rate))


@dataclass(frozen=True)
class DropBlock(Method):
    """Zero squares of `size` cells a side in every feature map, a share `rate` of its cells  (Ghiasi et al. 2018).

    Every example and channel has its own squares (windows on signals), which lie wholly inside the map and may overlap;
    `size` is at most the map's side. The paper's formula for how often a square begins ignores overlaps and so drops
    too little; here that probability is solved for, so that the expected share of dropped cells is `rate` exactly. What
    is left is divided by 1 - rate, the expected share, where the paper divides by that of the batch. Cells at the
    border belong to fewer squares and are dropped less often than those inside, as in the paper. The rate is that of
    the whole training (the paper lets it grow from 0). Hidden layers without a map are left alone.
    """

    family: ClassVar[str] = "dropping"
    rate: Strength = strength(0, 1, off=0, open_high=True)
    size: Strength = strength(1, whole=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without feature maps."""
        if not any(isinstance(m, nn.Conv1d | nn.Conv2d) for m in net.modules()):
            raise Refusal("method.dropblock needs a model with feature maps; this one has no convolutions (model=...)")
        return marked(net, "dropblock", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, C, T] or [B, C, H, W] with blocks zeroed and the rest over (1 - rate)."""
        if site.kind != "hidden" or h.ndim not in (3, 4):
            return h
        sides = h.shape[2:] if h.ndim == 4 else (1, h.shape[2])  # a signal is an image one cell high
        blocks = [min(int(self.size), side) for side in sides]
        places = [side - block + 1 for side, block in zip(sides, blocks, strict=True)]
        begin = begin_rate(torch.as_tensor(self.rate, device=h.device), sides, blocks)
        seeds = (site.key.uniform(*h.shape[:2], *places) < begin).float()
        edge = [block - 1 for block in blocks]
        dropped = F.max_pool2d(F.pad(seeds, (edge[1], edge[1], edge[0], edge[0])), blocks, stride=1)
        return h * ((1 - dropped.reshape(h.shape)) / (1 - self.rate))


def begin_rate(rate: Tensor, sides: Sequence[int], blocks: Sequence[int]) -> Tensor:
    """The probability that a block begins at a place, such that a share `rate` of the map's cells is dropped: [].

    A cell in k blocks is kept with probability (1 - begin)^k = exp(-k u). The mean of these over the cells is to be
    1 - rate; Newton's method on its logarithm, which is convex and nearly linear in u, climbs to the solution.

    >>> round(float(begin_rate(torch.tensor(0.3), [4], [1])), 4)  # blocks of one cell
    0.3
    """
    cells = _cells(tuple(sides), tuple(blocks))
    k = torch.tensor([float(count) for count in cells], device=rate.device)
    number = torch.tensor([float(count) for count in cells.values()], device=rate.device)
    kept = torch.log1p(-rate)
    u = -kept * number.sum() / (k * number).sum()
    for _ in range(NEWTON_STEPS):
        each = number * torch.exp(-k * u)
        share = each.sum() / number.sum()  # 1 exactly at u = 0: sums of whole numbers
        u = u + (share.log() - kept) * each.sum() / (k * each).sum()
    return -torch.expm1(-u)


@lru_cache
def _cells(sides: tuple[int, ...], blocks: tuple[int, ...]) -> dict[int, int]:
    """How many cells of a map lie in k of the blocks that fit into it, for every k."""
    along = [
        [min(at, side - block) - max(0, at - block + 1) + 1 for at in range(side)]
        for side, block in zip(sides, blocks, strict=True)
    ]
    return dict(Counter(prod(counts) for counts in product(*along)))


@dataclass(frozen=True)
class StochasticDepth(Method):
    """Skip residual branches, the last with probability `rate`, earlier ones less  (Huang et al. 2016).

    Branch l of L is skipped with probability rate * l/L, by a draw for every example, and what is not skipped is
    divided by 1 - rate * l/L, so that evaluation uses all branches as they are (the paper draws once for a batch and
    scales at evaluation instead). It needs a way around every branch: without one a skipped example is erased.
    """

    family: ClassVar[str] = "dropping"
    comes_last: ClassVar[Collection[str]] = ("build",)  # since skip_connection makes blocks residual
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without residual branches, or with a branch that nothing goes around."""
        return gone_around(net, "stochastic_depth")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """The branch h [B, ...], zeroed for some examples."""
        if site.kind != "branch":
            return h
        rate = self.rate * site.depth
        keep = site.key.kept(rate, h.shape[0], *[1] * (h.ndim - 1))
        return h * (keep / (1 - rate))


@dataclass(frozen=True)
class ShakeDrop(Method):
    """Disturb residual branches at random, forward and backward differently  (Yamada et al. 2018).

    Branch l of L is disturbed with probability p = rate * l/L, by a draw for every example: its value is multiplied by
    a uniform number in [-1, 1], its gradient by another in [0, 1]. The paper multiplies by the mean factor 1 - p at
    evaluation; here both factors are divided by 1 - p in training, so that evaluation uses the branch as it is. It
    needs a way around every branch, on which an example passes undisturbed.
    """

    family: ClassVar[str] = "dropping"
    comes_last: ClassVar[Collection[str]] = ("build",)  # since skip_connection makes blocks residual
    rate: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without residual branches, or with a branch that nothing goes around."""
        return gone_around(net, "shake_drop")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """The branch h [B, ...] times one factor, and its gradient times another."""
        if site.kind != "branch":
            return h
        rate = self.rate * site.depth
        whether, value, slope = (key.uniform(h.shape[0], *[1] * (h.ndim - 1)) for key in site.key.split(3))
        calm = whether >= rate
        forward = torch.where(calm, 1.0, 2 * value - 1) / (1 - rate)
        backward = torch.where(calm, 1.0, slope) / (1 - rate)
        return backward * h + ((forward - backward) * h).detach()


@dataclass(frozen=True)
class ShakeShake(Method):
    """Give every residual branch a twin, and weigh the two at random, forward and backward apart  (Gastaldi 2017).

    branch(h) <- a f(h) + (1 - a) g(h), with a uniform on 1/2 -+ `amount`/2, drawn for every example and again for the
    gradient; evaluation uses the mean of the two. The paper has an amount of 1. The twin doubles the weights of the
    branches: at an amount of 0 what is left is that wider net, not the baseline.
    """

    family: ClassVar[str] = "dropping"
    amount: Strength = strength(0, 1)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with two branches in each residual block; refuses one without residual blocks."""
        for block in residual(net, "shake_shake"):
            assert isinstance(block.branch, nn.Sequential)  # as `residual` looked for
            block.branch = TwoBranches(block.branch)
        return net

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """The two branches h [B, 2, ...] times 2 a and 2 (1 - a), whose mean is then taken."""
        if site.kind != "pair":
            return h
        draws = [key.uniform(h.shape[0], 1, *[1] * (h.ndim - 2)) for key in site.key.split(2)]
        shares = [0.5 + self.amount * (draw - 0.5) for draw in draws]
        forward, backward = (2 * torch.cat([a, 1 - a], 1) for a in shares)
        return backward * h + ((forward - backward) * h).detach()


@dataclass(frozen=True)
class SkipConnection(Method):
    """Lead a share `scale` of what enters a residual block around its branch  (He et al. 2016).

    h <- scale h + branch(h). On a model whose blocks are plain (model.skip=0) it makes them residual; 1 is the paper's.
    """

    family: ClassVar[str] = "capacity"
    scale: Strength = strength(0, 1, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with its blocks made residual; refuses one without such blocks."""
        for block in residual(net, "skip_connection"):
            block.skip = float(self.scale)
        return net


def residual(net: nn.Module, method: str) -> list[Residual]:
    """The residual blocks of the net; refuses one that has none of a sequence of layers."""
    blocks = [m for m in net.modules() if isinstance(m, Residual) and isinstance(m.branch, nn.Sequential)]
    if not blocks:
        raise Refusal(f"method.{method} needs a model with residual blocks; this model has none (model=resnet_mlp)")
    return blocks


def gone_around(net: nn.Module, method: str) -> nn.Module:
    """The net as it is; refuses one without marked branches, or with a block that is its branch alone."""
    if any(isinstance(m, Residual) and not m.skip for m in net.modules()):
        raise Refusal(
            f"method.{method} needs a way around every branch; the blocks have skip 0, where it erases examples "
            "(model.skip=1 or method=[skip_connection,...])"
        )
    return marked(net, method, "branch")


@dataclass(frozen=True)
class HiddenNoise(Method):
    """Add normal noise of standard deviation `scale` to every hidden unit  (Poole et al. 2014).

    The scale is in the units of the hidden values themselves, so that a net can learn to outgrow the noise.
    """

    family: ClassVar[str] = "noise"
    scale: Strength = strength(0, off=0)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return marked(net, "hidden_noise", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] + scale * N(0, 1)."""
        if site.kind != "hidden":
            return h
        return h + self.scale * site.key.normal(*h.shape)


PLACES = {"input": "a marked input", "hidden": "hidden layers", "branch": "residual branches"}


def marked(net: nn.Module, method: str, *kinds: str) -> nn.Module:
    """The net as it is; refuses one that has no mark of any of these kinds, where the method could do nothing."""
    if any(isinstance(m, Mark) and m.kind in kinds for m in net.modules()):
        return net
    wanted = " or ".join(PLACES[kind] for kind in kinds)
    hint = " (model=resnet_mlp)" if kinds == ("branch",) else " (another model=...)"
    raise Refusal(f"method.{method} needs a model with {wanted}; this model has no Mark of that kind{hint}")
