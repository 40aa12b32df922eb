"""How many runs to train in one pass, with what layout of images in memory, and on how many threads.

Mapping many small matrix products over lanes saves most of what a small net costs, and never loses on the nets tried
here, so dense nets are packed as wide as memory allows. Convolutions of signals are matrix products where they are
mapped (`runner.nets.lanewise`), and best packed as wide as the core's cache allows. Other mapped convolutions become
grouped ones, which a CPU computes slowly, and alone they are faster or slower where the channels of an image come last
in memory. There the way is measured, once for each machine and shape, and kept in the user's cache folder so that the
same command gives the same numbers again. So is whether torch's compiler would save more time than it takes
(docs/benchmarks.md).
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from runner import __version__
from runner.engine.compilation import compiler, known
from runner.engine.loop import compiled
from runner.engine.memory import available, footprint
from runner.engine.pack import Lanes, Pack, alike, begin, clock_after, few_steps, noted
from runner.engine.products import exact, faster
from runner.engine.tape import Unfit, tensors_of, written_down
from runner.engine.weights import built_net
from runner.engine.workers import THREADS, beside, cores
from runner.experiment import Experiment
from runner.files import write_atomic
from runner.grid import Run
from runner.methods.stack import Stack
from runner.nets.lanewise import LanewiseConv1d, lanewise
from runner.paths import cache_dir

WIDTHS = (4, 16)  # tried against each other, and against one by one
WIDTHS_OF_SIGNALS = (4, 8, 16, 32)  # tried against each other: patches of many runs outgrow the core's cache
SHARE_OF_MEMORY = 0.5  # of what is free: a prediction may be off, and the machine has others on it
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SMALL = 10_000_000  # multiply-adds of a forward pass on a batch
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BRIEF = 0.9  # of float32's time that bfloat16 has to stay below: its digits are fewer
COMPILED_LANES = 12  # runs side by side in a compiled step on a CPU, at most: what they make stays in its caches
LEAST_STEPS = 2000  # in which a compiler can save its own time
SHARE_LEFT = 0.3  # of the time of what is no matrix product or convolution, when it is compiled (docs/benchmarks.md)
TO_LOAD, TO_COMPILE, EACH_OPERATION = 4.0, 10.0, 0.03  # seconds: of what is compiled already, and of what is not


class Way(NamedTuple):
    """How runs may be trained."""

    lanes: int  # runs in one pass; 1: one by one, unmapped
    channels_last: bool

    def is_as(self, before: Mapping[str, str]) -> bool:
        """Whether runs that have trained as `before` says go on to the same numbers."""
        return (before.get("mapped"), before.get("channels_last")) == (str(self.lanes != 1), str(self.channels_last))


def packed(
    experiment: Experiment, runs: Sequence[Run], workers: int, before: Mapping[str, str] = MappingProxyType({})
) -> Experiment:
    """The experiment with the lanes, the layout of images and the use of the compiler that train its runs fastest.

    Lanes that the user has asked for stay. So many processes share the runs. No number of a run depends on any of it
    beyond rounding, but where the user leaves the precision open too. `before` is how runs that are part of the way
    have trained, "mapped", "channels_last", "dtype", "onednn" and "compiled" among it: what the user leaves open
    stays so.
    """
    if before and experiment.compiled is None:
        experiment = replace(experiment, compiled=before.get("compiled") == "True")
    experiment = multiplied(experiment, before)
    if not experiment.dtype:
        precision = PRECISIONS.get(before.get("dtype", "")) or _precision(experiment, runs[0])
        experiment = replace(experiment, dtype=precision, onednn=experiment.onednn and precision == torch.float32)
    way = _laid_out(experiment, runs, workers, before)
    if way.lanes == 1 or way.compiled is False:
        return replace(way, compiled=bool(way.compiled))
    most = COMPILED_LANES if experiment.device.type == "cpu" else len(runs)
    fused = replace(way, lanes=experiment.lanes or _even(runs, workers, way, most), compiled=True)
    return fused if way.compiled or _repays(fused, runs, workers) else replace(way, compiled=False)


def multiplied(experiment: Experiment, before: Mapping[str, str] = MappingProxyType({})) -> Experiment:
    """The experiment with large products by oneDNN, or by MKL: whichever is asked for, began them, or is faster here.

    What is faster is from the cache or from a measurement. oneDNN's are taken in float32 only, and only if they are so.
    """
    asked = experiment.onednn
    if experiment.device.type != "cpu" or experiment.dtype not in (None, torch.float32):
        asked = False
    elif asked is None and before:
        asked = before.get("onednn") == "True"
    elif asked is None:
        path = _kept_of_machine("onednn")
        asked = _found_once(path, ("yes", "no"), lambda: "yes" if faster() else "no") == "yes"
    return replace(experiment, onednn=asked and exact())


def _precision(experiment: Experiment, run: Run) -> torch.dtype:
    """float32, or bfloat16 where steps then take less than BRIEF of the time, from the cache or from a few steps.

    They are those of the net alone without methods, so that all stacks, which are compared, get the same.
    """
    bare = replace(experiment, stack=Stack({}), lanes=1, compiled=False, dtype=torch.float32)

    def faster() -> str:
        cost = {}
        for name, dtype in PRECISIONS.items():
            pack, lanes = begin(replace(bare, dtype=dtype), [replace(run, point={})])
            cost[name] = _taken(pack, few_steps(pack, lanes, 5), 3)  # the first steps also set things up
        return "bfloat16" if cost["bfloat16"] < BRIEF * cost["float32"] else "float32"

    return PRECISIONS[_found_once(_kept_in("dtype", bare, built_net(bare), []), PRECISIONS, faster)]


def _even(runs: Sequence[Run], workers: int, way: Experiment, most: int) -> int:
    """At most so many lanes, and no more than the way has, that give a process packs of the same size."""
    share = math.ceil(len(alike(way.stack, runs)) / workers)
    return max(2, math.ceil(share / math.ceil(share / min(most, way.lanes or most))))


def _laid_out(experiment: Experiment, runs: Sequence[Run], workers: int, before: Mapping[str, str]) -> Experiment:
    """The experiment with the lanes and the layout of images in memory that train its runs fastest."""
    first = alike(experiment.stack, runs)
    shaped = experiment.shaped(first[0].point)
    net = built_net(shaped)
    most = experiment.lanes or min(len(runs), fitting(shaped, first[0], workers))
    lanewise(net)
    convolutions = [m for m in net.modules() if isinstance(m, CONVOLUTIONS)]
    if not convolutions or experiment.device.type != "cpu":
        return replace(experiment, lanes=most)
    several = min(most, len(first))
    if all(isinstance(m, LanewiseConv1d) for m in convolutions):
        ways = [Way(lanes, False) for lanes in WIDTHS_OF_SIGNALS if lanes <= several]
    else:
        images = any(isinstance(m, nn.Conv2d) for m in convolutions)
        ways = [Way(1, channels_last) for channels_last in (False, True)[: 1 + images]]
        ways += [Way(lanes, False) for lanes in WIDTHS if lanes <= several]
    if experiment.lanes:
        ways = [way for way in ways if way.lanes == experiment.lanes]
    known = [way for way in ways if way.is_as(before)]
    if len(ways) < 2 and not known:
        return replace(experiment, lanes=most)
    best = known[0] if len(known) == 1 else _fastest(shaped, first, net, known or ways)
    chosen = replace(experiment, lanes=best.lanes, channels_last=best.channels_last)
    even = best.lanes > 1 and not experiment.lanes
    return replace(chosen, lanes=_even(runs, workers, chosen, best.lanes)) if even else chosen


def fitting(experiment: Experiment, run: Run, workers: int) -> int:
    """How many runs like this one fit side by side into a process's part of the memory that is free.

    At least two: one would mean a step that is not mapped, whose rounding differs, and a pack of two that does not fit
    is halved.
    """
    need = footprint(experiment, run)
    others = beside() if experiment.device.type == "cpu" else 1  # two jobs on one GPU halve their packs when it is full
    share = (available(experiment.device) * SHARE_OF_MEMORY / others - need.shared) / workers
    return max(2, int(share / need.each))


def prediction(experiment: Experiment, run: Run, lanes: int, workers: int) -> str:
    """In a line: the memory that so many runs like this one side by side, in each process, will need, and what is free.

    Measured peaks are between half and twice of it (docs/benchmarks.md).
    """
    need, free = footprint(experiment, run).of(lanes) * workers, available(experiment.device)
    each = f" in each of {workers} processes" if workers > 1 else ""
    return f"about {_size(need)} for {lanes} runs side by side{each}, of {_size(free)} that are free"


def _size(count: int) -> str:
    """Bytes in words.

    >>> _size(2_400_000), _size(23_800_000_000)
    ('2.4 MB', '24 GB')
    """
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"


def threads(experiment: Experiment) -> int:
    """The threads that a job's steps are worth, of those that the process was given (OMP_NUM_THREADS, or its launcher).

    Below SMALL multiply-adds a step is faster, or as fast, on one thread; and a second one that has to wait for its
    core makes it many times slower (measured in docs/benchmarks.md).
    """
    net = built_net(experiment)
    return 1 if multiply_adds(net, experiment) * experiment.budget.batch_size < SMALL else min(cores(), THREADS)


def multiply_adds(net: nn.Module, experiment: Experiment) -> int:
    """Multiply-adds of one forward pass on one example: of its linear and convolutional layers, each used once."""
    counted: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        places = output[0].numel() // weight.shape[0]  # how many times the weights are used
        counted[module] = weight.numel() * places

    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        net.eval()(experiment.data.x[:1].float())
    for hook in hooks:
        hook.remove()
    return sum(counted.values())


def _fastest(experiment: Experiment, runs: Sequence[Run], net: nn.Module, ways: Sequence[Way]) -> Way:
    """The way that takes the least time per run, from the cache or from a few steps of each."""

    def fastest() -> str:
        cost: dict[int, float] = {}
        for number, way in enumerate(ways):
            trial = replace(experiment, lanes=way.lanes, channels_last=way.channels_last)
            pack, started = begin(trial, runs[: way.lanes])
            few_steps(pack, started, 2)  # the first steps also set things up
            cost[number] = _taken(pack, started, 3) / way.lanes
        return str(min(cost, key=lambda number: cost[number]))

    numbers = [str(number) for number in range(len(ways))]
    return ways[int(_found_once(_kept_in("packing", experiment, net, ways), numbers, fastest))]


def _repays(experiment: Experiment, runs: Sequence[Run], workers: int) -> bool:
    """Whether torch's compiler saves its own time twice over in all steps of a process, with such packs.

    From the cache, or from a few steps: if what is no matrix product or convolution becoming SHARE_LEFT of what it was
    would save so much, they are compiled, and taken if they are then faster indeed.
    """
    assert experiment.lanes
    first = alike(experiment.stack, runs)
    shaped = experiment.shaped(first[0].point)
    packs = math.ceil(len(runs) / workers / experiment.lanes)
    per_epoch = len(shaped.splitter.split(shaped.data, first[0].seed).train) // shaped.budget.batch_size
    steps = packs * per_epoch * shaped.budget.epochs
    if shaped.device.type != "cpu" or compiler() is None or steps < LEAST_STEPS:
        return False

    def repays() -> str:
        pack, lanes = begin(shaped, first[: experiment.lanes])
        return "yes" if _seconds(pack, lanes, steps) > 0 and _faster(pack, lanes) else "no"

    path = _kept_in("compile", shaped, built_net(shaped), [experiment.lanes, steps])
    return _found_once(path, ("yes", "no"), repays) == "yes"


def _faster(pack: Pack, lanes: Lanes) -> bool:
    """Whether compiled steps are taken faster than those that are gone through again."""
    step = compiled(pack, lanes, lambda line: None)
    if step is None:
        return False
    cost = []
    for way in (pack, replace(pack, step=step)):
        few_steps(way, lanes, 5)  # the first steps also set things up
        cost.append(_taken(way, lanes, 5))
    return cost[1] < cost[0]


def _taken(pack: Pack, lanes: Lanes, count: int) -> float:
    """Seconds that so many steps take."""
    clock = clock_after(pack.experiment.device)
    few_steps(pack, lanes, count)
    return clock_after(pack.experiment.device) - clock


def _seconds(pack: Pack, lanes: Lanes, steps: int) -> float:
    """What torch's compiler is expected to save in so many steps, less twice of what it takes itself, in seconds."""
    written, [(arguments, _)] = noted(pack, few_steps(pack, lanes, 1), 1)
    try:
        _, operations = written_down(written, arguments)
    except Unfit:
        return 0.0
    tensors = tensors_of(tree_leaves(arguments))
    timed = [operations.seconds(tensors) for _ in range(3)]
    whole, products = (min(seconds) for seconds in zip(*timed, strict=True))
    saved: float = steps * (1 - SHARE_LEFT) * (whole - products)
    return saved - 2 * (TO_LOAD if known(operations, tensors) else TO_COMPILE + EACH_OPERATION * len(operations))


