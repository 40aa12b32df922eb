"""The step of a pack through torch's compiler, where that is asked for.

A compiled step does the same operations fused and in another order, so that a run's numbers differ by rounding from
those of the step as it is written, and with the number of runs beside it.
"""

from __future__ import annotations

import math
import os
import shutil
from typing import cast

import torch

from runner.engine.lanes import LaneStep
from runner.engine.step import State

STEPS = 3  # that a compiled step is compared on before a run begins
SHARE = 0.01  # of what the weights have moved by, that those of a compiled step may be off after each of them


def compiler() -> str | None:
    """The C++ compiler that torch would build CPU kernels with; None if there is none."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def compiled(step: LaneStep) -> LaneStep:
    """The step, compiled when it is first taken, and again when the number of lanes changes for the first time."""
    return cast(LaneStep, torch.compile(step))


def disagreement(start: State, plain: State, fused: State) -> str | None:
    """What is wrong with a state that a compiled step has led to, beside that of the step as written; None if nothing.

    Weights are compared by length over all of them: an optimizer that divides by the size of the gradient makes a
    whole step of what is rounding in a gradient of zero.
    """
    apart = _length(fused, plain)
    moved = _length(start, plain)
    if apart <= SHARE * moved:  # not so if either is no number
        return None
    return f"its weights are {apart:.1e} from those of the step as written, which have moved by {moved:.1e}"


def _length(one: State, other: State) -> float:
    """The Euclidean distance between the weights of two states."""
    return math.sqrt(sum(float((one.params[n] - w).double().square().sum()) for n, w in other.params.items()))
