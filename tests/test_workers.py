"""The runs of a job on several processes: the same numbers, in the same order, and no process that dies unheard."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_engine import STACKS, experiment, outcomes, same

from runner.config import _workers
from runner.engine.checkpoint import Checkpoints, Stopped
from runner.engine.loop import Progress
from runner.engine.workers import cores, train_across, worth
from runner.errors import Refusal
from runner.grid import Run
from runner.methods.base import Batch, Method, Now
from runner.methods.stack import Stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, on Linux only")
RUNS = [Run(seed, "report", {}, 0) for seed in range(5)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_numbers_do_not_depend_on_the_number_of_processes(workers: int) -> None:
    seen: list[Progress] = []
    together = outcomes(experiment(STACKS["mixed"]), len(RUNS))
    apart = list(train_across(experiment(STACKS["mixed"]), RUNS, seen.append, workers))
    apart.sort(key=lambda outcome: outcome.run.seed)
    assert [outcome.run for outcome in apart] == RUNS
    assert all(same(a, b) for a, b in zip(together, apart, strict=True))
    assert seen[-1].ended == len(RUNS)
    assert seen[-1].running == 0
    assert max(progress.running for progress in seen) == len(RUNS)


class Fragile(Method):
    """Fails, or ends its process, in the third step."""

    def __init__(self, dies: bool) -> None:
        object.__setattr__(self, "dies", dies)

    def batch(self, batch: Batch, now: Now) -> Batch:
        if now.step == 2 and self.dies:  # type: ignore[attr-defined]
            os._exit(7)
        if now.step == 2:
            raise ValueError("a wheel came off")
        return batch


@pytest.mark.parametrize(("dies", "said"), [(False, "a wheel came off"), (True, "exit code 7")])
def test_what_breaks_in_a_process_is_told(dies: bool, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        list(train_across(experiment(Stack({"fragile": Fragile(dies)})), RUNS, lambda progress: None, 2))


class Slow(Method):
    """Of the first process every step takes a second; the second one ends in its first."""

    def batch(self, batch: Batch, now: Now) -> Batch:
        if multiprocessing.current_process().name.endswith("-1"):
            time.sleep(1)
            return batch
        os._exit(7)


def test_a_process_that_dies_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the processes begun before it have ended."""
    monkeypatch.setattr(multiprocessing.process, "_process_counter", itertools.count(1))
    monkeypatch.setattr("runner.engine.workers.PATIENCE", 0.1)
    clock = time.monotonic()
    with pytest.raises(RuntimeError, match="exit code 7"):
        list(train_across(experiment(Stack({"slow": Slow()})), RUNS, lambda progress: None, 2))
    assert time.monotonic() - clock < 8  # the first would take 36


def test_processes_stop_by_the_signal_that_the_first_was_given(tmp_path: Path) -> None:
    """Ctrl-C is handed on as SIGTERM, since a terminal's reaches all processes by itself; it stays Ctrl-C."""

    class Pressed(Method):
        def batch(self, batch: Batch, now: Now) -> Batch:
            if now.step == 2 and multiprocessing.current_process().name.endswith(":1"):  # the first of another one's
                os.kill(os.getppid(), signal.SIGINT)
            return batch

    trial = experiment(Stack({"pressed": Pressed()}))
    trial = replace(trial, budget=replace(trial.budget, epochs=400))
    keeper = Checkpoints(tmp_path, {}, None, lambda line: None)
    context = multiprocessing.get_context("fork")
    heard, told = context.Pipe(duplex=False)

    def press() -> None:
        try:
            with keeper.listening():
                list(train_across(trial, RUNS, lambda progress: None, 2, keeper))
        except Stopped as stopped:
            told.send(stopped.number)

    pressed = context.Process(target=press)
    pressed.start()
    assert heard.poll(60)
    assert heard.recv() == signal.SIGINT
    pressed.join(60)


def test_on_a_gpu_one_process_trains_all_runs() -> None:
    with pytest.raises(Refusal, match=r"workers is 2; on cuda .* must be 1 \(workers=auto or device=cpu\)"):
        _workers(2, torch.device("cuda"))
    assert (_workers(1, torch.device("cuda")), _workers(2, torch.device("cpu"))) == (1, 2)


def test_how_many_processes_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engine.workers.cores", lambda: 4)
    assert [worth(runs) for runs in (1, 4, 7, 8, 15, 16, 100)] == [1, 1, 1, 2, 3, 4, 4]
    monkeypatch.setattr("runner.engine.workers.sys.platform", "darwin")
    assert worth(100) == 1
    assert cores() >= 1


def test_beside_a_gpu_one_process_trains_all_runs_on_the_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engine.workers.cores", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert worth(100) == 1
    with pytest.raises(Refusal, match=r"workers is 2; where torch sees a GPU .* CUDA_VISIBLE_DEVICES= before"):
        _workers(2, torch.device("cpu"))


def test_a_launched_process_begins_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engine.workers.cores", lambda: 4)
    parent = type("Process", (), {"name": "LokyProcess-1"})
    monkeypatch.setattr("runner.engine.workers.multiprocessing.current_process", lambda: parent)
    assert worth(100) == 1
