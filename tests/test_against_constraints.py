"""Constraints, reparametrizations and norms beside implementations by others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from runner.keys import Key
from runner.methods.base import Now, Params
from runner.methods.constraints import MaxNorm, Prune
from runner.methods.reparametrization import SpectralNorm, WeightNorm, WeightStandardization
from runner.nets.norms import GhostBatchNormLayer, GroupNormLayer, RMSNormLayer

NOW = Now(Key.of(0), 9, 10, 0.1)
SHAPES = [(7, 5), (4, 3, 5), (6, 2, 3, 3)]


def layer(shape: tuple[int, ...]) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """A linear or convolutional layer with a kernel of this shape, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(shape))
        if len(shape) == 2:
            return nn.Linear(shape[1], shape[0])
        kind = nn.Conv1d if len(shape) == 3 else nn.Conv2d
        return kind(shape[1], shape[0], shape[2])


@pytest.mark.parametrize("shape", SHAPES)
def test_max_norm_is_torchs_renorm(shape: tuple[int, ...]) -> None:
    w = layer(shape).weight.detach()
    limit = w.flatten(1).norm(dim=1).median().item()  # some units are longer, some not
    torch.testing.assert_close(MaxNorm(limit).project({"w": w}, NOW)["w"], torch.renorm(w, 2, 0, limit))


@pytest.mark.parametrize("shape", SHAPES)
def test_prune_is_torchs_at_its_end(shape: tuple[int, ...]) -> None:
    unstructured: Any = prune.l1_unstructured  # torch leaves it untyped
    theirs = unstructured(layer(shape), "weight", amount=0.6).weight
    method, params = Prune(0.6, 0.0, 0.5, 1), {"w": layer(shape).weight.detach()}
    mine = method.project(params, replace(NOW, memory=method.recall(params)))
    assert torch.equal(mine["w"], theirs.detach())


@pytest.mark.parametrize("shape", SHAPES)
def test_weight_norm_and_its_gradient_are_torchs(shape: tuple[int, ...]) -> None:
    theirs: Any = parametrizations.weight_norm(layer(shape))
    length, direction = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    with torch.no_grad():
        length.mul_(torch.linspace(0.5, 2, len(length)).view_as(length))
    push = torch.linspace(-1, 1, direction.numel()).view_as(direction)
    (theirs.weight * push).sum().backward()

    params = {"weight": direction.detach(), "length.g": length.detach().flatten()}
    torch.testing.assert_close(WeightNorm(1.0).weights(params, NOW)["weight"], theirs.weight.detach())

    def pushed(params: Params) -> Tensor:
        return (WeightNorm(1.0).weights(params, NOW)["weight"] * push).sum()

    gradient = torch.func.grad(pushed)(params)
    torch.testing.assert_close(gradient["weight"], direction.grad)
    torch.testing.assert_close(gradient["length.g"], length.grad.flatten())


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_norm_and_its_gradient_are_torchs(shape: tuple[int, ...]) -> None:
    theirs: Any = parametrizations.spectral_norm(layer(shape), n_power_iterations=200)
    original = theirs.parametrizations.weight.original
    push = torch.linspace(-1, 1, original.numel()).view_as(original)
    (theirs.weight * push).sum().backward()

    method, params = SpectralNorm(1.0, "equal"), {"weight": original.detach()}
    now = replace(NOW, memory=method.recall(params))
    for _ in range(200):
        now = replace(now, memory=method.remember(params, now))
    torch.testing.assert_close(method.weights(params, now)["weight"], theirs.weight.detach(), rtol=1e-4, atol=1e-5)
    settled = method.average(params, now)["weight"].flatten(1)
    assert torch.linalg.svdvals(settled)[0].item() == pytest.approx(1, rel=1e-4)

    def pushed(params: Params) -> Tensor:
        return (method.weights(params, now)["weight"] * push).sum()

    torch.testing.assert_close(torch.func.grad(pushed)(params)["weight"], original.grad, rtol=1e-3, atol=1e-4)


