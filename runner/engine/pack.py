"""A pack: runs that train side by side in one pass, what they have in common and what each has of its own.

begin -> the lanes before their first step -> steps, an epoch's at a time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from runner.engine.evaluate import Examiner, Measured, Pool
from runner.engine.lanes import FIXED, LaneStep, Strengths, lane_step, over_copies, over_lanes
from runner.engine.machine import prepare, repeat
from runner.engine.optimizers import Hyper
from runner.engine.products import large_by_onednn
from runner.engine.step import State
from runner.engine.tape import Taped
from runner.engine.weights import built_net, initial
from runner.experiment import Experiment
from runner.grid import Run
from runner.keys import Key
from runner.methods.base import Batch, Now, Params
from runner.methods.stack import Stack
from runner.nets.lanewise import lanewise
from runner.nets.norms import BatchNormLayer
from runner.nets.sites import visits


class Lanes(NamedTuple):
    """The runs still training. Every leaf has a leading [K]; a lane leaves by its row being left out of all of them."""

    run: Tensor  # int64: which of the pack's runs
    key: Tensor  # int64: the root of the run's randomness
    strengths: dict[str, Tensor]
    hyper: dict[str, Tensor]  # the optimizer's numbers, float64
    rows: dict[str, Tensor]  # int64 [K, n] of train, val and test
    mean: Tensor
    std: Tensor
    fill: dict[str, Tensor]  # {"x": what stands for missing numbers}; {} where none is missing
    labels: dict[str, Tensor]  # {"y": [K, N], the labels or numbers trained on}; {} where they are the data's
    unit: Tensor  # float64: of a regression the standard deviation of the training targets
    state: State
    finite: Tensor  # bool: whether every loss so far was
    curve: Tensor  # float64 [K, E]: validation losses
    best: Params  # the weights of the lowest of them
    best_epoch: Tensor  # int64

    def of(self, index: Tensor) -> Lanes:
        """These lanes only, by row number or by a bool for each row."""
        picked: Lanes = tree_map(lambda leaf: leaf[index], self)
        return picked


class Drawn(NamedTuple):
    """Which examples a step's batch has."""

    rows: Tensor  # int64 [K, B]
    y: Tensor  # their labels int64, or standardized numbers to predict: [K, B]


class Scale(NamedTuple):
    """How each lane standardizes examples: as `Lanes` has it."""

    mean: Tensor
    std: Tensor
    fill: dict[str, Tensor]


class Source(NamedTuple):
    """What the batches of all lanes are made of."""

    x: Tensor  # all examples, on the device
    one_hot: Tensor  # [C, C] one-hot rows

    def targets(self, y: Tensor) -> Tensor:
        """What the net is to say of labels, or numbers, [K, B]: [K, B, C], or [K, B, 1]."""
        if y.is_floating_point():
            return y[..., None].to(self.one_hot.dtype)
        return self.one_hot.index_select(0, y.flatten()).view(*y.shape, -1)


# A lane step that makes its batches: (states, examples, how to standardize them, strengths, optimizer numbers, keys,
# step, steps, share of the rate, what batches are made of) -> (states, losses [L])
PackStep: TypeAlias = Callable[
    [State, Drawn, Scale, Strengths, Hyper, Tensor, Tensor, int, Tensor, Source], tuple[State, Tensor]
]
SHARED = FIXED + 1  # of these, the last: the same for all lanes
Call: TypeAlias = tuple[tuple[Any, ...], tuple[State, Tensor]]  # what such a step was given, and what it gave


