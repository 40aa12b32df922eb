"""More penalties on the weights: on rows, on matrices, on paths through the net, on how many weights there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import (
    Method,
    Now,
    Params,
    Seen,
    Strength,
    beside,
    choice,
    given,
    kernels,
    of_its_layer,
    penalized,
    strength,
    total,
)
from runner.nets.sites import Mark, Slot

# The hard concrete distribution (Louizos et al. 2018): its temperature, and the interval it is stretched to.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
FIRST_ITERATIONS = 30  # of the power iteration, before training; in training one a step follows the weights
# Layers on which a path's product of weights is all there is to know.
PATH_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU, nn.Flatten, nn.Identity, Mark, Slot,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
)  # fmt: skip


@dataclass(frozen=True)
class ElasticNet(Method):
    """rate * (share * sum |w| + (1 - share)/2 * sum w^2)  (Zou and Hastie 2005), in scikit-learn's parametrization.

    The forms are those of `l1`: `proximal` is the exact proximal step of the whole penalty after the optimizer's
    (Parikh and Boyd 2014), which makes weights exactly zero; `subgradient` adds the penalty to the loss.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    share: Strength = strength(0, 1)
    form: str = choice("proximal", "subgradient")
    biases: bool = given()

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * (share * sum |w| + (1 - share)/2 * sum w^2), in the subgradient form: []."""
        if self.form == "proximal":
            return 0.0
        weights = penalized(seen.params, self.biases).values()
        lasso, ridge = total(w.abs().sum() for w in weights), total((w**2).sum() for w in weights)
        return self.rate * (self.share * lasso + (1 - self.share) / 2 * ridge)

    def project(self, params: Params, now: Now) -> Params:
        """sign(w) * max(|w| - s * share, 0) / (1 + s * (1 - share)) with s = lr * rate, in the proximal form."""
        if self.form == "subgradient":
            return params
        step = now.lr * self.rate
        shift, shrink = step * self.share, 1 + torch.as_tensor(step * (1 - self.share))
        moved = {n: w.sign() * (w.abs() - shift).relu() / shrink for n, w in penalized(params, self.biases).items()}
        return params | moved


@dataclass(frozen=True)
class GroupLasso(Method):
    """rate * sum over units of sqrt(fan-in) * |the unit's incoming weights|_2  (Yuan and Lin 2006).

    A unit is a row of a matrix or an output channel of a filter, in every layer; it is dropped as a whole. With
    `biases` each bias is a group of one. The forms are those of `l1`: `proximal` shortens every row by
    lr * rate * sqrt(fan-in) after the optimizer's step and stops it at zero; `subgradient` adds the penalty to the
    loss, with gradient zero at a row of zeros.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    form: str = choice("proximal", "subgradient")
    biases: bool = given()

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * sum sqrt(fan-in) * |row|, in the subgradient form: []."""
        if self.form == "proximal":
            return 0.0
        rows = [_rows(w) for w in penalized(seen.params, self.biases).values()]
        return self.rate * total(math.sqrt(r.shape[1]) * _length(r, 1).sum() for r in rows)

    def project(self, params: Params, now: Now) -> Params:
        """row * max(1 - lr * rate * sqrt(fan-in) / |row|, 0), in the proximal form."""
        if self.form == "subgradient":
            return params

        def shorten(w: Tensor) -> Tensor:
            rows = _rows(w)
            cut = now.lr * self.rate * math.sqrt(rows.shape[1])
            length = _length(rows, 1)[:, None]
            return (rows * (1 - cut / torch.where(length > 0, length, 1.0)).relu()).view(w.shape)

        return params | {name: shorten(w) for name, w in penalized(params, self.biases).items()}


@dataclass(frozen=True)
class Orthogonal(Method):
    """rate * sum over layers of |G - I|_F^2, G = W W^T or W^T W, the smaller of the two  (Bansal et al. 2018).

    The smaller Gram matrix can be the identity, the larger never. W is [out, in], a filter as [out, in * places].
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * sum |G - I|_F^2: []."""
        return self.rate * total(_distance(_rows(w)) for w in penalized(seen.params, biases=False).values())


@dataclass(frozen=True)
class SpectralPenalty(Method):
    """rate/2 * sum over layers of sigma^2, sigma the largest singular value of W  (Yoshida and Miyato 2017).

    W is [out, in], a filter as [out, in * places], whose sigma is not that of the convolution but bounds it within a
    factor. sigma is u^T W v, with u followed from step to step by one power iteration, as the paper has it, from a
    start that is the same for every seed; the gradient, sigma u v^T, holds u and v fixed.
    """

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * sum sigma^2: []."""
        return self.rate / 2 * total(_sigma(_rows(seen.params[name]), u) ** 2 for name, u in now.memory.items())

    def remember(self, params: Params, now: Now) -> Params:
        """u <- W v / |W v| with v = W^T u / |W^T u|, for every layer's u [out]."""
        return {name: _iterated(_rows(params[name]), u) for name, u in now.memory.items()}

    def recall(self, params: Params) -> Params:
        """The left singular vector of every layer's W, nearly: u [out]."""
        memory: Params = {}
        for name, w in penalized(params, biases=False).items():
            rows = _rows(w)
            u = Key.of(0, w.device).fold(name).normal(rows.shape[0]).to(w.dtype)
            for _ in range(FIRST_ITERATIONS):
                u = _iterated(rows, u)
            memory[name] = u
        return memory


