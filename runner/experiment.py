"""What one job trains: plain values, no configuration library in sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from runner.data.base import Data, Splitter
from runner.engine.optimizers import Optimizer
from runner.engine.robustness import Attack
from runner.engine.schedules import Schedule
from runner.methods.stack import Stack


@dataclass(frozen=True)
class Budget:
    """How long and in what pieces a run trains."""

    epochs: int
    batch_size: int
    evaluate_every: int  # epochs between two evaluations


@dataclass(frozen=True)
class Asked:
    """What is measured of a run at its end only where it is asked for, since it costs."""

    corruptions: bool  # test accuracy on corrupted inputs
    attack: Attack | None  # the adversary to test against
    measures: bool  # measures of generalization, from the weights and the training rows


NOTHING = Asked(corruptions=False, attack=None, measures=False)


@dataclass(frozen=True)
class Experiment:
    """Everything that the runs of a job share. Seeds and the numbers of the grid come with each run."""

    data: Data
    splitter: Splitter
    model: Callable[[], nn.Module]  # a net with fresh weights, which the engine draws again for each seed
    stack: Stack
    optimizer: Optimizer
    schedule: Schedule
    budget: Budget
    device: torch.device
    # Of weights and arithmetic; bfloat16 stands for autocast around float32 weights, None for it where it is faster.
    dtype: torch.dtype | None
    lanes: int | None  # runs mapped over at most; 1: one by one, unmapped; None: all
    asked: Asked = NOTHING
    channels_last: bool = False  # whether the net is given images with their channels last in memory
    compiled: bool | None = False  # whether torch's compiler makes the step, if its numbers agree; None: if that repays
    onednn: bool | None = False  # whether oneDNN makes large float32 products on a CPU; None: if it is faster there
    deterministic: bool = False  # whether a GPU is to give the same bits each time; a CPU always does

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the data, and of methods that the schedule does not suit, a line each."""
        unsuited = {name: method.unsuited(self.schedule.falls) for name, method in self.stack.methods.items()}
        return (*self.data.notes, *(f"{name} {what}" for name, what in unsuited.items() if what))

    def shaped(self, point: Mapping[str, float]) -> Experiment:
        """The experiment with the stack that the runs at this point, and those like it, have in common."""
        return replace(self, stack=self.stack.at(self.stack.shaping(point)))
