"""Averages of the weights and sharpness-aware gradients against implementations of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.optim.lookahead import Lookahead as TimmLookahead
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from runner.engine import evaluate
from runner.engine.evaluate import Pool
from runner.keys import Key
from runner.methods.averaging import EMA, SWA, Lookahead
from runner.methods.base import Method, Now, Params
from runner.methods.flatness import ASAM, SAM
from runner.nets.norms import BatchNormLayer

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
        (SWA(0.5, 1), STEPS // 2, lambda model: AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())),
        (EMA(0.1), 0, lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.1))),
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


def test_a_long_average_after_its_warm_up_is_torchs() -> None:
    # the decay is at most (1 + t) / (10 + t), which is 0.99 at t = 890
    model, method = net(), EMA(0.99)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    theirs.update_parameters(model)
    memory = method.recall(weights(model))
    for step in range(STEPS):
        descended(model, optimizer)
        theirs.update_parameters(model)
        memory = method.remember(weights(model), replace(NOW, step=890 + step, steps=1000, memory=memory))
    torch.testing.assert_close(memory, weights(theirs.module))


@pytest.mark.parametrize("batches", [1, 4])
def test_batch_norm_of_averaged_weights_is_torchs(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one batch; of several torch takes the mean of their variances, which leaves the spread of their means out."""
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 7), nn.BatchNorm1d(7))
    mine = nn.Sequential(
        nn.Linear(5, 7), BatchNormLayer(7, 1e-5), nn.ReLU(), nn.Linear(7, 7), BatchNormLayer(7, 1e-5)
    ).eval()
    theirs, method, n = AveragedModel(model), SWA(0.0, 1), len(X) // batches
    memory = method.recall(weights(model))
    for step in range(3):
        torch.manual_seed(step)
        for w in model.parameters():
            nn.init.normal_(w)
        theirs.update_parameters(model)
        memory = method.remember(weights(model), replace(NOW, step=step, memory=memory))
    averaged = method.average(weights(model), replace(NOW, step=3, memory=memory))
    means: list[Tensor] = []
    theirs.module.get_submodule("1").register_forward_pre_hook(lambda _, given: means.append(given[0].mean(0)))
    update_bn(X.split(n), theirs)
    spread = torch.stack(means).var(0, unbiased=False) if batches > 1 else torch.zeros(7)

    own = {_renamed(name): w[None] for name, w in averaged.items()}
    pool = Pool(X, Y, torch.zeros(1, 5), torch.ones(1, 5))
    monkeypatch.setattr(evaluate, "EXAMPLES", n)
    monkeypatch.setattr(evaluate, "WHOLE", 0)
    measured, _ = evaluate.measure_norms(evaluate.Examiner(mine, False), own, pool, torch.arange(len(X))[None])
    layers = (("1", spread), ("4", None)) if batches == 1 else (("1", spread),)
    for layer, beside in layers:
        bn = theirs.module.get_submodule(layer)
        torch.testing.assert_close(measured[f"{layer}.mean"][0], bn.running_mean, rtol=1e-4, atol=1e-5)
        expected = torch.as_tensor(bn.running_var) * (n - 1) / n  # it stores the unbiased variance
        if beside is not None:
            expected = expected + beside
        torch.testing.assert_close(measured[f"{layer}.var"][0], expected, rtol=1e-4, atol=1e-5)


def _renamed(name: str) -> str:
    """torch's name of a parameter of a batch norm as regrun has it."""
    place, _, kind = name.partition(".")
    return f"{place}.{ {'weight': 'scale', 'bias': 'shift'}[kind] if place in ('1', '4') else kind }"


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
