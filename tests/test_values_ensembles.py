"""Ensembles against numbers worked out by hand, and their members against the runs that they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from settings import Trainer, batch_of, tiny
from test_engine import blobs, experiment, outcomes, same
from torch import Tensor, nn
from torch.func import functional_call

from runner.engine.evaluate import Examiner, Pool, evaluate, measure_norms
from runner.engine.pack import begin, few_steps
from runner.engine.schedules import Cyclic
from runner.engine.weights import initial
from runner.errors import Refusal
from runner.grid import Run
from runner.keys import Key
from runner.methods.averaging import EMA, Lookahead
from runner.methods.base import Method, Now
from runner.methods.constraints import MaxNorm, Prune
from runner.methods.dropping import Dropout
from runner.methods.ensembles import Ensemble, MCDropout, SnapshotEnsemble
from runner.methods.flatness import SAM
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L2
from runner.methods.placebo import SeededPlacebo
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping
from runner.nets.dense import linear, mlp
from runner.nets.sites import Mark

NOW = Now(Key.of(0), 0, 6, 0.1)


def snapshots(method: SnapshotEnsemble, steps: int) -> list[list[float]]:
    """What is evaluated after each step, of one weight that is the number of steps taken."""
    params = {"w": torch.tensor([0.0])}
    memory, evaluated = method.recall(params), []
    for step in range(steps):
        params = {"w": torch.tensor([step + 1.0])}
        memory = method.remember(params, replace(NOW, step=step, steps=steps, memory=memory))
        evaluated.append(method.average(params, replace(NOW, step=step + 1, steps=steps, memory=memory))["w"])
    return [w.flatten().tolist() for w in evaluated]


def test_snapshots_are_the_weights_at_the_ends_of_cycles() -> None:
    # three cycles of two steps: they end with 2, 4 and 6, and the last two that are over count; until step 4 there is
    # one at most, and the newest weight stands in
    assert snapshots(SnapshotEnsemble(2, 3), 6) == [[1, 1], [2, 2], [3, 2], [2, 4], [2, 4], [4, 6]]
    # two cycles of seven steps end after steps ceil(7 / 2) = 4 and 7
    assert snapshots(SnapshotEnsemble(2, 2), 7)[-1] == [4, 7]
    # more cycles than steps: each step ends one
    assert snapshots(SnapshotEnsemble(2, 9), 4) == [[1, 1], [1, 2], [2, 3], [3, 4]]


def test_snapshots_are_taken_where_the_cyclic_rate_is_lowest() -> None:
    for cycles, steps in ((3, 6), (4, 10), (5, 23)):
        rate = [Cyclic(cycles).share(step, steps) for step in range(steps)]
        last = [step + 1 for step in range(steps) if step + 1 == steps or rate[step + 1] > rate[step]]
        assert snapshots(SnapshotEnsemble(cycles, cycles), steps)[-1] == last


def test_more_snapshots_than_cycles_are_refused() -> None:
    with pytest.raises(Refusal, match=r"last is 4; there are as many snapshots as cycles, which are 3"):
        SnapshotEnsemble(4, 3).build(nn.Linear(1, 1))


def test_a_snapshot_ensemble_is_evaluated_as_one() -> None:
    stack = Stack(
        {"snapshot_ensemble": SnapshotEnsemble(3, 3), "batch_norm": BatchNorm(1e-5), "max_norm": MaxNorm(3.0)}
    )
    trial = replace(experiment(stack, epochs=6), schedule=Cyclic(3))
    for outcome in outcomes(trial, 2):
        assert outcome.status == "ok"
        assert outcome.figures["last_train_acc"] > 0.6
    plain = replace(trial, stack=Stack({n: m for n, m in stack.methods.items() if n != "snapshot_ensemble"}))
    for one, all_ in zip(outcomes(plain, 2), outcomes(trial, 2), strict=True):
        # two epochs a cycle: nothing but the newest weights until the first is over, and other figures in the end
        assert [p.figures for p in one.curve[:2]] == [pytest.approx(p.figures, rel=1e-5) for p in all_.curve[:2]]
        assert one.figures["last_test_loss"] != pytest.approx(all_.figures["last_test_loss"], rel=1e-3)


COMPANY: Mapping[str, Method] = {
    "dropout": Dropout(0.2, 0.1),
    "batch_norm": BatchNorm(1e-5),
    "l2": L2(1e-2, False),
    "sam": SAM(0.1),
    "lookahead": Lookahead(0.5, 2),
}


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("mapped", [False, True])
def test_the_first_member_is_the_run_without_an_ensemble(place: str, mapped: bool) -> None:
    """In company, whatever the order: no member's step depends on another's."""
    ensemble = {"ensemble": Ensemble(3)}
    stack = Stack({**ensemble, **COMPANY} if place == "first" else {**COMPANY, **ensemble})
    together, _ = Trainer(stack, "image").train([5, 6][: 1 + mapped], mapped)
    alone, _ = Trainer(Stack(COMPANY), "image").train([5, 6][: 1 + mapped], mapped)
    for many, one in zip(together, alone, strict=True):
        assert many.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(many[name][:, 0], value, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(together.params[n][:, 0], w) for n, w in alone.params.items()) or mapped


def test_members_begin_apart_and_have_noise_of_their_own() -> None:
    trial = experiment(Stack({"ensemble": Ensemble(3), "dropout": Dropout(0.5, 0.0)}))
    pack, lanes = begin(trial, [Run(0, "report", {}, 0)])
    _, start = begin(experiment(), [Run(0, "report", {}, 0)])
    weights = lanes.state.params["2.weight"][0]
    assert torch.equal(weights[0], start.state.params["2.weight"][0])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert weights.std(dim=(1, 2)) == pytest.approx([0.145] * 3, abs=0.02)  # 1 / sqrt(16) / sqrt(3), as they all begin
    # from equal weights, different masks lead members apart
    same_start = {n: w[:, :1].expand(w.shape).clone() for n, w in lanes.state.params.items()}
    moved = few_steps(pack, lanes._replace(state=lanes.state._replace(params=same_start)), 1).state.params["2.weight"][
        0
    ]
    assert not torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[1], moved[2])


def test_an_ensemble_predicts_the_mean_probability() -> None:
    # one example of class 0, whose members say 1/2 and 1/4: the mean is 3/8, and -ln(3/8) = 0.980829
    net = nn.Linear(1, 2)
    logit = -math.log(3)  # the sigmoid of -ln 3 is 1/4
    params = {
        "weight": torch.zeros(1, 2, 2, 1),
        "bias": torch.tensor([[[0.0, 0.0], [logit, 0.0]]]),
    }
    pool = Pool(torch.zeros(1, 1), torch.tensor([0]), torch.zeros(1, 1), torch.ones(1, 1))
    seen = evaluate(Examiner(net, False, members=2), params, pool, {"train": torch.tensor([[0]])})
    assert seen["train"].loss.item() == pytest.approx(-math.log(3 / 8))


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_ensemble_is_trained_and_evaluated_through_the_loop(seeds: int) -> None:
    stack = Stack({"ensemble": Ensemble(3), "batch_norm": BatchNorm(1e-5), "dropout": Dropout(0.2, 0.0)})
    plain = outcomes(experiment(Stack({n: m for n, m in stack.methods.items() if n != "ensemble"}), epochs=6), seeds)
    for one, three in zip(plain, outcomes(experiment(stack, epochs=6), seeds), strict=True):
        assert three.counts["n_params"] == 3 * one.counts["n_params"]
        assert three.figures["last_test_loss"] < one.figures["last_test_loss"]
        # what is said of the weights is said of the first member, which is the run alone
        assert three.figures["w_l2"] == pytest.approx(one.figures["w_l2"], rel=1e-3)
        assert three.figures["w_dist_init"] == pytest.approx(one.figures["w_dist_init"], rel=1e-3)


def test_ensembles_of_averages_of_snapshots_and_with_early_stopping() -> None:
    for others in (
        {"ema": EMA(0.9), "prune": Prune(0.5, 0.0, 0.5, 1)},
        {"snapshot_ensemble": SnapshotEnsemble(2, 2), "prune": Prune(0.5, 0.0, 0.5, 1)},
        {"early_stopping": EarlyStopping(1, 0.0)},
        {"mc_dropout": MCDropout(0.2, 3), "batch_norm": BatchNorm(1e-5)},
    ):
        for names in ({"ensemble": Ensemble(2), **others}, {**others, "ensemble": Ensemble(2)}):
            assert all(outcome.status == "ok" for outcome in outcomes(experiment(Stack(names), epochs=3), 2))


def test_sizes_of_a_grid_are_trained_apart() -> None:
    together = outcomes(experiment(Stack({"ensemble": Ensemble(1)}), epochs=2), 2, ensemble__size=[1, 2])
    plain = outcomes(experiment(epochs=2), 2)
    pairs = outcomes(experiment(Stack({"ensemble": Ensemble(2)}), epochs=2), 2)
    assert all(same(a, b) for a, b in zip(together, [*plain, *pairs], strict=True))


def test_neutral_strengths_are_the_baseline_in_evaluation_too() -> None:
    plain = outcomes(experiment(epochs=2), 2)
    for name, method in (
        ("ensemble", Ensemble(1)),
        ("snapshot_ensemble", SnapshotEnsemble(1, 3)),
        ("mc_dropout", MCDropout(0.0, 3)),
    ):
        assert all(
            same(a, b) for a, b in zip(outcomes(experiment(Stack({name: method}), epochs=2), 2), plain, strict=True)
        )


class Halves(nn.Module):
    """Two logits: one hidden value of 1, passed through a mark, times ln 3, and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = Mark("hidden")

    def forward(self, x: Tensor) -> Tensor:
        h = self.mark(torch.ones(len(x), 1))
        return torch.cat([math.log(3) * h, torch.zeros(len(x), 1)], 1)


