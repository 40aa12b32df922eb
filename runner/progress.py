"""What a job shows while it trains and when it has ended. Test figures are shown at the end only."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from scipy.special import stdtrit  # scipy.stats alone would take a second to import

from runner.console import plain
from runner.engine import loop
from runner.engine.weights import built_net
from runner.job import Job
from runner.nets.norms import NormLayer
from runner.nets.sites import Slot, describe

MAIN = "REGRUN_MAIN"  # the process that the terminal belongs to; workers of a parallel launcher inherit the name
SCORES = {"acc": "acc", "r2": "R²"}
PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal


@contextmanager
def progress_of(job: Job) -> Iterator[tuple[Callable[[str], None], loop.Watch]]:
    """Ways to say a line and to follow a job's training: a bar on a terminal, plain lines elsewhere, or nothing."""
    if not job.progress:
        yield (lambda line: None), (lambda seen: None)
    elif sys.stderr.isatty() and os.environ.get(MAIN) == str(os.getpid()):
        with _bar(job) as (say, watch):
            yield say, watch
    else:
        yield (lambda line: print(line, file=sys.stderr, flush=True)), _lines(job)


@contextmanager
def _bar(job: Job) -> Iterator[tuple[Callable[[str], None], loop.Watch]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(), TextColumn("{task.fields[seen]}"),
    )  # fmt: skip
    with Progress(*columns, console=plain(stderr=True)) as bar:
        task = bar.add_task(job.method, total=job.experiment.budget.epochs, seen="")

        def watch(seen: loop.Progress) -> None:
            bar.update(task, completed=seen.epoch, seen=_figures(seen))

        yield bar.console.print, watch


def _lines(job: Job) -> loop.Watch:
    said = time.monotonic()

    def watch(seen: loop.Progress) -> None:
        nonlocal said
        if seen.running == 0 or time.monotonic() - said > PLAIN_EVERY:
            print(f"{job.name}: epoch {seen.epoch}/{seen.epochs}, {_figures(seen)}", file=sys.stderr, flush=True)
            said = time.monotonic()

    return watch


def _figures(seen: loop.Progress) -> str:
    if not seen.running or math.isnan(seen.val_loss):
        return f"{seen.ended} runs ended, {seen.running} running"
    return f"{seen.running} runs, val loss {seen.val_loss:.3f}, val {SCORES[seen.score]} {100 * seen.val_acc:.1f} %"


def show_job(job: Job, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """A single job's result: mean and half-width of the 95 % t-interval over the reported seeds."""
    reported = [row for row in rows if row["role"] == "report"]
    console = plain(width=max(100, plain().width))
    regression = job.experiment.data.regression
    score = ("r2", 100, 1, "R², %") if regression else ("acc", 100, 1, "accuracy, %")
    units = "variances of the training targets" if regression else "nats"
    for metric, unit, digits, what in (score, ("loss", 1, 3, f"loss, {units}")):
        title = f"{job.method} on {job.dataset}, {job.model}: {what} (last checkpoint)"
        table = Table(title=title, title_justify="left", box=SIMPLE)
        table.add_column("strength", overflow="fold")
        cost = ("epochs", "seconds", "n") if metric != "loss" else ()  # said once
        for column in ("train", "val", "test", "gap", *cost):
            table.add_column(column, justify="right", no_wrap=True)
        for strengths, setting in dict.fromkeys((row["strengths"], row["setting"]) for row in reported):
            mine = [row for row in reported if (row["strengths"], row["setting"]) == (strengths, setting)]
            sound = [row for row in mine if row["status"] == "ok"]
            lost = len(mine) - len(sound)
            table.add_row(
                f"{strengths} {setting}".strip().replace(" ", "\n"),
                *(_mean(sound, f"last_{split}_{metric}", unit, digits) for split in ("train", "val", "test", "gap")),
                *(_mean(sound, "epochs", 1, 0), _mean(sound, "train_s", 1, 1)) * bool(cost),
                *(f"{len(sound)}" + (f"\n{lost} diverged" if lost else ""),) * bool(cost),
            )
        console.print(table)
    chosen = f" Strength chosen on validation with {len(job.tune_seeds)} other seeds." if job.tunes else ""
    console.print(
        "± is the half-width of the 95 % t-interval over n seeds. gap: "
        f"train - test {SCORES[score[0]]}, test - train loss ({units})." + chosen,
        soft_wrap=True,
    )
    console.print(str(folder), soft_wrap=True)


def show_marks(job: Job) -> None:
    """Where the model's marks and slots are, in the order of a forward pass."""
    experiment = job.experiment
    net = built_net(experiment)
    console = plain(width=max(100, plain().width))
    weights = sum(w.numel() for w in net.parameters())
    title = f"{job.model} on {job.dataset}, {job.method}: {weights:,} parameters"
    table = Table("", "kind", "place", "shape of a value", title=title, title_justify="left", box=SIMPLE)
    for number, visit in enumerate(describe(net.eval(), experiment.data.x[:1].float()), 1):
        table.add_row(str(number), visit.kind, visit.place, " x ".join(map(str, visit.shape)))
    console.print(table)
    slots = [str(m.width) for m in net.modules() if isinstance(m, Slot)]
    norms = Counter(type(m).__name__ for m in net.modules() if isinstance(m, NormLayer))
    said = ", ".join(f"{count} {name}" for name, count in norms.items())
    console.print(f"open slots for a norm: {len(slots)}; norms of the net: {said or 'none'}", soft_wrap=True)
    if getattr(net, "switched_off", 0):
        console.print(f"dropouts of the net's own that are switched off: {net.switched_off}", soft_wrap=True)


def _mean(rows: Sequence[dict[str, Any]], column: str, unit: float, digits: int) -> str:
    values = [float(row[column]) * unit for row in rows if row[column] != ""]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    if len(set(values)) == 1:
        return f"{mean:.{digits}f}"
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
