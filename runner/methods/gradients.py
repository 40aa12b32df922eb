"""Methods that change the gradient before the optimizer sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.methods.base import Method, Now, Params, Strength, beside_last, last_layer, lengths, norm, strength

AT_LIMIT = 1 - 1e-4  # of the limit: where a gradient that was shortened to it stands, give or take rounding


@dataclass(frozen=True)
class Clipping(Method):
    """A method that cuts gradients, and counts the steps in which the gradient stood at the limit afterwards."""

    def is_at_limit(self, now: Now) -> Tensor:
        """Whether `now.gradient` has been cut, as far as it shows: bool []."""
        raise NotImplementedError

    def recall(self, params: Params) -> Params:
        """No step yet."""
        return {"clipped": next(iter(params.values())).new_zeros((), dtype=torch.float32)}

    def remember(self, params: Params, now: Now) -> Params:
        """One step more if this one's gradient was cut."""
        return {"clipped": now.memory["clipped"] + self.is_at_limit(now)}


@dataclass(frozen=True)
class ClipNorm(Clipping):
    """Shorten the gradient of all weights together to at most `limit`  (Pascanu et al. 2013).

    g <- g * min(1, limit / |g|). Under Adam, which divides by the gradient's own size, a limit below every norm
    changes little; what counts is which steps it cuts.
    """

    family: ClassVar[str] = "gradient"
    limit: Strength = strength(0, off=torch.inf, open_low=True)

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient, shortened."""
        gradient = grad_at(params)
        scale = (self.limit / norm(gradient)).clamp_max(1.0)
        return {name: scale * g for name, g in gradient.items()}

    def is_at_limit(self, now: Now) -> Tensor:
        """Whether the norm is the limit."""
        return norm(now.gradient) >= AT_LIMIT * self.limit


@dataclass(frozen=True)
class ClipValue(Clipping):
    """Cut every entry of the gradient off at `limit` and -limit  (Mikolov 2012)."""

    family: ClassVar[str] = "gradient"
    limit: Strength = strength(0, off=torch.inf, open_low=True)

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient with every entry in [-limit, limit]."""
        limit = torch.as_tensor(self.limit)
        return {name: g.clamp(-limit.to(g), limit.to(g)) for name, g in grad_at(params).items()}

    def is_at_limit(self, now: Now) -> Tensor:
        """Whether any entry is the limit."""
        return torch.stack([g.abs().amax() for g in now.gradient.values()]).amax() >= AT_LIMIT * self.limit


@dataclass(frozen=True)
class AGC(Clipping):
    """Shorten each unit's gradient to at most `limit` times the length of its weights  (Brock et al. 2021).

    g <- g * min(1, limit * max(|w|, epsilon) / |g|), for each row of a matrix, each filter, and each vector of biases
    or norm parameters as a whole, as the authors' code has it. The last layer is left alone, as they found best. A
    step counts as clipped if any unit's gradient was shortened.
    """

    family: ClassVar[str] = "gradient"
    limit: Strength = strength(0, off=torch.inf, open_low=True)
    epsilon: Strength = strength(0, open_low=True)  # the least length a unit is taken to have, so that zeros can learn

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one whose only layer is its last."""
        return beside_last(net, "agc")

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient, each unit's shortened."""

        most = self._most(params)
        return {
            n: (_units(g) * (most[n] / lengths(_units(g))).clamp_max(1.0)).view_as(g) if n in most else g
            for n, g in grad_at(params).items()
        }

    def is_at_limit(self, now: Now) -> Tensor:
        """Whether any unit's length is its limit."""
        most = {name: now.memory[name] for name in now.gradient if name in now.memory}
        return torch.stack([(lengths(_units(now.gradient[n])) >= AT_LIMIT * m).any() for n, m in most.items()]).any()

    def recall(self, params: Params) -> Params:
        """No step yet, and the limits [out, 1, ...] of the first."""
        return super().recall(params) | self._most(params)

    def remember(self, params: Params, now: Now) -> Params:
        """The count, and the limits of the next step."""
        return super().remember(params, now) | self._most(params)

    def _most(self, params: Params) -> Params:
        """How long each unit's gradient may be: [out, 1, ...]."""
        last = last_layer(params)
        units = {name: _units(w) for name, w in params.items() if name not in last}
        return {name: self.limit * torch.clamp(lengths(w), min=self.epsilon) for name, w in units.items()}


def _units(w: Tensor) -> Tensor:
    """w [out, ...] as it is, and a vector of biases or norm parameters as one unit: [1, n]."""
    return w if w.ndim > 1 else w[None]


@dataclass(frozen=True)
class GradientNoise(Method):
    """Add normal noise of variance variance / (1 + step)^decay to the gradient  (Neelakantan et al. 2015)."""

    family: ClassVar[str] = "gradient"
    variance: Strength = strength(0, off=0)  # of each entry, at the first step
    decay: Strength = strength(0)

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient plus its own noise for every entry."""
        scale = torch.as_tensor(self.variance / (1 + now.step) ** self.decay).sqrt()
        return {n: g + scale.to(g) * now.key.fold(n).normal(*g.shape) for n, g in grad_at(params).items()}
