"""Train the runs of a job side by side and say how each one generalizes.

    lanes -> an epoch of steps -> clean train and validation figures, best weights kept -> lanes that stopped or
    diverged leave -> at the end of a lane: train, validation and test at its `last` and its `best` checkpoint

Test rows reach `evaluate` only, once for each of the two stored checkpoints, after the lane has ended.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from runner.engine import measures
from runner.engine.checkpoint import Keeper, Kept, Part, Point
from runner.engine.evaluate import Examined, Examiner, Measured, Pool, evaluate, evaluating, examine, measure_norms
from runner.engine.lanes import LaneStep, lane_step, over_copies, over_lanes
from runner.engine.machine import prepare, repeat
from runner.engine.robustness import adversarial_accuracy, corrupted_accuracy, mean_of
from runner.engine.step import State
from runner.engine.tape import Taped
from runner.engine.weights import built_net, initial, size, summary
from runner.experiment import Experiment
from runner.grid import Run
from runner.keys import Key
from runner.methods.base import Batch, Now, Params
from runner.methods.stack import Stack
from runner.nets.lanewise import lanewise
from runner.nets.norms import BatchNormLayer
from runner.nets.sites import visits


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    run: Run
    status: str  # "ok" or "diverged"
    epochs: int  # trained
    steps: int
    curve: Sequence[Point]
    figures: Mapping[str, float]  # last_* and best_* of train, val and test, and what the weights are like
    hits: Tensor  # bool [n_test], on the CPU: which test rows the last checkpoint predicts correctly
    confidence: Tensor  # float16 [n_test], on the CPU: the probability of the class that it predicts
    counts: Mapping[str, int]  # n_train, n_val, n_test, n_params
    split_hash: str  # the same for two runs if and only if their three sets are the same
    train_s: float  # this run's share of its pack's training time; evaluation is not in it
    lanes: int  # how many runs its pack began with
    tables: Mapping[str, Sequence[Mapping[str, object]]]  # what was asked for and has several rows, by table
    compiled: bool = False  # whether torch's compiler made its step


@dataclass(frozen=True)
class Progress:
    """What a progress bar may show: never a test figure."""

    epoch: int
    epochs: int
    ended: int  # runs that have ended
    running: int
    val_loss: float  # mean over the running lanes, NaN if none
    val_acc: float  # of a regression R2
    score: str  # which of them: "acc" or "r2"


Watch = Callable[[Progress], None]


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


@dataclass(frozen=True)
class Pack:
    """What the lanes of one pass have in common."""

    experiment: Experiment
    examiner: Examiner
    step: LaneStep
    x: Tensor  # all examples, on the device
    y: Tensor
    one_hot: Tensor  # [C, C] one-hot rows
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

    def targets(self, y: Tensor) -> Tensor:
        """What the net is to say of labels, or numbers, [K, B]: [K, B, C], or [K, B, 1]."""
        return y[..., None].to(self.one_hot.dtype) if y.is_floating_point() else self.one_hot[y]

    def named(self, seen: Mapping[str, Measured]) -> dict[str, Tensor]:
        """The figures of all splits by name: "train_loss", "train_acc" or "train_r2", ..."""
        score = self.experiment.data.score
        return {f"{split}_{name}": v for split, m in seen.items() for name, v in (("loss", m.loss), (score, m.acc))}

    def pool(self, lanes: Lanes) -> Pool:
        """The examples as these lanes standardize them."""
        return Pool(self.x, lanes.labels.get("y", self.y), lanes.mean, lanes.std, lanes.fill.get("x"))

    def kept(self, lanes: Lanes, epoch: int) -> Params:
        """The weights that evaluation uses, after `epoch` epochs: [K, ...], or [K, M, ...] of several members."""
        stack = self.experiment.stack

        def one(params: Params, memory: Params, strengths: dict[str, Tensor], key: Tensor) -> Params:
            def average(params: Params, memory: Params) -> Params:
                now = Now(Key(key), epoch * self.steps_per_epoch, self.steps, 0.0, memory)
                return stack.at(strengths).average(params, now)

            kept = over_copies(average, stack.copies, self.mapped)(params, memory)
            return {n: w.flatten(0, 1) for n, w in kept.items()} if 1 < stack.copies < self.members else kept

        if not stack.overrides("average"):
            return lanes.state.params
        kept: Params = over_lanes(one, self.mapped)(lanes.state.params, lanes.state.memory, lanes.strengths, lanes.key)
        return kept


def train(
    experiment: Experiment,
    runs: Sequence[Run],
    watch: Watch = lambda progress: None,
    keeper: Keeper = Keeper(),  # noqa: B008  # keeps nothing
) -> Iterator[Outcome]:
    """The outcomes of the runs, pack after pack, each as soon as it is known.

    A pack is at most `experiment.lanes` runs (all of them if that is None) and is mapped even if it is a single one, so
    that a run's numbers do not depend on the size of its pack; with `lanes` at 1 runs train one by one, unmapped. A
    pack for which memory runs out is halved, and each half goes on from the last step that the pack has taken. Runs
    that differ in a strength which shapes the net go into packs of their own. Runs that `keeper` has found part of the
    way go on from there.
    """
    left, width = list(runs), experiment.lanes or len(runs)
    found = [part for part in keeper.found if part.among(left)]
    while left:
        part = found.pop(0) if found else None
        pack = part.among(left)[:width] if part else alike(experiment.stack, left)[:width]
        if part:
            part, rest = part.of([run.name for run in pack]), part.of([run.name for run in part.among(left)[width:]])
            found = [rest, *found] if rest.names else found
        shaped, follow = experiment.shaped(pack[0].point), partial(_watch_on, watch, len(runs) - len(left))
        reached = Reached(pack, part)
        try:
            for outcome in _train_pack(shaped, pack, follow, keeper, part, tuple(found), reached, width):
                left.remove(outcome.run)
                yield outcome
        except (RuntimeError, MemoryError) as error:
            if not is_full(error) or len(pack) == 1:
                raise
            full = reached.part()
        else:
            continue
        # here, where the error no longer holds what the pack has made
        del reached
        width = len(pack) // 2
        keeper.say(f"memory ran out with {len(pack)} runs side by side; they go on with {width}")
        found = [full.of([run.name for run in full.among(left)]), *found] if full and full.among(left) else found
        del full
        if experiment.device.type == "cuda":
            torch.cuda.empty_cache()


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on an accelerator or on the CPU."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


@dataclass
class Reached:
    """How far a pack has come, so that its training can go on from there in smaller packs."""

    runs: Sequence[Run]
    before: Part | None  # where it began
    lanes: Lanes | None = None  # after the last step that was taken
    began: int = 0
    epoch: int = 0  # whole epochs before that step's
    step: int = 0
    curves: Sequence[list[Point]] = ()
    seconds: Sequence[float] = ()

    def note(self, lanes: Lanes, epoch: int, step: int) -> None:
        """These lanes stand `step` steps after so many whole epochs."""
        self.lanes, self.epoch, self.step = lanes, epoch, step

    def part(self) -> Part | None:
        """What is kept of it, in the memory of the CPU; where it began if no step has been taken since."""
        if self.lanes is None:
            return self.before
        looks = self.lanes.curve.shape[1]  # an evaluation that was cut off is made again
        curves = [curve[:looks] for curve in self.curves]
        part = _part_of(self.lanes, self.runs, self.began, self.epoch, self.step, curves, self.seconds, 0.0)
        here: Kept = tree_map(lambda leaf: leaf.cpu(), part.kept)
        return replace(part, kept=here)


def alike(stack: Stack, runs: Sequence[Run]) -> list[Run]:
    """The runs from the first on, as long as they share what shapes the net."""
    return list(takewhile(lambda run: stack.shaping(run.point) == stack.shaping(runs[0].point), runs))


def _watch_on(watch: Watch, done: int, seen: Progress) -> None:
    watch(replace(seen, ended=done + seen.ended))


def rehearse(experiment: Experiment, run: Run) -> None:
    """Take the first step of a run on a small batch and forget it: what would be refused in training is refused now."""
    few_steps(*begin(_small(experiment, run, 16, 1), [run]), 1)


def unmappable(experiment: Experiment, run: Run) -> str | None:
    """Why runs cannot be trained in one pass, in a line; None if they can.

    Found by trying: the first step of two lanes, and an evaluation, on a few examples. An operation that torch can only
    map by a loop of its own counts as one that it cannot map.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            pack, lanes = begin(_small(experiment, run, 4, 2), [run, run])
            lanes = few_steps(pack, lanes, 1)
            few = {"train": lanes.rows["train"][:, :4]}
            evaluate(pack.examiner, pack.kept(lanes, 1), pack.pool(lanes), few)
    except Exception as error:  # whatever a foreign net raises; that the run works alone is known
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return said if len(said) <= 200 else f"{said[:199]}…"
    return None