@dataclass(frozen=True)
class L2SP(Method):
    """rate/2 * sum (w - w0)^2, w0 the weights before training  (Li et al. 2018: L2 from the starting point)."""

    family: ClassVar[str] = "penalty"
    rate: Strength = strength(0, off=0)
    biases: bool = given()

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * sum (w - w0)^2: []."""
        return self.rate / 2 * total(((seen.params[name] - w) ** 2).sum() for name, w in now.memory.items())

    def recall(self, params: Params) -> Params:
        """w0."""
        return penalized(params, self.biases)


@dataclass(frozen=True)
class PathNorm(Method):
    """rate/2 * sum over paths of the squared product of the path's weights  (Neyshabur et al. 2015, p = 2).

    A path leads from one input entry to one logit; the sum is the sum of the logits that the net with squared weights
    gives to an input of ones. Without hidden layers this is `l2`. With `biases`, paths may also begin at a bias. A
    pool acts on these sums as it does on values: a maximum follows the heaviest places, and an average of k places
    counts a path 1/k times, not 1/k^2 (an upper bound). So do a skip of share s, which counts s and not s^2, and the
    mean of shake_shake's two branches, 1/2 and not 1/4. It needs a ReLU net of linear and convolutional layers and
    pools, and refuses norms and methods that change the weights of the forward pass, which would act on the squares.
    Methods that drop or disturb hidden values act on these sums too, and leave their mean about as it is, but for
    alpha_dropout, which shifts it and is refused.
    """

    family: ClassVar[str] = "penalty"
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "BatchNorm", "GhostBatchNorm", "LayerNorm", "GroupNorm", "RMSNorm", "WeightNorm", "SpectralNorm",
            "WeightStandardization", "WeightNoise", "DropConnect", "L0",
        ),
        "the paths run through linear and convolutional layers whose weights are as they are",
    ) | {"AlphaDropout": "the values that it gives to dropped units are no sums over paths"}  # fmt: skip
    rate: Strength = strength(0, off=0)
    biases: bool = given()

    def build(self, net: nn.Module) -> nn.Module:
        """The net as it is; refuses one in which a path's weights do not say it all."""
        for module in net.modules():
            leaf = not list(module.children()) or list(module.parameters(recurse=False))
            if leaf and type(module) not in PATH_LAYERS:
                raise _no_paths(type(module).__name__)
        return net

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate/2 * the sum of the logits of the squared net: []."""
        for name, w in seen.params.items():  # a method listed later may have built something in
            if not (name.endswith("weight") and w.ndim >= 2) and not name.endswith("bias"):
                raise _no_paths(name)
        squared = {n: w**2 if self.biases or w.ndim >= 2 else torch.zeros_like(w) for n, w in seen.params.items()}
        return self.rate / 2 * seen.forward(torch.ones_like(seen.batch.x[:1]), now.key, squared).sum()


@dataclass(frozen=True)
class L0(Method):
    """rate * the expected number of weights that are not zero  (Louizos et al. 2018).

    Every weight of a matrix or filter has a gate z in [0, 1], drawn once a step from a hard concrete distribution
    whose log_alpha is learnt with the weights: s = sigmoid((log u - log(1 - u) + log_alpha) / (2/3)), u uniform, and
    z = clamp(1.2 s - 0.1, 0, 1); the forward pass uses z * w. P(z > 0) = sigmoid(log_alpha - 2/3 log(0.1 / 1.1)).
    Evaluation uses z = clamp(1.2 sigmoid(log_alpha) - 0.1, 0, 1), so that weights become exactly zero. `dropped` is
    the share that the gates hold back before training: log_alpha starts at log((1 - dropped) / dropped), with standard
    deviation 0.01. At rate 0 the gates still make noise, so no rate is the baseline. The gates are not penalized as
    weights by other methods unless biases are.
    """

    family: ClassVar[str] = "penalty"
    finishes: ClassVar[bool] = True
    comes_last: ClassVar[Collection[str]] = ("weights",)  # a weight norm after them would make up for what they close
    rate: Strength = strength(0)
    dropped: Strength = strength(0, 1, open_low=True, open_high=True, built=True)

    def build(self, net: nn.Module) -> nn.Module:
        """The net with the gates of every layer's weights beside them, as its child `gates`."""
        layers = kernels(net, "l0")
        if not layers:
            raise Refusal("method.l0 needs a model with weight matrices or filters; this model has none (model=...)")
        for layer, own in layers:
            layer.add_module("gates", Gates({name: w.numel() for name, w in own.items()}, self.dropped))
        return net

    def weights(self, params: Params, now: Now) -> Params:
        """z * w with the gates of this step."""

        def drawn(name: str, log_alpha: Tensor) -> Tensor:
            u = now.key.fold(name).uniform(*log_alpha.shape) + 2.0**-25  # inside (0, 1), symmetrically
            return _sigmoid((u.log() - (-u).log1p() + log_alpha) / TEMPERATURE)

        return _gated(params, drawn)

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """rate * sum P(z > 0): []."""
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        return self.rate * total(_sigmoid(a - shift).sum() for n, a in seen.params.items() if _kernel(n))

    def average(self, params: Params, now: Now) -> Params:
        """z * w with the gates of evaluation."""
        return _gated(params, lambda name, log_alpha: _sigmoid(log_alpha))