def test_one_round_of_power_iteration_is_torchs() -> None:
    theirs: Any = parametrizations.spectral_norm(layer((7, 5)), n_power_iterations=1).train()
    hidden = theirs.parametrizations.weight[0]
    method, params = SpectralNorm(1.0, "equal"), {"weight": theirs.parametrizations.weight.original.detach()}
    start = torch.linspace(1, 2, 7)
    hidden._u, hidden._v = start / start.norm(), F.normalize(params["weight"].T @ start, dim=0)
    now = replace(NOW, memory={"weight": hidden._u.clone()})
    given = theirs.weight  # a training pass: one round, then the division
    push = torch.linspace(-1, 1, 35).view(7, 5)
    (given * push).sum().backward()
    now = replace(now, memory=method.remember(params, now))
    torch.testing.assert_close(now.memory["weight"], hidden._u)
    torch.testing.assert_close(method.weights(params, now)["weight"], given.detach())
    # and so is the gradient, through sigma with the vectors held fixed
    gradient = torch.func.grad(lambda w: (method.weights({"weight": w}, now)["weight"] * push).sum())(params["weight"])
    torch.testing.assert_close(gradient, theirs.parametrizations.weight.original.grad)


@pytest.mark.parametrize("scaled", [False, True])
def test_weight_standardization_is_timms(scaled: bool) -> None:
    layers = pytest.importorskip("timm.layers")
    theirs = layers.ScaledStdConv2d(3, 6, 3, gamma=1.7128585504496627) if scaled else layers.StdConv2d(3, 6, 3)
    x = torch.randn(2, 3, 8, 8)
    params = {"0.weight": theirs.weight.detach(), "1.weight": torch.ones(1, 1)}
    used = WeightStandardization(theirs.eps, scaled).weights(params, NOW)["0.weight"]
    bias = None if theirs.bias is None else theirs.bias.detach()
    mine = F.conv2d(x, used, bias, padding=theirs.padding)
    torch.testing.assert_close(mine, theirs(x).detach(), rtol=1e-4, atol=1e-4)


def test_layer_group_and_rms_norm_are_torchs() -> None:
    flat, image = torch.randn(5, 6), torch.randn(5, 6, 4, 3)
    torch.testing.assert_close(GroupNormLayer(6, 1, 1e-5)(flat), nn.LayerNorm(6)(flat))
    torch.testing.assert_close(GroupNormLayer(6, 1, 1e-5)(image), nn.LayerNorm((6, 4, 3))(image))
    torch.testing.assert_close(RMSNormLayer(6, 1e-5)(flat), nn.RMSNorm(6, eps=1e-5)(flat))
    torch.testing.assert_close(RMSNormLayer(6, 1e-5)(image), nn.RMSNorm((6, 4, 3), eps=1e-5)(image))
    mine, theirs = GroupNormLayer(6, 3, 1e-5), nn.GroupNorm(3, 6)
    with torch.no_grad():
        for a, b in zip((mine.scale, mine.shift), (theirs.weight, theirs.bias), strict=True):
            a.copy_(torch.linspace(-1, 1, 6))
            b.copy_(a)
    for h in (flat, image):
        torch.testing.assert_close(mine(h), theirs(h))


def test_ghost_batch_norm_is_torchs_batch_norm_on_every_part() -> None:
    h = torch.randn(100, 3, 5)
    mine = GhostBatchNormLayer(3, 32, 1e-5).train()(h)
    theirs = [nn.BatchNorm1d(3).train()(part) for part in (h[:34], h[34:67], h[67:])]
    torch.testing.assert_close(mine, torch.cat(theirs))
    whole = GhostBatchNormLayer(3, 51, 1e-5).train()(h)
    torch.testing.assert_close(whole, nn.BatchNorm1d(3).train()(h))
