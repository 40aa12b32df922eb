"""Flat minima and averages of the weights against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import pytest
import torch
from settings import Trainer
from test_engine import experiment, outcomes, same
from torch import Tensor

from runner.engine.pack import begin, few_steps
from runner.engine.schedules import Cosine
from runner.errors import Refusal
from runner.grid import Run
from runner.keys import Key
from runner.methods.averaging import EMA, SWA, Lookahead, MeanTeacher
from runner.methods.base import Batch, Method, Now, Params, Seen, Site
from runner.methods.constraints import MaxNorm, Prune
from runner.methods.dropping import Dropout
from runner.methods.flatness import ASAM, SAM
from runner.methods.mixing import InputNoise, Mixup
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L2, WeightDecay
from runner.methods.reparametrization import SpectralNorm
from runner.methods.stack import Stack
from runner.nets.dense import mlp

NOW = Now(Key.of(0), 0, 4, 0.1)


def gradient_of(loss: Callable[[Params], Tensor]) -> Callable[[Params], Params]:
    return torch.func.grad(loss)


def kept(method: Method, path: Iterable[float], steps: int) -> list[float]:
    """What is evaluated after each step, of one weight that starts at 0 and that the optimizer takes along the path."""
    params = {"w": torch.tensor([[0.0]])}
    memory = method.recall(params)
    evaluated = []
    for step, value in enumerate(path):
        now = replace(NOW, step=step, steps=steps, memory=memory)
        params = method.project({"w": torch.tensor([[value]])}, now)
        memory = method.remember(params, now)
        evaluated.append(method.average(params, replace(now, step=step + 1, memory=memory))["w"].item())
    return evaluated


def test_sam_descends_from_the_end_of_the_climb() -> None:
    # loss (w^2 + b^2) / 2 has gradient (w, b); at (3, 4) it is 5 long, over all weights together: a climb of 0.5 ends
    # at (3.3, 4.4), and the gradient there is the same pair
    found = SAM(0.5).gradient(
        gradient_of(lambda p: (p["w"] ** 2).sum() / 2 + (p["b"] ** 2).sum() / 2),
        {"w": torch.tensor([[3.0]]), "b": torch.tensor([4.0])},
        NOW,
    )
    torch.testing.assert_close(found, {"w": torch.tensor([[3.3]]), "b": torch.tensor([4.4])})


def test_asam_climbs_in_units_of_the_weights() -> None:
    # loss 2 w + b + (w^2 + b^2) / 2 has gradient (2 + w, 1 + b), at (2, 2) it is (4, 3). T = (|w| + 1, 1) = (3, 1), so
    # T g = (12, 3), which is sqrt(153) long; radius sqrt(153) / 12 makes the climb T^2 g / 12 = (36, 3) / 12 =
    # (3, 0.25): at (5, 2.25) the gradient is (7, 3.25)
    def loss(p: Params) -> Tensor:
        return 2 * p["w"].sum() + p["b"].sum() + (p["w"] ** 2).sum() / 2 + (p["b"] ** 2).sum() / 2

    found = ASAM(math.sqrt(153) / 12, 1.0).gradient(
        gradient_of(loss), {"w": torch.tensor([[2.0]]), "b": torch.tensor([2.0])}, NOW
    )
    torch.testing.assert_close(found, {"w": torch.tensor([[7.0]]), "b": torch.tensor([3.25])})


@pytest.mark.parametrize("method", [SAM(0.1), ASAM(0.1, 0.0)])
def test_no_gradient_is_no_climb(method: Method) -> None:
    found = method.gradient(gradient_of(lambda p: (p["w"] ** 2).sum()), {"w": torch.zeros(2, 2)}, NOW)
    assert torch.equal(found["w"], torch.zeros(2, 2))


def test_sam_reports_the_loss_of_the_first_pass() -> None:
    _, plain = Trainer(Stack({}), "table").train([0], mapped=False, steps=1)
    _, climbed = Trainer(Stack({"sam": SAM(0.5)}), "table").train([0], mapped=False, steps=1)
    assert torch.equal(plain, climbed)


@dataclass(frozen=True)
class Ones(Method):
    """Puts ones in the place of every hidden value, so that what follows shows its mask."""

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        return torch.ones_like(h)


@dataclass(frozen=True)
class Watch(Method):
    """Keeps what passes it: how many batches, and every value at the marks."""

    batches: list[Batch] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def batch(self, batch: Batch, now: Now) -> Batch:
        self.batches.append(batch)
        return batch

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        self.values.append(h.detach())
        return h


SHARP = [SAM(0.5), ASAM(0.5, 0.01)]


@pytest.mark.parametrize("method", SHARP)
def test_both_passes_see_the_same_batch_and_the_same_masks(method: Method) -> None:
    shown, masks = Watch(), Watch()
    drawn: dict[str, Method] = {"mixup": Mixup(1.0), "input_noise": InputNoise(0.5)}
    Trainer(Stack({"it": method, **drawn, "watch": shown}), "table").train([0], mapped=False, steps=1)
    assert len(shown.batches) == 1
    # a pass meets the input, a hidden layer, a branch and another hidden layer; mixed and disturbed once
    assert len(shown.values) == 8
    assert torch.equal(shown.values[0], shown.values[4])
    assert not torch.equal(shown.values[1], shown.values[5])  # the second at other weights
    dropped = Stack({"it": method, "ones": Ones(), "dropout": Dropout(0.5, 0.5), "watch": masks})
    Trainer(dropped, "table").train([0], mapped=False, steps=1)
    for first, second in zip(masks.values[:4], masks.values[4:], strict=True):
        assert torch.equal(first, second)
    assert all(0.2 < (masks.values[place] == 0).float().mean() < 0.8 for place in (0, 1, 3))


@pytest.mark.parametrize("method", SHARP)
def test_no_pass_moves_the_statistics_of_batch_norm(method: Method) -> None:
    trial = replace(experiment(Stack({"it": method, "batch_norm": BatchNorm(1e-5)})), lanes=1)
    pack, lanes = begin(trial, [Run(0, "report", {}, 0)])
    before = {name: b.clone() for name, b in pack.net.named_buffers()}
    assert {name.rpartition(".")[2] for name in before} == {"mean", "var"}
    few_steps(pack, lanes, 2)
    assert all(torch.equal(before[name], b) for name, b in pack.net.named_buffers())


@pytest.mark.parametrize("method", SHARP)
def test_decay_is_no_part_of_the_climb(method: Method) -> None:
    # lr 0.1, rate 2: matrices are 1 - 0.2 = 0.8 of what they are without decay, biases the same
    sharp, _ = Trainer(Stack({"it": method}), "table").train([0], mapped=False, steps=1)
    for stack in ({"it": method, "decay": WeightDecay(2.0, False)}, {"decay": WeightDecay(2.0, False), "it": method}):
        both, _ = Trainer(Stack(stack), "table").train([0], mapped=False, steps=1)
        for name, w in sharp.params.items():
            torch.testing.assert_close(both.params[name], (0.8 if w.ndim > 2 else 1.0) * w)


@pytest.mark.parametrize("method", SHARP)
def test_one_round_of_power_iteration_a_step_however_many_passes(method: Method) -> None:
    spectral = SpectralNorm(1.5, "equal")
    trainer = Trainer(Stack({"it": method, "spectral": spectral}), "table")
    start = trainer.start(trainer.net(), 0, {})
    state, _ = trainer.train([0], mapped=False, steps=1)
    first = {n.removeprefix("spectral/"): u for n, u in start.memory.items()}
    once = spectral.remember({n: w[0] for n, w in state.params.items()}, replace(NOW, memory=first))
    assert all(torch.equal(state.memory[f"spectral/{n}"][0], u) for n, u in once.items())


@pytest.mark.parametrize(
    ("start", "every", "expected"),
    [
        # the weights after each step are 1, 2, 4, 8; a start of 0.5 leaves out two of four steps: 4, then (4 + 8) / 2
        (0.5, 1, [1.0, 2.0, 4.0, 6.0]),
        # all of them: 1, 3/2, 7/3, 15/4
        (0.0, 1, [1.0, 1.5, 7 / 3, 3.75]),
        # every second: the newest until step 2, then 2, then (2 + 8) / 2
        (0.0, 2, [1.0, 2.0, 2.0, 5.0]),
        (1.0, 1, [1.0, 2.0, 4.0, 8.0]),
        # 0.4 of 4 steps is 1.6, so 2
        (0.4, 1, [1.0, 2.0, 4.0, 6.0]),
    ],
)
def test_swa_is_the_mean_of_what_steps_ended_with(start: float, every: int, expected: list[float]) -> None:
    assert kept(SWA(start, every), [1.0, 2.0, 4.0, 8.0], 4) == pytest.approx(expected)


def test_ema_forgets_the_more_slowly_the_longer_it_has_run() -> None:
    # the decay of steps 0, 1, 2 is at most 1/10, 2/11, 3/12; at 0.2 it is 0.1, 2/11, 0.2.
    # kept: 0.9 * 1 = 0.9; 2/11 * 0.9 + 9/11 * 2 = 1.8; 0.2 * 1.8 + 0.8 * 4 = 3.56
    assert kept(EMA(0.2), [1.0, 2.0, 4.0], 4) == pytest.approx([0.9, 1.8, 3.56])
    # without a limit: 0.9; 1.8; 0.25 * 1.8 + 0.75 * 4 = 3.45
    assert kept(EMA(0.999), [1.0, 2.0, 4.0], 4) == pytest.approx([0.9, 1.8, 3.45])


def test_a_short_run_forgets_its_first_weights_at_whatever_decay() -> None:
    # from 0 to 1 at once: what is kept of the 0 after t steps is 1/10 * 2/11 * ... * t/(9 + t) = 1 / C(t + 9, 9): after
    # 5 steps 1/2002, after 50 below 1e-10. Without the warm-up it would be 0.9999^50 = 0.995
    for method in (EMA(0.9999), MeanTeacher(1.0, 0.9999, 0.0)):
        assert kept(method, [1.0] * 5, 50)[-1] == pytest.approx(1 - 1 / 2002, abs=1e-7)
        assert kept(method, [1.0] * 50, 50)[-1] == pytest.approx(1, abs=1e-7)


def test_swa_of_weights_that_no_longer_move_is_those_weights() -> None:
    """As after a rate that has fallen to zero, where the mean has nothing to add."""
    assert kept(SWA(0.2, 1), [0.3] * 20, 20) == pytest.approx([0.3] * 20)
    cosine = [Cosine(0.0).share(step, 20) for step in range(20)]
    # the path of a weight that every step moves by 0.1 times its rate: from 0.9 of training on it still moves by
    # 0.1 * (0.0245 + 0.0062) = 0.003, half of which the mean of two stays behind by: 0.1 * 0.0062 / 2 = 0.0003
    path = [0.1 * sum(cosine[: step + 1]) for step in range(20)]
    assert path[-1] - kept(SWA(0.9, 1), path, 20)[-1] == pytest.approx(0.0003, abs=1e-4)
    # at a constant rate by half a step: 0.05
    steady = [0.1 * (step + 1) for step in range(20)]
    assert steady[-1] - kept(SWA(0.9, 1), steady, 20)[-1] == pytest.approx(0.05, abs=1e-4)


def test_lookahead_pulls_back_every_so_many_steps() -> None:
    # share 1/2, every 2: at step 2 the slow weight goes from 0 to 0 + (2 - 0) / 2 = 1 and so does the weight; the
    # optimizer then comes to 4 and 8, and the slow weight to 1 + (8 - 1) / 2 = 4.5. Between, they would be
    # 0 + 1 / 2 = 0.5 and 1 + (4 - 1) / 2 = 2.5
    assert kept(Lookahead(0.5, 2), [1.0, 2.0, 4.0, 8.0], 4) == pytest.approx([0.5, 1.0, 2.5, 4.5])
    moved = Lookahead(0.5, 2).project(
        {"w": torch.tensor([8.0])}, replace(NOW, step=3, memory={"w": torch.tensor([1.0])})
    )
    assert moved["w"].item() == 4.5
    stayed = Lookahead(0.5, 2).project(
        {"w": torch.tensor([8.0])}, replace(NOW, step=2, memory={"w": torch.tensor([1.0])})
    )
    assert stayed["w"].item() == 8.0


def taught(method: MeanTeacher, step: int) -> float:
    """The penalty on logits (0, ln 3) where the teacher's weights give (0, 0), at this of four steps."""

    def forward(x: Tensor, key: Key, params: Params) -> Tensor:
        return params["logits"]

    seen = Seen({}, Batch(torch.zeros(1, 2), torch.eye(2)[:1]), torch.tensor([[0.0, math.log(3)]]), (), forward)
    now = replace(NOW, step=step, memory={"logits": torch.zeros(1, 2)})
    return method.penalty(seen, now).item()


