"""Convolutions as matrix products are torch's, and what is not theirs stays torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from runner.nets.lanewise import LanewiseConv1d, LanewiseLinear, lanewise

PAIRS = [(1, 1), (3, 1), (5, 2), (3, 2), (2, 3), (4, 4), (1, 2), (7, 3)]  # kernel, stride


@pytest.mark.parametrize(("kernel", "stride"), PAIRS)
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_and_its_derivatives_are_torchs(kernel: int, stride: int, padding: int, bias: bool) -> None:
    theirs = nn.Conv1d(3, 4, kernel, stride, padding, bias=bias).double()
    ours = nn.Sequential(nn.Conv1d(3, 4, kernel, stride, padding, bias=bias).double())
    ours[0].load_state_dict(theirs.state_dict())
    lanewise(ours)
    assert type(ours[0]) is LanewiseConv1d
    for length in (8, 9, 10, 11):
        x = torch.randn(2, 3, length, dtype=torch.float64, requires_grad=True)
        weights = list(theirs.parameters())
        torch.testing.assert_close(ours(x), theirs(x))
        for mine, right in zip(
            torch.autograd.grad(ours(x).sin().sum(), [x, *ours.parameters()]),
            torch.autograd.grad(theirs(x).sin().sum(), [x, *weights]),
            strict=True,
        ):
            torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_few_outputs_and_its_derivatives_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    theirs, ours = nn.Linear(7, 3, bias).double(), nn.Sequential(nn.Linear(7, 3, bias).double())
    ours[0].load_state_dict(theirs.state_dict())
    lanewise(ours)
    assert type(ours[0]) is LanewiseLinear
    x = torch.randn(shape, dtype=torch.float64)
    for value in (x, x.mT.contiguous().mT):
        value.requires_grad_()
        torch.testing.assert_close(ours[0](value), theirs(value))
        assert ours[0](value).is_contiguous()
        for mine, right in zip(
            torch.autograd.grad(ours[0](value).sin().sum(), [value, *ours[0].parameters()]),
            torch.autograd.grad(theirs(value).sin().sum(), [value, *theirs.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
@pytest.mark.parametrize("outputs", [3, 17])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_without_derivatives_is_torchs(shape: tuple[int, ...], outputs: int, bias: bool) -> None:
    theirs, ours = nn.Linear(7, outputs, bias).double(), nn.Sequential(nn.Linear(7, outputs, bias).double())
    lanewise(ours)
    assert type(ours[0]) is LanewiseLinear
    params = {name: torch.randn(4, *w.shape, dtype=torch.float64) for name, w in theirs.named_parameters()}
    x = torch.randn(4, *shape, dtype=torch.float64)
    with torch.no_grad():
        for value in (x, x.mT.contiguous().mT):
            right = vmap(lambda params, x: functional_call(theirs, params, (x,)))(params, value)
            mine = vmap(lambda params, x: functional_call(ours[0], params, (x,)))(params, value)
            torch.testing.assert_close(mine, right)
            shared = vmap(lambda params, x: functional_call(ours[0], params, (x,)), (0, None))(params, value[0])
            torch.testing.assert_close(shared[0], right[0])


def test_second_derivatives_are_torchs() -> None:
    theirs, ours = nn.Conv1d(2, 3, 3, 2, 1).double(), nn.Sequential(nn.Conv1d(2, 3, 3, 2, 1).double())
    ours[0].load_state_dict(theirs.state_dict())
    lanewise(ours)
    x = torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True)

    def steepness(net: nn.Module) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(net(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), list(net.parameters()))

    for mine, right in zip(steepness(ours), steepness(theirs), strict=True):
        torch.testing.assert_close(mine, right)


def test_a_lane_has_the_same_bits_beside_any_others() -> None:
    net = nn.Sequential(nn.Conv1d(3, 25, 5, 2, 1), nn.ReLU(), nn.Conv1d(25, 25, 3, 2, 1))
    lanewise(net)
    params = {name: torch.randn(6, *w.shape) for name, w in net.named_parameters()}
    x = torch.randn(6, 100, 3, 40)

    def slope(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        slopes: dict[str, Tensor] = grad(lambda at: functional_call(net, at, (x,)).square().sum())(params)
        return slopes

    whole = vmap(slope)(params, x)
    for lanes in ([4], [4, 1], [0, 2, 4]):
        some = vmap(slope)({name: w[lanes] for name, w in params.items()}, x[lanes])
        assert all(torch.equal(some[name], whole[name][lanes]) for name in params)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3, dilation=2),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3),
    ],
    ids=["groups", "dilation", "same", "circular", "image"],
)
def test_other_convolutions_stay_torchs(layer: nn.Module) -> None:
    before = type(layer)
    lanewise(nn.Sequential(layer))
    assert type(layer) is before
