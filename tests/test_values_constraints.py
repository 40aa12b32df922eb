"""Constraints, reparametrizations and norms against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from settings import Trainer, tiny
from test_engine import experiment, outcomes
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from runner.engine.optimizers import SGD
from runner.engine.weights import initial
from runner.errors import Refusal
from runner.keys import Key
from runner.methods.averaging import EMA, SWA, Lookahead, MeanTeacher
from runner.methods.base import Method, Now, Params
from runner.methods.constraints import MaxNorm, NonNegative, Prune, UnitNorm
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm, GhostBatchNorm, GroupNorm, LayerNorm, RMSNorm
from runner.methods.penalties import L1
from runner.methods.reparametrization import SpectralNorm, WeightNorm, WeightStandardization
from runner.methods.stack import Stack
from runner.methods.weight_noise import DropConnect, WeightNoise
from runner.methods.weight_penalties import L0
from runner.nets.dense import linear, mlp
from runner.nets.norms import GhostBatchNormLayer, GroupNormLayer, RMSNormLayer
from runner.nets.recurrent import gru

NOW = Now(Key.of(0), 0, 10, 0.1)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)


def both(first: bool, **methods: Method) -> Stack:
    """The two methods in one stack, in this order or the other."""
    return Stack(methods if first else dict(reversed(methods.items())))


# -- constraints -------------------------------------------------------------------------------------------------------
def test_max_norm_shortens_long_units_only() -> None:
    # |(3, 4)| = 5, so limit 1 divides by 5; |(0.3, 0.4)| = 0.5 stays as it is, and so does a bias
    moved = MaxNorm(1.0).project({"w": rows([3, 4], [0.3, 0.4], [0, 0]), "b": torch.tensor([7.0])}, NOW)
    torch.testing.assert_close(moved["w"], rows([0.6, 0.8], [0.3, 0.4], [0, 0]))
    assert torch.equal(moved["w"][1:], rows([0.3, 0.4], [0, 0]))
    assert moved["b"] == 7
    # a filter of eight ones has length sqrt(8); limit sqrt(2) halves it
    filters = MaxNorm(2**0.5).project({"w": torch.ones(3, 2, 2, 2)}, NOW)["w"]
    torch.testing.assert_close(filters, torch.full((3, 2, 2, 2), 0.5))


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv1d(3, 2, 4), nn.Conv2d(3, 2, 4)])
def test_max_norm_is_of_what_comes_in_to_each_unit(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    # weights [out, in, ...] of 1, and of 2 in the second unit; n ones are sqrt(n) long, which is the limit, so that the
    # second unit alone is halved
    w = torch.ones_like(layer.weight.detach())
    w[1] = 2
    moved = MaxNorm(w[0].numel() ** 0.5).project({"weight": w}, NOW)["weight"]
    torch.testing.assert_close(moved, torch.ones_like(w))


@pytest.mark.parametrize("method", [EMA(0.5), SWA(0.0, 1), Lookahead(0.5, 2), MeanTeacher(1.0, 0.5, 0.0)])
@pytest.mark.parametrize("first", [True, False])
def test_averages_keep_to_max_norm(method: Method, first: bool) -> None:
    """Whatever the order, and although the initial weights, which some averages begin with, are beyond the limit."""
    limit = MaxNorm(0.1)
    stack = Stack({"max_norm": limit, "other": method} if first else {"other": method, "max_norm": limit})
    trainer = Trainer(stack, "image")
    start = trainer.start(trainer.net(), 0, {}).params
    for steps in (1, 2, 3):
        state, _ = trainer.train([0], mapped=False, steps=steps)
        now = replace(NOW, step=steps, memory={n: v[0] for n, v in state.memory.items()})
        evaluated = stack.average({n: w[0] for n, w in state.params.items()}, now)
        for name, w in evaluated.items():
            assert w.ndim < 2 or w.flatten(1).norm(dim=1).max() <= 0.1 * (1 + 1e-6)
            assert w.ndim < 2 or start[name].flatten(1).norm(dim=1).max() > 0.1


def test_unit_norm_goes_a_share_of_the_way_to_one() -> None:
    # |(3, 4)| = 5 becomes 0.5 + 0.5 * 5 = 3; |(0, 0.5)| becomes 0.75; zeros have no direction
    w = rows([3, 4], [0, 0.5], [0, 0])
    torch.testing.assert_close(UnitNorm(0.5).project({"w": w}, NOW)["w"], rows([1.8, 2.4], [0, 0.75], [0, 0]))
    torch.testing.assert_close(UnitNorm(1.0).project({"w": w}, NOW)["w"], rows([0.6, 0.8], [0, 1], [0, 0]))


@pytest.mark.parametrize("method", [EMA(0.9), SWA(0.0, 1), Lookahead(0.5, 4)])
@pytest.mark.parametrize("first", [True, False])
def test_averages_of_units_have_length_1_too(method: Method, first: bool) -> None:
    stack = both(first, unit_norm=UnitNorm(1.0), other=method)
    state, _ = Trainer(stack, "table", SGD(1.0, 0.9, False)).train([0], mapped=False, steps=5)
    params, memory = ({n: w[0] for n, w in part.items()} for part in (state.params, state.memory))
    now = replace(NOW, step=5, memory=memory)
    for name, w in stack.average(params, now).items():
        assert w.ndim < 2 or w.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * len(w)), name
    # the mean of two steps that were not projected is no such vector, and is evaluated as it is
    half = UnitNorm(0.5).average({"w": rows([3, 4])}, NOW)
    assert torch.equal(half["w"], rows([3, 4]))


def test_non_negative_takes_a_share_off_negative_weights() -> None:
    # -2 - 0.25 * -2 = -1.5; at rate 1 exactly zero; biases where asked
    params = {"w": rows([-2, 3]), "b": torch.tensor([-4.0])}
    torch.testing.assert_close(NonNegative(0.25, False).project(params, NOW)["w"], rows([-1.5, 3]))
    assert torch.equal(NonNegative(0.25, False).project(params, NOW)["b"], params["b"])
    assert NonNegative(0.25, True).project(params, NOW)["b"] == -3
    assert torch.equal(NonNegative(1.0, False).project(params, NOW)["w"], rows([0, 3]))


@pytest.mark.parametrize("method", [EMA(0.9), Lookahead(0.5, 4)])
@pytest.mark.parametrize("first", [True, False])
def test_averages_have_no_negative_weights_either(method: Method, first: bool) -> None:
    """Whatever the order, and although both begin with the initial weights, of which half are negative."""
    stack = both(first, non_negative=NonNegative(1.0, False), other=method)
    for steps in (1, 4, 5):
        state, _ = Trainer(stack, "table").train([0], mapped=False, steps=steps)
        now = replace(NOW, step=steps, memory={n: v[0] for n, v in state.memory.items()})
        evaluated = stack.average({n: w[0] for n, w in state.params.items()}, now)
        assert all((w >= 0).all() for w in evaluated.values() if w.ndim >= 2)


def test_non_negative_at_a_lower_rate_evaluates_the_weights_as_they_are() -> None:
    # a share that evaluation took off once more would be of a step that there was not
    params = {"w": rows([-2, 3]), "b": torch.tensor([-4.0])}
    for biases in (False, True):
        assert all(torch.equal(w, params[n]) for n, w in NonNegative(0.5, biases).average(params, NOW).items())
    assert NonNegative(1.0, True).average(params, NOW)["b"] == 0
    assert torch.equal(NonNegative(1.0, False).average(params, NOW)["w"], rows([0, 3]))


@pytest.mark.parametrize("first", [True, False])
def test_constraints_come_after_all_else_that_moves_the_weights(first: bool) -> None:
    # a step of rate 0.5 * 2 takes 1 off (4, 5), which leaves (3, 4), of length 5: limit 1 divides by 5. The other way
    # round they would be shorter than the limit.
    stack = both(first, max_norm=MaxNorm(1.0), l1=L1(0.5, "proximal", False))
    moved = stack.project({"w": rows([4, 5])}, replace(NOW, lr=2.0))
    torch.testing.assert_close(moved["w"], rows([0.6, 0.8]))


@pytest.mark.parametrize("first", [True, False])
def test_what_is_pruned_stays_so_where_lookahead_pulls_weights_back(first: bool) -> None:
    stack = both(first, prune=Prune(0.5, 0.0, 0.2, 1), lookahead=Lookahead(0.5, 2))
    state, _ = Trainer(stack, "table").train([0], mapped=False, steps=4)
    params, memory = ({n: w[0] for n, w in part.items()} for part in (state.params, state.memory))
    evaluated = stack.average(params, replace(NOW, step=4, memory=memory))
    for w in (w for weights in (params, evaluated) for w in weights.values() if w.ndim >= 2):
        assert (w == 0).float().mean().item() == pytest.approx(0.5, abs=0.5 / w.numel())


def pruned(method: Prune, w: Tensor, step: int) -> Tensor:
    """w after the step with this number (of ten), every weight in use before it."""
    params = {"w": w}
    return method.project(params, replace(NOW, step=step, memory=method.recall(params)))["w"]


@pytest.mark.parametrize(
    ("step", "zeros"),
    [
        (0, 0),  # a tenth of training done: before begin
        (1, 0),  # 0.2: at begin
        (3, 7),  # 0.4: t = 1/2, so 0.8 * (1 - 1/8) = 0.7 of 10 weights
        (5, 8),  # 0.6: at end
        (9, 8),  # 1.0
    ],
)
def test_prune_follows_the_cubic_ramp(step: int, zeros: int) -> None:
    w = torch.tensor([[1.0, -2, 3, -4, 5], [-6, 7, -8, 9, -10]])
    expected = torch.where(w.abs() <= zeros, 0.0, w)  # the smallest go first
    assert torch.equal(pruned(Prune(0.8, 0.2, 0.6, 1), w, step), expected)


def test_prune_does_all_at_end_where_begin_is_not_before_it() -> None:
    w = torch.arange(1.0, 11)[None]
    for begin in (0.5, 0.9):
        zeros = [int((pruned(Prune(0.8, begin, 0.5, 1), w, step) == 0).sum()) for step in (3, 4, 9)]
        assert zeros == [0, 8, 8]


def test_prune_ranks_every_few_steps_and_at_the_last() -> None:
    # from step 4 of 10 (half done) all of the share is due; every fourth step is number 3 and 7, the last is 9
    w = torch.arange(1.0, 11)[None]
    zeros = [int((pruned(Prune(0.8, 0.5, 0.5, 4), w, step) == 0).sum()) for step in (3, 4, 6, 7, 8, 9)]
    assert zeros == [0, 0, 0, 8, 0, 8]
    # between two rankings what is pruned stays so, and nothing else is
    now = replace(NOW, step=4, memory={"w": torch.tensor([[False, True, True]])})
    assert torch.equal(Prune(0.9, 0.0, 0.5, 4).project({"w": rows([9, 1, 2])}, now)["w"], rows([0, 1, 2]))


def test_prune_breaks_ties_by_place() -> None:
    # 0.7 of 10 equal weights: the first seven
    assert torch.equal(pruned(Prune(0.7, 0.0, 0.5, 1), torch.ones(2, 5), 9), rows([0] * 5, [0, 0, 1, 1, 1]))


def test_what_is_pruned_stays_pruned_whatever_its_gradient() -> None:
    method = Prune(0.5, 0.0, 0.1, 1)
    now = replace(NOW, step=5, memory={"w": torch.tensor([[False, False, True, True]])})
    moved = method.project({"w": rows([100, -100, 1, 2])}, now)
    assert torch.equal(moved["w"], rows([0, 0, 1, 2]))
    assert torch.equal(method.remember(moved, now)["w"], now.memory["w"])


@pytest.mark.parametrize("share", [0.77, 0.2, 1.0])
def test_the_pruned_share_is_met_to_within_one_weight(share: float) -> None:
    state, _ = Trainer(Stack({"prune": Prune(share, 0.1, 0.5, 1)}), "image").train([0, 1], mapped=True, steps=6)
    for w in state.params.values():
        for lane in w:
            if lane.ndim >= 2:
                assert abs(int((lane == 0).sum()) - share * lane.numel()) <= 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("share", "zeros"), [(0.0, 0), (0.25, 4)])
def test_prune_holds_no_zeros_that_it_did_not_make(share: float, zeros: int, first: bool) -> None:
    # of 16 weights 8 are negative, and zero behind the step; the step after it moves every weight up by 1, and of those
    # that were pruned, 0.25 * 16 = 4 or none, alone nothing is left
    stack = both(first, prune=Prune(share, 0.0, 0.1, 1), non_negative=NonNegative(1.0, False))
    params = {"w": torch.arange(-8.0, 8).add(0.5).view(2, 8)}
    now = replace(NOW, step=5, memory=stack.recall(params))
    moved = stack.project(params, now)
    assert (moved["w"] == 0).sum() >= 8
    now = replace(now, step=6, memory=stack.remember(moved, now))
    again = stack.project({"w": moved["w"] + 1}, now)
    assert (again["w"] == 0).sum() == zeros


def test_an_average_is_as_sparse_as_the_newest_weights() -> None:
    stack = Stack({"prune": Prune(0.5, 0.1, 0.6, 1), "other": OneMore()})
    used = {"prune/w": torch.tensor([[False, True]])}
    assert torch.equal(stack.average({"w": rows([3, 4])}, replace(NOW, memory=used))["w"], rows([0, 5]))


# -- reparametrizations ------------------------------------------------------------------------------------------------
def test_weight_norm_has_the_learnt_length() -> None:
    # |(3, 4)| = 5; 0.5 * 10 * (3, 4) / 5 = (3, 4); 0.5 * 2 * (0, 7) / 7 = (0, 1); a unit of zeros stays so
    params = {"weight": rows([3, 4], [0, 7], [0, 0]), "bias": torch.ones(3), "length.g": torch.tensor([10.0, 2, 5])}
    used = WeightNorm(0.5).weights(params, NOW)
    torch.testing.assert_close(used["weight"], rows([3, 4], [0, 1], [0, 0]))
    assert torch.equal(used["bias"], params["bias"])
    gradient = torch.func.grad(lambda v: WeightNorm(0.5).weights(params | {"weight": v}, NOW)["weight"].sum())
    assert gradient(params["weight"]).isfinite().all()


def test_weight_norm_begins_at_the_lengths_drawn_and_leaves_the_draws_alone() -> None:
    plain = initial(mlp((4,), 3, width=5, depth=1), [7, 8])
    net = WeightNorm(1.0).build(mlp((4,), 3, width=5, depth=1))
    start = initial(net, [7, 8])
    assert all(torch.equal(start[name], w) for name, w in plain.items())
    assert set(start) - set(plain) == {"2.length.g", "6.length.g"}
    torch.testing.assert_close(start["2.length.g"], plain["2.weight"].norm(dim=2))
    # and so the net begins as the ordinary one
    one = {name: w[1] for name, w in start.items()}
    torch.testing.assert_close(WeightNorm(1.0).weights(one, NOW)["2.weight"], plain["2.weight"][1])


def test_weight_norm_learns_the_lengths_of_every_kernel_of_a_layer() -> None:
    plain = initial(gru((2, 6), 3, width=5, depth=1), [7])
    start = initial(WeightNorm(1.0).build(gru((2, 6), 3, width=5, depth=1)), [7])
    assert all(torch.equal(start[name], w) for name, w in plain.items())
    lengths = {"2.length.g_weight_ih": "2.weight_ih", "2.length.g_weight_hh": "2.weight_hh", "6.length.g": "6.weight"}
    assert set(start) - set(plain) == set(lengths)
    one = {name: w[0] for name, w in start.items()}
    used = WeightNorm(2.0).weights(one, NOW)
    for g, kernel in lengths.items():
        torch.testing.assert_close(one[g], one[kernel].norm(dim=1))
        torch.testing.assert_close(used[kernel], 2 * one[kernel])


def test_weight_norm_refuses_weights_that_the_model_computes() -> None:
    net = nn.Sequential(nn.Linear(2, 3), parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.raises(Refusal, match="weight_norm cannot act on layer 1, whose weights the model computes"):
        WeightNorm(1.0).build(net)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    # diag(3, 1) has the singular values 3 and 1: limit 2 scales by 2/3
    params = {"w": rows([3, 0], [0, 1]), "b": torch.ones(2)}
    equal, at_most = SpectralNorm(2.0, "equal"), SpectralNorm(2.0, "at_most")
    now = replace(NOW, memory=equal.recall(params))
    assert set(now.memory) == {"w"}
    for method in (equal, at_most):
        torch.testing.assert_close(method.weights(params, now)["w"], rows([2, 0], [0, 2 / 3]))
        torch.testing.assert_close(method.average(params, now)["w"], rows([2, 0], [0, 2 / 3]))
    torch.testing.assert_close(SpectralNorm(4.0, "equal").weights(params, now)["w"], rows([4, 0], [0, 4 / 3]))
    assert torch.equal(SpectralNorm(4.0, "at_most").weights(params, now)["w"], params["w"])


def test_one_round_a_step_follows_the_weights() -> None:
    # the singular values of diag(1, s) trade places while s goes from 0.5 to 2; a round that starts with the part r of
    # the second vector beside the first ends with r * s^2
    method, w = SpectralNorm(1.0, "equal"), rows([1, 0], [0, 0.5])
    now = replace(NOW, memory={"w": torch.tensor([1.0, 0.1]) / 1.01**0.5})
    moved = method.remember({"w": w}, now)["w"]
    assert (moved[1] / moved[0]).item() == pytest.approx(0.1 * 0.25)
    for _ in range(20):
        now = replace(now, memory=method.remember({"w": rows([1, 0], [0, 2])}, now))
    torch.testing.assert_close(now.memory["w"], torch.tensor([0.0, 1.0]))


def test_at_evaluation_the_vector_is_settled_first() -> None:
    # the newest weights have their largest singular value 3 along the first axis, an average of them along the second
    method = SpectralNorm(1.0, "equal")
    now = replace(NOW, memory={"w": torch.tensor([0.98, 0.2])})
    torch.testing.assert_close(method.average({"w": rows([1, 0], [0, 3])}, now)["w"], rows([1 / 3, 0], [0, 1]))


def test_spectral_norm_outlives_a_matrix_of_zeros() -> None:
    method, params = SpectralNorm(1.0, "equal"), {"w": torch.zeros(2, 2)}
    now = replace(NOW, memory=method.recall({"w": torch.eye(2)}))
    now = replace(now, memory=method.remember(params, now))
    assert torch.equal(method.weights(params, now)["w"], params["w"])
    assert now.memory["w"].norm().item() == pytest.approx(1)


def test_weight_standardization_leaves_the_last_layer_out() -> None:
    # the row (1, 3) has mean 2 and variance 1, with epsilon 3: (-1, 1) / 2; scaled by 1.7128585 / sqrt(2) = 1.2111738
    params = {"0.weight": rows([1, 3]), "0.bias": torch.ones(1), "2.weight": rows([1, 3])}
    plain = WeightStandardization(3.0, False).weights(params, NOW)
    torch.testing.assert_close(plain["0.weight"], rows([-0.5, 0.5]))
    assert torch.equal(plain["2.weight"], params["2.weight"])
    scaled = WeightStandardization(3.0, True).weights(params, NOW)
    torch.testing.assert_close(scaled["0.weight"], rows([-0.5, 0.5]) * 1.2111738)


def test_weight_standardization_leaves_units_of_one_weight_alone() -> None:
    # such a weight is its unit's mean: less that it is 0, and the unit no longer sees its input
    params = {"0.weight": rows([3], [-2]), "1.scale": torch.full((4, 1, 1), 1e-6), "2.weight": rows([1, 3])}
    for scaled in (True, False):
        used = WeightStandardization(1e-5, scaled).weights(params, NOW)
        assert all(torch.equal(used[name], w) for name, w in params.items())


def test_a_recurrent_net_of_one_channel_sees_its_input_with_weight_standardization() -> None:
    net = gru((1, 6), 3, width=5, depth=1)
    params = {name: w.detach() for name, w in net.named_parameters()}
    used = WeightStandardization(1e-5, True).weights(params, NOW)
    said = functional_call(net, used, (torch.randn(4, 1, 6),))
    assert said.std(0).min() > 0


def test_weight_standardization_refuses_a_net_of_one_layer() -> None:
    with pytest.raises(Refusal, match="leaves out the last layer; this model has no other"):
        WeightStandardization(1e-5, True).build(linear((4,), 3))


@dataclass(frozen=True)
class OneMore(Method):
    """Stands for an averaging method: evaluates other weights, each larger by one than the newest."""

    def average(self, params: Params, now: Now) -> Params:
        return {name: w + 1 for name, w in params.items()}


@dataclass(frozen=True)
class Pair(Method):
    """Stands for an ensemble: evaluates the newest weights and others."""

    @property
    def members(self) -> int:
        return 2

    def average(self, params: Params, now: Now) -> Params:
        return {name: torch.stack([w, w.flip(-1)]) for name, w in params.items()}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # (1, 3) becomes (2, 4): mean 3, variance 1, so (-1, 1) / sqrt(1 + 3)
        (WeightStandardization(3.0, False), [-0.5, 0.5]),
        # (2, 4) is sqrt(20) long, and 4 becomes 5
        (WeightNorm(1.0), [10 / 20**0.5, 20 / 20**0.5]),
        # one row has one singular value, its length
        (SpectralNorm(2.0, "equal"), [4 / 20**0.5, 8 / 20**0.5]),
    ],
)
def test_reparametrizations_come_after_averages(method: Method, expected: list[float], first: bool) -> None:
    stack = Stack({"it": method, "other": OneMore()} if first else {"other": OneMore(), "it": method})
    params = {"0.weight": rows([1, 3]), "0.length.g": torch.tensor([4.0]), "2.weight": rows([1, 3])}
    averaged = stack.average(params, replace(NOW, memory=stack.recall(params)))
    torch.testing.assert_close(averaged["0.weight"], rows(expected))


@pytest.mark.parametrize("first", [True, False])
def test_reparametrizations_shape_each_member(first: bool) -> None:
    method = WeightStandardization(3.0, False)
    stack = Stack({"it": method, "other": Pair()} if first else {"other": Pair(), "it": method})
    params = {"0.weight": rows([1, 3], [5, 7]), "2.weight": rows([1, 3])}
    # every row has a variance of 1 about its own mean
    members = stack.average(params, NOW)["0.weight"]
    one = rows([-0.5, 0.5], [-0.5, 0.5])
    torch.testing.assert_close(members, torch.stack([one, -one]))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("constraint", [MaxNorm(0.1), Prune(0.5, 0.0, 0.2, 1)])
@pytest.mark.parametrize("method", [WeightStandardization(1e-3, True), WeightNorm(1.5)])
def test_evaluation_has_the_weights_that_training_has(constraint: Method, method: Method, first: bool) -> None:
    """Constraints act on the weights that are trained, and what computes with a function of them comes after."""
    stack = Stack({"it": constraint, "other": method} if first else {"other": method, "it": constraint})
    state, _ = Trainer(stack, "table").train([0], mapped=False)
    params, memory = ({n: w[0] for n, w in part.items()} for part in (state.params, state.memory))
    now = replace(NOW, memory=memory)
    torch.testing.assert_close(stack.average(params, now), stack.weights(params, now))


@pytest.mark.parametrize("first", [True, False])
def test_noise_on_weights_comes_after_reparametrizations(first: bool) -> None:
    # (3, 4) is 5 long and is to be 10: (6, 8); a weight is then dropped or doubled, which has that mean. The other way
    # round all rows would be 10 long, (10, 0) and (0, 10) and (6, 8), or of zeros.
    stack = both(first, drop_connect=DropConnect(0.5), weight_norm=WeightNorm(1.0))
    params = {"0.weight": rows([3, 4]).repeat(400, 1), "0.length.g": torch.full((400,), 10.0)}
    used = stack.weights(params, NOW)["0.weight"]
    for column, whole in zip(used.T, (6.0, 8.0), strict=True):
        assert column.unique().tolist() == pytest.approx([0, 2 * whole])
    # five standard errors of the mean of 400 are a quarter of it
    torch.testing.assert_close(used.mean(0), stack.average(params, NOW)["0.weight"][0], rtol=0.25, atol=0)


@pytest.mark.parametrize("noise", [L0(1e-3, 0.3), WeightNoise(0.1, False), DropConnect(0.3)])
@pytest.mark.parametrize("method", [WeightStandardization(1e-3, True), WeightNorm(1.5)])
def test_noise_and_reparametrizations_have_one_order(noise: Method, method: Method) -> None:
    stacks = [both(first, noise=noise, it=method) for first in (True, False)]
    params = {name: w.detach() for name, w in stacks[0].build(tiny("table")).named_parameters()}
    for hook in ("weights", "average"):
        one, other = (getattr(stack, hook)(params, NOW) for stack in stacks)
        assert all(torch.equal(one[name], w) for name, w in other.items()), hook


def test_evaluation_uses_the_reparametrized_weights() -> None:
    """With a rate of 0 nothing moves, so the figures are those of the first weights as the method changes them."""
    still = replace(experiment(epochs=1), optimizer=replace(experiment().optimizer, lr=0.0))

    def loss(**methods: Method) -> list[float]:
        return [o.figures["last_test_loss"] for o in outcomes(replace(still, stack=Stack(methods)), 2)]

    assert loss(weight_norm=WeightNorm(1.0)) == pytest.approx(loss())
    assert loss(weight_norm=WeightNorm(2.0)) != pytest.approx(loss(), rel=1e-2)
    assert loss(spectral_norm=SpectralNorm(1e3, "at_most")) == loss()
    # the logits of three layers of norm 1e-3 are next to nothing: the loss is ln 4 but for the last layer's bias
    small = loss(spectral_norm=SpectralNorm(1e-3, "equal"))
    assert small == pytest.approx([1.386] * 2, abs=0.05)
    assert loss(weight_standardization=WeightStandardization(1e-5, False)) != pytest.approx(loss(), rel=1e-2)


def test_pruned_weights_are_zero_in_the_report() -> None:
    stack = Stack({"dropout": Dropout(0.1, 0.0), "prune": Prune(0.5, 0.0, 0.5, 1)})
    for outcome in outcomes(experiment(stack), 2):
        assert outcome.figures["w_zero"] == pytest.approx(0.5, abs=0.01)


# -- norms -------------------------------------------------------------------------------------------------------------
def test_layer_and_group_norm_standardize_each_example() -> None:
    # (1, 3): mean 2, variance 1, epsilon 3: (-1, 1) / 2; (10, 10) has no variance: zeros
    torch.testing.assert_close(GroupNormLayer(2, 1, 3.0)(rows([1, 3], [10, 10])), rows([-0.5, 0.5], [0, 0]))
    torch.testing.assert_close(GroupNormLayer(4, 2, 3.0)(rows([1, 3, 10, 10])), rows([-0.5, 0.5, 0, 0]))
    # over both positions of one channel together, the scale and the shift by channel
    layer = GroupNormLayer(2, 2, 3.0)
    layer.scale.data, layer.shift.data = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 7.0])
    h = torch.tensor([[[1.0, 3.0], [10.0, 10.0]]])
    torch.testing.assert_close(layer(h), torch.tensor([[[-1.0, 1.0], [7.0, 7.0]]]))


def test_rms_norm_does_not_centre() -> None:
    # (1, 7): the mean square is 25, so divide by 5; with epsilon 75 by 10
    torch.testing.assert_close(RMSNormLayer(2, 1e-12)(rows([1, 7])), rows([0.2, 1.4]))
    layer = RMSNormLayer(2, 75.0)
    layer.scale.data = torch.tensor([1.0, 10.0])
    torch.testing.assert_close(layer(rows([1, 7])), rows([0.1, 7]))


def test_ghost_batch_norm_has_its_own_statistics_in_every_part() -> None:
    # parts (1, 3) and (10, 10) with epsilon 3; in evaluation the measured mean 0 and variance 1: h / 2
    h = rows([1], [3], [10], [10])
    layer = GhostBatchNormLayer(1, 2, 3.0).train()
    torch.testing.assert_close(layer(h), rows([-0.5], [0.5], [0], [0]))
    torch.testing.assert_close(layer.eval()(h), h / 2)
    # measured over all of them: mean 6, variance (25 + 9 + 16 + 16) / 4 = 16.5
    layer.measuring = True
    layer(h)
    assert (layer.mean.item(), layer.var.item()) == pytest.approx((6, 16.5))
    layer.measuring = False
    # five at size 2 are parts of 3 and 2, seven at size 4 one part
    alike = rows([1], [1], [1], [5], [9])
    assert torch.equal(layer.train()(alike)[:3], torch.zeros(3, 1))
    assert not torch.equal(GhostBatchNormLayer(1, 4, 3.0).train()(alike)[:3], torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        (LayerNorm(1e-3), GroupNormLayer),
        (GroupNorm(3, 1e-3), GroupNormLayer),
        (RMSNorm(1e-3), RMSNormLayer),
        (GhostBatchNorm(4, 1e-3), GhostBatchNormLayer),
    ],
)
def test_norms_fill_every_slot_of_a_net(method: Method, layer: type[nn.Module]) -> None:
    filled = [m for m in method.build(tiny("image")).modules() if isinstance(m, layer)]
    assert [m.epsilon for m in filled] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("methods", "net", "said"),
    [
        ([GroupNorm(4, 1e-5)], mlp((4,), 3, width=6, depth=1), r"groups is 4; .* \(6\): 1, 2, 3, 6 \(method.group"),
        ([GroupNorm(7, 1e-5)], mlp((4,), 3, width=6, depth=1), r"groups is 7; .* 1, 2, 3, 6 "),
        ([BatchNorm(1e-5), LayerNorm(1e-5)], tiny("table"), "0 and 1, which each fill the model's slots with a norm"),
        (
            [GroupNorm(4, 1e-5)],
            RMSNorm(1e-5).build(tiny("table")),
            "group_norm finds a RMSNormLayer in the model's slots",
        ),
        ([RMSNorm(1e-5)], linear((4,), 3), "method.rms_norm needs a model with hidden layers"),
    ],
)
def test_what_a_norm_cannot_do_is_refused(methods: list[Method], net: nn.Module, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        Stack({str(i): method for i, method in enumerate(methods)}).build(net)


def test_groups_of_one_number_are_refused() -> None:
    with pytest.raises(Refusal, match=r"groups of one number, in a layer of 6 units.*fewer groups or a wider layer"):
        GroupNorm(6, 1e-5).build(mlp((4,), 3, width=6, depth=1))(torch.zeros(2, 4))
    with pytest.raises(Refusal, match=r"layer of 1 units.* needs a wider layer \(model.width=...\)"):
        LayerNorm(1e-5).build(mlp((4,), 3, width=1, depth=1))(torch.zeros(2, 4))


@pytest.mark.parametrize("method", [BatchNorm(1e-5), GhostBatchNorm(2, 1e-5)])
def test_a_batch_norm_of_one_example_is_refused(method: Method) -> None:
    net = method.build(mlp((4,), 3, width=6, depth=1)).train()
    with pytest.raises(Refusal, match="a batch norm of one number for each unit"):
        net(torch.zeros(1, 4))
    net.eval()(torch.zeros(1, 4))
