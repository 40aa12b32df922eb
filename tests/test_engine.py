"""The loop around the step: what it measures, what it keeps apart, and when lanes leave."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from runner.data.base import Data, Splitter
from runner.engine import finish
from runner.engine.evaluate import Examined, Examiner, Pool, evaluate, examine
from runner.engine.finish import Outcome
from runner.engine.loop import Progress, train
from runner.engine.optimizers import SGD, Adam
from runner.engine.pack import Lanes, Pack, begin
from runner.engine.schedules import Constant
from runner.engine.weights import initial, summary
from runner.experiment import Budget, Experiment
from runner.grid import Run, crossed, runs
from runner.methods.augment import Augment
from runner.methods.base import Batch, Method, Now, Params
from runner.methods.dropping import Dropout
from runner.methods.gradients import AGC, ClipNorm, ClipValue, GradientNoise
from runner.methods.mixing import CutMix, Mixup
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L1, L2
from runner.methods.smoothness import FGSM
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping
from runner.methods.targets import LabelSmoothing
from runner.nets.convolutional import conv1d
from runner.nets.dense import mlp
from runner.nets.norms import BatchNormLayer
from runner.nets.sites import Mark, tapped, visits


def blobs(n: int = 400) -> Data:
    """Four noisy clouds as signals of two channels and eight points; the last hundred are the official test set."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = torch.randn(n, 2, 8, generator=g) + torch.eye(8)[y][:, None] * 1.5 + 3.0
    return Data("blobs", "signal", x, y, 4, torch.arange(n - 100, n))


def experiment(stack: Stack | None = None, data: Data | None = None, epochs: int = 4) -> Experiment:
    return Experiment(
        data=data or blobs(),
        splitter=Splitter(120, 60, None, "train_val", 0, True),
        model=lambda: mlp((2, 8), 4, width=12, depth=2),
        stack=stack or Stack({}),
        optimizer=SGD(0.1, 0.9, False),
        schedule=Constant(),
        budget=Budget(epochs, 20, 1),
        device=torch.device("cpu"),
        dtype=torch.float32,
        lanes=None,
    )


def outcomes(experiment: Experiment, seeds: int = 3, **axes: list[float]) -> list[Outcome]:
    points = crossed({name.replace("__", "."): values for name, values in axes.items()})
    wanted = runs(points, range(seeds), "report")
    return sorted(train(experiment, wanted), key=lambda outcome: wanted.index(outcome.run))


def same(one: Outcome, other: Outcome, but: str = "never") -> bool:
    """Whether two outcomes have the same figures bit for bit, NaN included, besides those whose name contains `but`."""
    names = [name for name in one.figures if but not in name]
    pairs = [(one.figures[name], other.figures[name]) for name in names]
    return [p.figures for p in one.curve] == [p.figures for p in other.curve] and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs
    )