class Gates(nn.Module):
    """The log_alpha of a layer's kernels, each in a row, so that no method takes it for a matrix."""

    def __init__(self, counts: Mapping[str, int], dropped: float) -> None:
        """As many gates as each kernel has weights, a share `dropped` of them shut."""
        super().__init__()
        self.start = math.log(1 - dropped) - math.log(dropped)
        for name, count in counts.items():
            self.register_parameter(beside("log_alpha", name), nn.Parameter(torch.empty(count)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw log_alpha anew."""
        for log_alpha in self.parameters():
            nn.init.normal_(log_alpha, self.start, 0.01)


def _kernel(name: str) -> str:
    """The kernel that a parameter of this name has the gates of; "" if it has none."""
    return of_its_layer(name, "gates", "log_alpha")


def _gated(params: Params, concrete: Callable[[str, Tensor], Tensor]) -> Params:
    """The weights times their gates, clamp(1.2 s - 0.1, 0, 1) for s = concrete(name, log_alpha)."""
    gated: Params = {}
    for name in filter(_kernel, params):
        weight = _kernel(name)
        if weight not in params:
            raise Refusal(f"method.l0 gates {weight}, which another method of the stack has reparametrized; use one")
        s = concrete(name, params[name])
        gated[weight] = params[weight] * (s * (HIGH - LOW) + LOW).clamp(0, 1).view(params[weight].shape)
    return params | gated


def _sigmoid(v: Tensor) -> Tensor:
    """1 / (1 + exp(-v)); the last bits of torch's own depend on a value's place in memory, on CPU."""
    return (1 + (v / 2).tanh()) / 2


def _rows(w: Tensor) -> Tensor:
    """The incoming weights of every unit of w [out, ...]: [out, fan-in]."""
    return w.reshape(w.shape[0], -1)


def _length(v: Tensor, dim: int) -> Tensor:
    """Euclidean length along `dim`, with gradient zero at zero."""
    square = (v**2).sum(dim)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def _distance(w: Tensor) -> Tensor:
    """|G - I|_F^2 of the smaller Gram matrix of w [out, in]: []."""
    with torch.autocast(w.device.type, enabled=False):  # half precision would leave little of a small difference
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return ((gram - torch.eye(len(gram), dtype=w.dtype, device=w.device)) ** 2).sum()


def _right(w: Tensor, u: Tensor) -> Tensor:
    """W^T u over its length, for w [out, in] and u [out]: [in]."""
    v = (w * u[:, None]).sum(0)
    return v / _length(v, 0).clamp_min(torch.finfo(v.dtype).tiny)


def _iterated(w: Tensor, u: Tensor) -> Tensor:
    """One power iteration for the left singular vector u [out] of w [out, in]; u itself where W is zero."""
    left = (w * _right(w, u)).sum(1)
    length = _length(left, 0)
    return torch.where(length > 0, left / torch.where(length > 0, length, 1.0), u)


def _sigma(w: Tensor, u: Tensor) -> Tensor:
    """u^T W v for w [out, in], u and v held fixed: []."""
    return (w * (u[:, None] * _right(w.detach(), u))).sum()


def _no_paths(what: str) -> Refusal:
    return Refusal(
        f"method.path_norm cannot follow paths through {what}; it needs a ReLU net of linear and convolutional layers "
        "and pools, without norms or reparametrized weights"
    )
