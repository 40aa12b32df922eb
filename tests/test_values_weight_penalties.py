"""Penalties on rows, matrices, paths and counts of weights, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from cases import CASES
from seen import NOW, of_weights, slope, through, value
from settings import Trainer
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from runner.engine.weights import initial
from runner.errors import Refusal
from runner.keys import Key
from runner.methods.base import Params, penalized
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L1, L2
from runner.methods.stack import Stack
from runner.methods.weight_penalties import L0, L2SP, ElasticNet, GroupLasso, Orthogonal, PathNorm, SpectralPenalty
from runner.nets.dense import linear, mlp
from runner.nets.norms import BatchNormLayer
from runner.nets.recurrent import gru
from runner.nets.residual import resnet_mlp

PARAMS: Params = {"w": torch.tensor([[3.0, -0.5], [0.01, -4.0]]), "b": torch.tensor([1.0, -2.0])}


def test_elastic_net_in_the_loss() -> None:
    # 0.5 * (0.25 * (3 + 1) + 0.75 / 2 * (9 + 1)) = 0.5 * (1 + 3.75) = 2.375; biases 1 and -2 add
    # 0.5 * (0.25 * 3 + 0.375 * 5) = 1.3125
    params = {"w": torch.tensor([[3.0, -1.0]]), "b": torch.tensor([1.0, -2.0])}
    assert value(ElasticNet(0.5, 0.25, "subgradient", False), of_weights(params)) == pytest.approx(2.375)
    assert value(ElasticNet(0.5, 0.25, "subgradient", True), of_weights(params)) == pytest.approx(3.6875)


def test_proximal_elastic_net_moves_shrinks_and_stops_at_zero() -> None:
    # lr * rate = 0.1, share 0.5: |w| falls by 0.05 and is then divided by 1.05;
    # 3 -> 2.95 / 1.05 = 2.809524, -0.5 -> -0.428571, 0.01 -> 0, -4 -> -3.761905
    moved = ElasticNet(1.0, 0.5, "proximal", False).project(PARAMS, NOW)
    torch.testing.assert_close(moved["w"], torch.tensor([[2.809524, -0.428571], [0.0, -3.761905]]))
    assert moved["w"][1, 0] == 0
    assert torch.equal(moved["b"], PARAMS["b"])


def test_each_form_of_the_elastic_net_is_its_own() -> None:
    assert value(ElasticNet(1.0, 0.5, "proximal", False), of_weights(PARAMS)) == 0
    assert ElasticNet(1.0, 0.5, "subgradient", False).project(PARAMS, NOW) == PARAMS


def test_elastic_net_runs_from_l2_to_l1() -> None:
    assert torch.equal(
        ElasticNet(0.5, 1.0, "proximal", False).project(PARAMS, NOW)["w"],
        L1(0.5, "proximal", False).project(PARAMS, NOW)["w"],
    )
    assert value(ElasticNet(0.5, 0.0, "subgradient", True), of_weights(PARAMS)) == pytest.approx(
        value(L2(0.5, True), of_weights(PARAMS))
    )


ROWS: Params = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.03, -0.04]]), "b": torch.tensor([2.0, -0.05, 0.0])}


def test_group_lasso_in_the_loss() -> None:
    # rows of length 5, 0 and 0.05, two weights each: 0.5 * sqrt(2) * 5.05 = 3.570889; each bias is a group of one:
    # 0.5 * 2.05 = 1.025 more
    assert value(GroupLasso(0.5, "subgradient", False), of_weights(ROWS)) == pytest.approx(3.570889)
    assert value(GroupLasso(0.5, "subgradient", True), of_weights(ROWS)) == pytest.approx(4.595889)


def test_group_lasso_has_no_slope_at_a_row_of_zeros() -> None:
    # 0.5 * sqrt(2) * row / |row| = 0.707107 * (0.6, 0.8)
    slopes = slope(GroupLasso(0.5, "subgradient", False), ROWS)["w"]
    torch.testing.assert_close(slopes[:2], torch.tensor([[0.424264, 0.565685], [0.0, 0.0]]))


def test_proximal_group_lasso_shortens_rows_and_drops_the_short() -> None:
    # lr * rate * sqrt(2) = 0.1 * 1 * 1.414214 = 0.141421, off a length of 5: times 0.971716; off 0.05: dropped
    moved = GroupLasso(1.0, "proximal", True).project(ROWS, NOW)
    torch.testing.assert_close(moved["w"], torch.tensor([[2.915147, 3.886863], [0.0, 0.0], [0.0, 0.0]]))
    assert (moved["w"][1:] == 0).all()
    torch.testing.assert_close(moved["b"], torch.tensor([1.9, 0.0, 0.0]))  # by lr * rate = 0.1 each
    assert torch.equal(GroupLasso(1.0, "proximal", False).project(ROWS, NOW)["b"], ROWS["b"])
    assert value(GroupLasso(1.0, "proximal", False), of_weights(ROWS)) == 0
    assert GroupLasso(1.0, "subgradient", False).project(ROWS, NOW) == ROWS


def test_proximal_group_lasso_at_rate_zero_leaves_even_a_row_of_zeros() -> None:
    # nothing off a length of nothing, 0 / 0, is still nothing
    assert torch.equal(GroupLasso(0.0, "proximal", True).project(ROWS, NOW)["w"], ROWS["w"])


def test_the_groups_of_a_filter_are_its_output_channels() -> None:
    # two channels of 3 * 2 * 2 = 12 weights of 1: length sqrt(12) and factor sqrt(12) each
    ones = of_weights({"w": torch.ones(2, 3, 2, 2)})
    assert value(GroupLasso(1.0, "subgradient", False), ones) == pytest.approx(24.0)


def test_orthogonal_is_not_rounded_to_half_precision() -> None:
    # the distance of a matrix of orthonormal rows is rounding, about (1e-7)^2 for each of 64 entries; in bfloat16 the
    # entries of G are off by up to 2^-9, and it would be some 1e-4
    rows = torch.linalg.qr(Key.of(0).normal(16, 8)).Q.T
    params = {"w": rows, "v": 1.01 * rows.T}
    plain, gradient = value(Orthogonal(1.0), of_weights({"w": rows})), slope(Orthogonal(1.0), params)
    with torch.autocast("cpu", torch.bfloat16):
        assert value(Orthogonal(1.0), of_weights({"w": rows})) == plain < 1e-10
        half = slope(Orthogonal(1.0), params)
    assert all(w.dtype == torch.float32 for w in half.values())
    # 4 (G - I) W, in which G - I = 0.0201 I is exact and the product with W rounded
    torch.testing.assert_close(half["v"], gradient["v"], rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_orthogonal_takes_the_smaller_gram_matrix(turned: bool) -> None:
    # columns of length 2 and 1 at a right angle: W^T W = diag(4, 1), so that 0.5 * (4 - 1)^2 = 4.5; W W^T, which is
    # 3 x 3, would add 0.5 * (0 - 1)^2
    w = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    params = {"w": w.T if turned else w, "b": torch.ones(3)}
    assert value(Orthogonal(0.5), of_weights(params)) == pytest.approx(4.5)


def test_spectral_penalty_is_on_the_largest_singular_value() -> None:
    # singular values 3 and 1: 0.5 / 2 * 9 = 2.25; the slope is 0.5 * 3 in the one direction
    params = {"w": torch.tensor([[0.0, 1.0], [-3.0, 0.0]]), "b": torch.ones(2)}
    method = SpectralPenalty(0.5)
    now = replace(NOW, memory=method.recall(params))
    assert value(method, of_weights(params), now) == pytest.approx(2.25)
    torch.testing.assert_close(slope(method, params, now)["w"], torch.tensor([[0.0, 0.0], [-1.5, 0.0]]))


def test_spectral_penalty_follows_the_weights() -> None:
    # after the largest value moves from the first row to the second, each iteration turns u by (3/2)^2 towards it
    method = SpectralPenalty(2.0)
    memory = method.recall({"w": torch.diag(torch.tensor([3.0, 1.0])) + 0.01})
    params = {"w": torch.diag(torch.tensor([2.0, 3.0]))}
    assert value(method, of_weights(params), replace(NOW, memory=memory)) < 5
    for _ in range(25):
        memory = method.remember(params, replace(NOW, memory=memory))
    assert value(method, of_weights(params), replace(NOW, memory=memory)) == pytest.approx(9.0)


def test_spectral_penalty_of_zeros_is_nothing_and_is_forgotten() -> None:
    method, params = SpectralPenalty(1.0), {"w": torch.zeros(2, 3)}
    memory = method.recall(params)
    assert value(method, of_weights(params), replace(NOW, memory=memory)) == 0
    assert torch.equal(slope(method, params, replace(NOW, memory=memory))["w"], torch.zeros(2, 3))
    assert memory["w"].abs().sum() > 0  # so that it can be followed again once it is not


def test_l2_sp_is_on_the_distance_from_the_start() -> None:
    # moved by (1, 0), (0, -2): 0.5 / 2 * (1 + 4) = 1.25; the biases by 3: 0.5 / 2 * 9 = 2.25 more
    start: Params = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([1.0])}
    params: Params = {"w": torch.tensor([[2.0, 2.0], [3.0, 2.0]]), "b": torch.tensor([4.0])}
    for biases, expected in ((False, 1.25), (True, 3.5)):
        method = L2SP(0.5, biases)
        assert value(method, of_weights(params), replace(NOW, memory=method.recall(start))) == pytest.approx(expected)


def test_l2_sp_remembers_the_start_through_training() -> None:
    state, _ = Trainer(Stack({"l2_sp": L2SP(0.1, False)}), "table").train([3], mapped=False)
    net = Trainer(Stack({}), "table").net()
    start = Trainer(Stack({}), "table").start(net, 3, {}).params
    for name, w in penalized(start, biases=False).items():
        assert torch.equal(state.memory[f"l2_sp/{name}"][0], w)
        assert not torch.equal(state.params[name][0], w)


TWO_LAYERS: Params = {
    "2.weight": torch.tensor([[1.0, 2.0], [3.0, -1.0]]), "2.bias": torch.tensor([1.0, 0.0]),
    "6.weight": torch.tensor([[2.0, -1.0]]), "6.bias": torch.tensor([2.0]),
}  # fmt: skip


def test_path_norm() -> None:
    # squares: the hidden units get 1 + 4 = 5 and 9 + 1 = 10, the logit 4 * 5 + 1 * 10 = 30: 0.5 / 2 * 30 = 7.5. With
    # biases 5 + 1 = 6 and 10, then 24 + 10 + 4 = 38: 9.5. The inputs and their number do not matter.
    seen = through(mlp((2,), 1, width=2, depth=1), torch.randn(5, 2), torch.ones(5, 1), TWO_LAYERS)
    assert value(PathNorm(0.5, False), seen) == pytest.approx(7.5)
    assert value(PathNorm(0.5, True), seen) == pytest.approx(9.5)


def test_path_norm_of_a_linear_net_is_l2() -> None:
    seen = through(linear((3,), 2), torch.randn(4, 3), torch.ones(4, 2))
    for biases in (False, True):
        assert value(PathNorm(0.3, biases), seen) == pytest.approx(value(L2(0.3, biases), seen))


@pytest.mark.parametrize(
    "net",
    [
        BatchNorm(1e-5).build(mlp((2,), 2, width=3, depth=1)),
        nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh()),
        nn.Sequential(weight_norm(nn.Linear(2, 3))),
        L0(1.0, 0.5).build(mlp((2,), 2, width=3, depth=1)),
    ],
    ids=["batch norm", "layer norm", "tanh", "weight norm", "gates"],
)
def test_path_norm_refuses_a_net_it_cannot_follow(net: nn.Module) -> None:
    with pytest.raises(Refusal, match="path_norm cannot follow paths through"):
        PathNorm(1.0, False).build(net)


@pytest.mark.parametrize("later", [BatchNorm(1e-5), L0(1.0, 0.5)])
def test_path_norm_refuses_what_is_built_in_after_it(later: BatchNorm | L0) -> None:
    net = later.build(PathNorm(1.0, False).build(mlp((2,), 2, width=3, depth=1)))
    with pytest.raises(Refusal, match="path_norm cannot follow paths through"):
        PathNorm(1.0, False).penalty(through(net, torch.randn(5, 2), torch.ones(5, 2)), NOW)


def test_path_norm_accepts_the_nets_of_this_project() -> None:
    for net in (linear((2,), 2), mlp((2,), 2, width=3, depth=2), resnet_mlp((2,), 2, width=3, depth=1, skip=1.0)):
        assert PathNorm(1.0, False).build(net) is net


def gated(log_alpha: float, count: int = 1) -> Params:
    return {"2.weight": torch.full((count, 1), 3.0), "2.gates.log_alpha": torch.full((count,), log_alpha)}


def test_l0_counts_the_weights_expected_to_be_open() -> None:
    # 11^(-2/3) = 0.202180; at log_alpha 0 sigmoid(2/3 ln 11) = 1 / 1.202180 = 0.831822; at 1 1 / (1 + 0.202180 / e)
    # = 1 / 1.074378 = 0.930771
    assert value(L0(1.0, 0.5), of_weights(gated(0.0))) == pytest.approx(0.831822, abs=1e-6)
    assert value(L0(0.5, 0.5), of_weights(gated(1.0, 4))) == pytest.approx(0.5 * 4 * 0.930771, abs=1e-5)


def test_l0_draws_gates_that_are_zero_one_or_between() -> None:
    # z is 0 with probability 1 - 0.831822 at log_alpha 0, and 1 with the same by symmetry; 90,000 draws: the standard
    # error is 0.00125, so 5 of them are 0.006
    z = L0(1.0, 0.5).weights(gated(0.0, 90_000), NOW)["2.weight"] / 3
    assert (z == 0).float().mean().item() == pytest.approx(0.16818, abs=0.006)
    assert (z == 1).float().mean().item() == pytest.approx(0.16818, abs=0.006)
    assert z.mean().item() == pytest.approx(0.5, abs=0.006)
    assert z.min() == 0
    assert z.max() == 1


def test_l0_draws_gates_of_its_own_for_every_layer() -> None:
    params = gated(0.0, 100) | {"6.weight": torch.full((100, 1), 3.0), "6.gates.log_alpha": torch.zeros(100)}
    drawn = L0(1.0, 0.5).weights(params, NOW)
    assert (drawn["2.weight"] != drawn["6.weight"]).float().mean() > 0.5


def test_l0_evaluates_without_noise() -> None:
    # clamp(1.2 * sigmoid(a) - 0.1, 0, 1): at 0 0.5, at ln 3 1.2 * 0.75 - 0.1 = 0.8, at -3 1.2 * 0.0474 - 0.1 < 0, at 3
    # 1.2 * 0.9526 - 0.1 > 1
    params = gated(0.0, 4) | {"2.gates.log_alpha": torch.tensor([0.0, math.log(3), -3.0, 3.0])}
    kept = L0(1.0, 0.5).average(params, NOW)["2.weight"][:, 0]
    torch.testing.assert_close(kept, torch.tensor([1.5, 2.4, 0.0, 3.0]))
    assert kept[2] == 0


def test_l0_gates_start_as_told_and_leave_the_weights_as_they_were() -> None:
    # log(0.8 / 0.2) = ln 4 = 1.386294, standard deviation 0.01; (60 + 1) * 100 gates: 5 standard errors are 0.0007
    plain, net = mlp((60,), 10, width=100, depth=1), L0(1.0, 0.2).build(mlp((60,), 10, width=100, depth=1))
    start, before = initial(net, [3, 4]), initial(plain, [3, 4])
    gates = start["2.gates.log_alpha"]
    assert gates.shape == (2, 6000)
    assert gates.mean().item() == pytest.approx(math.log(4), abs=7e-4)
    assert gates.std().item() == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(gates[0], gates[1])
    assert torch.equal(gates, initial(net, [3, 4])["2.gates.log_alpha"])
    assert all(torch.equal(start[name], w) for name, w in before.items())


def test_l0_has_gates_for_every_kernel_of_a_layer() -> None:
    plain = initial(gru((2, 6), 3, width=5, depth=1), [7])
    start = initial(L0(1.0, 0.2).build(gru((2, 6), 3, width=5, depth=1)), [7])
    assert all(torch.equal(start[name], w) for name, w in plain.items())
    gates = {
        "2.gates.log_alpha_weight_ih": "2.weight_ih", "2.gates.log_alpha_weight_hh": "2.weight_hh",
        "6.gates.log_alpha": "6.weight",
    }  # fmt: skip
    assert set(start) - set(plain) == set(gates)
    shut = {name: torch.full_like(w[0], -9.0) if name in gates else w[0] for name, w in start.items()}
    kept = L0(1.0, 0.5).average(shut, NOW)
    assert all((kept[kernel] == 0).all() for kernel in gates.values())


def test_l0_has_gates_for_the_projections_of_torchs_attention() -> None:
    net = L0(1.0, 0.2).build(nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 3)))
    gates = [name for name, _ in net.named_parameters() if "gates" in name]
    assert sorted(gates) == ["0.gates.log_alpha_in_proj_weight", "0.out_proj.gates.log_alpha", "1.gates.log_alpha"]


def test_l0_gates_are_no_matrices() -> None:
    net = L0(1.0, 0.2).build(mlp((4,), 2, width=3, depth=1))
    assert set(penalized(dict(net.named_parameters()), biases=False)) == {"2.weight", "6.weight"}


def test_l0_at_a_high_rate_shuts_every_gate() -> None:
    stack = Stack({"l0": L0(20.0, 0.3)})
    state, _ = Trainer(stack, "table").train([0], mapped=False, steps=20)
    kept = stack.average({n: w[0] for n, w in state.params.items()}, NOW)
    assert all((w == 0).all() for w in penalized(kept, biases=False).values())


def test_l0_refuses_weights_that_are_not_there() -> None:
    with pytest.raises(Refusal, match="no"):
        L0(1.0, 0.5).build(nn.Sequential(nn.ReLU()))
    with pytest.raises(Refusal, match="reparametrized"):
        L0(1.0, 0.5).weights({"2.gates.log_alpha": torch.zeros(3)}, NOW)


def test_batch_norm_has_no_gates() -> None:
    net = BatchNorm(1e-5).build(mlp((4,), 2, width=3, depth=1))
    L0(1.0, 0.5).build(net)
    assert not any("gates" in dict(m.named_children()) for m in net.modules() if isinstance(m, BatchNormLayer))


def test_these_are_in_the_contract() -> None:
    assert {"elastic_net", "group_lasso", "orthogonal", "spectral_penalty", "l2_sp", "path_norm", "l0"} <= set(CASES)