def _small(experiment: Experiment, run: Run, examples: int, lanes: int) -> Experiment:
    """The experiment on the CPU with a small batch, at the strengths of a run that shape the net."""
    budget = replace(experiment.budget, batch_size=min(experiment.budget.batch_size, examples))
    return replace(experiment.shaped(run.point), budget=budget, lanes=lanes, device=torch.device("cpu"))


def _train_pack(
    experiment: Experiment,
    runs: Sequence[Run],
    watch: Watch,
    keeper: Keeper,
    part: Part | None,
    waiting: Sequence[Part],
    reached: Reached,
    width: int,
) -> Iterator[Outcome]:
    """Every run of one pack to its end, from its beginning or from where `part` has it.

    `waiting`, what other packs are to go on from, is kept beside this one's state. `reached` is told of every step.
    A compiled step is made for packs of `width`.
    """
    pack, lanes = begin(experiment, runs)
    if experiment.compiled and (fused := compiled(experiment, runs, width, keeper.say)):
        pack = replace(pack, step=fused, compiled=True)
    few_steps(pack, lanes, 1)  # what the first step sets up is not this method's cost
    budget = experiment.budget
    curves: list[list[Point]] = [[] for _ in runs]
    seconds = [0.0 for _ in runs]
    began, trained, taken = len(runs), 0, 0
    if part and (resumed := _resumed(lanes, part.kept)):
        lanes, began, trained, taken = resumed, part.began, part.epoch, part.step
        curves, seconds = [list(curve) for curve in part.curves], list(part.seconds)
        keeper.say(f"goes on with {len(runs)} runs after {trained} of {budget.epochs} epochs and {taken} steps")
    elif part:
        keeper.say("what was kept of the training no longer fits the methods or the model; it begins again")
    ended = 0
    reached.began, reached.curves, reached.seconds = began, curves, seconds
    for epoch in range(trained + 1, budget.epochs + 1):
        clock = time.perf_counter()
        for steps, after in _steps(pack, lanes, epoch, taken):
            lanes = after
            reached.note(lanes, epoch - 1, steps)
            if keeper.due():
                now = clock_after(experiment.device)
                part = _part_of(lanes, runs, began, epoch - 1, steps, curves, seconds, now - clock)
                keeper.keep([part, *waiting])
                clock += clock_after(experiment.device) - now  # it is no training
        taken = 0
        share = (clock_after(experiment.device) - clock) / len(lanes.run)
        for run in lanes.run.tolist():
            seconds[run] += share
        if epoch % budget.evaluate_every and epoch != budget.epochs:
            continue

        lanes, seen = _look(pack, lanes, epoch)
        for row, run in enumerate(lanes.run.tolist()):
            figures = {name: float(v[row]) for name, v in pack.named(seen).items()}
            curves[run].append(Point(epoch, epoch * pack.steps_per_epoch, figures))
        over = torch.full_like(lanes.finite, epoch == budget.epochs) | ~lanes.finite | _stopped(pack, lanes)
        if over.any():
            for outcome in _finish(pack, lanes.of(over), runs, epoch, curves, seconds):
                yield replace(outcome, lanes=began, compiled=pack.compiled)
                ended += 1
            lanes = lanes.of(~over)
        reached.note(lanes, epoch, 0)
        latest = [curves[run][-1].figures for run in lanes.run.tolist()]
        score = experiment.data.score
        shown = ("val_loss", f"val_{score}")
        loss, value = (sum(f[name] for f in latest) / len(latest) if latest else torch.nan for name in shown)
        watch(Progress(epoch, budget.epochs, ended, len(latest), loss, value, score))
        if not latest:
            break


