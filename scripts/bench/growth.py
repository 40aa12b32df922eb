"""How does what regrun costs grow: with runs side by side, rows of data, methods in a stack, runs in a report?

    python scripts/bench/growth.py                              ten minutes; --quick: small sizes only, under a minute
    python scripts/bench/growth.py --write docs/benchmarks.md --figures docs/figures

Seconds are of the processor, on one thread, the least of a few turns. The power is that of the size with which the cost
grows between a size and the one before it: 1 is in proportion, and less is cheaper by the piece.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from turns import machine, of, put, store

from runner.data.base import Data, Splitter
from runner.engine.evaluate import evaluate
from runner.engine.optimizers import Adam
from runner.engine.pack import begin, few_steps
from runner.engine.packing import multiplied
from runner.engine.schedules import Constant
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.dropping import Dropout
from runner.methods.penalties import L2
from runner.methods.stack import Stack
from runner.nets.dense import mlp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from report_data import Plan, write_study

BATCH, TURNS = 100, 3
MOST = 1.1  # the power above which a cost counts as growing faster than in proportion


@dataclass(frozen=True)
class Axis:
    """One way to grow."""

    name: str
    what: str  # the size, in words
    cost: str  # what is counted, in words
    sizes: Sequence[int]
    quick: Sequence[int]
    measure: Callable[[int], Callable[[], object]]  # a size -> what to time
    per: float = 1.0  # seconds are divided by it

    def seconds(self, size: int) -> float:
        """The least processor time of a few turns, after one that sets things up; of one where it is long."""
        call = self.measure(size)
        seen: list[float] = []
        while len(seen) < TURNS + 1:
            began = time.process_time()
            call()
            seen.append(time.process_time() - began)
            if seen[-1] > 5:
                break
        return min(seen[1:] or seen) / self.per


def experiment(rows: int, stack: Stack, lanes: int) -> Experiment:
    """The default net on random signals, so many of them to train on."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(rows + 1000, 1, 40, generator=source)
    y = torch.randint(10, (len(x),), generator=source)
    data = Data("random", "signal", x, y, 10, torch.arange(rows, len(x)))
    made = Experiment(
        data, Splitter(None, 0, None, "train_val", 0, standardize=True), partial(mlp, (1, 40), 10, 100, 2), stack,
        Adam(0.001, 0.9, 0.999, 1e-8), Constant(), Budget(10, BATCH, 10), torch.device("cpu"), torch.float32, lanes,
        onednn=None,
    )  # fmt: skip
    return multiplied(made)


def runs(count: int) -> list[Run]:
    return [Run(seed, "report", {}, 0) for seed in range(count)]


def lanes(count: int) -> Callable[[], object]:
    """Ten steps of so many runs side by side."""
    return partial(few_steps, *begin(experiment(4000, Stack({}), count), runs(count)), 10)


def rows(count: int) -> Callable[[], object]:
    """To split and standardize so many rows, take one step of two runs (which orders them all), and evaluate them."""
    trial = experiment(count, Stack({}), 2)

    def call() -> object:
        pack, started = begin(trial, runs(2))
        after = few_steps(pack, started, 1)
        part = {"train": after.rows["train"]}
        return evaluate(pack.examiner, after.state.params, pack.pool(after), part)

    return call


def methods(count: int) -> Callable[[], object]:
    """Ten steps of five runs with so many methods, penalties and droppings in turn."""
    each = [(f"m{i}", Dropout(0.1, 0.0) if i % 2 else L2(1e-4, False)) for i in range(count)]
    return partial(few_steps, *begin(experiment(4000, Stack(dict(each)), 5), runs(5)), 10)


def report(count: int) -> Callable[[], object]:
    """The report of so many runs: ten methods, and as many seeds as that takes."""
    from runner.report.build import build

    place = Path(tempfile.mkdtemp())
    names = ("l2", "l1", "dropout", "mixup", "placebo", "sam", "ema", "cutout", "noise")
    plan = Plan(methods=names, tune=0, report=count // 10, strengths=(0.01,), protocol="fixed", epochs=5)
    write_study(place, plan)
    return partial(build, place)


AXES = (
    Axis("lanes", "runs side by side", "ms a step", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 8, 64), lanes, 0.01),
    Axis("rows", "training rows", "s to begin and evaluate", (1000, 10_000, 100_000, 1_000_000), (1000, 10_000), rows),
    Axis("methods", "methods in a stack", "ms a step of five runs", (1, 2, 5, 10, 20), (1, 5), methods, 0.01),
    Axis("runs", "runs in a report", "s to make it", (10, 100, 1000, 10_000), (20, 100), report),
)


def drawn(axis: Axis, sizes: Sequence[int], costs: Sequence[float]) -> Figure:
    """The cost over the size, both on logarithmic axes, and a line of what grows in proportion."""
    figure = Figure(figsize=(3.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog(sizes, costs, "o-", color="#0072B2", label="measured")
    axes.loglog(sizes, [costs[-1] * size / sizes[-1] for size in sizes], ":", color="#666666", label="in proportion")
    axes.set(xlabel=axis.what, ylabel=axis.cost)
    for ruled in (axes.xaxis, axes.yaxis):
        low, high = ruled.get_view_interval()
        ruled.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0)))
        ruled.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
        ruled.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only: for seeing that it works")
    parser.add_argument("--only", choices=[axis.name for axis in AXES], help="one way to grow only")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw a figure for each way to grow")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/growth.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    mpl.rcParams |= {"svg.hashsalt": "regrun", "svg.fonttype": "none", "font.size": 8}
    about = machine()
    lines = ["| | size | cost | power |", "| --- | ---: | ---: | ---: |"]
    table: dict[str, list[dict[str, float]]] = {}
    steep = []
    for axis in AXES:
        if asked.only not in (None, axis.name):
            continue
        sizes = axis.quick if asked.quick else axis.sizes
        costs = [axis.seconds(size) for size in sizes]
        powers = [math.nan] + [
            math.log(costs[i] / costs[i - 1]) / math.log(sizes[i] / sizes[i - 1]) for i in range(1, len(sizes))
        ]
        table[axis.name] = [{"size": s, "cost": c, "power": p} for s, c, p in zip(sizes, costs, powers, strict=True)]
        for size, cost, power in zip(sizes, costs, powers, strict=True):
            told = "" if math.isnan(power) else f"{power:.2f}"
            lines.append(f"| {axis.what}: {axis.cost} | {size:,} | {cost:.3g} | {told} |")
        if powers[-1] > MOST:
            steep.append(f"{axis.what}: power {powers[-1]:.2f}")
        if asked.figures:
            figure = drawn(axis, sizes, costs)
            asked.figures.mkdir(parents=True, exist_ok=True)
            figure.savefig(asked.figures / f"growth_{axis.name}.svg", metadata={"Date": None})
            figure.savefig(asked.figures / f"growth_{axis.name}.png", dpi=150, metadata={"Software": None})
    page = "\n".join([of(about), *lines])
    print(page)
    store(asked.out, {"machine": about, "table": table})
    if asked.write:
        put(asked.write, "growth", page)
    if steep:
        sys.exit(f"grows faster than in proportion: {'; '.join(steep)}")


if __name__ == "__main__":
    main()
