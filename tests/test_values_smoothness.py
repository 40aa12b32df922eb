"""Penalties on logits, hidden values and slopes, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from seen import NOW, of_logits, through, value
from settings import Trainer
from torch import Tensor, nn

from runner.engine.lanes import _autograd
from runner.engine.optimizers import SGD
from runner.engine.step import State, train_step
from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Batch, Method, Site
from runner.methods.dropping import Dropout
from runner.methods.mixing import InputNoise
from runner.methods.smoothness import (
    FGSM,
    ActivityL1,
    ConfidencePenalty,
    Flooding,
    Focal,
    InputGradient,
    Jacobian,
    KLSparsity,
    LogitPenalty,
    RDrop,
    VirtualAdversarial,
)
from runner.methods.stack import Stack
from runner.methods.structured_dropping import HiddenNoise
from runner.methods.weight_noise import DropConnect
from runner.nets.dense import linear, mlp

HARD = torch.tensor([[1.0, 0.0]])
SOFT = torch.tensor([[0.5, 0.5]])
QUARTER = torch.tensor([[0.0, math.log(3)]])  # the logits of p = 1/4, 3/4


def slope_at(method: Method, logits: Tensor, y: Tensor) -> Tensor:
    """The penalty's gradient with respect to the logits."""
    at = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.as_tensor(method.penalty(of_logits(at, y), NOW)), at)
    return slope


def test_logit_penalty() -> None:
    # |logits|^2 = 5 and 9, mean 7: 0.5 / 2 * 7 = 1.75
    logits = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert value(LogitPenalty(0.5), of_logits(logits, torch.eye(2))) == pytest.approx(1.75)


def test_confidence_penalty_rewards_entropy() -> None:
    # H(1/4, 3/4) = ln 4 - 3/4 ln 3 = 0.562335, and 0.5 of it is taken off
    assert value(ConfidencePenalty(0.5), of_logits(QUARTER, HARD)) == pytest.approx(-0.281168, abs=1e-6)
    assert torch.isfinite(slope_at(ConfidencePenalty(1.0), torch.tensor([[200.0, 0.0]]), HARD)).all()


def test_focal() -> None:
    # p_t = 1/4: (3/4)^2 ln 4 = 0.779791 instead of ln 4
    assert value(Focal(2.0), of_logits(QUARTER, HARD)) == pytest.approx((9 / 16 - 1) * math.log(4))
    # soft: (9/16 ln 4 + 1/16 ln(4/3)) / 2 instead of (ln 4 + ln(4/3)) / 2
    expected = ((9 / 16 - 1) * math.log(4) + (1 / 16 - 1) * math.log(4 / 3)) / 2
    assert value(Focal(2.0), of_logits(QUARTER, SOFT)) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_slope_where_the_net_is_certain(gamma: float) -> None:
    for y in (HARD, HARD.flip(1), SOFT):
        assert torch.isfinite(slope_at(Focal(gamma), torch.tensor([[100.0, 0.0]]), y)).all()


def test_flooding() -> None:
    # L = ln 2 = 0.693147: at level 1 |L - 1| + 1 = 1.306853, which is 0.613706 more; at level 0.5 it stays
    even = torch.zeros(1, 2)
    assert value(Flooding(1.0), of_logits(even, HARD)) == pytest.approx(0.613706, abs=1e-6)
    assert value(Flooding(0.5), of_logits(even, HARD)) == 0
    # below the level the slope of the whole loss, (p - y) = (-1/2, 1/2), is turned round: -2 times it is added
    torch.testing.assert_close(slope_at(Flooding(1.0), even, HARD), torch.tensor([[1.0, -1.0]]))


def test_flooding_is_of_the_mean_of_the_batch() -> None:
    # losses ln 4 and ln(4/3), mean 0.836988: the second alone would be flooded at 0.8
    two = of_logits(QUARTER.expand(2, 2), torch.eye(2))
    assert value(Flooding(0.8), two) == 0
    assert value(Flooding(0.9), two) == pytest.approx(2 * (0.9 - math.log(4) + math.log(3) / 2), abs=1e-6)


def test_activity_l1_sums_over_units_and_sites() -> None:
    # |h| sums to 3 and 5 in the first site, mean 4; to 2 and 2 in the second, a map of two places: 0.5 * (4 + 2) = 3
    hidden = (torch.tensor([[1.0, -2.0], [5.0, 0.0]]), torch.ones(2, 1, 2))
    assert value(ActivityL1(0.5), of_logits(torch.zeros(2, 2), torch.eye(2), hidden)) == pytest.approx(3.0)


def test_kl_sparsity() -> None:
    # m = 0.1 over the batch, t = 0.05: 0.05 ln(1/2) - 0.05 + 0.1 = 0.015343; a unit at the target adds nothing
    h = torch.tensor([[0.2, 0.05], [0.0, -0.05]])
    seen = of_logits(torch.zeros(2, 2), torch.eye(2), (h,))
    assert value(KLSparsity(1.0, 0.05), seen) == pytest.approx(0.015343, abs=1e-6)
    # a channel of a map is one unit: m = (0.2 + 0 + 0.2 + 0) / 4 = 0.1
    maps = of_logits(torch.zeros(1, 2), HARD, (torch.tensor([[[[0.2, 0.0], [0.2, 0.0]]]]),))
    assert value(KLSparsity(2.0, 0.05), maps) == pytest.approx(2 * 0.015343, abs=1e-6)


