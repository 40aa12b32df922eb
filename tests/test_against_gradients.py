"""Gradient clipping beside implementations by others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from runner.keys import Key
from runner.methods.base import Method, Now, Params
from runner.methods.gradients import AGC, ClipNorm, ClipValue

NOW = Now(Key.of(0), 0, 10, 0.1)


def net() -> nn.Module:
    """A net with gradients, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
        (made(torch.randn(8, 2, 4, 4)) ** 2).mean().backward()
    return made


def gradients(of: nn.Module) -> Params:
    return {name: w.grad.clone() for name, w in of.named_parameters() if w.grad is not None}


def compare(method: Method, clip: Callable[[nn.Module], object], rtol: float = 1e-6) -> None:
    mine = method.gradient(lambda params: gradients(net()), {n: w.detach() for n, w in net().named_parameters()}, NOW)
    clipped = net()
    clip(clipped)
    theirs = gradients(clipped)
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=rtol, atol=1e-8)
    assert any(not torch.equal(theirs[name], g) for name, g in gradients(net()).items())


def test_clip_norm_is_torchs() -> None:
    # torch divides by the norm plus 1e-6, and the norm is about 0.1
    compare(ClipNorm(0.05), lambda made: nn.utils.clip_grad_norm_(made.parameters(), 0.05), rtol=1e-4)


def test_clip_value_is_torchs() -> None:
    compare(ClipValue(0.01), lambda made: nn.utils.clip_grad_value_(made.parameters(), 0.01))


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_agc_is_timms(limit: float) -> None:
    # timm leaves it to the caller to leave the last layer's weight and bias out
    compare(AGC(limit, 1e-3), lambda made: adaptive_clip_grad(list(made.parameters())[:-2], limit, 1e-3), rtol=1e-5)
