"""Matrix products in float32 by oneDNN, where a processor computes them faster so.

torch has float32 matrices multiplied by MKL, which on AMD's processors takes twice the time of oneDNN, the other
library that torch is built with (docs/benchmarks.md). torch asks oneDNN only where it is told that products may be
rounded to bfloat16. oneDNN then does so on a processor that has instructions for it (Intel's AMX); on all others it
multiplies in float32. Which of the two happens here is found by trying, and where digits would be lost nothing changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
MATRICES = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
BATCHED = {aten.bmm.default, aten.baddbmm.default}  # where lanes are mapped: others mix them, or have none
# Multiply-adds below which oneDNN's longer way to its loops costs more than they save: of a whole product, and of the
# part that one lane has in one, which no other lane changes.
LEAST_ALONE, LEAST_MAPPED = 2**20, 2**16
FASTER = 0.8  # of MKL's time that oneDNN has to stay below
BRIEF = "bf16"  # the setting that lets torch ask oneDNN
TRIED = ((16, 100, 100, 100), (16, 100, 100, 10), (1, 128, 512, 512))  # lanes, rows, inputs and outputs of products
_setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch makes it when it is imported


def is_on() -> bool:
    """Whether oneDNN is asked for float32 products now."""
    return bool(_setting.fp32_precision == BRIEF)


@contextmanager
def onednn(asked: bool = True) -> Iterator[None]:
    """Ask oneDNN for float32 products meanwhile, if `asked`."""
    before = _setting.fp32_precision
    _setting.fp32_precision = BRIEF if asked else before
    try:
        yield
    finally:
        _setting.fp32_precision = before


@cache
def through_onednn(operation: OpOverload) -> Callable[..., Any]:
    """A product that oneDNN is asked for."""
    call = operation._op

    def product(*arguments: Any, **named: Any) -> Any:
        with onednn():
            return call(*arguments, **named)

    return product


class LargeByOneDNN(TorchDispatchMode):
    """While it is entered, oneDNN is asked for float32 products on a CPU that are large enough.

    Whether one is depends on no number of lanes, so that a run's bits do not either.
    """

    def __init__(self, mapped: bool) -> None:
        """Of a step or an evaluation that is mapped over lanes, or not."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.mapped = mapped

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it means to import torch's compiler first, which takes two seconds

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation."""
        if func not in MATRICES or not _large(func, args[-2], args[-1], self.mapped):
            return func(*args, **(kwargs or {}))
        with onednn():
            return func(*args, **(kwargs or {}))


def _large(func: OpOverload, one: Tensor, other: Tensor, mapped: bool) -> bool:
    if one.dtype != torch.float32 or one.device.type != "cpu":
        return False
    if mapped:
        return func in BATCHED and one[0].numel() * other.shape[-1] >= LEAST_MAPPED
    return one.numel() * other.shape[-1] >= LEAST_ALONE


def large_by_onednn(step: Callable[..., Any], mapped: bool) -> Callable[..., Any]:
    """A step, or an evaluation, whose large products oneDNN is asked for."""

    def asking(*arguments: Any) -> Any:
        with LargeByOneDNN(mapped):
            return step(*arguments)

    return asking


@cache
def exact() -> bool:
    """Whether oneDNN multiplies float32 here as precisely as MKL, which it does not where it rounds to bfloat16."""
    for one, other in _tried():
        true = one.double() @ other.double()
        with onednn():
            mine = (one @ other - true).abs().max()
        if not mine <= 4 * (one @ other - true).abs().max():  # an order of sums more or less; bfloat16: thousands
            return False
    return True


def faster() -> bool:
    """Whether oneDNN multiplies float32 in less than FASTER of MKL's time here; measured in hundredths of a second."""
    costs = []
    for asked in (False, True):
        with onednn(asked):
            costs.append(sum(min(_seconds(*pair) for _ in range(20)) for pair in _tried()))
    return costs[1] < FASTER * costs[0]


def _tried() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    return [
        (torch.randn(lanes, rows, inputs, generator=drawn), torch.randn(lanes, inputs, outputs, generator=drawn))
        for lanes, rows, inputs, outputs in TRIED
    ]


def _seconds(one: Tensor, other: Tensor) -> float:
    clock = time.perf_counter()
    one @ other
    return time.perf_counter() - clock