def compiled(experiment: Experiment, runs: Sequence[Run], width: int, say: Callable[[str], None]) -> LaneStep | None:
    """The step of a pack of at most `width` runs through torch's compiler.

    None, and said so in a line, if that fails or gives other numbers.
    """
    from runner.engine import compilation  # it is rarely asked for

    pack, lanes = begin(experiment, [*runs, *[runs[-1]] * (width - len(runs))])
    try:
        written, calls = noted(pack, lanes, compilation.STEPS)
        fused = compilation.compiled(written, calls[-1][0])
        for (state, *rest), (after, _) in calls:
            elsewhere, _ = written(compilation.shaken(state), *rest)
            why = compilation.disagreement(state, after, fused(state, *rest)[0], elsewhere)
            if why:
                break
    except Exception as error:  # whatever a compiler raises; the step as it is written is known to work
        if is_full(error):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if why:
        say(f"trains without torch's compiler: {why}")
    return None if why else fused


def begin(experiment: Experiment, runs: Sequence[Run]) -> tuple[Pack, Lanes]:
    """A pack and its lanes before their first step."""
    prepare()
    data, device = experiment.data, experiment.device
    if device.type != "cpu":
        repeat(experiment.deterministic)
    dtype = torch.float64 if experiment.dtype == torch.float64 else torch.float32  # of the weights
    mapped = experiment.lanes != 1
    splits = [experiment.splitter.split(data, run.seed) for run in runs]
    rows = {s: torch.stack([getattr(split, s) for split in splits]).to(device) for s in ("train", "val", "test")}
    mean, std = (torch.stack([getattr(split, s) for split in splits]).to(device, dtype) for s in ("mean", "std"))

    net = built_net(experiment).to(dtype).train()
    copies, seeds = experiment.stack.copies, [run.seed for run in runs]
    params = initial(net, seeds)
    if copies > 1:
        each = [initial(net, seeds, copy) for copy in range(copies)]
        params = {name: torch.stack([one[name] for one in each], 1) for name in params}  # [L, M, ...]
    params = {name: w.to(device) for name, w in params.items()}
    net.to(device)
    if mapped and device.type == "cpu":
        lanewise(net)
    for layer in net.modules():
        if isinstance(layer, BatchNormLayer):
            layer.alone = not mapped
    if experiment.channels_last:
        net.register_forward_pre_hook(_channels_last)
    x, y = data.x.to(device), data.y.to(device)
    missing = x.is_floating_point() and bool(x.isnan().any())
    fill = {"x": torch.stack([split.fill for split in splits]).to(device, dtype)} if missing else {}
    own = experiment.splitter.noise.present or data.regression
    labels = {"y": torch.stack([split.y for split in splits]).to(device)} if own else {}
    kinds = visits(net, Pool(x, y, mean, std, fill.get("x")).inputs(rows["train"][:, :2])[0])
    examiner = Examiner(net, mapped, copies * experiment.stack.members)
    step = Taped(precise(lane_step(net, kinds, experiment.stack, experiment.optimizer, mapped), experiment))

    axes = {p: torch.tensor([run.point[p] for run in runs], dtype=torch.float64, device=device) for p in runs[0].point}
    fixed = experiment.stack.shaping(runs[0].point)
    strengths = {p: v.to(dtype) for p, v in axes.items() if p not in fixed and not p.startswith("optimizer.")}
    hyper = {
        name: torch.full((len(runs),), float(value), dtype=torch.float64, device=device)
        for name, value in vars(experiment.optimizer).items()
        if isinstance(value, float)
    } | {p.removeprefix("optimizer."): v for p, v in axes.items() if p.startswith("optimizer.")}

    def recall(params: Params, strengths: dict[str, Tensor]) -> Params:
        first: Params = over_copies(experiment.stack.at(strengths).recall, copies, mapped)(params)
        return first

    memory: Params = {}
    if experiment.stack.overrides("recall"):
        memory = over_lanes(recall, mapped)(params, strengths)
    begin_one = over_copies(experiment.optimizer.begin, copies, mapped)
    state = State(params, over_lanes(begin_one, mapped)(params), memory)
    lanes = Lanes(
        run=torch.arange(len(runs), device=device),
        key=Key.of(torch.tensor([run.seed for run in runs]), device).fold("method").resolved(),
        strengths=strengths,
        hyper=hyper,
        rows=rows,
        mean=mean,
        std=std,
        fill=fill,
        labels=labels,
        unit=torch.stack([split.unit for split in splits]).to(device, torch.float64),
        state=state,
        finite=torch.ones(len(runs), dtype=torch.bool, device=device),
        curve=torch.empty(len(runs), 0, dtype=torch.float64, device=device),
        best=params if examiner.members == 1 else {},
        best_epoch=torch.zeros(len(runs), dtype=torch.int64, device=device),
    )
    one_hot = torch.eye(data.classes, dtype=dtype, device=device)
    per_epoch = rows["train"].shape[1] // experiment.budget.batch_size
    return Pack(experiment, examiner, step, x, y, one_hot, per_epoch), lanes


