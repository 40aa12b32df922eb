"""Steps that are gone through again: what may be, what may not, what is left out. Every method: test_contract.py."""

from __future__ import annotations

import gc
import linecache
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from runner.engine.machine import repeating
from runner.engine.tape import PLAIN, Given, Taped, written_down


def plus(x: Tensor, number: Tensor) -> dict[str, Tensor]:
    return {"sum": x + number * torch.arange(3)}


def filled(x: Tensor, number: Tensor) -> Tensor:
    """Changes in place what it has made of nothing: that must be made anew every time."""
    made = torch.zeros(3)
    made += x
    made[0] = number
    return made


def viewed(x: Tensor, number: Tensor) -> Tensor:
    made = torch.ones(2, 3)
    made.view(6)[1:4].add_(x)
    return made * number


@pytest.mark.parametrize("step", [plus, filled, viewed])
def test_other_numbers_go_through_the_same_operations(step: Callable[[Tensor, Tensor], object]) -> None:
    calls = []

    def counted(x: Tensor, number: Tensor) -> object:
        calls.append(number)
        return step(x, number)

    taped = Taped(counted)
    for at in range(8):
        x, number = torch.randn(3), torch.tensor(float(at))
        mine, theirs = taped(x, number), step(x, number)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert taped.unfit is None
    assert len(calls) == PLAIN + 2  # taken as it is, written down, and compared


def test_what_is_the_same_in_every_step_is_computed_once_and_what_nothing_needs_never() -> None:
    def step(x: Tensor) -> Tensor:
        torch.exp(x)
        return x.view(3) + torch.arange(3).float().sqrt()

    _, operations = written_down(step, [torch.randn(3)])
    assert len(operations) == 1  # the sum
    assert [value.tolist() for _, value in operations.constants.named_buffers()] == [
        torch.arange(3).float().sqrt().tolist()
    ]


def test_nothing_is_left_of_a_step_that_was_written_down() -> None:
    """Torch keeps the source of each fx.GraphModule for good, which in a sweep of thousands of jobs would add up."""
    known = list(linecache.cache)
    _, operations = written_down(plus, [torch.ones(3), torch.ones(())])
    assert operations([torch.ones(3), torch.tensor(2.0)])["sum"].tolist() == [1, 3, 5]
    assert list(linecache.cache) == known
    graph = weakref.ref(operations.graph)
    del operations
    gc.collect()
    assert graph() is None


def branching(x: Tensor, number: Tensor) -> Tensor:
    return x if number > 3 else -x


TAKEN: list[Tensor] = []


def other(x: Tensor, number: Tensor) -> Tensor:
    """Not pure: what it does depends on how often it has been called."""
    TAKEN.append(x)
    return x * len(TAKEN)


def alike(x: Tensor, number: Tensor) -> Tensor:
    return x + torch.rand(3)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (branching, "takes numbers out of tensors"),
        (other, "its operations are others in another step"),
        (alike, "its operations are others in another step"),
        (lambda x, number: x[x > 0].sum() + number, "takes numbers out of tensors"),
    ],
)
def test_a_step_that_is_no_fixed_list_is_taken_as_it_is(step: Callable[[Tensor, Tensor], Tensor], why: str) -> None:
    taped = Taped(step)
    for at in range(8):
        taped(torch.ones(3), torch.tensor(float(at)))
    assert taped.unfit is not None
    assert why in taped.unfit
    if step is branching:
        assert taped(torch.ones(3), torch.tensor(0.0)).tolist() == [-1, -1, -1]
        assert taped(torch.ones(3), torch.tensor(9.0)).tolist() == [1, 1, 1]


def test_an_operation_that_cannot_be_done_again_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of torch's LSTM, whose gradient needs what only a pass with gradients makes."""

    def fails(*arguments: object) -> object:
        raise RuntimeError("no workspace")

    taped = Taped(plus)
    monkeypatch.setattr("runner.engine.tape.Operations.__call__", fails)
    for at in range(6):
        assert taped(torch.ones(3), torch.tensor(float(at)))["sum"].tolist() == [1, 1 + at, 1 + 2 * at]
    assert taped.unfit == "RuntimeError: no workspace"


def test_arguments_of_another_form_are_written_down_anew() -> None:
    taped = Taped(plus)
    for rows in (3, 2):
        for at in range(6):
            x = torch.randn(rows, 3)
            assert torch.equal(taped(x, torch.tensor(at))["sum"], plus(x, torch.tensor(at))["sum"])
    assert taped.unfit is None


@pytest.mark.parametrize("where", ["runner.engine.tape.written_down", "runner.engine.tape.Operations.__call__"])
def test_memory_that_ends_does_not_make_a_step_unfit(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    taped, given = Taped(plus), (torch.ones(3), torch.tensor(1.0))
    for _ in range(PLAIN if where.endswith("down") else PLAIN + 1):
        taped(*given)
    monkeypatch.setattr(where, full)
    with pytest.raises(torch.OutOfMemoryError):
        taped(*given)
    assert taped.unfit is None


def test_a_state_that_the_step_before_gave_is_not_gone_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes from elsewhere is, and its form counts."""
    gone: list[object] = []
    of = Given.of

    def going_through(argument: object) -> Given:
        gone.append(argument)
        return of(argument)

    monkeypatch.setattr(Given, "of", going_through)
    taped = Taped(lambda state, x: ({"w": state["w"] * x}, state["w"].sum()))
    state, x = {"w": torch.ones(3)}, torch.tensor(2.0)
    for _ in range(7):
        gone.clear()
        state, _ = taped(state, x)
    assert [argument is x for argument in gone] == [True]
    assert state["w"].tolist() == [2.0**7] * 3
    elsewhere = {"w": torch.ones(2)}
    for _ in range(2):
        gone.clear()
        found, _ = taped(elsewhere, x)
        assert gone[0] is elsewhere
        assert found["w"].tolist() == [2, 2]


def test_a_gpu_repeats_its_bits_while_a_replay_is_compared() -> None:
    asked = torch.are_deterministic_algorithms_enabled
    with repeating(torch.device("cpu")):
        assert not asked()
    with repeating(torch.device("cuda")):
        assert asked()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not asked()
    torch.use_deterministic_algorithms(True)
    try:
        with repeating(torch.device("cuda")):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()  # as the user has it
        assert asked()
    finally:
        torch.use_deterministic_algorithms(False)
