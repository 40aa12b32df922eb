"""torch's compiler: the same numbers to rounding, and the step as written where they are not the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Regrun
from test_engine import STACKS, experiment
from test_memory import Says
from test_study import SMALL, job_of, rows_of
from torch import Tensor
from torch.utils._pytree import tree_leaves

from runner.engine import compilation, packing
from runner.engine.compilation import Fused, _without_halves, disagreement, shaken
from runner.engine.finish import Outcome
from runner.engine.loop import train
from runner.engine.machine import is_full
from runner.engine.pack import Call, Drawn, PackStep, Scale, Source, begin, noted
from runner.engine.packing import packed
from runner.engine.step import State
from runner.engine.tape import Given, Operations, Taped, written_down
from runner.grid import Run
from runner.methods.base import Method
from runner.methods.flatness import SAM
from runner.methods.mixing import Mixup
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping

RUNS = [Run(seed, "report", {}, 0) for seed in range(3)]


def outcomes(stack: Stack, says: Says) -> list[Outcome]:
    return list(train(replace(experiment(stack, epochs=2), lanes=None, compiled=True), RUNS, keeper=says))


def passed_on(step: PackStep, arguments: object) -> PackStep:
    return step


def off(by: float) -> Callable[[PackStep, object], PackStep]:
    """A "compiler" whose steps go so much farther, as a share of the move."""

    def wrong(step: PackStep, arguments: object) -> PackStep:
        def wrongly(state: State, *rest: object) -> tuple[State, torch.Tensor]:
            after, loss = step(state, *rest)  # type: ignore[arg-type]
            params = {n: w + by * (w - state.params[n]) for n, w in after.params.items()}
            return after._replace(params=params), loss

        return wrongly

    return wrong


def broken(step: PackStep, arguments: object) -> PackStep:
    def breaks(*arguments: object) -> tuple[State, torch.Tensor]:
        raise ArithmeticError("no\nkernel")

    return breaks


@pytest.mark.parametrize(
    ("makes", "compiled", "said"),
    [
        (passed_on, True, ""),
        (off(0.001), True, ""),
        (off(0.1), False, "its weights are"),
        (off(float("nan")), False, "its weights are nan"),
        (broken, False, "trains without torch's compiler: ArithmeticError: no kernel"),
    ],
)
def test_a_compiled_step_is_taken_if_it_agrees(
    monkeypatch: pytest.MonkeyPatch, makes: Callable[[PackStep, object], PackStep], compiled: bool, said: str
) -> None:
    monkeypatch.setattr(compilation, "compiled", makes)
    says = Says()
    got = outcomes(Stack({}), says)
    assert [outcome.compiled for outcome in got] == [compiled] * 3
    assert len(says.said) == (not compiled)
    assert all("\n" not in line and said in line for line in says.said)
    if not compiled:  # and then they are the numbers of the step as written
        plain = list(train(replace(experiment(Stack({}), epochs=2), lanes=None), RUNS))
        assert [outcome.figures for outcome in got] == [outcome.figures for outcome in plain]


def weights(*values: float) -> State:
    return State({"w": torch.tensor(values)}, {}, {})


def test_disagreement_by_hand() -> None:
    """The weights have moved by 5, and are 0.04 or 0.06 from those: 0.05 is the most, or twice what rounding does."""
    start, plain = weights(0.0, 0.0), weights(3.0, 4.0)
    assert disagreement(start, plain, weights(3.0, 4.04), plain) is None
    assert disagreement(start, plain, weights(3.0, 4.06), plain) is not None
    assert disagreement(start, plain, weights(3.0, 4.06), weights(3.04, 4.0)) is None
    assert disagreement(start, plain, weights(3.0, 4.09), weights(3.04, 4.0)) is not None
    assert disagreement(start, plain, weights(3.0, float("nan")), plain) is not None
    assert disagreement(start, start, start, start) is None


def test_shaken_weights_are_off_by_rounding() -> None:
    eps = torch.finfo(torch.float32).eps
    assert (shaken(weights(1.0, 2.0, -1.0, 0.0)).params["w"] - torch.tensor([1.0, 2.0, -1.0, 0.0])).tolist() == [
        -eps, 2 * eps, eps, 0.0,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(compilation.compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize(
    "methods", [{}, {"mixup": Mixup(0.4), "early_stopping": EarlyStopping(1, 0.0)}, {"sam": SAM(0.05)}]
)
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_is_the_same_beside_any_other(methods: dict[str, Method]) -> None:
    """Alone in a step for two, beside two others, and beside them in a step for five; others may leave before it."""
    stack = Stack({**STACKS["mixed"].methods, **methods})
    figures = []
    for runs, lanes in ((RUNS[:1], 2), (RUNS, 3), (RUNS, 5)):
        trained = replace(experiment(stack, epochs=2), lanes=lanes, compiled=True)
        (first, *_) = sorted(train(trained, runs), key=lambda outcome: outcome.run.seed)
        assert first.compiled
        figures.append((first.figures, first.curve, first.hits.tolist()))
    assert figures[0] == figures[1] == figures[2]


def test_a_step_for_five_takes_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two that are missing are the last of the three again, and their results are dropped."""
    widths = []

    def as_they_are(operations: Operations, given: Sequence[Tensor]) -> Callable[..., Any]:
        def taken(*tensors: Tensor) -> Any:
            widths.append(len(tensors[0]))
            return tree_leaves(operations(tensors))

        return taken

    monkeypatch.setattr(compilation, "_fused", as_they_are)
    says = Says()
    five = replace(experiment(Stack({}), epochs=2), lanes=5, compiled=True)
    got = list(train(five, RUNS, keeper=says))
    assert says.said == []
    assert set(widths) == {5}
    plain = train(replace(five, compiled=False), RUNS)
    assert [outcome.figures for outcome in got] == [outcome.figures for outcome in plain]