def _channels_last(net: nn.Module, given: tuple[Tensor]) -> Tensor:
    """What a net is given, images [B, C, H, W] with their channels last in memory: convolutions keep it so."""
    return given[0].to(memory_format=torch.channels_last)


def few_steps(pack: Pack, lanes: Lanes, count: int) -> Lanes:
    """The lanes after the first `count` steps of the first epoch: what it costs to train them, for measuring."""
    return _epoch(pack, lanes, 1, count)


def noted(pack: Pack, lanes: Lanes, count: int) -> tuple[LaneStep, list[tuple[tuple[Any, ...], tuple[State, Tensor]]]]:
    """A pack's step as it is written, and what it was given and gave in each of the first `count` steps."""
    written: LaneStep = pack.step.step if isinstance(pack.step, Taped) else pack.step
    calls: list[tuple[tuple[Any, ...], tuple[State, Tensor]]] = []

    def noting(*arguments: Any) -> tuple[State, Tensor]:
        calls.append((arguments, written(*arguments)))
        return calls[-1][1]

    few_steps(replace(pack, step=noting), lanes, count)
    return written, calls


def _epoch(pack: Pack, lanes: Lanes, epoch: int, most: int | None = None) -> Lanes:
    """The lanes after one more epoch of steps, or after the first `most` of them."""
    for _, after in islice(_steps(pack, lanes, epoch), most):
        lanes = after
    return lanes


