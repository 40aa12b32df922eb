"""How fast is regrun's step, side by side with a plain PyTorch loop of the same net, batch and optimizer?

    make bench                                             under three minutes; --quick: under half a minute
    python scripts/bench/run.py --write docs/benchmarks.md

What is compared takes turns in one process and on one thread, epoch after epoch, and a ratio is taken within each turn.
The clock counts the processor's time for this process, so that a neighbour on the machine costs little. Threads are
compared by the clock on the wall, in processes of their own, which also take turns. Data are random numbers of
MNIST-1D's size: 4,000 examples of 40 values in 10 classes, batches of 100, 40 steps an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import Row, Train, machine, of, put, row, table, turns

from runner.data.base import Data, Splitter
from runner.engine.optimizers import SGD, Adam, Optimizer
from runner.engine.pack import begin, few_steps
from runner.engine.packing import multiplied
from runner.engine.schedules import Constant
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.stack import Stack
from runner.nets.dense import mlp

EXAMPLES, BATCH = 4000, 100
PACKS = (1, 2, 5, 15, 50)
TARGET = 1.2  # times a plain loop, for one run of a net that is not tiny
TORCH: dict[str, tuple[Optimizer, Callable[[Iterable[Tensor]], torch.optim.Optimizer]]] = {
    "SGD, momentum 0.9": (SGD(0.05, 0.9, False), lambda w: torch.optim.SGD(w, 0.05, momentum=0.9)),
    "Adam": (Adam(0.001, 0.9, 0.999, 1e-8), lambda w: torch.optim.Adam(w, 0.001)),
}


def data() -> Data:
    """Random numbers of MNIST-1D's size, always the same."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES + 1000, 1, 40, generator=source)
    y = torch.randint(10, (len(x),), generator=source)
    return Data("random", "signal", x, y, 10, torch.arange(EXAMPLES, len(x)))


def ours(optimizer: Optimizer, width: int, depth: int, lanes: int) -> Train:
    """regrun's own loop of `lanes` runs of one net, side by side; a run alone is not mapped."""
    splitter = Splitter(None, 0, None, "none", 0, standardize=False)
    budget = Budget(epochs=10, batch_size=BATCH, evaluate_every=10)
    experiment = Experiment(
        data(), splitter, partial(mlp, (1, 40), 10, width, depth), Stack({}), optimizer, Constant(), budget,
        torch.device("cpu"), torch.float32, lanes, onednn=None,
    )  # fmt: skip
    return partial(few_steps, *begin(multiplied(experiment), [Run(seed, "report", {}, 0) for seed in range(lanes)]))


def plain(make: Callable[[Iterable[Tensor]], torch.optim.Optimizer], width: int, depth: int) -> Train:
    """The loop that one would write by hand, with the data in memory and no loader."""
    net = mlp((1, 40), 10, width, depth)
    optimizer = make(net.parameters())
    x, y = data().x[:EXAMPLES], data().y[:EXAMPLES]

    def train(steps: int) -> None:
        order = torch.randperm(EXAMPLES)
        for i in range(steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()

    return train


def one_run(count: int) -> list[Row]:
    """A run alone against the plain loop: the net of the target, and the default one, where overhead weighs most."""
    rows = []
    for width, depth in ((512, 3), (100, 2)):
        for name, (optimizer, make) in TORCH.items():
            seen = turns({"ours": ours(optimizer, width, depth, 1), "plain": plain(make, width, depth)}, count)
            what = f"{depth} x {width}, {name}"
            rows += [row(f"{what}: plain", seen["plain"], seen["plain"]), row(what, seen["ours"], seen["plain"])]
    return rows


def packs(count: int) -> list[Row]:
    """What a run costs in a pack of runs, against plain loops one after another."""
    optimizer, make = TORCH["Adam"]
    contenders = {str(lanes): ours(optimizer, 100, 2, lanes) for lanes in PACKS} | {"plain": plain(make, 100, 2)}
    seen = turns(contenders, count)
    shares = {lanes: [cost / lanes for cost in seen[str(lanes)]] for lanes in PACKS}
    return [row(f"{lanes} in a pack", share, seen["plain"]) for lanes, share in shares.items()]


THREADED: dict[str, tuple[int, int, int]] = {  # width, depth, lanes
    "2 x 100, a run alone": (100, 2, 1),
    "2 x 100, 15 in a pack": (100, 2, 15),
    "3 x 512, a run alone": (512, 3, 1),
}


BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"  # ends with the process that began it
KINDS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    "two threads": (2, {}),
    "two that sleep while they wait": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
}


def threads(count: int) -> list[Row]:
    """Two threads against one, on the machine as it is and beside a process that keeps one core busy."""
    rows = []
    for neighbour in (False, True):
        seen: dict[str, dict[str, list[float]]] = {what: {kind: [] for kind in KINDS} for what in THREADED}
        busy = subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())]) if neighbour else None
        try:
            for _ in range(count):
                for kind, (number, setting) in KINDS.items():
                    command = [sys.executable, __file__, "--threads", str(number)]
                    told = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, check=True)
                    for what, cost in json.loads(told.stdout).items():
                        seen[what][kind].append(cost)
        finally:
            if busy:
                busy.kill()
        where = "beside a busy core" if neighbour else "as the machine is"
        one = next(iter(KINDS))
        rows += [row(f"{w}, {where}: {kind}", seen[w][kind], seen[w][one]) for w in THREADED for kind in KINDS]
    return rows


def threaded(number: int) -> dict[str, float]:
    """In a process of its own: milliseconds per step and run with this many threads, in few steps: some take long."""
    torch.set_num_threads(number)
    seen = turns({what: ours(TORCH["Adam"][0], *net) for what, net in THREADED.items()}, 2, 10, time.perf_counter)
    return {what: median(costs) / THREADED[what][2] for what, costs in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few turns only: for seeing that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the markers of this page")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/bench.json"))
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # the processes that compare threads
    asked = parser.parse_args()
    if asked.threads:
        print(json.dumps(threaded(asked.threads)))
        return

    torch.set_num_threads(1)  # as regrun does for nets this small; the third table says why
    clock, about = time.monotonic(), machine()
    tables = {
        "One run": ("plain loop", one_run(3 if asked.quick else 15)),
        "Runs in a pack": ("plain loop", packs(2 if asked.quick else 9)),
        "Two threads against one": ("one thread", [] if asked.quick else threads(2)),
    }
    about["seconds"] = f"{time.monotonic() - clock:.0f}"
    page = "\n\n".join(
        [
            of(about).rstrip(),
            *(f"### {title}\n\n{table(*told)}" for title, told in tables.items() if told[1]),
        ]
    )
    print(page)
    stored = {title: [vars(r) for r in rows] for title, (_, rows) in tables.items()}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"machine": about, "tables": stored}, indent=1) + "\n", encoding="utf-8")
    if asked.write:
        put(asked.write, "bench", page)


if __name__ == "__main__":
    main()
