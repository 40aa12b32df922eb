"""Measures of generalization of a trained net, from its weights and its training rows  (Jiang et al. 2020).

Each says something of how far test may be from train without a look at test; the report asks whether it does. They are
asked for (`evaluate.measures`) and are of the weights of the last checkpoint, or of several members the newest of the
first; the net is in evaluation mode, and its batch-norm statistics are held fixed where weights are moved. Norms are
of matrices and filters as they are stored, [out, in * places] each: scales of norms are not folded into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from runner.keys import Key
from runner.methods.base import Params, losses, norm, penalized, total
from runner.methods.weight_penalties import PATH_LAYERS
from runner.nets.lanewise import LANEWISE

MEASURES = (
    "param_norm", "dist_init", "dist_init_spec", "log_prod_frob", "log_prod_spec", "margin", "log_prod_spec_margin",
    "path_norm", "sharpness", "pac_bayes_sigma", "pac_bayes_mag_sigma", "hessian_top",
)  # fmt: skip
ROWS = 2000  # training rows at most, the first of the run's, which are drawn at random
RADIUS, ASCENTS = 0.05, 10  # of sharpness: the ball, as in SAM, and the steps within it
DROP = 0.1  # of accuracy or R2 that the noise of `pac_bayes_sigma` may cost, as in Jiang et al.
DRAWS, HALVINGS, LEAST, MOST = 10, 12, 1e-5, 1.0  # of that noise, and of the search for its standard deviation
LANCZOS = 30  # steps at most

Forward = Callable[[Params], Tensor]  # weights -> outputs [n, C]


def measured(net: nn.Module, params: Params, start: Params, buffers: Params, x: Tensor, y: Tensor, key: Key) -> Params:
    """Every one of MEASURES, float64 [], of one run: its weights, first weights, buffers and training rows.

    x [n, ...] is standardized, y [n] are the labels, or standardized numbers, trained on. `key` is that of the run.
    """
    x, y = x[:ROWS], y[:ROWS]

    def forward(at: Params) -> Tensor:
        out: Tensor = functional_call(net, at | buffers, (x,)).float()
        return out

    logits = forward(params)
    target = y[:, None].to(logits.dtype) if y.is_floating_point() else torch.eye(logits.shape[1]).to(logits)[y]

    def loss_at(at: Params) -> Tensor:
        return losses(forward(at), target).mean()

    nothing = torch.tensor(math.nan, dtype=torch.float64)
    kernels, first = penalized(params, biases=False), penalized(start, biases=False)
    moved = {name: w - first[name] for name, w in kernels.items()}
    frob = {name: (w.double() ** 2).sum() for name, w in kernels.items()}
    spec = {name: spectral(w) for name, w in kernels.items()}
    margin = nothing if y.is_floating_point() else margin_of(logits, y)
    log_spec = 2 * total(s.log() for s in spec.values())
    found = {
        "param_norm": total(frob.values()).sqrt(),
        "dist_init": norm({name: w.double() for name, w in moved.items()}),
        "dist_init_spec": total(spectral(w) ** 2 for w in moved.values()).sqrt(),
        "log_prod_frob": total(f.log() for f in frob.values()),
        "log_prod_spec": log_spec,
        "margin": margin,
        "log_prod_spec_margin": log_spec - 2 * margin.log(),  # not a number where the margin is negative
        "path_norm": path_norm(net, params, x) if has_paths(net, params) else nothing,
        "sharpness": sharpness(loss_at, params),
        "pac_bayes_sigma": largest_sigma(forward, params, target, key.fold("plain"), relative=False),
        "pac_bayes_mag_sigma": largest_sigma(forward, params, target, key.fold("magnitude"), relative=True),
        "hessian_top": hessian_top(loss_at, params, key.fold("hessian")),
    }
    return {name: value.double().cpu() for name, value in found.items()}


def spectral(w: Tensor) -> Tensor:
    """The largest singular value of a matrix, or of a filter as [out, in * places]: float64 []."""
    sigma: Tensor = torch.linalg.matrix_norm(w.double().flatten(1), 2)
    return sigma


def margin_of(logits: Tensor, y: Tensor) -> Tensor:
    """The tenth percentile over examples of the right class's logit less the largest other: float64 []."""
    right = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (right - others).double().quantile(0.1)


def has_paths(net: nn.Module, params: Params) -> bool:
    """Whether a path's weights say it all: a ReLU net of linear and convolutional layers and pools."""
    modules = [m for m in net.modules() if not list(m.children()) or list(m.parameters(recurse=False))]
    named = all(name.endswith("bias") or (name.endswith("weight") and w.ndim >= 2) for name, w in params.items())
    return named and not net._forward_hooks and all(type(m) in (*PATH_LAYERS, *LANEWISE) for m in modules)