def _steps(pack: Pack, lanes: Lanes, epoch: int, first: int = 0) -> Iterator[tuple[int, Lanes]]:
    """The lanes after each step of an epoch over their training rows, each in its own order, and how many it has had.

    The first `first` steps have been taken before.
    """
    experiment, size = pack.experiment, pack.experiment.budget.batch_size
    pool, train = pack.pool(lanes), lanes.rows["train"]
    order = Key(lanes.key).fold("order").fold(epoch).permutations(train.shape[1])
    rows = train.gather(1, order)  # [K, n_train]
    state, finite = lanes.state, lanes.finite
    for i in range(first, pack.steps_per_epoch):
        at = (epoch - 1) * pack.steps_per_epoch + i
        taken = rows[:, i * size : (i + 1) * size]
        batch = Batch(pool.inputs(taken), pack.targets(pool.labels(taken)))
        keys = Key(lanes.key).fold("step").fold(at).resolved()
        share = torch.tensor(experiment.schedule.share(at, pack.steps), dtype=torch.float64, device=keys.device)
        now = torch.tensor(at, device=keys.device)
        state, loss = pack.step(state, batch, lanes.strengths, lanes.hyper, keys, now, pack.steps, share)
        finite = finite & loss.isfinite()
        yield i + 1, lanes._replace(state=state, finite=finite)