def test_mc_dropout_averages_probabilities() -> None:
    # at rate 1/2 the hidden 1 becomes 2 or 0, the logit 2 ln 3 or 0, the probability 9/10 or 1/2, on average 7/10; for
    # one example over 20,000 passes the standard error is 0.2 / sqrt(20000) = 0.0014, so 4 of them are 0.006
    net = MCDropout(0.5, 400).build(Halves()).eval()
    p = net(torch.zeros(50, 1)).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(50))
    assert p[:, 0].mean().item() == pytest.approx(0.7, abs=0.006)
    assert p[:, 0].std() < 0.02  # passes have masks of their own: 0.2 / sqrt(400) = 0.01
    assert torch.equal(net(torch.zeros(50, 1)).exp(), p)
    # in training it is one plain pass, for the step's own noise to act on: logits
    assert net.train()(torch.zeros(1, 1))[0, 0].item() == pytest.approx(math.log(3))


def test_mc_dropout_at_rate_0_is_one_plain_pass() -> None:
    torch.manual_seed(0)
    net, x = mlp((4,), 2, width=3, depth=1).eval(), torch.ones(2, 4)
    logits = net(x)
    assert torch.equal(MCDropout(0.0, 3).build(net)(x), logits)  # not log-probabilities


def test_mc_dropout_drops_in_training() -> None:
    dropped, _ = Trainer(Stack({"it": MCDropout(0.3, 4)}), "image").train([0], mapped=False)
    same_masks, _ = Trainer(Stack({"it": Dropout(0.3, 0.0)}), "image").train([0], mapped=False)
    assert all(torch.equal(dropped.params[n], w) for n, w in same_masks.params.items())