def path_norm(net: nn.Module, params: Params, x: Tensor) -> Tensor:
    """Root of the sum over paths, those that begin at a bias too, of the squared product of their weights: [].

    Averages and skips of a share count as in `runner.methods.weight_penalties.PathNorm`: 1/k and s, not their squares.
    """
    squared = {name: w**2 for name, w in params.items()}
    out: Tensor = functional_call(net, squared, (torch.ones_like(x[:1]),))
    return out.double().sum().sqrt()


def sharpness(loss_at: Callable[[Params], Tensor], params: Params) -> Tensor:
    """How much the loss can rise within RADIUS of the weights, by ascent along the normalized gradient: [].

    ASCENTS steps of twice RADIUS / ASCENTS, each back into the ball; the first is SAM's direction  (Foret et al. 2021).
    """
    at, here = params, loss_at(params)
    highest = here
    for _ in range(ASCENTS):
        slope = _gradient(loss_at, at)
        step = 2 * RADIUS / ASCENTS / norm(slope).clamp_min(1e-12)
        away = {name: w + step * slope[name] - params[name] for name, w in at.items()}
        back = (RADIUS / norm(away).clamp_min(1e-12)).clamp_max(1)
        at = {name: params[name] + back * moved for name, moved in away.items()}
        highest = torch.maximum(highest, loss_at(at))
    return highest - here


def largest_sigma(forward: Forward, params: Params, target: Tensor, key: Key, relative: bool) -> Tensor:
    """The largest standard deviation of normal noise on all weights that costs at most DROP of the training score: [].

    The score is accuracy, or R2, and its mean over DRAWS draws counts, which are the same at every sigma. `relative`:
    times each weight's size. Found by HALVINGS halvings of [LEAST, MOST] in logarithms, whose ends are the extremes.
    """
    noise = [
        {name: key.fold(draw).fold(name).normal(*w.shape).to(w.dtype) for name, w in params.items()}
        for draw in range(DRAWS)
    ]
    least = _score(forward(params), target) - DROP

    def holds(sigma: float) -> bool:
        scores = [
            _score(forward({n: w + sigma * u[n] * (w.abs() if relative else 1) for n, w in params.items()}), target)
            for u in noise
        ]
        return bool(torch.stack(scores).mean() >= least)

    low, high = math.log(LEAST), math.log(MOST)
    if holds(MOST) or not holds(LEAST):
        return torch.tensor(MOST if holds(MOST) else LEAST, dtype=torch.float64)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(math.exp(middle)) else (low, middle)
    return torch.tensor(math.exp(low), dtype=torch.float64)


def hessian_top(loss_at: Callable[[Params], Tensor], params: Params, key: Key) -> Tensor:
    """The largest eigenvalue of the loss's Hessian over all weights, by Lanczos's method: [].

    The basis is kept orthogonal in full. Stops after LANCZOS steps, or where the value moves by less than 1e-4 of it.
    """
    leaves = [w.detach().clone().requires_grad_() for w in params.values()]
    with torch.enable_grad():
        loss = loss_at(dict(zip(params, leaves, strict=True)))
        slope = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    slopes = [part for part in slope if part.requires_grad]  # a loss that is linear in a weight has none
    if not slopes:
        return torch.tensor(0.0)

    def product(v: Tensor) -> Tensor:
        parts = [p.view_as(w) for p, w in zip(v.split([w.numel() for w in leaves]), leaves, strict=True)]
        used = [p for p, part in zip(parts, slope, strict=True) if part.requires_grad]
        along = torch.autograd.grad(slopes, leaves, used, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in along])

    size = sum(w.numel() for w in leaves)
    v = key.normal(size).to(leaves[0])
    basis = [v / v.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    top = torch.tensor(math.inf, dtype=torch.float64)
    for _ in range(min(LANCZOS, size)):
        w = product(basis[-1])
        diagonal.append(w @ basis[-1])
        for _ in range(2):  # once is not enough in float32
            for b in basis:
                w = w - (w @ b) * b
        tridiagonal = torch.diag(torch.stack(diagonal).double())
        if beside:
            off = torch.diag(torch.stack(beside).double(), 1)
            tridiagonal = tridiagonal + off + off.T
        before, top = top, torch.linalg.eigvalsh(tridiagonal.cpu())[-1]
        length = w.norm()
        if not length > 1e-6 * top.abs() or (top - before).abs() < 1e-4 * top.abs():
            break
        beside.append(length)
        basis.append(w / length)
    return top


def _gradient(loss_at: Callable[[Params], Tensor], at: Params) -> Params:
    leaves = {name: w.detach().requires_grad_() for name, w in at.items()}
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss_at(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def _score(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy, or R2 of a single output: float64 []."""
    if target.shape[1] == 1:
        off = (logits - target).double()
        return 1 - (off**2).mean() / target.double().var(unbiased=False)
    return (logits.argmax(1) == target.argmax(1)).double().mean()
