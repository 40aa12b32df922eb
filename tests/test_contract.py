"""What every method promises, checked for all of them and for all of them stacked."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import EllipsisType

import pytest
import torch
from cases import CASES
from seen import through
from settings import SHAPES, STEPS, Trainer, batch_of

from runner.engine.lanes import LaneStep
from runner.engine.optimizers import Adam
from runner.engine.step import State
from runner.engine.tape import Taped
from runner.keys import Key
from runner.methods.base import FAMILIES, Batch, Method, Now, ranges
from runner.methods.stack import Stack

NOW = Now(Key.of(0), 0, STEPS, 0.1)
ADAM = Adam(0.01, 0.9, 0.999, 1e-8)  # whose moments, and their number of steps, count
ASKING = {"prune", "snapshot_ensemble"}  # what they do depends on the number of the step
ONE_OF_A_KIND = {"l1_subgradient", "l1_biases", "l2_biases"}  # variants, left out of the cocktail


def cocktail(kind: str) -> Stack:
    """Every method that suits the kind of data, in one stack."""
    return Stack({n: c.method for n, c in CASES.items() if kind in c.kinds and c.cocktail and n not in ONE_OF_A_KIND})


SETTINGS = [(name, kind) for name, case in CASES.items() for kind in case.kinds]
STACKS = {
    **{f"{name}-{kind}": (Stack({name: CASES[name].method}), kind) for name, kind in SETTINGS},
    **{f"cocktail-{kind}": (cocktail(kind), kind) for kind in SHAPES},
}


def swept(stack: Stack) -> dict[str, torch.Tensor]:
    """Three values around the ordinary one for every strength that lanes may differ in: {path: [3]}."""
    return {
        f"{name}.{strength}": torch.tensor([0.5, 1.0, 1.1]) * getattr(method, strength)
        for name, method in stack.methods.items()
        for strength, allowed in ranges(method).items()
        if not allowed.built and not allowed.whole
    }


def equal(one: State, other: State, lane: int | EllipsisType = ...) -> bool:
    """Whether two states are the same bit for bit, the second at one lane."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in ((x[n], y[n][lane]) for n in x)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "mapped"),
    [
        *((f"{name}-{case.kinds[0]}", True) for name, case in CASES.items()),
        *(
            pytest.param(f"cocktail-{kind}", mapped, marks=pytest.mark.slow)
            for kind in SHAPES
            for mapped in (True, False)
        ),
    ],
)
def test_a_step_gone_through_again_gives_the_same_bits(name: str, mapped: bool) -> None:
    stack, kind = STACKS[name]
    seeds, strengths = ([3, 4, 5], swept(stack)) if mapped else ([3], {})
    made: list[Taped] = []

    def taped(step: LaneStep) -> LaneStep:
        made.append(Taped(step))
        return made[0]

    plain, loss = Trainer(stack, kind, ADAM).train(seeds, mapped, strengths, STEPS)
    again, same_loss = Trainer(stack, kind, ADAM).train(seeds, mapped, strengths, STEPS, taking=taped)
    assert equal(plain, again)
    assert torch.equal(loss, same_loss)
    asks = [method for method in stack.methods if method in ASKING]
    assert (made[0].unfit is None) == (not asks), made[0].unfit


