"""Optimizers against torch.optim's, and schedules against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from runner.engine.optimizers import SGD, Adam, AdamW, Optimizer
from runner.engine.schedules import Constant, Cosine, Step
from runner.keys import Key
from runner.methods.base import Now, Params

CASES: dict[str, tuple[Optimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.01, 0.0, False), lambda p: torch.optim.SGD(p, 0.01)),
    "momentum": (SGD(0.005, 0.9, False), lambda p: torch.optim.SGD(p, 0.005, momentum=0.9)),
    "nesterov": (SGD(0.005, 0.9, True), lambda p: torch.optim.SGD(p, 0.005, momentum=0.9, nesterov=True)),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.Adam(p, 0.01)),
    "adam_other": (Adam(0.02, 0.8, 0.95, 1e-3), lambda p: torch.optim.Adam(p, 0.02, betas=(0.8, 0.95), eps=1e-3)),
    "adamw": (AdamW(0.01, 0.9, 0.999, 1e-8, 0.1, True), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
}


def loss(params: Params) -> Tensor:
    """Something with curvature that differs between weights."""
    return ((params["w"] ** 4).sum() + (params["w"] @ params["b"]).sin().sum()) * params["b"].exp().sum()


def start() -> Params:
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in (("w", (3, 4)), ("b", (4,)))}


def numbers(optimizer: Optimizer) -> dict[str, float]:
    return {f.name: v for f in fields(optimizer) if isinstance(v := getattr(optimizer, f.name), float)}


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_equal_torchs(name: str) -> None:
    ours, theirs = CASES[name]
    params, moments = start(), ours.begin(start())
    reference = {n: w.clone().requires_grad_() for n, w in start().items()}
    optimizer = theirs(list(reference.values()))
    for step in range(20):
        hyper = numbers(ours)
        gradient = torch.func.grad(loss)(params)
        params, moments = ours.move(params, gradient, moments, hyper, Now(Key.of(0), step, 20, hyper["lr"]))
        optimizer.zero_grad()
        loss(reference).backward()
        optimizer.step()
    for n, w in params.items():
        torch.testing.assert_close(w, reference[n].detach(), rtol=1e-6, atol=1e-6)
        assert not torch.equal(w, start()[n])


@pytest.mark.parametrize("name", CASES)
def test_lanes_with_their_own_numbers_equal_runs_alone(name: str) -> None:
    ours, _ = CASES[name]
    hyper = {n: torch.tensor([v, 0.5 * v], dtype=torch.float64) for n, v in numbers(ours).items()}
    two = {n: torch.stack([w, w]) for n, w in start().items()}

    def step(params: Params, moments: Params, hyper: dict[str, Tensor], at: int) -> tuple[Params, Params]:
        gradient = torch.func.grad(loss)(params)
        return ours.move(params, gradient, moments, hyper, Now(Key.of(0), at, 20, hyper["lr"]))

    moments = {n: torch.stack([w, w]) for n, w in ours.begin(start()).items()}
    for at in range(5):
        two, moments = vmap(step, in_dims=(0, 0, 0, None))(two, moments, hyper, at)
    for lane in range(2):
        one, mine = start(), ours.begin(start())
        for at in range(5):
            one, mine = step(one, mine, {n: v[lane] for n, v in hyper.items()}, at)
        for n, w in one.items():
            torch.testing.assert_close(two[n][lane], w, rtol=1e-12, atol=1e-12)


def test_adamw_leaves_biases_alone_unless_asked() -> None:
    still = {n: torch.zeros_like(w) for n, w in start().items()}
    for biases in (False, True):
        ours = AdamW(0.1, 0.9, 0.999, 1e-8, 0.5, biases)
        moved, _ = ours.move(start(), still, ours.begin(start()), numbers(ours), Now(Key.of(0), 0, 1, 0.1))
        # the gradient is zero, so only the decay acts: 1 - 0.1 * 0.5 = 0.95
        torch.testing.assert_close(moved["w"], 0.95 * start()["w"])
        torch.testing.assert_close(moved["b"], (0.95 if biases else 1.0) * start()["b"])


def test_schedules() -> None:
    assert Constant().share(7, 10) == 1
    # no warm-up: half a cosine from 1 towards 0; at the middle 1/2
    assert Cosine(0.0).share(0, 10) == 1
    assert Cosine(0.0).share(5, 10) == pytest.approx(0.5)
    # two drops by 0.1 over nine steps: at 3 and at 6
    shares = [Step(2, 0.1).share(step, 9) for step in range(9)]
    assert shares == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