STACKS = {
    "none": Stack({}),
    "mixed": Stack(
        {
            "dropout": Dropout(0.2, 0.1),
            "batch_norm": BatchNorm(1e-5),
            "l2": L2(1e-3, False),
            "augment": Augment(1.0, {"shift": 0.1, "noise": 0.2}),
        }
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_test_rows_reach_nothing_but_the_test_figures(name: str) -> None:
    data = blobs()
    spoiled = data.x.clone()
    spoiled[300:] = 1e3 * torch.randn(100, 2, 8)
    relabelled = torch.cat([data.y[:300], (data.y[300:] + 1) % 4])
    other = replace(data, x=spoiled, y=relabelled)
    for mine, theirs in zip(outcomes(experiment(STACKS[name])), outcomes(experiment(STACKS[name], other)), strict=True):
        assert mine.figures["last_test_acc"] != theirs.figures["last_test_acc"]
        gone = {n: v for n, v in mine.figures.items() if "test" not in n and "gap" not in n}
        assert all(theirs.figures[n] == v for n, v in gone.items())
        assert [p.figures for p in mine.curve] == [p.figures for p in theirs.curve]


def test_validation_rows_do_not_reach_training() -> None:
    run = Run(0, "report", {}, 0)
    plain = experiment()
    rows = plain.splitter.split(plain.data, 0).val
    spoiled = plain.data.x.clone()
    spoiled[rows] = -7.0
    (mine,), (theirs,) = train(plain, [run]), train(experiment(data=replace(plain.data, x=spoiled)), [run])
    assert mine.figures["last_val_loss"] != theirs.figures["last_val_loss"]
    assert mine.figures["last_train_loss"] == theirs.figures["last_train_loss"]
    assert mine.figures["last_test_loss"] == theirs.figures["last_test_loss"]


def test_progress_has_no_test_figure() -> None:
    seen: list[Progress] = []
    list(train(experiment(), runs([{}], range(2), "report"), seen.append))
    assert [s.epoch for s in seen] == [1, 2, 3, 4]
    assert seen[-1].ended == 2
    assert not any("test" in name for name in vars(seen[0]))


@pytest.mark.parametrize(
    "methods",
    [
        {"dropout": Dropout(0.3, 0.0)},
        {
            "label_smoothing": LabelSmoothing(0.1),
            "mixup": Mixup(0.4),
            "cutmix": CutMix(0.4),
            "augment": Augment(1.0, {"shift": 0.1, "noise": 0.2}),
            "l2": L2(1e-3, False),
            "fgsm": FGSM(0.05, 0.5),
        },
    ],
    ids=["dropout", "mixed"],
)
def test_figures_are_those_of_a_plain_pytorch_evaluation(methods: dict[str, Method], as_written: None) -> None:
    """Train one run, take its last weights out through the memory of a spy, and evaluate them by hand."""

    @dataclass(frozen=True)
    class Spy(Method):
        last: list[Params] = field(default_factory=list)

        def project(self, params: Params, now: Now) -> Params:
            self.last.append({n: w.detach().clone() for n, w in params.items()})
            return params

    spy = Spy()
    trial = experiment(Stack({**methods, "spy": spy}))
    (outcome,) = train(replace(trial, lanes=1), [Run(5, "report", {}, 0)])
    net = trial.model()
    net.load_state_dict(spy.last[-1])
    split = trial.splitter.split(trial.data, 5)
    for name, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
        x = (trial.data.x[rows] - split.mean) / split.std
        logits = net.eval()(x)
        loss = F.cross_entropy(logits, trial.data.y[rows]).item()
        acc = (logits.argmax(1) == trial.data.y[rows]).float().mean().item()
        assert outcome.figures[f"last_{name}_loss"] == pytest.approx(loss, rel=1e-5)
        assert outcome.figures[f"last_{name}_acc"] == pytest.approx(acc)
    figures = outcome.figures
    assert figures["last_train_acc"] > 0.4  # it has learnt something: at chance the losses would all be ln 4
    assert figures["last_gap_acc"] == pytest.approx(figures["last_train_acc"] - figures["last_test_acc"])
    assert figures["last_gap_loss"] == pytest.approx(figures["last_test_loss"] - figures["last_train_loss"])
    assert outcome.curve[-1].figures["train_loss"] == pytest.approx(figures["last_train_loss"])


def test_an_epoch_shows_every_training_example_once_in_a_new_order(as_written: None) -> None:
    @dataclass(frozen=True)
    class Spy(Method):
        shown: list[Tensor] = field(default_factory=list)

        def batch(self, batch: Batch, now: Now) -> Batch:
            self.shown.append(batch.x)
            return batch

    spy = Spy()
    trial = experiment(Stack({"spy": spy}), epochs=2)
    list(train(replace(trial, lanes=1), [Run(0, "report", {}, 0)]))
    split = trial.splitter.split(trial.data, 0)
    expected = ((trial.data.x[split.train] - split.mean) / split.std).flatten(1)
    shown = [x for x in spy.shown if len(x) == 20][1:]  # the first step is taken twice, to set things up
    first, second = (torch.cat(shown[6 * e : 6 * (e + 1)]).flatten(1) for e in range(2))
    assert torch.equal(first.sort(0).values, expected.sort(0).values)
    assert torch.equal(second.sort(0).values, expected.sort(0).values)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", STACKS)
def test_numbers_do_not_depend_on_the_size_of_the_packs(name: str) -> None:
    whole = outcomes(experiment(STACKS[name]), 4)
    threes = outcomes(replace(experiment(STACKS[name]), lanes=3), 4)  # a pack of three and a pack of one
    assert all(same(a, b) for a, b in zip(whole, threes, strict=True))
    (alone,) = train(replace(experiment(STACKS[name]), lanes=1), [Run(3, "report", {}, 0)])
    for figure, value in alone.figures.items():
        assert whole[3].figures[figure] == pytest.approx(value, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("name", STACKS)
def test_convolutions_agree_in_packs_of_any_size_and_alone(name: str) -> None:
    trial = replace(experiment(STACKS[name]), model=lambda: conv1d((2, 8), 4, width=5))
    whole = outcomes(trial, 4)
    threes = outcomes(replace(trial, lanes=3), 4)  # a pack of three and a pack of one
    assert all(same(a, b) for a, b in zip(whole, threes, strict=True))
    (alone,) = train(replace(trial, lanes=1), [Run(2, "report", {}, 0)])
    assert whole[2].figures["last_train_loss"] == pytest.approx(alone.figures["last_train_loss"], rel=1e-3)


@pytest.mark.parametrize("name", STACKS)
def test_the_best_checkpoint_is_examined_where_it_is_not_the_last(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(pack: Pack, lanes: Lanes, *others: object) -> Examined:
        return examine(pack.examiner, lanes.best, pack.pool(lanes), lanes.rows)

    trial = experiment(STACKS[name], epochs=8)
    some = outcomes(trial, 5, optimizer__lr=[0.01, 0.2])
    of_last = [o.figures["best_epoch"] == o.figures["last_epoch"] for o in some]
    assert 0 < sum(of_last) < len(some)
    monkeypatch.setattr(finish, "_examined_best", whole)
    assert all(same(a, b) for a, b in zip(some, outcomes(trial, 5, optimizer__lr=[0.01, 0.2]), strict=True))


def test_a_diverged_lane_is_marked_and_changes_no_number_of_its_neighbours() -> None:
    both = outcomes(experiment(), 2, optimizer__lr=[0.05, 1e30])
    alone = outcomes(experiment(), 2, optimizer__lr=[0.05])
    assert [o.status for o in both] == ["ok", "ok", "diverged", "diverged"]
    assert both[2].epochs == 1  # it left at the first evaluation
    assert all(same(a, b) for a, b in zip(both[:2], alone, strict=True))


def test_lanes_that_stopped_leave_and_change_no_number_of_the_others() -> None:
    stack = Stack({"early_stopping": EarlyStopping(2, 0.0)})
    trial = experiment(stack, epochs=25)
    stopped = outcomes(trial, 3, early_stopping__patience=[1, 1000])
    full = outcomes(experiment(epochs=25), 3)
    assert all(o.epochs < 25 for o in stopped[:3])
    assert all(o.epochs == 25 for o in stopped[3:])
    for early, late, plain in zip(stopped[:3], stopped[3:], full, strict=True):
        n = len(early.curve)
        assert [p.figures for p in early.curve] == [p.figures for p in plain.curve[:n]]
        assert [p.figures for p in late.curve] == [p.figures for p in plain.curve]
        # it stopped at the first evaluation that was no new best, and kept the weights of the one before
        losses = [p.figures["val_loss"] for p in early.curve]
        assert losses[-1] >= min(losses)
        assert losses == [*sorted(losses[:-1], reverse=True), losses[-1]]
        assert early.figures["last_epoch"] == early.figures["best_epoch"] == len(losses) - 1
        assert early.figures["last_val_loss"] == early.figures["best_val_loss"] == pytest.approx(min(losses))
        # without early stopping the last weights are the last ones, and the best are the same best
        assert plain.figures["last_epoch"] == 25
        assert plain.figures["best_val_loss"] == pytest.approx(min(p.figures["val_loss"] for p in plain.curve))


def test_strengths_that_shape_the_net_reach_it() -> None:
    stack = Stack({"batch_norm": BatchNorm(1e-5)})
    together = outcomes(experiment(stack), 2, batch_norm__epsilon=[1e-5, 10.0])
    apart = outcomes(experiment(Stack({"batch_norm": BatchNorm(10.0)})), 2)
    assert all(same(a, b) for a, b in zip(together[2:], apart, strict=True))
    assert not same(together[0], together[2])


def test_arms_are_paired_by_construction() -> None:
    plain = outcomes(experiment(), 2)
    neutral = outcomes(experiment(Stack({"dropout": Dropout(0.5, 0.0)})), 2, dropout__rate=[0.0])
    assert all(same(a, b) for a, b in zip(plain, neutral, strict=True))
    assert plain[0].split_hash == neutral[0].split_hash != plain[1].split_hash


def test_torchs_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    outcomes(experiment(STACKS["mixed"]), 2)
    assert torch.equal(torch.rand(3), expected)


def test_evaluating_less_often_changes_no_training() -> None:
    often, seldom = outcomes(experiment()), outcomes(replace(experiment(), budget=Budget(4, 20, 3)))
    assert [p.epoch for p in seldom[0].curve] == [3, 4]
    assert often[0].curve[-1].figures == seldom[0].curve[-1].figures


def test_without_validation_there_is_no_best() -> None:
    trial = replace(experiment(), splitter=Splitter(120, 0, None, "train_val", 0, True))
    (outcome,) = train(trial, [Run(0, "report", {}, 0)])
    assert math.isnan(outcome.figures["best_test_acc"])
    assert math.isnan(outcome.figures["last_val_acc"])
    assert outcome.status == "ok"
    assert outcome.figures["last_train_acc"] > 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seeds", [1, 2])
def test_other_precisions_train(dtype: torch.dtype, seeds: int) -> None:
    trial = replace(
        experiment(STACKS["mixed"], epochs=8), dtype=dtype, lanes=seeds, optimizer=Adam(0.01, 0.9, 0.999, 1e-8)
    )
    for outcome in outcomes(trial, seeds):
        assert outcome.status == "ok"
        assert outcome.figures["last_train_acc"] > 0.5
    _, lanes = begin(trial, [Run(0, "report", {}, 0)])
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(w.dtype == kept for w in lanes.state.params.values())


@pytest.mark.parametrize("mapped", [True, False])
def test_an_examiner_goes_through_its_passes_again_to_the_same_bits(
    mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = 30 if mapped else 1  # three passes of ten, and all of them at once
    net = BatchNorm(1e-5).build(mlp((16,), 4, width=12, depth=2)).eval()
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    net.register_forward_hook(count)
    examiner, data = Examiner(net, mapped), blobs()
    y = data.y.repeat(lanes, 1)
    for number in range(6):
        params = initial(net, range(number, number + lanes))
        buffers = {n: torch.rand(lanes, *b.shape) for n, b in net.named_buffers()}
        x = data.x.repeat(lanes, 1, *[1] * (data.x.ndim - 1)) + number
        x = x.view(lanes, *data.x.shape)
        before = ran
        with monkeypatch.context() as patched:
            patched.setattr("runner.engine.evaluate.LANES", 10)
            seen = [
                *examiner.predictions(params, buffers, x, y),
                *tree_leaves(examiner.statistics(params, buffers, x, y)),
            ]
        taken = ran - before
        with monkeypatch.context() as patched:
            patched.setattr("runner.engine.evaluate.LANES", lanes)
            fresh = Examiner(net, mapped)
            right = [*fresh.predictions(params, buffers, x, y), *tree_leaves(fresh.statistics(params, buffers, x, y))]
        assert all(map(torch.equal, seen, right))
    assert taken == 0  # the net itself has not run in the last of them


def test_measured_norms_are_those_of_the_training_set() -> None:
    """One chunk of examples: the statistics are exact in every layer, so torch's own batch norm agrees."""
    net = BatchNorm(1e-5).build(mlp((16,), 4, width=12, depth=2))
    params = initial(net, [0, 1])
    data = blobs()
    pool = Pool(data.x, data.y, torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
    rows = {"train": torch.stack([torch.arange(100), torch.arange(100, 200)]), "test": torch.arange(400).repeat(2, 1)}
    seen = evaluate(Examiner(net, mapped=True), params, pool, rows)
    for lane in range(2):
        plain = nn.Sequential(*(nn.BatchNorm1d(12) if isinstance(m, BatchNormLayer) else m for m in net.children()))
        plain.load_state_dict(
            {n.replace("scale", "weight").replace("shift", "bias"): w[lane] for n, w in params.items()}, strict=False
        )
        for m in plain:
            if isinstance(m, nn.BatchNorm1d):
                m.momentum = 1.0  # keep the statistics of the one batch that it sees
        plain.train()(data.x[rows["train"][lane]])
        for m in plain:
            if isinstance(m, nn.BatchNorm1d):
                assert m.running_var is not None
                m.running_var *= 99 / 100  # torch stores the unbiased variance
        loss = F.cross_entropy(plain.eval()(data.x), data.y).item()
        assert seen["test"].loss[lane].item() == pytest.approx(loss, rel=1e-4)


def test_norms_measured_in_chunks_are_pooled_exactly_in_the_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.engine import evaluate as module

    net = BatchNorm(1e-5).build(mlp((16,), 4, width=12, depth=2)).eval()
    params = initial(net, [0])
    data = blobs()
    pool = Pool(data.x, data.y, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    train_rows = torch.arange(100)[None]
    whole, seen = module.measure_norms(module.Examiner(net, mapped=False), params, pool, train_rows)
    assert seen is not None
    monkeypatch.setattr(module, "EXAMPLES", 25)
    monkeypatch.setattr(module, "WHOLE", 16 * 100 - 1)
    chunks, none = module.measure_norms(module.Examiner(net, mapped=False), params, pool, train_rows)
    assert none is None
    first, *_, last = (name for name in whole if name.endswith("var"))
    for name in (first, first.replace("var", "mean")):
        torch.testing.assert_close(chunks[name], whole[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(whole[name], torch.zeros_like(whole[name]))
    assert not torch.allclose(chunks[last], whole[last], rtol=1e-4)  # normalized by chunks before


@pytest.mark.parametrize("regression", [False, True])
def test_the_pass_that_measures_norms_tells_the_training_figures(
    regression: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that another pass would find by the statistics it has left; of each lane the same in any company."""
    from runner.engine import evaluate as module

    net = BatchNorm(1e-5).build(mlp((16,), 1 if regression else 4, width=12, depth=2)).eval()
    data, lanes = blobs(), 5
    params = initial(net, range(lanes))
    y = torch.linspace(-1, 1, len(data.y)).repeat(lanes, 1) if regression else data.y
    pool = Pool(data.x, y, torch.rand(lanes, 1, 1), torch.ones(lanes, 1, 1))
    rows = torch.stack([torch.randperm(400)[:300] for _ in range(lanes)])
    examiner = module.Examiner(net, mapped=True)
    monkeypatch.setattr(module, "EXAMPLES", 50)
    monkeypatch.setattr(module, "LANES", 12)
    assert [g.stop - g.start for g in examiner.groups(rows)] == [2, 3]
    buffers, seen = module.measure_norms(examiner, params, pool, rows)
    assert seen is not None
    again = module.measure(module.chunks(examiner, params, buffers, pool, rows), rows)
    torch.testing.assert_close(seen.loss, again.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(seen.acc, again.acc, rtol=1e-6, atol=0)
    two = slice(2, 4)
    some = {name: w[two] for name, w in params.items()}
    beside, others = module.measure_norms(module.Examiner(net, mapped=True), some, pool.of(two), rows[two])
    assert others is not None
    assert torch.equal(others.loss, seen.loss[two])
    assert all(torch.equal(left, buffers[name][two]) for name, left in beside.items())
    monkeypatch.setattr(module, "NORM_EXAMPLES", 200)  # fewer than there are, so they do not tell of all
    assert module.measure_norms(examiner, params, pool, rows)[1] is None


def test_initial_weights_depend_on_the_seed_and_the_place_alone() -> None:
    plain, normed = mlp((4,), 3, 5, 2), BatchNorm(1e-5).build(mlp((4,), 3, 5, 2))
    few, many = initial(plain, [1, 2]), initial(normed, [7, 2, 9])
    for name, w in few.items():
        assert torch.equal(w[1], many[name][1])
    assert not torch.equal(few["2.weight"][0], few["2.weight"][1])
    # torch's own rule for linear layers: uniform within 1 / sqrt(fan-in), here 1/2
    assert few["2.weight"].abs().max() <= 0.5
    assert few["2.weight"].abs().max() > 0.4


def test_summary_of_weights() -> None:
    # one lane; rows are units, columns inputs: the second input is dead, half of the first layer is zero
    params = {"a": torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]), "bias": torch.tensor([[9.0, 9.0]])}
    start = {"a": torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]), "bias": torch.zeros(1, 2)}
    found = {name: value.item() for name, value in summary(params, start).items()}
    assert found == pytest.approx(
        {"w_l2": 5.0, "w_l1": 7.0, "w_dist_init": 4.0, "w_near_zero": 0.5, "w_zero": 0.5, "w_dead_inputs": 0.5}
    )


@pytest.mark.parametrize("lanes", [1, None])
@pytest.mark.parametrize(
    ("clip", "limits"), [(ClipNorm(limit=1.0), [1e-3, 0.4, 1e3]), (AGC(limit=1.0, epsilon=1e-3), [1e-4, 0.18, 1e3])]
)
def test_clipped_steps_are_counted(clip: Method, limits: list[float], lanes: int | None) -> None:
    shares = [
        outcome.figures["clipped_share"]
        for outcome in outcomes(replace(experiment(Stack({"clip": clip})), lanes=lanes), 1, clip__limit=limits)
    ]
    assert (shares[0], shares[2]) == (1, 0)
    assert 0 < shares[1] < 1


def test_a_count_of_clipped_steps_needs_clipping_last() -> None:
    clip, noise = ClipValue(limit=0.1), GradientNoise(variance=0.01, decay=0.55)
    assert Stack({"noise": noise, "clip_value": clip}).clips == "clip_value"
    later = Stack({"clip_value": clip, "noise": noise})
    assert later.clips is None
    (outcome,) = outcomes(experiment(later), 1)
    assert "clipped_share" not in outcome.figures


def test_l1_makes_weights_exactly_zero() -> None:
    (sparse, dense) = outcomes(experiment(Stack({"l1": L1(0.1, "proximal", False)}), epochs=10), 1, l1__rate=[0.3, 0.0])
    assert sparse.figures["w_zero"] > 0.2
    assert dense.figures["w_zero"] == 0


def test_the_gap_shrinks_under_l2_where_the_baseline_overfits() -> None:
    found = outcomes(experiment(Stack({"l2": L2(0.0, False)}), epochs=40), 5, l2__rate=[0.0, 0.1])
    plain, penalized = (sum(o.figures["last_gap_loss"] for o in found[i : i + 5]) / 5 for i in (0, 5))
    assert plain > 0.3
    assert penalized < 0.5 * plain


def test_marks_are_met_in_order_and_taps_do_not_leak() -> None:
    net = nn.Sequential(Mark("input"), nn.Linear(2, 2), Mark("hidden"), nn.Linear(2, 2))
    assert visits(net, torch.zeros(1, 2)) == ("input", "hidden")
    x = torch.randn(3, 2)
    before = net(x)
    with pytest.raises(RuntimeError), tapped(lambda h, kind: (_ for _ in ()).throw(RuntimeError())):
        net(x)
    assert torch.equal(net(x), before)
    with pytest.raises(ValueError, match="kind is 'hiden'"):
        Mark("hiden")
