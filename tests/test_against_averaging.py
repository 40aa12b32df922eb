"""Averages of the weights and sharpness-aware gradients against implementations of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.optim.lookahead import Lookahead as TimmLookahead
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from runner.keys import Key
from runner.methods.averaging import EMA, SWA, Lookahead
from runner.methods.base import Method, Now, Params
from runner.methods.flatness import ASAM, SAM

STEPS = 40
NOW = Now(Key.of(0), 0, STEPS, 0.05)
X, Y = torch.randn(32, 5, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def weights(model: nn.Module) -> Params:
    return {name: w.detach().clone() for name, w in model.named_parameters()}


def loss_at(params: Params) -> Tensor:
    return F.cross_entropy(torch.func.functional_call(net(), params, (X,)), Y)


def descended(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(F.cross_entropy(model(X), Y))
    optimizer.step()


@pytest.mark.parametrize(
    ("method", "first", "averages"),
    [
        (SWA(0.25, 1), STEPS // 4, lambda model: AveragedModel(model)),
        (SWA(0.5, 1), STEPS // 2, lambda model: AveragedModel(model)),
        # the warm-up limits the decay to 1/10 and more, so that 0.1 is 0.1 throughout
        (EMA(0.1), 0, lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(0.1))),
        # with the limit as timm and TensorFlow have it; AveragedModel counts the initial weights
        (
            EMA(0.95),
            0,
            lambda model: AveragedModel(
                model, avg_fn=lambda kept, w, n: torch.lerp(w, kept, min(0.95, float(n) / (9 + float(n))))
            ),
        ),
    ],
)
def test_averages_are_torchs(method: Method, first: int, averages: Callable[[nn.Module], AveragedModel]) -> None:
    model = net()
    theirs = averages(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    memory = method.recall(weights(model))
    if isinstance(method, EMA):
        theirs.update_parameters(model)
    for step in range(STEPS):
        descended(model, optimizer)
        now = replace(NOW, step=step, memory=memory)
        memory = method.remember(weights(model), now)
        if step >= first:
            theirs.update_parameters(model)
        mine = method.average(weights(model), replace(now, memory=memory))
        if step >= first:
            torch.testing.assert_close(mine, weights(theirs.module))
        else:
            assert all(torch.equal(mine[n], w) for n, w in weights(model).items())


def test_lookahead_is_timms() -> None:
    model, method = net(), Lookahead(0.6, 5)
    optimizer = TimmLookahead(torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), alpha=0.6, k=5)
    torch.autograd.backward(F.cross_entropy(model(X), Y))  # it passes over weights without a gradient
    optimizer.sync_lookahead()  # else its first slow weights are those of the first pull, which then does nothing
    mine = weights(model)
    velocity = {n: torch.zeros_like(w) for n, w in mine.items()}
    memory = method.recall(mine)
    for step in range(STEPS):
        descended(model, optimizer)
        gradient = torch.func.grad(loss_at)(mine)
        velocity = {n: 0.9 * v + gradient[n] for n, v in velocity.items()}
        now = replace(NOW, step=step, memory=memory)
        mine = method.project({n: w - 0.3 * velocity[n] for n, w in mine.items()}, now)
        memory = method.remember(mine, now)
        torch.testing.assert_close(mine, weights(model), rtol=1e-4, atol=1e-5)


def climbed_in_place(model: nn.Module, radius: float, eta: float | None) -> Params:
    """The gradient of SAM (eta None) or ASAM as a PyTorch user writes them: weights climb in place, then go back.

    After the optimizers of davda54/sam and SamsungLabs/ASAM (`minimizer.py`), written anew.
    """
    torch.autograd.backward(F.cross_entropy(model(X), Y))
    with torch.no_grad():
        stretch = [
            w.abs() + eta if eta is not None and n.endswith("weight") else torch.ones_like(w)
            for n, w in model.named_parameters()
        ]
        grads = [w.grad for w in model.parameters() if w.grad is not None]
        length = torch.stack([(t * g).norm() for t, g in zip(stretch, grads, strict=True)]).norm()
        moves = [t * t * g * radius / length for t, g in zip(stretch, grads, strict=True)]
        for w, move in zip(model.parameters(), moves, strict=True):
            w.add_(move)
    model.zero_grad()
    torch.autograd.backward(F.cross_entropy(model(X), Y))
    return {n: w.grad for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize(("method", "eta"), [(SAM(0.2), None), (ASAM(0.2, 0.01), 0.01)])
def test_sharpness_aware_gradients(method: Method, eta: float | None) -> None:
    mine = method.gradient(torch.func.grad(loss_at), weights(net()), NOW)
    torch.testing.assert_close(mine, climbed_in_place(net(), 0.2, eta))
    plain = torch.func.grad(loss_at)(weights(net()))
    assert not torch.allclose(mine["0.weight"], plain["0.weight"], rtol=1e-3)
