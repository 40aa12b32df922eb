"""torch's compiler: the same numbers to rounding, and the step as written where they are not the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Regrun
from test_engine import STACKS, experiment
from test_memory import Says
from test_study import SMALL, job_of, rows_of

from runner.engine import compilation, loop
from runner.engine.compilation import disagreement
from runner.engine.lanes import LaneStep
from runner.engine.loop import Outcome, train
from runner.engine.step import State
from runner.grid import Run
from runner.methods.stack import Stack

RUNS = [Run(seed, "report", {}, 0) for seed in range(3)]


def outcomes(stack: Stack, says: Says) -> list[Outcome]:
    return list(train(replace(experiment(stack, epochs=2), lanes=None, compiled=True), RUNS, keeper=says))


def passed_on(step: LaneStep) -> LaneStep:
    return step


def off(by: float) -> Callable[[LaneStep], LaneStep]:
    """A "compiler" whose steps go so much farther, as a share of the move."""

    def wrong(step: LaneStep) -> LaneStep:
        def wrongly(state: State, *rest: object) -> tuple[State, torch.Tensor]:
            after, loss = step(state, *rest)  # type: ignore[arg-type]
            params = {n: w + by * (w - state.params[n]) for n, w in after.params.items()}
            return after._replace(params=params), loss

        return wrongly

    return wrong


def broken(step: LaneStep) -> LaneStep:
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
    monkeypatch: pytest.MonkeyPatch, makes: Callable[[LaneStep], LaneStep], compiled: bool, said: str
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


def test_disagreement_by_hand() -> None:
    """The weights have moved by 5, and are 0.04 or 0.06 from those: 0.05 is the most."""
    start, plain = (State({"w": torch.tensor(v)}, {}, {}) for v in ([0.0, 0.0], [3.0, 4.0]))
    assert disagreement(start, plain, State({"w": torch.tensor([3.0, 4.04])}, {}, {})) is None
    assert disagreement(start, plain, State({"w": torch.tensor([3.0, 4.06])}, {}, {})) is not None
    assert disagreement(start, start, start) is None


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


def test_lack_of_memory_while_compiling_is_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(step: LaneStep) -> LaneStep:
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
    assert loop.is_full(torch.OutOfMemoryError())