@pytest.mark.parametrize("name", STACKS)
def test_a_lane_equals_the_run_alone(name: str) -> None:
    stack, kind = STACKS[name]
    seeds, strengths = [3, 4, 5], swept(stack)
    states, losses = Trainer(stack, kind).train(seeds, mapped=True, strengths=strengths)
    for lane, seed in enumerate(seeds):
        alone = stack.at({path: values[lane].item() for path, values in strengths.items()})
        state, loss = Trainer(alone, kind).train([seed], mapped=False)
        assert torch.isfinite(loss).all()
        torch.testing.assert_close(losses[lane], loss[0], rtol=1e-4, atol=1e-5)
        for many, one in zip(states, state, strict=True):
            assert many.keys() == one.keys()
            for entry in one:
                torch.testing.assert_close(many[entry][lane], one[entry][0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", STACKS)
def test_a_lane_does_not_depend_on_its_neighbours(name: str) -> None:
    """Bit for bit: seed 4 beside others, and beside different others in another place of a larger pack."""
    stack, kind = STACKS[name]
    few, _ = Trainer(stack, kind).train([3, 4], mapped=True)
    many, _ = Trainer(stack, kind).train([4, 9, 8, 7, 6], mapped=True)
    alone = [{n: w[1] for n, w in part.items()} for part in few]
    assert equal(State(*alone), many, 0)


@cache
def baseline(kind: str, seeds: tuple[int, ...], mapped: bool) -> tuple[State, torch.Tensor]:
    """The empty stack, trained."""
    return Trainer(Stack({}), kind).train(list(seeds), mapped)


NEUTRAL = [
    (name, strength, allowed.off)
    for name, case in CASES.items()
    for strength, allowed in list(ranges(case.method).items())[:1]
    if allowed.off is not None
]


@pytest.mark.parametrize(("name", "strength", "off"), NEUTRAL)
@pytest.mark.parametrize("mapped", [False, True])
def test_at_its_neutral_strength_it_is_the_baseline_bit_for_bit(
    name: str, strength: str, off: float, mapped: bool
) -> None:
    case = CASES[name]
    others = {n: r.off for n, r in ranges(case.method).items() if r.off is not None}
    neutral = replace(case.method, **others)
    for kind in case.kinds:
        at_once = mapped and not ranges(case.method)[strength].built
        swept = {f"{name}.{strength}": torch.full((2,), off)} if at_once else {}
        seeds = (1, 2)[: 1 + mapped]
        state, loss = Trainer(Stack({name: neutral}), kind).train(list(seeds), mapped, swept)
        plain, plain_loss = baseline(kind, seeds, mapped)
        assert torch.equal(loss, plain_loss)
        assert equal(State(state.params, state.moments, {}), plain._replace(memory={}))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in SETTINGS if CASES[n].trains])
def test_at_an_ordinary_strength_it_does_something(name: str, kind: str) -> None:
    state, _ = Trainer(Stack({name: CASES[name].method}), kind).train([0], mapped=False)
    plain, _ = baseline(kind, (0,), False)
    same_names = state.params.keys() == plain.params.keys()
    stack = Stack({name: CASES[name].method})
    moved = stack.average({n: w[0] for n, w in state.params.items()}, replace(NOW, step=3, memory=_first(state.memory)))
    assert not (same_names and all(torch.equal(moved[n], plain.params[n][0]) for n in moved))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.trains])
def test_what_does_not_train_leaves_training_alone(name: str) -> None:
    state, _ = Trainer(Stack({name: CASES[name].method}), "image").train([0], mapped=False)
    plain, _ = baseline("image", (0,), False)
    assert equal(state, plain)


@pytest.mark.parametrize("name", STACKS)
def test_it_leaves_its_arguments_alone(name: str) -> None:
    stack, kind = STACKS[name]
    batch = batch_of(kind, 0)
    net = Trainer(stack, kind).net()
    state = Trainer(stack, kind).start(net, 0, {})
    before = copy.deepcopy((batch, state))
    now = replace(NOW, memory=state.memory)
    stack.batch(batch, now)
    stack.weights(state.params, now)
    stack.project(state.params, now)
    stack.gradient(lambda params: {n: w.clone() for n, w in params.items()}, state.params, NOW)
    stack.remember(state.params, replace(NOW, memory=state.memory, gradient=state.params))
    stack.average(state.params, replace(NOW, memory=state.memory))
    assert torch.equal(batch.x, before[0].x)
    assert torch.equal(batch.y, before[0].y)
    assert equal(state, before[1])


@pytest.mark.parametrize("name", STACKS)
def test_targets_stay_probabilities(name: str) -> None:
    stack, kind = STACKS[name]
    y = stack.batch(batch_of(kind, 0), NOW).y
    torch.testing.assert_close(y.sum(1), torch.ones(len(y)))
    assert (y >= 0).all()