@pytest.mark.parametrize("order", [1, -1])
def test_mc_dropout_leaves_the_measured_norms_alone(order: int) -> None:
    methods: list[tuple[str, Method]] = [("mc_dropout", MCDropout(0.5, 3)), ("batch_norm", BatchNorm(1e-5))]
    torch.manual_seed(0)
    net = Stack(dict(methods[::order])).build(mlp((2, 8), 4, width=12, depth=2)).eval()
    plain = copy.deepcopy(net)
    plain._forward_hooks.clear()
    params, data = initial(net, [0]), blobs()
    pool = Pool(data.x, data.y, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    rows = torch.arange(100)[None]
    measured, expected = (measure_norms(Examiner(n, False), params, pool, rows)[0] for n in (net, plain))
    assert expected
    assert all(torch.equal(measured[name], value) for name, value in expected.items())
    used = {n: w[0] for n, w in (params | measured).items()}
    assert not torch.allclose(functional_call(net, used, (data.x[:9],)), functional_call(plain, used, (data.x[:9],)))


def test_training_figures_beside_batch_norm_are_of_mc_dropout_as_those_of_other_rows_are() -> None:
    methods: dict[str, Method] = {"mc_dropout": MCDropout(0.5, 3), "batch_norm": BatchNorm(1e-5)}
    net = Stack(methods).build(mlp((2, 8), 4, width=12, depth=2))
    data, rows = blobs(), torch.arange(100).repeat(2, 1)
    pool = Pool(data.x, data.y, torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
    seen = evaluate(Examiner(net, True), initial(net, [0, 1]), pool, {"train": rows, "val": rows})
    assert torch.equal(seen["train"].loss, seen["val"].loss)


def test_training_figures_of_mc_dropout_are_the_same_in_any_order_of_the_stack() -> None:
    methods: dict[str, Method] = {
        "mc_dropout": MCDropout(0.5, 3), "batch_norm": BatchNorm(1e-5), "placebo_seeded": SeededPlacebo(1),
    }  # fmt: skip
    one, other = (
        outcomes(experiment(Stack({name: methods[name] for name in order}), epochs=1), 2)
        for order in (list(methods), list(methods)[::-1])
    )
    assert all(map(same, one, other))


def test_mc_dropout_needs_hidden_marks() -> None:
    with pytest.raises(Refusal, match=r"method\.mc_dropout needs a model with hidden layers"):
        MCDropout(0.5, 3).build(linear((4,), 2))


def test_mc_dropout_keeps_the_names_and_the_start_of_the_weights() -> None:
    built = Stack({"mc_dropout": MCDropout(0.5, 3)}).build(tiny("image"))
    assert [n for n, _ in built.named_parameters()] == [n for n, _ in tiny("image").named_parameters()]
    assert built(batch_of("image", 0).x).shape == (8, 4)
