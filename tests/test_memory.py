"""Memory: the peak that is told before a training, how many runs share a pass for it, and what is done when it ends."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Regrun
from test_engine import experiment
from test_study import SMALL, figures, job_of, rows_of
from torch.utils._pytree import tree_leaves

from runner.data.base import Data
from runner.engine import loop, memory, packing, tape
from runner.engine.checkpoint import Keeper
from runner.engine.machine import is_full
from runner.engine.memory import Footprint, footprint, peak
from runner.engine.optimizers import Adam
from runner.engine.pack import Lanes, Pack, begin, few_steps, steps
from runner.grid import Run
from runner.methods.stack import Stack
from runner.nets.convolutional import convnet

RUNS = [Run(seed, "report", {}, 0) for seed in range(6)]
FULL = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."


class Says(Keeper):
    """Keeps nothing but what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def test_peak_counts_what_is_held_at_once() -> None:
    def call() -> None:
        x = torch.ones(1000)  # 4,000 bytes
        y = x + 1  # 4,000 more
        x.add_(1)  # none
        z = y[:10]  # a view: none
        del x, y, z  # and let go
        torch.ones(500)

    assert peak(call) == 8000
    assert peak(lambda: torch.vmap(lambda row: row * 2)(torch.ones(5, 100))) == 4 * 500 + 4 * 500


@pytest.mark.parametrize("width", [64, 512])
def test_the_prediction_is_within_a_factor_of_two(width: int) -> None:
    """A process of its own, whose peak Linux tells, trains 24 runs after a small training has set everything up."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells the peak of a process from now on")
    code = f"""
import sys
from dataclasses import replace
from functools import partial
import torch
from test_engine import experiment
from runner.engine.loop import train
from runner.engine.memory import footprint
from runner.grid import Run
from runner.methods.stack import Stack
from runner.nets.dense import mlp
torch.set_num_threads(1)
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) * 1024
small = replace(experiment(Stack({{}}), epochs=1), lanes=None)
runs = [Run(seed, "report", {{}}, 0) for seed in range(24)]
for _ in train(small, runs[:2]):
    pass
big = replace(small, model=partial(mlp, small.data.shape, small.data.classes, {width}, 3))
told = footprint(big, runs[0]).of(24)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
for _ in train(big, runs):
    pass
print(told, status("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    told, measured = map(int, done.stdout.split())
    print(told, measured)
    assert measured / 2 < told < 2 * measured


def test_the_batch_counts_where_the_optimizer_takes_more_than_a_few_examples() -> None:
    """A net of images with a large last layer: on eight examples Adam's move holds more than the gradient does."""
    shape = (1, 28, 28)
    net = partial(convnet, shape, 4, 8, 128)
    plain = experiment(Stack({}), epochs=1)
    images = Data("zeros", "image", torch.zeros(500, *shape), torch.arange(500) % 4, 4, torch.arange(400, 500))
    trial = replace(
        plain, data=images, splitter=replace(plain.splitter, train_size=300), model=net, lanes=None,
        optimizer=Adam(0.001, 0.9, 0.999, 1e-8), budget=replace(plain.budget, batch_size=256),
    )  # fmt: skip
    told = footprint(trial, RUNS[0]).each / memory.SLACK
    pack, lanes = begin(replace(trial, lanes=2), RUNS[:2])
    few_steps(pack, lanes, 1)
    measured = peak(partial(few_steps, pack, lanes, 1)) / 2
    kept = sum(leaf.nbytes for leaf in tree_leaves(tuple(lanes)) if isinstance(leaf, torch.Tensor)) / 2
    assert told == pytest.approx(kept + measured, rel=0.1)


def test_an_epoch_does_not_keep_what_it_began_with() -> None:
    pack, lanes = begin(experiment(Stack({})), RUNS[:2])
    first = weakref.ref(next(iter(lanes.state.moments.values())))
    alive = []
    for _, after in steps(pack, lanes, 1):
        lanes = after
        alive.append(first() is not None)
    assert alive == [False] * pack.steps_per_epoch


def test_more_runs_copies_and_weights_need_more() -> None:
    small = experiment(Stack({}))
    need = footprint(small, RUNS[0])
    assert need.of(10) - need.of(9) == need.each > 0
    assert footprint(replace(small, budget=replace(small.budget, batch_size=100)), RUNS[0]).each >= need.each


def test_packs_are_what_fits_into_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "footprint", lambda experiment, run: Footprint(100, 1000))
    monkeypatch.setattr(packing, "available", lambda device: 10_000)
    assert packing.fitting(experiment(Stack({})), RUNS[0], 1) == (10_000 * 0.5 - 1000) / 100
    assert packing.fitting(experiment(Stack({})), RUNS[0], 4) == (10_000 * 0.5 - 1000) / 100 / 4
    assert packing.packed(experiment(Stack({})), RUNS, 1).lanes == 6
    monkeypatch.setattr(packing, "available", lambda device: 2_400)
    assert packing.packed(experiment(Stack({})), RUNS, 1).lanes == 2
    monkeypatch.setattr(packing, "available", lambda device: 0)
    assert packing.packed(experiment(Stack({})), RUNS, 1).lanes == 2  # it is tried all the same, and stays mapped
    assert packing.packed(experiment(Stack({})), RUNS[:1], 1).lanes == 1


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50\n"}, 350),
        ({"memory.max": "max", "memory.current": "700", "memory.stat": ""}, None),
        (
            {
                "memory.limit_in_bytes": "900",
                "memory.usage_in_bytes": "800",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 30\n",
            },
            130,
        ),
        (
            {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "8", "memory.stat": ""},
            None,
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_the_limits_of_control_groups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], left: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_groups", lambda: [tmp_path, tmp_path / "none"])
    free = memory._meminfo()
    assert free is not None
    found = memory.available(torch.device("cpu"))
    assert found == left if left is not None else found > free / 2


def _full_at(
    monkeypatch: pytest.MonkeyPatch, name: str, calls: int, error: Exception, least: int = 3
) -> Callable[[], int]:
    """Let a function of the loop fail from its so-manieth call on, while it is given more lanes than `least`."""
    original, count = getattr(loop, name), 0

    def fails(pack: Pack, lanes: Lanes, *rest: object) -> object:
        nonlocal count
        count += 1
        if count >= calls and len(lanes.run) > least:
            raise error
        return original(pack, lanes, *rest)

    monkeypatch.setattr(loop, name, fails)
    return lambda: count


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(FULL), MemoryError()])
@pytest.mark.parametrize(("where", "calls"), [("steps", 3), ("_look", 2), ("finish", 1)])
def test_when_memory_ends_packs_are_halved_and_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, where: str, calls: int, error: Exception
) -> None:
    """In the steps, in an evaluation and in the examination at the end; the numbers are those of a pack that fits."""
    trial = replace(experiment(Stack({}), epochs=3), lanes=None)
    whole = {outcome.run.seed: outcome for outcome in loop.train(trial, RUNS)}
    _full_at(monkeypatch, where, calls, error)
    says = Says()
    halved = {outcome.run.seed: outcome for outcome in loop.train(trial, RUNS, keeper=says)}
    assert says.said[0] == "memory ran out with 6 runs side by side; they go on with 3"
    assert any("goes on with 3 runs" in line for line in says.said)
    assert halved.keys() == whole.keys()
    for seed, outcome in halved.items():
        assert outcome.figures == pytest.approx(whole[seed].figures, rel=0, abs=0, nan_ok=True)
        assert list(outcome.curve) == list(whole[seed].curve)
        assert torch.equal(outcome.confidence, whole[seed].confidence)
        assert outcome.lanes == 6  # what it began with


