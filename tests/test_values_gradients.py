"""Methods on the gradient and noise on the weights, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Method, Now, Params
from runner.methods.gradients import AGC, ClipNorm, ClipValue, GradientNoise
from runner.methods.weight_noise import DropConnect, WeightNoise
from runner.nets.dense import linear

NOW = Now(Key.of(0), 0, 1000, 0.1)


def changed(method: Method, gradient: Params, params: Params | None = None, step: int = 0) -> Params:
    """What the method makes of this gradient."""
    return method.gradient(lambda at: gradient, gradient if params is None else params, replace(NOW, step=step))


def test_clip_norm_looks_at_all_weights_together() -> None:
    # |(3, 4)| = 5, over two tensors: limit 1 divides both by 5; below 6 nothing is changed
    gradient = {"w": torch.tensor([[3.0]]), "b": torch.tensor([4.0])}
    clipped = changed(ClipNorm(1.0), gradient)
    assert (clipped["w"].item(), clipped["b"].item()) == pytest.approx((0.6, 0.8))
    same = changed(ClipNorm(6.0), gradient)
    assert (same["w"].item(), same["b"].item()) == (3, 4)
    assert changed(ClipNorm(1.0), {"w": torch.zeros(1, 1)})["w"] == 0


def test_clip_value_cuts_every_entry() -> None:
    gradient = {"w": torch.tensor([[3.0, -0.2, -5.0]])}
    torch.testing.assert_close(changed(ClipValue(0.5), gradient)["w"], torch.tensor([[0.5, -0.2, -0.5]]))


def test_agc_compares_each_unit_with_its_weights() -> None:
    params = {
        "0.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]]),
        "0.bias": torch.tensor([6.0, 8.0, 0.0]),
        "2.weight": torch.tensor([[3.0, 4.0]]),
        "2.bias": torch.tensor([1.0]),
    }
    gradient = {
        "0.weight": torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.3, 0.4]]),
        "0.bias": torch.tensor([0.0, 3.0, 4.0]),
        "2.weight": torch.tensor([[0.0, 99.0]]),
        "2.bias": torch.tensor([99.0]),
    }
    # limit 0.1: row 1 is 5 long, so its gradient of 2 comes down to 0.5; row 2 counts as 0.001 long: 1e-4; row 3's
    # gradient of 0.5 is just allowed; the biases, 10 long together, allow 1 where the gradient is 5; the last layer
    # is free
    clipped = changed(AGC(0.1, 1e-3), gradient, params)
    torch.testing.assert_close(clipped["0.weight"], torch.tensor([[0.0, 0.5], [1e-4, 0.0], [0.3, 0.4]]))
    torch.testing.assert_close(clipped["0.bias"], torch.tensor([0.0, 0.6, 0.8]))
    assert torch.equal(clipped["2.weight"], gradient["2.weight"])
    assert torch.equal(clipped["2.bias"], gradient["2.bias"])


def test_agc_counts_the_steps_in_which_a_unit_was_shortened() -> None:
    # limit 0.1 of 5, the length of (3, 4): a gradient of 0.5 is shortened, one of 0.4 is not; of an epsilon of 1e-3 any
    # is; the last layer's is not. The weights behind the step, ten times as long, are the measure of the next one.
    method = AGC(0.1, 1e-3)
    still = {"0.bias": torch.tensor([2.0])}  # whose gradient is 0 throughout
    params = {"0.weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), **still, "1.weight": torch.tensor([[3.0, 4.0]])}
    memory = method.recall(params)
    counts = []
    for first, second, last in ((0.4, 0.0, 99.0), (2.0, 0.0, 0.0), (6.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)):
        raw = {
            "0.weight": torch.tensor([[0.0, first], [second, 0.0]]),
            "0.bias": torch.zeros(1),
            "1.weight": torch.tensor([[last, 0.0]]),
        }
        gradient = changed(method, raw, params)
        params = {name: w * (10 if first == 0.4 else 1) for name, w in params.items()}
        memory = method.remember(params, replace(NOW, memory=memory, gradient=gradient))
        counts.append(memory["clipped"].item())
    assert counts == [0, 0, 1, 2, 2]


def test_agc_refuses_a_net_of_one_layer() -> None:
    with pytest.raises(Refusal, match="agc leaves out the last layer; this model has no other"):
        AGC(0.1, 1e-3).build(linear((4,), 3))


def spread(difference: Tensor) -> float:
    return difference.std().item()


def test_gradient_noise_has_the_variance_of_its_step() -> None:
    # 40,000 draws: the standard error of a standard deviation is 1 / sqrt(80000) = 0.35 %, so 5 of them are 2 %
    gradient = {"w": torch.full((200, 200), 3.0)}
    noisy = changed(GradientNoise(0.25, 0.5), gradient)["w"]
    assert spread(noisy - 3) == pytest.approx(0.5, rel=0.02)
    assert noisy.mean().item() == pytest.approx(3, abs=5 * 0.5 / 200)
    # variance 0.25 / (1 + 15)^0.5 = 0.0625
    assert spread(changed(GradientNoise(0.25, 0.5), gradient, step=15)["w"] - 3) == pytest.approx(0.25, rel=0.02)


def test_each_weight_of_each_step_has_its_own_noise() -> None:
    gradient = {"v": torch.zeros(50, 50), "w": torch.zeros(50, 50)}
    one = changed(GradientNoise(1.0, 0.0), gradient)
    other = GradientNoise(1.0, 0.0).gradient(lambda at: gradient, gradient, replace(NOW, key=Key.of(1)))
    draws = torch.stack([one["v"].flatten(), one["w"].flatten(), other["v"].flatten()])
    # 2500 draws: a correlation of nothing has the standard error 0.02
    assert (torch.corrcoef(draws) - torch.eye(3)).abs().max() < 0.1


def test_weight_noise_is_added_to_matrices_and_to_biases_if_asked() -> None:
    params = {"w": torch.full((200, 200), 3.0), "b": torch.full((40000,), 3.0)}
    noisy = WeightNoise(0.2, False).weights(params, NOW)
    assert spread(noisy["w"] - 3) == pytest.approx(0.2, rel=0.02)
    assert torch.equal(noisy["b"], params["b"])
    assert spread(WeightNoise(0.2, True).weights(params, NOW)["b"] - 3) == pytest.approx(0.2, rel=0.02)


def test_drop_connect_drops_its_rate_and_keeps_the_mean() -> None:
    # 160,000 draws: the standard error of the dropped share is sqrt(.3 * .7 / 160000) = 0.0011, so 5 of them are 0.006
    params = {"w": torch.ones(400, 400), "b": torch.ones(9)}
    dropped = DropConnect(0.3).weights(params, NOW)
    assert (dropped["w"] == 0).float().mean().item() == pytest.approx(0.3, abs=0.006)
    kept = dropped["w"][dropped["w"] != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    assert torch.equal(dropped["b"], params["b"])


@pytest.mark.parametrize("method", [WeightNoise(0.2, True), DropConnect(0.3)])
def test_evaluation_has_no_noise_on_the_weights(method: Method) -> None:
    params = {"w": torch.ones(3, 3)}
    assert torch.equal(method.average(params, NOW)["w"], params["w"])