def test_words_are_taken_apart_by_shifts() -> None:
    """1 + 2^16 * (-2) is 1 and -2; -1 is -1 and -1."""
    words = torch.tensor([[1 - 2 * 2**16, -1]], dtype=torch.int32)
    _, operations = written_down(lambda word: word.view(torch.int16).float(), [words])
    copy = _without_halves(operations.graph)
    again = torch.fx.GraphModule(operations.constants, copy)
    assert again.forward(words)[0].tolist() == [[1.0, -2.0, -1.0, -1.0]]
    assert "int16" not in again.code


@pytest.mark.parametrize(
    ("steps", "gain", "faster", "repays"),
    [(3000, 5.0, True, True), (3000, 5.0, False, False), (3000, -5.0, True, False), (1000, 5.0, True, False)],
)
def test_auto_compiles_what_repays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps: int, gain: float, faster: bool, repays: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packing, "compiler", lambda: "g++")
    asked = []

    def seconds(pack: object, lanes: object, steps: int) -> float:
        asked.append(steps)
        return gain

    monkeypatch.setattr(packing, "_seconds", seconds)
    monkeypatch.setattr(packing, "_faster", lambda pack, lanes: faster)
    trained = replace(experiment(Stack({})), lanes=None, compiled=None)
    per_epoch = len(trained.splitter.split(trained.data, 0).train) // trained.budget.batch_size
    trained = replace(trained, budget=replace(trained.budget, epochs=steps // per_epoch))
    for _ in range(2):  # the second time it is known
        chosen = packed(trained, RUNS, 1)
        assert (chosen.compiled, chosen.lanes) == (repays, 3)
    assert len(asked) == (steps > packing.LEAST_STEPS)
    assert packed(replace(trained, compiled=False), RUNS, 1).compiled is False
    assert packed(replace(trained, compiled=True), RUNS, 1).compiled is True
    many = [Run(seed, "report", {}, 0) for seed in range(99)]
    assert packed(replace(trained, compiled=True), many, 1).lanes == 11  # nine packs
    assert packed(replace(trained, compiled=True), many, 2).lanes == 10  # five in each process, of 50 and 49 runs
    assert packed(replace(trained, compiled=True, lanes=4), many, 2).lanes == 4
    on_gpu = replace(trained, compiled=True, device=torch.device("cuda"))  # whose packs are as wide as memory allows
    monkeypatch.setattr(packing, "fitting", lambda experiment, run, workers: 60)
    assert packed(on_gpu, many, 1).lanes == 50
    assert packed(replace(trained, compiled=None, lanes=1), many, 2).compiled is False


@pytest.mark.parametrize(("seconds", "faster"), [(0.0, True), (0.02, False)])
def test_a_compiled_step_is_timed(monkeypatch: pytest.MonkeyPatch, seconds: float, faster: bool) -> None:
    class Slow(Taped):
        def __call__(self, *arguments: Any) -> Any:
            time.sleep(0.01)
            return super().__call__(*arguments)

    def late(*arguments: object) -> PackStep:
        def taken(*arguments: Any) -> tuple[State, Tensor]:
            time.sleep(seconds)
            return (arguments[0], torch.zeros(3))

        return taken

    monkeypatch.setattr(packing, "compiled", late)
    pack, lanes = begin(replace(experiment(Stack({})), lanes=3), RUNS)
    assert isinstance(pack.step, Taped)
    assert packing._faster(replace(pack, step=Slow(pack.step.step)), lanes) is faster
    monkeypatch.setattr(packing, "compiled", lambda *arguments: None)
    assert not packing._faster(pack, lanes)


def test_what_a_compiler_would_save_is_estimated() -> None:
    trained = replace(experiment(Stack({})), lanes=3)
    few, many = (packing._seconds(*begin(trained, RUNS), steps) for steps in (1, 10_000_000))
    assert few < 0 < many


@pytest.mark.slow
@pytest.mark.skipif(compilation.compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["none", "mixed"])
@pytest.mark.filterwarnings("default")
def test_compiled_and_eager_runs_agree(name: str) -> None:
    says = Says()
    stack = Stack({}) if name == "none" else STACKS[name]
    got = outcomes(stack, says)
    assert says.said == []
    assert all(outcome.compiled for outcome in got)
    plain = train(replace(experiment(stack, epochs=2), lanes=None), RUNS)
    for mine, theirs in zip(got, plain, strict=True):
        for figure in ("last_train_loss", "last_val_loss", "last_test_loss", "w_l2"):
            assert mine.figures[figure] == pytest.approx(theirs.figures[figure], rel=1e-3)


def test_it_is_recorded_and_a_job_of_its_own(regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiled", passed_on)
    monkeypatch.setattr("runner.config.compiler", lambda: "g++")
    study = Path("outputs") / "first"
    names = {}
    for choice in ("auto", "off", "on"):
        out = f"out={choice}"
        assert regrun("method=l2", "seeds=2", f"compile={choice}", "workers=1", *SMALL, out).code == 0
        (row, _) = rows_of(Path(choice) / "first")
        assert row["compiled"] == str(choice == "on").lower()
        names[choice] = job_of(Path(choice) / "first", "l2").name
    assert names["auto"] == names["off"] != names["on"]
    assert not study.exists()
    told = regrun("method=l2", "seeds=3", "compile=off", *SMALL, "out=on")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "compile=" in told.err


@pytest.mark.parametrize("value", ["maybe", "1", "true"])
def test_other_choices_are_refused(regrun: Regrun, value: str) -> None:
    told = regrun("method=l2", f"compile={value}", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "it must be auto, on or off" in told.err


def test_it_is_refused_without_a_compiler(regrun: Regrun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    told = regrun("method=l2", "compile=on", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "none is found" in told.err
    assert not (tmp_path / "outputs").exists()


def test_lanes_that_were_filled_up_stay_so() -> None:
    """What a step for five gave is taken as it is; what others gave, or fewer lanes of it, is put together."""

    def step(state: State, drawn: Drawn, *rest: Any) -> tuple[State, Tensor]:
        (w,), source = state.params.values(), rest[-1]
        return State({"w": w * 2 + source.x.index_select(0, drawn.rows[:, 0])}, {}, {}), w.sum(1)

    source = Source(torch.arange(5.0)[:, None], torch.eye(2))

    def arguments(state: State, lanes: int) -> tuple[Any, ...]:
        drawn = Drawn(torch.arange(lanes)[:, None], torch.zeros(lanes, 1))
        scale = Scale(torch.zeros(lanes, 1), torch.ones(lanes, 1), {})
        return state, drawn, scale, {}, {}, torch.arange(lanes), torch.tensor(0), 9, torch.tensor(1.0), source

    def started(lanes: int) -> State:
        return State({"w": torch.arange(2.0 * lanes).view(lanes, 2)}, {}, {})

    def call(*tensors: Tensor) -> list[Tensor]:
        seen.append(tensors[0])
        gave.append(operations.leaves(tensors))
        return gave[-1]

    seen: list[Tensor] = []
    gave: list[list[Tensor]] = []
    _, operations = written_down(step, arguments(started(5), 5))
    fused = Fused(call, operations, [Given.of(argument).leaves for argument in arguments(started(5), 5)])
    state = mine = started(3)
    for _ in range(2):
        (state, losses), (mine, theirs) = fused(*arguments(state, 3)), step(*arguments(mine, 3))
        assert torch.equal(state.params["w"], mine.params["w"])
        assert torch.equal(losses, theirs)
    assert seen[0].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert seen[1] is gave[0][0]
    fused(*arguments(State(dict(state.params), {}, {}), 3))
    assert seen[2] is not gave[1][0]
    two, _ = fused(*arguments(State({"w": state.params["w"][1:]}, {}, {}), 2))
    assert torch.equal(two.params["w"], state.params["w"][1:] * 2 + torch.arange(2)[:, None])


def test_what_was_compiled_is_tried_until_it_has_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_agreed", set())
    pack, lanes = begin(replace(experiment(Stack({})), lanes=3), RUNS)
    written, calls = noted(pack, lanes, 2)
    _, operations = written_down(written, calls[1][0])
    given = [Given.of(argument).leaves for argument in calls[1][0]]

    def wrong(*tensors: Tensor) -> list[Tensor]:
        return [leaf + 1 for leaf in operations.leaves(tensors)]

    def right(*tensors: Tensor) -> list[Tensor]:
        return operations.leaves(tensors)

    for call, tried, agrees in [(wrong, 2, False), (right, 2, True), (right, 0, True), (wrong, 2, False)]:
        asked: list[Call] = []

        def again(asked: list[Call] = asked) -> list[Call]:
            asked.extend(calls)
            return asked

        why = compilation.checked(Fused(call, operations, given), written, again)
        assert (len(asked), why is None) == (tried, agrees)


def test_lack_of_memory_while_compiling_is_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(step: PackStep, arguments: object) -> PackStep:
        def breaks(state: State, *rest: object) -> tuple[State, torch.Tensor]:
            if len(next(iter(state.params.values()))) > 1:
                raise torch.OutOfMemoryError("no more")
            return step(state, *rest)  # type: ignore[arg-type]

        return breaks

    monkeypatch.setattr(compilation, "compiled", full)
    says = Says()
    got = outcomes(Stack({}), says)
    assert [outcome.compiled for outcome in got] == [True] * 3
    assert says.said[0] == "memory ran out with 3 runs side by side; they go on with 1"
    assert is_full(torch.OutOfMemoryError())