def test_mean_teacher_pulls_probabilities_together() -> None:
    # p = (1/4, 3/4) against (1/2, 1/2): both differences are 1/4, and the mean of their squares 1/16
    assert taught(MeanTeacher(8.0, 0.9, 0.0), 0) == pytest.approx(0.5)
    # over a ramp of all four steps the first has t = 1/4: exp(-5 * 9/16); the last has t = 1
    assert taught(MeanTeacher(8.0, 0.9, 1.0), 0) == pytest.approx(0.5 * math.exp(-45 / 16))
    assert taught(MeanTeacher(8.0, 0.9, 1.0), 3) == pytest.approx(0.5)


def test_the_teacher_is_the_moving_average() -> None:
    path = [1.0, 2.0, 4.0]
    assert kept(MeanTeacher(1.0, 0.2, 0.0), path, 4) == kept(EMA(0.2), path, 4)


def test_the_teacher_has_noise_of_its_own_and_no_gradient() -> None:
    """At decay 0 the teacher is the net: it differs by its dropout alone, and without noise it does not differ."""
    plain, _ = Trainer(Stack({}), "table").train([0], mapped=False)
    quiet, _ = Trainer(Stack({"mean_teacher": MeanTeacher(50.0, 0.0, 0.0)}), "table").train([0], mapped=False)
    assert all(torch.equal(quiet.params[n], plain.params[n]) for n in plain.params)
    dropped, _ = Trainer(Stack({"dropout": Dropout(0.5, 0.0)}), "table").train([0], mapped=False)
    noisy, _ = Trainer(
        Stack({"dropout": Dropout(0.5, 0.0), "mean_teacher": MeanTeacher(50.0, 0.0, 0.0)}), "table"
    ).train([0], mapped=False)
    assert not torch.allclose(noisy.params["1.weight"], dropped.params["1.weight"])