def clock_after(device: torch.device) -> float:
    """The clock in seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _part_of(
    lanes: Lanes, runs: Sequence[Run], began: int, epoch: int, step: int, curves: Sequence[list[Point]],
    seconds: Sequence[float], spent: float,
) -> Part:  # fmt: skip
    """What is kept of the lanes `step` steps after `epoch` epochs, when that epoch has taken `spent` seconds so far."""
    rows = lanes.run.tolist()
    return Part(
        names=[runs[row].name for row in rows],
        began=began,
        epoch=epoch,
        step=step,
        kept=_kept(lanes),
        curves=[curves[row] for row in rows],
        seconds=[seconds[row] + spent / len(rows) for row in rows],
    )


def _kept(lanes: Lanes) -> Kept:
    """What of the lanes no seed can bring back."""
    return Kept(lanes.state, lanes.finite, lanes.curve, lanes.best, lanes.best_epoch)


def _resumed(lanes: Lanes, kept: Kept) -> Lanes | None:
    """Lanes before their first step with the state that was kept of them; None if it is not of their form."""
    if _form(lanes.state) != _form(kept.state):
        return None
    here: Kept = tree_map(lambda leaf: leaf.to(lanes.run.device), kept)
    return lanes._replace(**here._asdict())


def _form(state: State) -> dict[tuple[str, str], tuple[torch.dtype, torch.Size]]:
    """The names, types and shapes of all that a state holds."""
    return {
        (part, name): (w.dtype, w.shape) for part, entries in state._asdict().items() for name, w in entries.items()
    }


def _look(pack: Pack, lanes: Lanes, epoch: int) -> tuple[Lanes, dict[str, Measured]]:
    """Clean train and validation figures of the lanes, and the lanes with their best weights brought up to date."""
    weights = pack.kept(lanes, epoch)
    rows = {split: lanes.rows[split] for split in ("train", "val")}
    seen = evaluate(pack.examiner, weights, pack.pool(lanes), rows)
    val = seen["val"].loss
    so_far = lanes.curve.amin(1) if lanes.curve.shape[1] else torch.full_like(val, torch.inf)
    better = val < so_far  # ties go to the earliest; never true for NaN
    lanes = lanes._replace(
        finite=lanes.finite & seen["train"].loss.isfinite(),
        curve=torch.cat([lanes.curve, val[:, None]], 1),
        best={
            n: torch.where(better.view(-1, *[1] * (w.ndim - 1)), w, lanes.best.get(n, w)) for n, w in weights.items()
        },
        best_epoch=torch.where(better, epoch, lanes.best_epoch),
    )
    return lanes, seen


def _stopped(pack: Pack, lanes: Lanes) -> Tensor:
    """Which lanes their methods stop now: bool [K]."""
    stack = pack.experiment.stack

    def one(strengths: dict[str, Tensor], curve: Tensor) -> Tensor:
        return stack.at(strengths).stop(curve)

    if not stack.overrides("stop"):
        return torch.zeros_like(lanes.finite)
    stopped: Tensor = over_lanes(one, pack.mapped)(lanes.strengths, lanes.curve)
    return stopped


def _finish(
    pack: Pack, lanes: Lanes, runs: Sequence[Run], epoch: int, curves: Sequence[list[Point]], seconds: Sequence[float]
) -> Iterator[Outcome]:
    """The outcomes of lanes that end after `epoch` epochs: here, and only here, test rows are evaluated."""
    experiment, pool = pack.experiment, pack.pool(lanes)
    best_epoch = lanes.best_epoch
    last = lanes.best if experiment.stack.ends_at_best else pack.kept(lanes, epoch)
    last_epoch = best_epoch if experiment.stack.ends_at_best else torch.full_like(best_epoch, epoch)
    # of a net on the CPU, where a seed's weights were drawn: a GPU's generator gives others
    start = initial(built_net(experiment).to(pack.one_hot.dtype), [runs[run].seed for run in lanes.run.tolist()])
    newest = {n: w[:, 0] if experiment.stack.copies > 1 else w for n, w in lanes.state.params.items()}
    single = last if pack.members == 1 else newest  # of several, the newest of the first copy are described
    columns: dict[str, Tensor] = summary(single, {name: w.to(experiment.device) for name, w in start.items()})
    examined = examine(pack.examiner, last, pool, lanes.rows)
    stored = {"last": examined, "best": _examined_best(pack, lanes, last_epoch, examined)}
    for checkpoint, weights, at in (("last", last, last_epoch), ("best", lanes.best, best_epoch)):
        seen = stored[checkpoint].measured
        columns[f"{checkpoint}_epoch"] = at
        columns |= {f"{checkpoint}_{name}": value for name, value in pack.named(seen).items()}
        if experiment.splitter.noise.present:
            right = pool._replace(y=pack.y)
            clean = evaluate(pack.examiner, weights, right, {"train": lanes.rows["train"]})
            columns[f"{checkpoint}_train_acc_clean"] = clean["train"].acc
        columns[f"{checkpoint}_gap_loss"] = seen["test"].loss - seen["train"].loss
        columns[f"{checkpoint}_gap_{experiment.data.score}"] = seen["train"].acc - seen["test"].acc
        if experiment.data.regression:
            columns[f"{checkpoint}_test_rmse"] = seen["test"].loss.sqrt() * lanes.unit
        if (calibrated := stored[checkpoint].calibrated) is not None:
            columns |= {f"{checkpoint}_{name}": value for name, value in calibrated._asdict().items()}
    if name := experiment.stack.clips:
        counted = lanes.state.memory[f"{name}/clipped"]  # [K] or, of copies, [K, M]
        columns["clipped_share"] = counted.double().reshape(len(counted), -1).mean(1) / (epoch * pack.steps_per_epoch)
    if experiment.splitter.noise.present:
        trained = lanes.rows["train"]
        columns["label_noise"] = (pool.labels(trained) != pack.y[trained]).double().mean(1)
    if experiment.data.truth is not None and experiment.data.bayes_error is not None:
        tested = lanes.rows["test"]
        score, says, is_so = experiment.data.score, experiment.data.truth.to(pack.y)[tested], pack.y[tested].double()
        columns[f"bayes_{score}"] = torch.full((len(tested),), 1 - experiment.data.bayes_error, dtype=torch.float64)
        explained = 1 - ((says - is_so) ** 2).mean(1) / is_so.var(1, unbiased=False)
        columns[f"teacher_{score}"] = explained if experiment.data.regression else (says == is_so).double().mean(1)
    more, rows_of = _asked(
        pack, lanes, last, single, start, torch.tensor([runs[run].seed for run in lanes.run.tolist()])
    )
    columns |= more
    counts = {f"n_{split}": part.shape[1] for split, part in lanes.rows.items()} | {
        "n_params": size(lanes.state.params)
    }
    table = {name: column.tolist() for name, column in columns.items()}
    hits, confidence = stored["last"].hits.cpu(), stored["last"].confidence.half().cpu()
    for row, run in enumerate(lanes.run.tolist()):
        figures = {name: column[row] for name, column in table.items()}
        if not counts["n_val"]:  # without validation there is no best
            figures |= {name: torch.nan for name in figures if name.startswith("best_")}
        yield Outcome(
            run=runs[run],
            status="ok" if lanes.finite[row] else "diverged",
            epochs=epoch,
            steps=epoch * pack.steps_per_epoch,
            curve=curves[run],
            figures=figures,
            hits=hits[row],
            confidence=confidence[row],
            counts=counts,
            split_hash=_hash(part[row] for part in lanes.rows.values()),
            train_s=seconds[run],
            lanes=len(runs),
            tables={name: rows[row] for name, rows in rows_of.items()},
        )


def _asked(
    pack: Pack, lanes: Lanes, weights: Params, single: Params, start: Params, seeds: Tensor
) -> tuple[dict[str, Tensor], dict[str, list[list[dict[str, object]]]]]:
    """What was asked for of the last checkpoint: columns [K], and by table each lane's rows.

    Of several members `single` is the one whose weights are described, and `start` where it began.
    """
    asked, pool = pack.experiment.asked, pack.pool(lanes)
    columns: dict[str, Tensor] = {}
    tables: dict[str, list[list[dict[str, object]]]] = {}
    if asked.corruptions:
        data = pack.experiment.data
        found = corrupted_accuracy(pack.examiner, weights, pool, lanes.rows, data, seeds)
        columns["last_corrupted_acc"] = mean_of(found)
        tables["corruptions"] = [
            [{"kind": kind, "severity": severity, "acc": float(acc[row])} for (kind, severity), acc in found.items()]
            for row in range(len(seeds))
        ]
    if asked.attack:
        found_by = adversarial_accuracy(pack.examiner, weights, pool, lanes.rows, asked.attack, seeds)
        columns |= {f"last_{name}": value for name, value in found_by.items()}
    if asked.measures:
        tables["measures"] = list(_measures(pack, lanes, single, start, seeds))
    return columns, tables


def _measures(
    pack: Pack, lanes: Lanes, weights: Params, start: Params, seeds: Tensor
) -> Iterator[list[dict[str, object]]]:
    """The measures of generalization of each lane, one row each; lane by lane, as if each were alone."""
    net, pool, train = pack.net, pack.pool(lanes), lanes.rows["train"]
    with evaluating(net):
        buffers, _ = measure_norms(Examiner(net, pack.mapped), weights, pool, train)
        for row, seed in enumerate(seeds.tolist()):
            at, first, own = (
                {n: w[row].to(train.device) for n, w in tree.items()} for tree in (weights, start, buffers)
            )
            few = train[:, : measures.ROWS]
            x, y = pool.inputs(few)[row], pool.labels(few)[row]
            key = Key.of(seed, train.device).fold("measures")
            yield [{n: float(v) for n, v in measures.measured(net, at, first, own, x, y, key).items()}]


def _examined_best(pack: Pack, lanes: Lanes, last_epoch: Tensor, last: Examined) -> Examined:
    """The best weights of the lanes examined, given the last ones, of epochs `last_epoch` [K]: often they are these."""
    others = (lanes.best_epoch != last_epoch).nonzero()[:, 0]
    if not len(others):
        return last
    if len(others) == 1 < len(lanes.run):
        others = others.repeat(2)  # a convolution of images that is mapped over one lane takes another path
    some = lanes.of(others)
    best = examine(pack.examiner, some.best, pack.pool(some), some.rows)

    def put(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
        return whole if whole is None or part is None else whole.index_copy(0, others, part)

    merged: Examined = tree_map(put, last, best)
    return merged


def _where(lanes: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` [K, ...] for the lanes [K] that are true, `old` for the others."""
    return torch.where(lanes.view(-1, *[1] * (new.ndim - 1)), new, old)


def _hash(parts: Iterator[Tensor]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def precise(step: LaneStep, experiment: Experiment) -> LaneStep:
    """The step under autocast, around float32 weights, if the experiment asks for bfloat16; else as it is."""
    if experiment.dtype != torch.bfloat16:
        return step

    def cast(*arguments: Any) -> tuple[State, Tensor]:
        with torch.autocast(experiment.device.type, torch.bfloat16):
            return step(*arguments)

    return cast