@pytest.mark.parametrize("name", ["written_down", "__call__"])
def test_a_pack_that_memory_ended_for_is_gone_when_the_next_begins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step is written down, and when it is first gone through again, beside the step as it is written."""
    held: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []
    where = tape if name == "written_down" else tape.Operations
    original, beginning = getattr(where, name), begin

    def fails(*given: Any) -> Any:
        if not held:
            held.extend(weakref.ref(leaf) for leaf in tape.tensors_of(tree_leaves(given[1])))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*given)

    def counting(*given: Any) -> Any:
        left.append(sum(ref() is not None for ref in held))
        return beginning(*given)

    monkeypatch.setattr(where, name, fails)
    monkeypatch.setattr(loop, "begin", counting)
    monkeypatch.setattr("gc.collect", lambda: 0)
    list(loop.train(replace(experiment(Stack({}), epochs=2), lanes=None), RUNS))
    assert len(held) > 5
    assert left == [0, 1, 1]  # one: the examples, which all packs have in common


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError(FULL),
        MemoryError(),
    ],
)
def test_the_end_of_memory_is_known_however_it_is_told(error: Exception) -> None:
    assert is_full(error)
    assert not is_full(ValueError(str(error)))


def test_what_is_no_lack_of_memory_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    count = _full_at(monkeypatch, "_look", 1, RuntimeError("shapes differ"), least=0)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(loop.train(replace(experiment(Stack({}), epochs=2), lanes=None), RUNS))
    assert count() == 1


def test_a_run_for_which_memory_ends_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    count = _full_at(monkeypatch, "_look", 1, RuntimeError(FULL), least=0)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        list(loop.train(replace(experiment(Stack({}), epochs=2), lanes=None), RUNS))
    assert count() == 3  # 6, 3, 1


def test_a_job_says_its_peak_and_outlives_a_lack_of_memory(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["method=l2", "seeds=4", "workers=1", *SMALL[:-1]]
    told = regrun(*command, "out=whole")
    assert told.code == 0, told.err
    assert sum("runs side by side, of" in line for line in told.err.splitlines()) == 1
    _full_at(monkeypatch, "_look", 2, RuntimeError(FULL))
    again = regrun(*command)
    assert again.code == 0, again.err
    assert "memory ran out with 4 runs side by side; they go on with 2" in again.err
    first = Path("outputs") / "first"
    assert figures(rows_of(first)) == figures(rows_of(Path("whole") / "first"))
    assert not list(job_of(first, "l2").glob("checkpoint-*"))


def test_what_torch_keeps_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert memory.available(torch.device("cuda")) == 150