@dataclass(frozen=True)
class Pack:
    """What the lanes of one pass have in common."""

    experiment: Experiment
    examiner: Examiner
    step: PackStep
    source: Source
    y: Tensor  # of all examples, too: labels, or numbers to predict
    steps_per_epoch: int
    compiled: bool = False

    @property
    def steps(self) -> int:
        """Steps in the budget."""
        return self.steps_per_epoch * self.experiment.budget.epochs

    @property
    def net(self) -> nn.Module:
        """The net that the lanes share, without their weights."""
        return self.examiner.net

    @property
    def mapped(self) -> bool:
        """Whether lanes are mapped over; else there is one."""
        return self.examiner.mapped

    @property
    def members(self) -> int:
        """How many sets of weights an evaluation averages the predictions of."""
        return self.examiner.members

    def named(self, seen: Mapping[str, Measured]) -> dict[str, Tensor]:
        """The figures of all splits by name: "train_loss", "train_acc" or "train_r2", ..."""
        score = self.experiment.data.score
        return {f"{split}_{name}": v for split, m in seen.items() for name, v in (("loss", m.loss), (score, m.acc))}

    def pool(self, lanes: Lanes) -> Pool:
        """The examples as these lanes standardize them."""
        return Pool(self.source.x, lanes.labels.get("y", self.y), lanes.mean, lanes.std, lanes.fill.get("x"))

    def kept(self, lanes: Lanes, epoch: int) -> Params:
        """The weights that evaluation uses, after `epoch` epochs: [K, ...], or [K, M, ...] of several members."""
        stack = self.experiment.stack

        def one(params: Params, memory: Params, strengths: dict[str, Tensor], key: Tensor) -> Params:
            def average(params: Params, memory: Params) -> Params:
                return stack.at(strengths).average(params, self._after(epoch, key, memory))

            kept = over_copies(average, stack.copies, self.mapped)(params, memory)
            return {n: w.flatten(0, 1) for n, w in kept.items()} if 1 < stack.copies < self.members else kept

        return self._over(one, lanes, lanes.state.params, lanes.state.memory)

    def newest(self, lanes: Lanes, epoch: int) -> Params:
        """Of several members the newest of the first copy, as it is evaluated, after `epoch` epochs: [K, ...]."""
        stack = self.experiment.stack
        state = lanes.state if stack.copies == 1 else tree_map(lambda leaf: leaf[:, 0], lanes.state)

        def one(params: Params, memory: Params, strengths: dict[str, Tensor], key: Tensor) -> Params:
            return stack.at(strengths).finished(params, self._after(epoch, key, memory))

        return self._over(one, lanes, state.params, state.memory)

    def effective(self, lanes: Lanes, drawn: Params) -> Params:
        """What layers compute with before the first step, given the lanes' initial weights: [K, ...]."""
        stack = self.experiment.stack

        def one(params: Params, strengths: dict[str, Tensor], key: Tensor) -> Params:
            at = stack.at(strengths)
            return at.effective(params, self._after(0, key, at.recall(params)))

        return self._over(one, lanes, drawn)

    def _over(self, one: Callable[..., Params], lanes: Lanes, params: Params, *more: Params) -> Params:
        """What `one` makes of the weights of each lane, given its strengths and key, too; as they are if no method."""
        if not self.experiment.stack.overrides("average"):
            return params
        made: Params = over_lanes(one, self.mapped)(params, *more, lanes.strengths, lanes.key)
        return made

    def _after(self, epoch: int, key: Tensor, memory: Params) -> Now:
        return Now(Key(key), epoch * self.steps_per_epoch, self.steps, 0.0, memory)


def alike(stack: Stack, runs: Sequence[Run]) -> list[Run]:
    """The runs from the first on, as long as they share what shapes the net."""
    return list(takewhile(lambda run: stack.shaping(run.point) == stack.shaping(runs[0].point), runs))


