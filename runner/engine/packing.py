"""How many runs to train in one pass, and on how many threads.

Mapping many small matrix products over lanes saves most of what a small net costs, and never loses on the nets tried
here, so dense nets are packed as wide as memory allows. Mapped convolutions become grouped ones, which a CPU computes
slowly: there the width is measured, once for each machine and shape, and kept in the user's cache folder so that the
same command gives the same numbers again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from runner.engine.loop import alike, begin, few_steps
from runner.engine.weights import built_net
from runner.engine.workers import cores
from runner.experiment import Experiment
from runner.grid import Run

WIDTHS = (1, 4, 16)  # tried against each other, and against all at once up to the last of them
COPIES = 8  # of the weights that a step holds: weights, gradient, two moments, the best ones, and temporaries
SHARE_OF_MEMORY = 0.25
SMALL = 10_000_000  # multiply-adds of a forward pass on a batch


def width(experiment: Experiment, runs: Sequence[Run], workers: int) -> int:
    """The most runs to train in one pass, given all of a stage and the processes that share them.

    No number of a run depends on it beyond rounding.
    """
    first = alike(experiment.stack, runs)
    experiment = experiment.shaped(first[0].point)
    net = built_net(experiment)
    weights = sum(w.numel() for w in net.parameters())
    examples = experiment.budget.batch_size * experiment.data.x[0].numel()
    bytes_each = 4 * COPIES * (weights + examples) * experiment.stack.copies
    fits = max(1, int(_memory(experiment.device) * SHARE_OF_MEMORY / bytes_each / workers))
    most = min(len(runs), fits)
    convolves = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in net.modules())
    if most == 1 or not convolves or experiment.device.type != "cpu":
        return most
    return min(most, _measured(experiment, first, net))


def threads(experiment: Experiment) -> int:
    """The threads that a job's steps are worth.

    Below SMALL multiply-adds a step is faster, or as fast, on one thread; and a second one that has to wait for its
    core makes it many times slower (measured in docs/benchmarks.md).
    """
    net = built_net(experiment)
    return 1 if _multiply_adds(net, experiment) * experiment.budget.batch_size < SMALL else cores()


def _multiply_adds(net: nn.Module, experiment: Experiment) -> int:
    """Multiply-adds of one forward pass on one example: of its linear and convolutional layers, each used once."""
    counted: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        places = output[0].numel() // weight.shape[0]  # how many times the weights are used
        counted[module] = weight.numel() * places

    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        net.eval()(experiment.data.x[:1].float())
    for hook in hooks:
        hook.remove()
    return sum(counted.values())


def _measured(experiment: Experiment, runs: Sequence[Run], net: nn.Module) -> int:
    """The fastest of WIDTHS per run, from the cache or from a few steps of each."""
    about = [
        platform.node(), torch.get_num_threads(), torch.__version__, str(net), experiment.data.shape,
        experiment.budget.batch_size, sorted(experiment.stack.methods), experiment.stack.copies,
        type(experiment.optimizer).__name__,
    ]  # fmt: skip
    key = hashlib.sha1(json.dumps(about).encode(), usedforsecurity=False).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regrun"
    path = folder / f"width-{key}"
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        pass  # not measured yet, or cut off while it was written: measure
    cost: dict[int, float] = {}
    for lanes in WIDTHS:
        if lanes <= len(runs):
            pack, started = begin(replace(experiment, lanes=lanes), runs[:lanes])
            few_steps(pack, started, 2)  # the first steps also set things up
            clock = time.perf_counter()
            few_steps(pack, started, 3)
            cost[lanes] = (time.perf_counter() - clock) / lanes
    best = min(cost, key=lambda lanes: cost[lanes])
    if max(cost) == max(WIDTHS):  # a short job does not decide for a long one
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(str(best))
        except OSError:
            return best  # measured again the next time
    return best


def _memory(device: torch.device) -> int:
    """Bytes of memory of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