SPARED = ("max_norm", "unit_norm", "prune", "orthogonal", "spectral_penalty", "drop_connect")  # whatever is asked for
BIASED = [name for name, case in CASES.items() if "biases" in {f.name for f in fields(case.method)}]


@pytest.mark.parametrize(
    ("name", "biases"), [*((n, b) for n in BIASED for b in (False, True)), *((n, None) for n in SPARED)]
)
def test_biases_and_norm_parameters_are_left_alone_unless_asked_for(name: str, biases: bool | None) -> None:
    method = CASES[name].method
    if biases is not None:
        method = type(method)(**(vars(method) | {"biases": biases}))
    normed = {} if name.startswith("path_norm") else {"batch_norm": CASES["batch_norm"].method}
    trainer = Trainer(Stack({**normed, name: method}), "table")
    net, batch = trainer.net(), batch_of("table", 1)
    start, params = (trainer.start(net, seed, {}).params for seed in (0, 1))
    vectors = {n for n, w in params.items() if w.ndim == 1}
    assert len(vectors) == (3 if not normed else 7)  # three biases, and scales and shifts of two norms
    now = replace(NOW, step=STEPS - 1, memory=method.recall(start))
    slopes = torch.func.grad(lambda at: method.penalty(through(net, batch.x, batch.y, at), now) + 0 * _any(at))(params)
    moved = method.weights(method.project(params, now), now)
    touched = {n for n, w in params.items() if slopes[n].any() or not torch.equal(moved[n], w)}
    assert touched - vectors
    # what is at 0 or above is not moved by NonNegative: the scales, which are about 1
    expected = {n for n in vectors if not name.startswith("non_negative") or (params[n] < 0).any()}
    assert touched & vectors == (expected if biases else set())


def test_draws_do_not_depend_on_the_rest_of_the_stack() -> None:
    @dataclass(frozen=True)
    class Spy(Method):
        seen: list[torch.Tensor] = field(default_factory=list)

        def batch(self, batch: Batch, now: Now) -> Batch:
            self.seen.append(now.key.uniform(3))
            return batch

    spy = Spy()
    Stack({"spy": spy}).batch(batch_of("image", 0), NOW)
    Stack({**cocktail("image").methods, "spy": spy}).batch(batch_of("image", 0), NOW)
    assert torch.equal(*spy.seen)


def test_every_method_has_a_family() -> None:
    assert {case.method.family for case in CASES.values()} <= set(FAMILIES)


def stored(state: State) -> State:
    """The state after a way through a file of plain tensors."""
    file = io.BytesIO()
    torch.save(state._asdict(), file)
    file.seek(0)
    return State(**torch.load(file, weights_only=True))


@pytest.mark.parametrize(
    ("name", "mapped"), [*((f"{n}-{case.kinds[0]}", False) for n, case in CASES.items()), ("cocktail-table", True)]
)
def test_the_state_is_all_that_the_next_steps_depend_on(name: str, mapped: bool) -> None:
    """Two steps, and two more on another net with what a file kept of the state, are four, bit for bit."""
    stack, kind = STACKS[name]
    seeds, strengths = ([3, 4], swept(stack)) if mapped else ([3], {})
    strengths = {path: values[:2] for path, values in strengths.items()}
    whole, loss = Trainer(stack, kind, ADAM).train(seeds, mapped, strengths, steps=4)
    half, _ = Trainer(stack, kind, ADAM).train(seeds, mapped, strengths, steps=2)
    others = Stack({method: replace(m) for method, m in stack.methods.items()})  # nothing is kept in the methods
    rest, rest_loss = Trainer(others, kind, ADAM).train(seeds, mapped, strengths, steps=2, after=(2, stored(half)))
    assert torch.equal(loss, rest_loss)
    assert [part.keys() for part in whole] == [part.keys() for part in rest]
    assert equal(whole, rest)


def _any(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(iter(params.values())).sum()


def _first(memory: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[0] for name, value in memory.items()}