def begin(experiment: Experiment, runs: Sequence[Run]) -> tuple[Pack, Lanes]:
    """A pack and its lanes before their first step."""
    prepare()
    device, stack = experiment.device, experiment.stack
    if device.type != "cpu":
        repeat(experiment.deterministic)
    data, mapped = experiment.data, experiment.lanes != 1
    dtype = torch.float64 if experiment.dtype == torch.float64 else torch.float32  # of the weights
    net = built_net(experiment).to(dtype).train()
    params = _initial(net, stack, runs, device)
    _laid_out(net.to(device), experiment)

    splits = [experiment.splitter.split(data, run.seed) for run in runs]
    rows = {s: torch.stack([getattr(split, s) for split in splits]).to(device) for s in ("train", "val", "test")}
    mean, std = (torch.stack([getattr(split, s) for split in splits]).to(device, dtype) for s in ("mean", "std"))
    x, y = data.x.to(device), data.y.to(device)
    missing = x.is_floating_point() and bool(x.isnan().any())
    fill = {"x": torch.stack([split.fill for split in splits]).to(device, dtype)} if missing else {}
    own = experiment.splitter.noise.present or data.regression
    kinds = visits(net, Pool(x, y, mean, std, fill.get("x")).inputs(rows["train"][:, :2])[0])
    step = precise(lane_step(net, kinds, stack, experiment.optimizer, mapped), experiment)
    step = large_by_onednn(step, mapped) if experiment.onednn else step
    examiner = Examiner(net, mapped, stack.copies * stack.members, bool(experiment.onednn))

    strengths, hyper = _strengths(experiment, runs, dtype)
    lanes = Lanes(
        run=torch.arange(len(runs), device=device),
        key=Key.of(torch.tensor([run.seed for run in runs]), device).fold("method").resolved(),
        strengths=strengths,
        hyper=hyper,
        rows=rows,
        mean=mean,
        std=std,
        fill=fill,
        labels={"y": torch.stack([split.y for split in splits]).to(device)} if own else {},
        unit=torch.stack([split.unit for split in splits]).to(device, torch.float64),
        state=_state(experiment, params, strengths),
        finite=torch.ones(len(runs), dtype=torch.bool, device=device),
        curve=torch.empty(len(runs), 0, dtype=torch.float64, device=device),
        best=params if examiner.members == 1 else {},
        best_epoch=torch.zeros(len(runs), dtype=torch.int64, device=device),
    )
    one_hot = torch.eye(data.classes, dtype=dtype, device=device)
    per_epoch = rows["train"].shape[1] // experiment.budget.batch_size
    return Pack(experiment, examiner, Taped(fed(step)), Source(x, one_hot), y, per_epoch), lanes


def _initial(net: nn.Module, stack: Stack, runs: Sequence[Run], device: torch.device) -> Params:
    """The initial weights of each run, drawn on the CPU: [L, ...], or [L, M, ...] of several copies."""
    seeds = [run.seed for run in runs]
    params = initial(net, seeds)
    if stack.copies > 1:
        each = [initial(net, seeds, copy) for copy in range(stack.copies)]
        params = {name: torch.stack([one[name] for one in each], 1) for name in params}
    return {name: w.to(device) for name, w in params.items()}


def _laid_out(net: nn.Module, experiment: Experiment) -> None:
    """Give the net's layers, in place, the forms that are fastest for lanes that are mapped over, or for one alone."""
    mapped = experiment.lanes != 1
    if mapped and experiment.device.type == "cpu":
        lanewise(net)
    for layer in net.modules():
        if isinstance(layer, BatchNormLayer):
            layer.alone = not mapped
    if experiment.channels_last:
        net.register_forward_pre_hook(_channels_last)


def _channels_last(net: nn.Module, given: tuple[Tensor]) -> Tensor:
    """What a net is given, images [B, C, H, W] with their channels last in memory: convolutions keep it so."""
    return given[0].to(memory_format=torch.channels_last)


