"""The runs of a job on all cores: a part of them in each of several processes.

Nets as small as those of most studies gain nothing from a second thread, and all of it from a second process. A run's
numbers do not depend on the pack it trains in, so neither do they on the process.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from runner.engine.checkpoint import Keeper, Stopped
from runner.engine.finish import Outcome
from runner.engine.loop import Progress, Watch, compiled, filled, train
from runner.engine.pack import alike, begin
from runner.experiment import Experiment
from runner.grid import Run

PATIENCE = 10.0  # seconds that a process has to keep its state before it is killed
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a process gets when its parent dies
THREADS = torch.get_num_threads()  # of this process as it was begun: what its user, or a launcher, has given it
LEAST = 4  # runs that are worth a process of their own: packs of fewer save little of what a step costs


def cores() -> int:
    """The processor's cores that this process may use; within a Slurm job at most those it asked for."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, int(os.environ.get("SLURM_CPUS_PER_TASK") or there))  # not every Slurm binds jobs to their cores


def worth(runs: int) -> int:
    """How many processes so many runs are worth: one where there is an accelerator, few runs, or a launcher's process.

    joblib and Ray have put jobs on all cores, and a process of Ray's must not be forked. Only Linux can begin a process
    in no time.
    """
    if not forks() or launched() or sys.platform != "linux":
        return 1
    return max(1, min(cores(), runs // LEAST))


def forks() -> bool:
    """Whether processes may be forked that differentiate: not where torch sees an accelerator, used or not.

    For it torch differentiates in threads, also on the CPU, which a forked process would lack.
    """
    return not torch.accelerator.is_available()


def launched() -> bool:
    """Whether a launcher, joblib's or Ray's, has begun this process beside others on the machine."""
    return multiprocessing.current_process().name != "MainProcess" or "ray" in sys.modules


def beside() -> int:
    """How many processes, this one among them, may share what the machine has: of a launcher one for each core."""
    return max(1, cores() // THREADS) if launched() else 1


def train_across(
    experiment: Experiment,
    runs: Sequence[Run],
    watch: Watch,
    workers: int,
    keeper: Keeper = Keeper(),  # noqa: B008  # keeps nothing
) -> Iterator[Outcome]:
    """The outcomes of the runs, each as soon as it is known, trained in so many processes of one thread each.

    Raises RuntimeError, with what was said, if a process fails or dies; the others are then ended, and keep their state
    if they can.
    """
    if workers <= 1:
        yield from train(experiment, runs, watch, keeper)
        return
    if experiment.compiled:  # here, so that it is done once
        experiment = replace(experiment, compiled=_compiles(experiment, runs, workers, keeper))
    size = math.ceil(len(runs) / workers)
    parts = [runs[i : i + size] for i in range(0, len(runs), size)]
    context = multiprocessing.get_context("fork")
    processes: list[Any] = []
    open_ends: dict[Connection, int] = {}
    left = [len(part) for part in parts]
    stopped = 0  # the signal that a process has ended with
    epochs, score = experiment.budget.epochs, experiment.data.score
    seen = [Progress(0, epochs, 0, len(part), math.nan, math.nan, score) for part in parts]
    try:
        for number, part in enumerate(parts):
            ours, told = context.Pipe(duplex=False)  # only now: an earlier child would hold its end open, too
            process = context.Process(target=_work, args=(experiment, part, told, keeper, number), daemon=True)
            process.start()
            processes.append(process)
            assert process.pid is not None
            keeper.also_tell(process.pid)
            told.close()  # the child has its own; the pipe ends with it
            open_ends[ours] = number
        while open_ends:
            for heard in wait(list(open_ends)):
                assert isinstance(heard, Connection)
                number = open_ends[heard]
                try:
                    kind, what = pickle.loads(heard.recv_bytes())  # from a child of this very process
                except EOFError:
                    del open_ends[heard]
                    processes[number].join()
                    if left[number] and not stopped:
                        code = processes[number].exitcode
                        raise RuntimeError(f"a worker process ended with exit code {code}") from None
                    continue
                if kind == "failed":
                    line, whole = what
                    raise RuntimeError(line) from RuntimeError(whole)
                if kind == "stopped":
                    stopped = what
                elif kind == "outcome":
                    left[number] -= 1
                    yield what
                else:
                    seen[number] = what
                    watch(_together(seen))
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join(PATIENCE)
                process.kill()
                process.join()
    if stopped:
        keeper.check()  # by the signal that this process was given, which may be another than it has handed on
        raise Stopped(stopped)


def _compiles(experiment: Experiment, runs: Sequence[Run], workers: int, keeper: Keeper) -> bool:
    """Whether torch's compiler can make the steps of the processes' packs; they are forked with what it has made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    first = alike(experiment.stack, runs)
    width = experiment.lanes or math.ceil(len(first) / workers)
    try:
        whole = begin(experiment.shaped(first[0].point), filled(first[:width], width))
        return compiled(*whole, keeper.say) is not None
    finally:
        torch.set_num_threads(threads)


def _work(experiment: Experiment, runs: Sequence[Run], told: Connection, keeper: Keeper, number: int) -> None:
    """In a process of its own: train the runs and tell what becomes of them."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not to train on for a parent that was killed
    torch.set_num_threads(1)
    keeper.share(number)

    def tell(kind: str, what: Any) -> None:
        told.send_bytes(pickle.dumps((kind, what)))

    try:
        for outcome in train(experiment, runs, lambda progress: tell("seen", progress), keeper):
            tell("outcome", outcome)
    except Stopped as stopped:
        tell("stopped", stopped.number)
    except KeyboardInterrupt:
        tell("stopped", signal.SIGINT)
    except Exception as error:
        tell("failed", (f"{type(error).__name__}: {error}", traceback.format_exc()))
    finally:
        told.close()


def _together(seen: Sequence[Progress]) -> Progress:
    """The progress of all parts: the least epoch, the runs together, and the means over those that run.

    >>> parts = Progress(3, 9, 1, 1, 0.5, 0.8, "acc"), Progress(2, 9, 0, 3, 0.9, 0.4, "acc")
    >>> _together(parts)
    Progress(epoch=2, epochs=9, ended=1, running=4, val_loss=0.8, val_acc=0.5, score='acc')
    """
    running = [part for part in seen if part.running and math.isfinite(part.val_loss)]
    count = sum(part.running for part in running)
    loss, acc = (
        sum(part.running * getattr(part, name) for part in running) / count if count else math.nan
        for name in ("val_loss", "val_acc")
    )
    alive = [part.epoch for part in seen if part.running] or [seen[0].epochs]
    return replace(
        seen[0],
        epoch=min(alive),
        ended=sum(part.ended for part in seen),
        running=sum(part.running for part in seen),
        val_loss=loss,
        val_acc=acc,
    )
