"""Flat minima and averages of the weights against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from settings import Trainer
from test_engine import experiment, outcomes, same
from torch import Tensor

from runner.errors import Refusal
from runner.keys import Key
from runner.methods.averaging import EMA, SWA, Lookahead, MeanTeacher
from runner.methods.base import Batch, Method, Now, Params, Seen
from runner.methods.constraints import MaxNorm, Prune
from runner.methods.dropping import Dropout
from runner.methods.flatness import ASAM, SAM
from runner.methods.normalization import BatchNorm
from runner.methods.penalties import L2
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