def _kept_in(what: str, experiment: Experiment, net: nn.Module, more: object) -> Path:
    """The file of the user's cache folder that holds what was measured of this machine, net and stack."""
    about = [
        _named(experiment.device), str(net), experiment.data.shape,
        experiment.budget.batch_size, sorted(experiment.stack.methods), experiment.stack.copies,
        type(experiment.optimizer).__name__, str(experiment.dtype), experiment.onednn, more,
    ]  # fmt: skip
    return _kept_of_machine(what, about)


def _kept_of_machine(what: str, more: object = None) -> Path:
    """The file of the user's cache folder that holds what was measured of this machine, on so many threads."""
    about = [platform.node(), torch.get_num_threads(), torch.__version__, __version__, more]
    key = hashlib.sha1(json.dumps(about).encode(), usedforsecurity=False).hexdigest()[:16]
    return cache_dir() / f"{what}-{key}"


def _named(device: torch.device) -> str:
    """What a device is called: of GPUs, which one it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _found_once(path: Path, known: Container[str], find: Callable[[], str]) -> str:
    """What is kept at the path, if it is among the `known`; else what `find` finds, which is then kept.

    One process finds it while others wait, so that jobs that begin together take the same.
    """
    with _alone(path):
        with suppress(OSError):  # not found yet
            if (kept := path.read_text()) in known:  # else it was cut off while it was written
                return kept
        found = find()
        with suppress(OSError):  # it is found again the next time
            write_atomic(path, found)
    return found


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The file at the path for this process alone; for any that asks where nothing can be written."""
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{path}.lock"))
        yield