def test_kl_sparsity_of_a_dead_unit_is_finite_and_flat() -> None:
    # m held at 1e-6: 0.05 ln(50000) - 0.05 + 0.000001 = 0.490990
    h = torch.zeros(3, 1, requires_grad=True)
    penalty = torch.as_tensor(KLSparsity(1.0, 0.05).penalty(of_logits(torch.zeros(3, 2), torch.ones(3, 2), (h,)), NOW))
    assert penalty.item() == pytest.approx(0.490990, abs=1e-5)
    (slope,) = torch.autograd.grad(penalty, h)
    assert torch.equal(slope, torch.zeros(3, 1))


@pytest.mark.parametrize("method", [ActivityL1(1.0), KLSparsity(1.0, 0.05)])
def test_penalties_on_hidden_values_refuse_a_net_without_any(method: Method) -> None:
    with pytest.raises(Refusal, match="hidden"):
        method.build(linear((4,), 2))
    net = mlp((4,), 2, width=3, depth=1)
    assert method.build(net) is net


def linear_net(*rows: tuple[float, ...]) -> nn.Module:
    """The net whose logits are W x."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def test_jacobian() -> None:
    # |W|^2 = 1 + 4 + 9 + 1 = 15, so that 0.5 / 2 * 15 = 3.75 on average. C |v W|^2 = 2 |v W|^2 lies between 2 times the
    # squared singular values; its standard deviation is below 10, over 40,000 examples 0.05, times 0.25, times 5: 0.06
    seen = through(linear_net((1.0, 2.0), (3.0, -1.0)), torch.randn(40_000, 2), HARD.expand(40_000, 2))
    assert value(Jacobian(0.5), seen) == pytest.approx(3.75, abs=0.06)


def test_jacobian_of_one_logit_is_exact() -> None:
    # the only directions are 1 and -1: 0.5 / 2 * (9 + 16) = 6.25
    seen = through(linear_net((3.0, 4.0)), torch.randn(3, 2), torch.ones(3, 1))
    assert value(Jacobian(0.5), seen) == pytest.approx(6.25)


def test_jacobian_of_a_draw_of_zero_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Key, "normal", lambda key, *shape: torch.zeros(shape))  # one of 2^23 numbers is zero
    seen = through(linear_net((3.0, 4.0)), torch.randn(3, 2), torch.ones(3, 1))
    assert value(Jacobian(0.5), seen) == 0


def test_the_focal_loss_of_confident_logits_survives_bfloat16() -> None:
    # at logits 6 and 0 the focal loss's slope is a hundredth of the cross-entropy's, which is added and taken off again
    def slopes(dtype: torch.dtype) -> Tensor:
        net = nn.Sequential(nn.Linear(1, 2))
        params = {"0.weight": torch.tensor([[6.0], [0.0]]), "0.bias": torch.zeros(2)}
        batch, now, sgd = Batch(torch.ones(4, 1), HARD.expand(4, 2)), replace(NOW, lr=1.0), SGD(1.0, 0.0, False)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            state, _ = train_step(
                net, (), Stack({"focal": Focal(2.0)}), sgd, _autograd, State(params, sgd.begin(params), {}), batch,
                {"momentum": 0.0}, now,
            )  # fmt: skip
        return state.params["0.bias"]

    torch.testing.assert_close(slopes(torch.bfloat16), slopes(torch.float32), rtol=0.02, atol=0)


def test_input_gradient() -> None:
    # at x = 0, p = 1/2, 1/2: dL/dx = (p - y) W = (w2 - w1) / 2 = (1, -1.5), |.|^2 = 3.25: 0.5 / 2 * 3.25 = 0.8125
    seen = through(linear_net((1.0, 2.0), (3.0, -1.0)), torch.zeros(4, 2), HARD.expand(4, 2))
    assert value(InputGradient(0.5), seen) == pytest.approx(0.8125)


def test_r_drop() -> None:
    # p = 1/4, 3/4 and then q = 1/2, 1/2; the target is the first: the mean of ln 4 and ln 2 is ln(2)/2 less than ln 4.
    # KL(p || q) + KL(q || p) = sum (p - q)(ln p - ln q) = (ln 2 + ln(3/2)) / 4 = ln(3) / 4
    seen = replace(of_logits(QUARTER, HARD), forward=lambda x, key: torch.zeros(1, 2))
    assert value(RDrop(0.0, 0.3), seen) == pytest.approx(-math.log(2) / 2)
    assert value(RDrop(2.0, 0.3), seen) == pytest.approx(-math.log(2) / 2 + math.log(3) / 4)


def test_r_drop_drops_hidden_units_only() -> None:
    # 160,000 draws: 5 standard errors of the dropped share are 0.006
    ones, method = torch.ones(400, 400), RDrop(1.0, 0.3)
    h = method.hidden(ones, Site("hidden", 0, 1, 1.0, Key.of(1)), NOW)
    assert (h == 0).float().mean().item() == pytest.approx(0.3, abs=0.006)
    torch.testing.assert_close(h[h != 0], torch.full_like(h[h != 0], 1 / 0.7))
    for kind in ("input", "branch"):
        assert torch.equal(method.hidden(ones, Site(kind, 0, 1, 1.0, Key.of(1)), NOW), ones)


def test_r_drop_draws_two_masks() -> None:
    # with one mask the passes would agree, and the rate of their disagreement would change nothing
    losses = [
        Trainer(Stack({"r_drop": RDrop(rate, 0.3)}), "table").train([1], False, steps=1)[1] for rate in (0.0, 9.0)
    ]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("mapped", [False, True])
def test_r_drop_without_noise_is_the_baseline(mapped: bool) -> None:
    same, _ = Trainer(Stack({"r_drop": RDrop(3.0, 0.0)}), "table").train([1, 2][: 1 + mapped], mapped)
    plain, _ = Trainer(Stack({}), "table").train([1, 2][: 1 + mapped], mapped)
    torch.testing.assert_close(same.params, plain.params)


@pytest.mark.parametrize("other", [DropConnect(0.5), InputNoise(1.0), HiddenNoise(1.0)])
def test_r_drop_compares_passes_that_differ_in_noise_on_hidden_values_alone(other: Method) -> None:
    alone, _ = Trainer(Stack({"other": other}), "table").train([1], False)
    beside, _ = Trainer(Stack({"other": other, "r_drop": RDrop(9.0, 0.0)}), "table").train([1], False)
    same = all(torch.allclose(w, alone.params[name], atol=1e-5) for name, w in beside.params.items())
    assert same == (type(other) is not HiddenNoise)


def test_fgsm() -> None:
    # at x = (-2, -1) the first logit is w x = -2 + 2 = 0, so that L = ln 2 and dL/dx = -w/2 = (-1/2, 1); x moves by
    # 0.5 (-1, 1) to (-2.5, -0.5), outside of [0, 1] as before; the logit is -1.5 and L = ln(1 + e^1.5) = 1.701413;
    # 3/4 of the difference from ln 2 = 0.693147 is 0.756200
    seen = through(linear_net((1.0, -2.0), (0.0, 0.0)), torch.tensor([[-2.0, -1.0]]), HARD)
    assert value(FGSM(0.5, 0.25), seen) == pytest.approx(0.756200, abs=1e-6)
    assert value(FGSM(0.5, 1.0), seen) == 0
    assert value(FGSM(0.0, 0.25), seen) == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_fgsm_at_epsilon_zero_is_the_baseline_bit_for_bit_even_among_noise(mapped: bool) -> None:
    # 0.3 L + 0.7 L is not L to the last bit, and the second pass would have a mask of its own
    dropout = Dropout(0.3, 0.0)
    with_it, _ = Trainer(Stack({"dropout": dropout, "fgsm": FGSM(0.0, 0.3)}), "table").train(
        [1, 2][: 1 + mapped], mapped
    )
    without, _ = Trainer(Stack({"dropout": dropout}), "table").train([1, 2][: 1 + mapped], mapped)
    assert all(torch.equal(with_it.params[name], w) for name, w in without.params.items())


def test_virtual_adversarial() -> None:
    # at x = 0, p = 1/2, 1/2; only w = (3, 4) matters, so the worst change of length 0.2 is 0.2 w / 5, whichever its
    # sign, and the logit 1 or -1: KL = -ln(4 q (1 - q)) / 2 with q = 1 / (1 + 1/e), that is ln cosh(1/2) = 0.120115
    seen = through(linear_net((3.0, 4.0), (0.0, 0.0)), torch.zeros(5, 2), HARD.expand(5, 2))
    assert value(VirtualAdversarial(0.2, 2.0), seen) == pytest.approx(2 * math.log(math.cosh(0.5)), abs=1e-5)
    assert value(VirtualAdversarial(0.0, 2.0), seen) == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_virtual_adversarial_at_epsilon_zero_is_the_baseline_bit_for_bit(mapped: bool) -> None:
    seeds = [1, 2][: 1 + mapped]
    with_it, _ = Trainer(Stack({"vat": VirtualAdversarial(0.0, 1.0)}), "table").train(seeds, mapped)
    without, _ = Trainer(Stack(), "table").train(seeds, mapped)
    assert all(torch.equal(with_it.params[name], w) for name, w in without.params.items())


def test_virtual_adversarial_uses_no_labels() -> None:
    net = linear_net((3.0, 4.0), (1.0, -2.0))
    x = torch.randn(5, 2)
    first, second = (value(VirtualAdversarial(1.0, 1.0), through(net, x, y.expand(5, 2))) for y in (HARD, SOFT))
    assert first == second
