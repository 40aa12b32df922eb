"""Operations that write over what nothing reads any more: which may, which must not, and the same numbers by all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from runner.engine.reuse import in_place
from runner.engine.tape import Operations, written_down

ROWS = torch.arange(6.0).view(2, 3) - 2.5


def chained(x: Tensor) -> Tensor:
    return ((x * 2).relu() + 1).neg()  # the first has memory of its own, in which the others follow


def read_again(x: Tensor) -> Tensor:
    double = x * 2
    return double.exp() * double  # the exponential must not write over what is read after it, the product may over that


def read_as_another(x: Tensor) -> Tensor:
    double = x * 2
    return double.neg() + double.view(3, 2).mT.sum()  # read through a view of it


def given(x: Tensor) -> Tensor:
    return x.neg()


def wider(x: Tensor) -> Tensor:
    return (x * 2)[0] + torch.ones(2, 3) * x  # one row cannot hold two


def turned(x: Tensor) -> Tensor:
    return (x * 2).mT.neg()  # in the order in which it lies


def of_another_type(x: Tensor) -> Tensor:
    return (x * 2).gt(1).to(torch.float32).neg()


def handed_out(x: Tensor) -> tuple[Tensor, Tensor]:
    double = x * 2
    return double, double.exp()


def handed_out_later(x: Tensor) -> tuple[Tensor, Tensor]:
    positive = (x * 2).relu()
    return positive, positive.exp()


def raised(x: Tensor) -> Tensor:
    return torch.pow(2, x * 2)  # whose first argument is a number


def handed_out_in_part(x: Tensor) -> tuple[Tensor, Tensor]:
    double = x * 2
    return double[0], double.exp()


def held_in_part(x: Tensor) -> Tensor:
    return (x * 2)[:1].neg()  # which would keep the memory of both rows


def by_itself(x: Tensor) -> Tensor:
    double = x * 2
    return double * double


def over_its_own_part(x: Tensor) -> Tensor:
    double = x * 2
    return double * double[:1]  # whose row would change before the next is multiplied by it


def written_before(x: Tensor) -> Tensor:
    double = x * 2
    double.view(6)[1:3].add_(1)
    return double.exp().mul(3)


def differentiated(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((x * 3).relu().square().sum(), x)
    return gradient


def of_a_constant(x: Tensor) -> Tensor:
    return torch.ones(2, 3).exp().neg() * x  # computed once, for all steps


STEPS: dict[Callable[[Tensor], object], list[str]] = {
    chained: ["relu_", "add_", "neg_"],
    read_again: ["mul_"],
    read_as_another: ["add_"],
    given: [],
    wider: [],
    turned: ["neg_"],
    of_another_type: ["neg_"],
    handed_out: [],
    handed_out_later: ["relu_"],
    raised: [],
    handed_out_in_part: [],
    held_in_part: [],
    by_itself: ["mul_"],
    over_its_own_part: [],
    written_before: ["exp_", "mul_"],
    differentiated: ["relu_", "mul_", "threshold_backward", "mul_"],
    of_a_constant: [],
}


def rewritten(operations: Operations) -> list[str]:
    """The names of those that write over their first argument and did not before."""
    pairs = zip(operations.graph.nodes, in_place(operations.graph).nodes, strict=True)
    return [after.target.__name__.split(".")[0] for before, after in pairs if before.target is not after.target]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_writes_over_its_argument_and_gives_the_same(step: Callable[[Tensor], object]) -> None:
    _, operations = written_down(step, (ROWS,))
    assert rewritten(operations) == STEPS[step]
    for x in (ROWS, ROWS * -3):
        before = x.clone()
        torch.testing.assert_close(operations([x]), step(x), rtol=0, atol=0)
        assert torch.equal(x, before)
    torch.testing.assert_close(operations([ROWS]), step(ROWS), rtol=0, atol=0)  # constants are as they were


def test_the_graph_itself_stays_as_it_is() -> None:
    _, operations = written_down(chained, (ROWS,))
    code = operations.code
    operations([ROWS])
    assert operations.code == code
    assert "relu_.default" not in code