def _strengths(
    experiment: Experiment, runs: Sequence[Run], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The strengths that differ between runs, and all numbers of the optimizer, float64: each [L]."""
    device, fixed = experiment.device, experiment.stack.shaping(runs[0].point)
    axes = {p: torch.tensor([run.point[p] for run in runs], dtype=torch.float64, device=device) for p in runs[0].point}
    strengths = {p: v.to(dtype) for p, v in axes.items() if p not in fixed and not p.startswith("optimizer.")}
    hyper = {
        name: torch.full((len(runs),), float(value), dtype=torch.float64, device=device)
        for name, value in vars(experiment.optimizer).items()
        if isinstance(value, float)
    }
    return strengths, hyper | {p.removeprefix("optimizer."): v for p, v in axes.items() if p.startswith("optimizer.")}


def _state(experiment: Experiment, params: Params, strengths: dict[str, Tensor]) -> State:
    """What the first step is given, for these weights [L, ...]."""
    stack, mapped = experiment.stack, experiment.lanes != 1

    def recall(params: Params, strengths: dict[str, Tensor]) -> Params:
        first: Params = over_copies(stack.at(strengths).recall, stack.copies, mapped)(params)
        return first

    memory: Params = over_lanes(recall, mapped)(params, strengths) if stack.overrides("recall") else {}
    moments = over_lanes(over_copies(experiment.optimizer.begin, stack.copies, mapped), mapped)(params)
    return State(params, moments, memory)


def precise(step: LaneStep, experiment: Experiment) -> LaneStep:
    """The step under autocast, around float32 weights, if the experiment asks for bfloat16; else as it is."""
    if experiment.dtype != torch.bfloat16:
        return step

    def cast(*arguments: Any) -> tuple[State, Tensor]:
        with torch.autocast(experiment.device.type, torch.bfloat16):
            return step(*arguments)

    return cast


def fed(step: LaneStep) -> PackStep:
    """The step, which makes its batches itself: written down and compiled they are a part of it."""

    def feeding(
        state: State, drawn: Drawn, scale: Scale, strengths: Strengths, hyper: Hyper, keys: Tensor, at: Tensor,
        steps: int, share: Tensor, source: Source,
    ) -> tuple[State, Tensor]:  # fmt: skip
        pool = Pool(source.x, drawn.y, scale.mean, scale.std, scale.fill.get("x"))
        batch = Batch(pool.inputs(drawn.rows), source.targets(drawn.y))
        return step(state, batch, strengths, hyper, keys, at, steps, share)

    return feeding


def steps(pack: Pack, lanes: Lanes, epoch: int, first: int = 0) -> Iterator[tuple[int, Lanes]]:
    """The lanes after each step of an epoch over their training rows, each in its own order, and how many it has had.

    The first `first` steps have been taken before.
    """
    experiment, count, size = pack.experiment, pack.steps_per_epoch, pack.experiment.budget.batch_size
    pool, train, key = pack.pool(lanes), lanes.rows["train"], Key(lanes.key)
    order = key.fold("order").fold(epoch).permutations(train.shape[1])
    rows = train.gather(1, order)[:, : count * size].unflatten(1, (count, size)).transpose(0, 1)  # [S, K, B]
    numbers = range((epoch - 1) * count, epoch * count)
    shares = [experiment.schedule.share(number, pack.steps) for number in numbers]
    # for all steps at once, since a copy from the CPU waits until the device has done all that it was told
    ahead = (
        rows,
        pool.labels(rows),
        key.fold("step").each(numbers),
        torch.arange(numbers.start, numbers.stop, device=rows.device),
        torch.tensor(shares, dtype=torch.float64, device=rows.device),
    )
    state, finite, scale = lanes.state, lanes.finite, Scale(lanes.mean, lanes.std, lanes.fill)
    lanes = lanes._replace(state=State({}, {}, {}))  # what the epoch began with is not kept beside what comes of it
    for i, (*drawn, keys, at, share) in enumerate(zip(*(each[first:] for each in ahead), strict=True), first + 1):
        state, loss = pack.step(
            state, Drawn(*drawn), scale, lanes.strengths, lanes.hyper, keys, at, pack.steps, share, pack.source
        )
        finite = finite & loss.isfinite()
        yield i, lanes._replace(state=state, finite=finite)


def few_steps(pack: Pack, lanes: Lanes, count: int) -> Lanes:
    """The lanes after the first `count` steps of the first epoch: what it costs to train them, for measuring."""
    for _, after in islice(steps(pack, lanes, 1), count):
        lanes = after
    return lanes


def noted(pack: Pack, lanes: Lanes, count: int) -> tuple[PackStep, list[Call]]:
    """A pack's step as it is written, and what it was given and gave in each of the first `count` steps."""
    written: PackStep = pack.step.step if isinstance(pack.step, Taped) else pack.step
    calls: list[Call] = []

    def noting(*arguments: Any) -> tuple[State, Tensor]:
        calls.append((arguments, written(*arguments)))
        return calls[-1][1]

    few_steps(replace(pack, step=noting), lanes, count)
    return written, calls


def clock_after(device: torch.device) -> float:
    """The clock in seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
