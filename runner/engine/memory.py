"""How much memory runs need side by side, told before they start, and how much there is.

A run's share is what it keeps (weights, moments, memory of methods, best weights, rows) and the most that a training
step, an evaluation or the summary at the end holds beside that. The latter is measured on the CPU: every tensor that a
step of two runs makes is counted, on four examples and on eight. Up to the optimizer's move a line through the two
gives any batch; the move itself holds the same for all.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.engine import evaluate
from runner.engine.calibration import BINS, RESAMPLES
from runner.engine.optimizers import Optimizer
from runner.engine.pack import Lanes, Pack, begin, few_steps
from runner.engine.weights import built_net, summary
from runner.experiment import Experiment
from runner.grid import Run
from runner.methods.base import Params

FEW, MORE = 4, 8  # examples that the line is drawn through
SLACK = 1.5  # times what tensors hold: what an allocator loses between them
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # control groups of the first version write a number near 2**63 for no limit


@dataclass(frozen=True)
class Footprint:
    """Bytes that runs trained side by side need beside what the process holds already."""

    each: int  # for each run
    shared: int  # whatever the number of runs: draws of the calibration, and data that an accelerator gets a copy of

    def of(self, lanes: int) -> int:
        """For so many runs."""
        return self.shared + lanes * self.each


_known: dict[str, Footprint] = {}


def footprint(experiment: Experiment, run: Run) -> Footprint:
    """The memory that runs like this one need, measured on a few examples; once for each net, stack and batch."""
    experiment = experiment.shaped(run.point)
    about = [
        str(built_net(experiment)), experiment.data.name, len(experiment.data.y), experiment.data.shape,
        repr(experiment.splitter), experiment.budget.batch_size, list(experiment.stack.methods),
        experiment.stack.copies, experiment.stack.members, type(experiment.optimizer).__name__,
        str(experiment.dtype), experiment.device.type, experiment.lanes == 1, sorted(run.point),
    ]  # fmt: skip
    key = json.dumps(about)
    if key not in _known:
        _known[key] = _measured(experiment, run)
    return _known[key]


def available(device: torch.device) -> int:
    """Bytes that can still be had: of the device, or of this machine and of the control groups that hold this process.

    A group's share of the page cache counts as free, since the system takes it back when it is needed.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    free = [_meminfo() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return max(0, min(free + [left for folder in _groups() if (left := _left(folder)) is not None]))


def _measured(experiment: Experiment, run: Run) -> Footprint:
    lanes = 1 if experiment.lanes == 1 else 2
    slopes, steps, looks = [], [], []
    for examples in (FEW, MORE):
        held = Held()
        budget = replace(experiment.budget, batch_size=examples)
        optimizer = _noting(experiment.optimizer, held)
        small = replace(experiment, budget=budget, optimizer=optimizer, lanes=lanes, device=torch.device("cpu"))
        pack, began = begin(small, [run] * lanes)
        few_steps(pack, began, 1)  # what the first step sets up stays
        steps.append(peak(partial(few_steps, pack, began, 1), held) / lanes)
        slopes.append(held.noted / lanes)
        looks.append(peak(partial(_look, pack, began, examples)) / lanes)
    first = {name: w.to(torch.float32) for name, w in began.state.params.items()}
    if experiment.stack.copies > 1:
        first = {name: w[:, 0] for name, w in first.items()}
    described = peak(lambda: summary(first, first)) / lanes
    kept = sum(leaf.nbytes for leaf in tree_leaves(tuple(began)) if isinstance(leaf, Tensor)) / lanes
    trained, known, tested = (began.rows[split].shape[1] for split in ("train", "val", "test"))
    stepped = max(_line(slopes, experiment.budget.batch_size), *steps)
    looked = _line(looks, min(evaluate.EXAMPLES, max(trained, known, tested)))
    # An examination keeps log-probabilities and labels of validation rows and four numbers for each test row, and joins
    # them from chunks to one; of the checkpoint before, hits and confidence. Draws and bins are the same for all lanes.
    examined = looked + 2 * known * (4 * experiment.data.classes + 8) + tested * (2 * 4 * 8 + 9)
    drawn = tested * (RESAMPLES * 9 + BINS * 20)
    settled = 0.0
    if _measured_at_once(pack, began):  # by two or three runs that share a pass
        settled = min(lanes + 1, 3) * _line(looks, min(trained, evaluate.NORM_EXAMPLES))
    copied = 0 if experiment.device.type == "cpu" else experiment.data.x.nbytes + experiment.data.y.nbytes
    return Footprint(int(SLACK * (kept + max(stepped, examined, described))), int(SLACK * (drawn + settled) + copied))


def _measured_at_once(pack: Pack, lanes: Lanes) -> bool:
    rows = lanes.rows["train"][:, : evaluate.NORM_EXAMPLES]
    with evaluate.evaluating(pack.net):
        return bool(pack.examiner.norms) and pack.examiner.at_once(pack.pool(lanes), rows)


def _look(pack: Pack, lanes: Lanes, examples: int) -> None:
    rows = {"train": lanes.rows["train"][:, :examples]}
    evaluate.evaluate(pack.examiner, pack.kept(lanes, 1), pack.pool(lanes), rows)


def _line(seen: list[float], at: int) -> float:
    """The value `at` so many examples, given those at FEW and at MORE."""
    return seen[0] + (seen[1] - seen[0]) / (MORE - FEW) * (at - FEW)


def _noting(optimizer: Optimizer, held: Held) -> Optimizer:
    """The optimizer, which lets `held` note what was held at most before its move."""

    class Noting(type(optimizer)):  # type: ignore[misc]  # a base that is known only now
        def move(self, *arguments: Any) -> tuple[Params, Params]:
            held.noted = held.most
            moved: tuple[Params, Params] = super().move(*arguments)
            return moved

    return Noting(**vars(optimizer))


def peak(call: Callable[[], Any], held: Held | None = None) -> int:
    """The most bytes of tensors that a call holds at once beside those there were; what it gives back is dropped."""
    held = held or Held()
    with held:
        call()
    return held.most


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that operations make while it is on, until they are let go."""

    def __init__(self) -> None:
        """Nothing is held yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.now: int = 0
        self.most: int = 0
        self.noted: int = 0  # of these, when that was noted
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it means to import the compiler first

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do the operation and count what is new of its result."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known.add(leaf.untyped_storage())  # there before, or counted
        told = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(told):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in self._known:
                storage = leaf.untyped_storage()
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage.nbytes())
        self.most = max(self.most, self.now)
        return told

    def _let_go(self, count: int) -> None:
        self.now -= count


def _meminfo() -> int | None:
    """What Linux says is available."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _groups() -> list[Path]:
    """The folders of the control groups that may limit this process's memory: its own, and those it is in."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = CGROUP / controllers if controllers else CGROUP
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return folders


def _left(folder: Path) -> int | None:
    """Bytes that a control group still allows, of either version; None if it has no limit."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most == "max" or int(most) >= UNLIMITED:
            return None
        return int(most) - used + int(stat.get(cache, 0))
    return None
