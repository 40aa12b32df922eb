"""Penalties on what the net computes: its logits, its hidden values, and how they change with the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import grad

from runner.errors import Refusal
from runner.methods.base import OWN_LOSS, Method, Now, Seen, Site, Strength, losses, strength, total
from runner.methods.structured_dropping import marked
from runner.nets.sites import Mark

PROBE = 0.1  # length of virtual_adversarial's probe: far below a usual epsilon; at 0.01 rounding turns r noticeably


# -- on logits and losses ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LogitPenalty(Method):
    """rate/2 * mean over the batch of |logits|^2  (spectral decoupling, Pezeshki et al. 2021)."""

    family: ClassVar[str] = "penalty"
    classes: ClassVar[bool] = True
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * mean |logits|^2: []."""
        return self.rate / 2 * (seen.logits**2).sum(1).mean()


@dataclass(frozen=True)
class ConfidencePenalty(Method):
    """-rate * mean over the batch of the entropy of the predictions, in nats  (Pereyra et al. 2017)."""

    family: ClassVar[str] = "penalty"
    classes: ClassVar[bool] = True
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * mean sum_c p_c log p_c: []."""
        logp = seen.logits.log_softmax(1)
        return self.rate * (logp.exp() * logp).sum(1).mean()


@dataclass(frozen=True)
class Focal(Method):
    """Descend -sum_c y_c (1 - p_c)^gamma log p_c instead of the cross-entropy  (Lin et al. 2017).

    For hard targets this is the focal loss (1 - p_t)^gamma * CE without class weights; soft ones weigh each class's
    term by that class's own probability. The reported losses stay cross-entropies.
    """

    family: ClassVar[str] = "target"
    classes: ClassVar[bool] = True
    sole: ClassVar[str] = OWN_LOSS
    gamma: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """The focal loss less the cross-entropy: []."""
        logp = seen.logits.log_softmax(1)
        doubt = (-logp.expm1()).clamp_min(1e-12)  # 1 - p, off zero, where a power below 1 has no slope
        return (seen.batch.y * (1 - doubt**self.gamma) * logp).sum(1).mean()


@dataclass(frozen=True)
class Flooding(Method):
    """Descend |L - level| + level, L the batch's mean cross-entropy in nats  (Ishida et al. 2020).

    Where L is below the level the net climbs. Penalties of other methods are not part of L, and another loss in the
    place of the cross-entropy would not be flooded. Softened targets keep L above their entropy, so that a lower level
    does nothing.
    """

    family: ClassVar[str] = "penalty"
    sole: ClassVar[str] = OWN_LOSS
    level: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """|L - level| + level - L, that is 2 * max(level - L, 0): []."""
        return 2 * (self.level - losses(seen.logits, seen.batch.y).mean()).relu()


# -- on hidden values --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ActivityL1(Method):
    """rate * mean over the batch of the sum of |h| over all hidden values  (Glorot et al. 2011).

    Hidden values are those at the "hidden" marks, after every other method's `hidden`. A sum, as in Keras: wide layers
    and large maps weigh more, so the rate goes with one over their size.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return _with_hidden(net, "activity_l1")

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * mean sum |h|: []."""
        return self.rate * total(h.abs().flatten(1).sum(1).mean() for h in seen.hidden)


@dataclass(frozen=True)
class KLSparsity(Method):
    """rate * sum over hidden units of t log(t / m) - t + m, m the unit's mean |h|, t the target  (after Ng 2011).

    Ng's KL(t || m) is between Bernoulli means, which suits sigmoid units. ReLU units have no upper end, so this is the
    divergence between Poisson means instead: the same to first order where both are small, zero at m = t, and growing
    like an L1 penalty for large m. m is over the batch, and for maps over places (a unit is a channel); it is held at
    1e-6 or more, so that a dead unit costs a finite amount and gets no gradient.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    target: Strength = strength(0, open_low=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers."""
        return _with_hidden(net, "kl_sparsity")

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * sum (t log(t / m) - t + m): []."""
        target = torch.as_tensor(self.target, device=seen.logits.device)
        means = [_unit_means(h.abs()).clamp_min(1e-6) for h in seen.hidden]
        return self.rate * total((target * (target.log() - m.log()) - target + m).sum() for m in means)


# -- on the slope with respect to the input ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Jacobian(Method):
    """rate/2 * mean over the batch of |d logits / d x|_F^2  (Hoffman et al. 2019), by one random projection.

    For v uniform on the sphere in the C dimensions of the logits, C |d (v . logits) / d x|^2 has that mean. x is
    standardized, after every `batch` hook; the noise of this pass is its own. With batch norm an example's slope also
    holds what it does to the others.
    """

    family: ClassVar[str] = "penalty"
    passes: ClassVar[float] = 3.0  # a pass for the slope, and a gradient through both of its halves
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * C * mean |d (v . logits) / d x|^2: []."""
        direction, noise = now.key.split(2)
        v = _unit(direction.normal(*seen.logits.shape))  # [B, C]
        slope: Tensor = grad(lambda x: (v * seen.forward(x, noise)).sum())(seen.batch.x)
        return self.rate / 2 * v.shape[1] * (slope**2).flatten(1).sum(1).mean()


@dataclass(frozen=True)
class InputGradient(Method):
    """rate/2 * mean over the batch of |d L_i / d x_i|^2, L_i an example's cross-entropy  (Drucker and LeCun 1992).

    Also called double backpropagation. x is standardized, after every `batch` hook; the noise of this pass is its own.
    """

    family: ClassVar[str] = "penalty"
    passes: ClassVar[float] = 3.0  # as for the Jacobian
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * mean |d L_i / d x_i|^2: []."""
        slope: Tensor = grad(lambda x: losses(seen.forward(x, now.key), seen.batch.y).sum())(seen.batch.x)
        return self.rate / 2 * (slope**2).flatten(1).sum(1).mean()


# -- on predictions that should agree ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class RDrop(Method):
    """Mean of the cross-entropies of two noisy passes, + rate/2 * (KL(p || q) + KL(q || p))  (Liang et al. 2021).

    The paper's formula sums the two cross-entropies, its code takes their mean; this is the code's form, whose rate is
    half of the formula's. The noise is dropout of hidden units at rate `dropout`, and what other methods of the stack
    draw in their `hidden` hook (then `dropout` may be 0). Noise on the batch or on the weights is the same in both
    passes, which are one without any on hidden values, and the method then does nothing. Rate 0 is dropout trained on
    two masks at once, not the baseline.
    """

    family: ClassVar[str] = "consistency"
    classes: ClassVar[bool] = True
    passes: ClassVar[float] = 2.0
    sole: ClassVar[str] = OWN_LOSS
    rate: Strength = strength(0)
    dropout: Strength = strength(0, 1, off=0, open_high=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one without hidden layers, in which two passes could not differ."""
        return marked(net, "r_drop", "hidden")

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """h [B, ...] with a share of its entries zeroed and the rest over (1 - dropout)."""
        if site.kind != "hidden":
            return h
        return h * (site.key.kept(self.dropout, *h.shape) / (1 - self.dropout))

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """Half of what the second pass's cross-entropy has over the first's, + rate/2 * both divergences: []."""
        again = seen.forward(seen.batch.x, now.key)
        p, q = seen.logits.log_softmax(1), again.log_softmax(1)
        apart = ((p.exp() - q.exp()) * (p - q)).sum(1).mean()  # KL(p || q) + KL(q || p)
        more = (losses(again, seen.batch.y) - losses(seen.logits, seen.batch.y)).mean()
        return more / 2 + self.rate / 2 * apart


@dataclass(frozen=True)
class FGSM(Method):
    """share * L(x) + (1 - share) * L(x + epsilon * sign(d L / d x))  (Goodfellow et al. 2015).

    epsilon is in standardized units, and changed inputs are not clamped: what range they had is not known here, and
    clamping standardized values to [0, 1] would change most of them. The pass that finds the sign and the one at the
    changed input share one draw of the noise.
    """

    family: ClassVar[str] = "input"
    passes: ClassVar[float] = 3.0
    sole: ClassVar[str] = OWN_LOSS
    epsilon: Strength = strength(0, off=0)
    share: Strength = strength(0, 1)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """(1 - share) * (L(x + epsilon * sign(d L / d x)) - L(x)), and 0 where epsilon is: []."""
        x, y = seen.batch
        fixed = {name: w.detach() for name, w in seen.params.items()}
        slope = grad(lambda at: losses(seen.forward(at, now.key, fixed), y).sum())(x)
        worse = seen.forward(x + self.epsilon * slope.sign().detach(), now.key)
        more = (losses(worse, y) - losses(seen.logits, y)).mean()
        return torch.where(torch.as_tensor(self.epsilon, device=x.device) > 0, (1 - self.share) * more, 0.0)


@dataclass(frozen=True)
class VirtualAdversarial(Method):
    """rate * mean over the batch of KL(p(x) || p(x + r)), r the worst of length `epsilon`  (Miyato et al. 2018).

    r comes from one power iteration: r = epsilon g / |g| with g = d KL(p(x) || p(x + d)) / d d at a random d, here of
    length 0.1. p(x) and r are held fixed. epsilon is in standardized units, the length over all of an example's
    entries. All its passes share one draw of the noise, so that only r sets them apart; labels are not used.
    """

    family: ClassVar[str] = "consistency"
    classes: ClassVar[bool] = True
    passes: ClassVar[float] = 3.3  # a forward pass for p(x), a pass for r and one for the penalty
    epsilon: Strength = strength(0, off=0)
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * mean KL(p(x) || p(x + r)), and 0 where epsilon is: []."""
        direction, noise = now.key.split(2)
        x = seen.batch.x
        fixed = {name: w.detach() for name, w in seen.params.items()}
        p = seen.forward(x, noise, fixed).log_softmax(1).detach()

        def apart(logits: Tensor) -> Tensor:
            return (p.exp() * (p - logits.log_softmax(1))).sum(1)  # [B]

        start = PROBE * _unit(direction.normal(*x.shape))
        slope = grad(lambda d: apart(seen.forward(x + d, noise, fixed)).sum())(start)
        worst = apart(seen.forward(x + self.epsilon * _unit(slope).detach(), noise)).mean()
        return self.rate * torch.where(torch.as_tensor(self.epsilon, device=x.device) > 0, worst, 0.0)


def _unit(v: Tensor) -> Tensor:
    """Each example of v [B, ...] over its Euclidean length; zero where it is zero."""
    length = (v**2).flatten(1).sum(1).sqrt().clamp_min(1e-12)
    return v / length.view(-1, *[1] * (v.ndim - 1))


def _with_hidden(net: nn.Module, name: str) -> nn.Module:
    if not any(isinstance(m, Mark) and m.kind == "hidden" for m in net.modules()):
        raise Refusal(f"method.{name} needs a model with hidden layers; this model has no hidden values to penalize")
    return net


def _unit_means(h: Tensor) -> Tensor:
    """The mean of each unit or channel of h [B, units, ...]: [units]."""
    return h.mean([d for d in range(h.ndim) if d != 1])