NEUTRAL = {
    "swa": SWA(1.0, 1),
    "ema": EMA(0.0),
    "lookahead": Lookahead(1.0, 4),  # six steps an epoch are not a multiple of four
    "mean_teacher": MeanTeacher(0.0, 0.0, 0.5),
    "sam": SAM(0.0),
    "asam": ASAM(0.0, 0.01),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_at_its_neutral_strength_the_evaluation_is_the_baselines_too(name: str) -> None:
    plain, neutral = outcomes(experiment(epochs=2), 2), outcomes(experiment(Stack({name: NEUTRAL[name]}), epochs=2), 2)
    assert all(same(a, b) for a, b in zip(neutral, plain, strict=True))


@pytest.mark.parametrize("method", [SWA(0.5, 1), EMA(0.9), Lookahead(0.5, 4), MeanTeacher(1.0, 0.9, 0.2)])
@pytest.mark.parametrize("seeds", [1, 2])
def test_averages_are_evaluated_with_batch_norm_and_others(method: Method, seeds: int) -> None:
    others = {"batch_norm": BatchNorm(1e-5), "max_norm": MaxNorm(3.0), "l2": L2(1e-3, False)}
    for outcome in outcomes(experiment(Stack({"one": method, **others}), epochs=6), seeds):
        assert outcome.status == "ok"
        assert outcome.figures["last_train_acc"] > 0.6


def test_two_averages_in_one_stack_are_refused() -> None:
    net = mlp((4,), 2, width=3, depth=1)
    Stack({"ema": EMA(0.9), "prune": Prune(0.5, 0.0, 0.5, 1)}).build(net)  # which shapes what others average
    with pytest.raises(Refusal, match="method has swa and ema, which each choose the weights to evaluate"):
        Stack({"swa": SWA(0.5, 1), "l2": L2(0.1, False), "ema": EMA(0.9)}).build(net)
