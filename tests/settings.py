"""The tiny real thing: nets, batches and states that tests train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from runner.engine.lanes import LaneStep, lane_step
from runner.engine.optimizers import SGD, Hyper, Optimizer
from runner.engine.step import State
from runner.keys import Key
from runner.methods.base import Batch, Method
from runner.methods.stack import Stack
from runner.nets.lanewise import lanewise
from runner.nets.residual import Residual
from runner.nets.sites import Mark, Slot, visits

CLASSES = 4
STEPS = 6  # in the budget of the runs that tests train
SHAPES = {"signal": (2, 12), "image": (3, 8, 8), "table": (6,)}


@dataclass(frozen=True)
class Case:
    """A method at an ordinary strength, and what is true of it."""

    method: Method
    kinds: tuple[str, ...] = ("image",)  # the kinds of data that it is tried on
    trains: bool = True  # whether it changes the weights of a training step (early stopping does not)
    cocktail: bool = True  # whether it can stand in one stack with all the others


def tiny(kind: str) -> nn.Module:
    """A net with marks of every kind and slots, for data of this kind, in float32: x [B, ...] -> logits [B, 4]."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes half of all this, for devices that are not there
    width = 6
    if kind == "table":
        return nn.Sequential(
            Mark("input"), nn.Linear(6, width), Slot(width), nn.ReLU(), Mark("hidden"),
            Residual(nn.Sequential(nn.Linear(width, width), Slot(width), Mark("branch"))),
            Mark("hidden"), nn.Linear(width, CLASSES),
        )  # fmt: skip
    conv: Callable[..., nn.Module] = nn.Conv1d if kind == "signal" else nn.Conv2d
    pool = [nn.Conv1d(width, width, 12), nn.ReLU()] if kind == "signal" else [nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(
        Mark("input"), conv(SHAPES[kind][0], width, 3, padding=1), Slot(width), nn.ReLU(), Mark("hidden"),
        Residual(nn.Sequential(conv(width, width, 3, padding=1), Slot(width), Mark("branch"))), nn.ReLU(),
        *pool, nn.Flatten(), Mark("hidden"), nn.Linear(width, CLASSES),
    )  # fmt: skip


def batch_of(kind: str, seed: int, size: int = 8) -> Batch:
    """A random batch, the same for the same seed."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, *SHAPES[kind], generator=g)
    return Batch(x, torch.eye(CLASSES)[torch.randint(0, CLASSES, (size,), generator=g)])


@dataclass(frozen=True)
class Trainer:
    """Trains a stack on tiny data, alone or in lanes; a stand-in for the loop around the step."""

    stack: Stack
    kind: str
    optimizer: Optimizer = field(default_factory=lambda: SGD(0.1, 0.9, False))

    def net(self) -> nn.Module:
        """The net as the stack builds it, in training mode."""
        return self.stack.build(tiny(self.kind)).train()

    def train(
        self,
        seeds: list[int],
        mapped: bool,
        strengths: Mapping[str, Tensor] | None = None,
        steps: int = 3,
        after: tuple[int, State] | None = None,
        taking: Callable[[LaneStep], LaneStep] = lambda step: step,
    ) -> tuple[State, Tensor]:
        """The states and last losses of one lane for each seed, after `steps` steps, or as many after given ones.

        `taking` is how the step is taken: as it is, unless it says otherwise.
        """
        net = self.net()
        if mapped:
            lanewise(net)
        strengths = dict(strengths or {})
        step = taking(lane_step(net, visits(net, batch_of(self.kind, 0).x), self.stack, self.optimizer, mapped))
        begin, state = after or (0, self.started(net, seeds, strengths))
        hyper: Hyper = {
            f.name: torch.full((len(seeds),), getattr(self.optimizer, f.name), dtype=torch.float64)
            for f in fields(self.optimizer)
            if isinstance(getattr(self.optimizer, f.name), float)
        }
        loss = torch.zeros(len(seeds))
        for at in range(begin, begin + steps):
            batches = [batch_of(self.kind, 100 * seed + at) for seed in seeds]
            batch = Batch(*(torch.stack(part) for part in zip(*batches, strict=True)))
            keys = Key.of(torch.tensor(seeds)).fold("step").fold(at).resolved()
            state, loss = step(state, batch, strengths, hyper, keys, torch.tensor(at), STEPS, torch.tensor(1.0))
        return state, loss

    def started(self, net: nn.Module, seeds: list[int], strengths: Mapping[str, Tensor]) -> State:
        """The states of one lane for each seed before its first step."""
        states = [self.start(net, seed, {p: v[i] for p, v in strengths.items()}) for i, seed in enumerate(seeds)]
        stacked: State = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *states)
        return stacked

    def start(self, net: nn.Module, seed: int, strengths: Mapping[str, Tensor]) -> State:
        """The state of one run before its first step; of all its copies [M, ...] if the stack trains several."""
        g = torch.Generator().manual_seed(seed)

        def one() -> State:
            params = {n: w.detach() + 0.05 * torch.randn(w.shape, generator=g) for n, w in net.named_parameters()}
            return State(params, self.optimizer.begin(params), self.stack.at(strengths).recall(params))

        if self.stack.copies == 1:
            return one()
        copies: State = torch.utils._pytree.tree_map(
            lambda *leaves: torch.stack(leaves), *(one() for _ in range(self.stack.copies))
        )
        return copies
