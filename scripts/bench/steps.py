"""What does a step cost as it is written, gone through again and compiled, and what share of a study is evaluation?

    python scripts/bench/steps.py                              about ten minutes; --quick: one of them
    python scripts/bench/steps.py --write docs/benchmarks.md

The default mlp on MNIST-1D (4,000 training examples, batches of 100, Adam), 11 and 33 runs side by side. Four ways to
take the same steps take turns in one process on one thread, an epoch's forty at a time: the step as it is written,
mapped and differentiated anew each time; its operations gone through again (`runner.engine.tape`), each result in
memory of its own; the same as regrun does it with `compile=off`, a result being written over what nothing reads any
more (`runner.engine.reuse`); and the operations through torch's compiler, as with `compile=on`. Milliseconds are the
processor's, for a step of one run, and ratios are taken within turns. Predicted was that going through a step again
saves a tenth of it, and that the compiler leaves three tenths of what is no matrix product. Seconds to compile, told
below the table, are by the clock on the wall and from an empty cache, with the three steps that a compiled one is
compared with.

The second table is of a default study, 15 runs for 60 epochs with an evaluation after each, its steps gone through
again: the processor's seconds for all of it, set-up too, and what share of them is evaluation, between an epoch's last
step and the word that the epoch is over. What follows the last epoch, where test examples are read, stands apart. A
quarter of a study was the aim.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from turns import Row, Train, lined, machine, of, put, row, store, table, turns

from runner.config import read
from runner.engine import tape
from runner.engine.checkpoint import Keeper
from runner.engine.loop import Progress, compiled, train
from runner.engine.pack import PackStep, begin, few_steps, noted
from runner.engine.packing import multiplied
from runner.engine.tape import PLAIN, Taped
from runner.job import Job
from runner.paths import conf_dir

STACKS = ("none", "dropout", "batch_norm", "mixup", "[mixup,dropout,sam,l2]")
PACKS = (11, 33)
EVALUATED = STACKS[:3]
RUNS, EPOCHS = 15, 60  # of a default study


def job(stack: str, runs: int, epochs: int = EPOCHS) -> Job:
    """The default study of a stack, in so many runs."""
    overrides = [f"method={stack}", "model=mlp", "data=mnist1d", f"seeds={runs}", f"epochs={epochs}", "out=nowhere"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return read(compose("config", overrides), overrides)


def ways(stack: str, lanes: int) -> tuple[dict[str, Train], float]:
    """The ways to take the steps of a pack, and the seconds that it took to compile them."""
    asked = job(stack, lanes)
    experiment = multiplied(replace(asked.experiment, lanes=lanes))
    runs = asked.reporting(None)
    pack, first = begin(experiment, runs)
    written, _ = noted(pack, first, 1)
    clock = time.perf_counter()
    fused = compiled(pack, first, print)
    seconds = time.perf_counter() - clock
    apart = Taped(written)
    with patch.object(tape, "in_place", lambda graph: graph):
        few_steps(replace(pack, step=apart), first, PLAIN + 3)  # its operations are written down here, and compared
    own = "gone through again, memory of its own"
    steps: dict[str, PackStep] = {"as written": written, own: apart, "gone through again": pack.step}
    steps |= {"compiled": fused} if fused else {}
    return {way: partial(few_steps, replace(pack, step=step), first) for way, step in steps.items()}, seconds


def steps(stacks: Sequence[str], packs: Sequence[int], count: int) -> tuple[list[Row], dict[str, list[float]]]:
    """A row for each way to take the steps of each stack and pack, and by stack the seconds to compile its packs."""
    rows, to_compile = [], {}
    for stack in stacks:
        to_compile[stack] = [0.0] * len(packs)
        for number, lanes in enumerate(packs):
            contenders, to_compile[stack][number] = ways(stack, lanes)
            seen = turns(contenders, count)
            each = {way: [ms / lanes for ms in costs] for way, costs in seen.items()}
            rows += [row(f"{stack}, {lanes} runs: {way}", ms, each["as written"]) for way, ms in each.items()]
    return rows, to_compile


class Watched(Keeper):
    """Takes the processor's time from the last step of an epoch to the end of what follows it."""

    def __init__(self) -> None:
        """Before the first epoch."""
        self.after: list[float] = []  # seconds, epoch by epoch
        self._stepped = 0.0

    def due(self) -> bool:
        """Asked after every step."""
        self._stepped = time.process_time()
        return False

    def over(self, progress: Progress) -> None:
        """Told when an epoch is over."""
        self.after.append(time.process_time() - self._stepped)


def study(stack: str, epochs: int) -> tuple[float, float, float]:
    """The processor's seconds for a study, for its evaluations, and for what follows the last epoch."""
    asked, watched = job(stack, RUNS, epochs), Watched()
    experiment = multiplied(replace(asked.experiment, lanes=RUNS))
    began = time.process_time()
    for _ in train(experiment, asked.reporting(None), watched.over, watched):
        pass
    return time.process_time() - began, sum(watched.after[:-1]), watched.after[-1]


def evaluation(stacks: Sequence[str], epochs: int, count: int) -> list[dict[str, object]]:
    """A line for each stack: its study's seconds, and the shares of evaluation, medians over turns."""
    seen: dict[str, list[tuple[float, float, float]]] = {stack: [] for stack in stacks}
    for _ in range(count):
        for stack in stacks:
            seen[stack].append(study(stack, epochs))
    return [
        {
            f"{RUNS} runs, {epochs} epochs": stack,
            "processor seconds": f"{median(whole for whole, _, _ in costs):.1f}",
            "% evaluation after each epoch": shares([each / whole for whole, each, _ in costs]),
            "% after the last": shares([end / whole for whole, _, end in costs]),
            "turns": count,
        }
        for stack, costs in seen.items()
    ]


def shares(of_all: Sequence[float]) -> str:
    """The median of some shares in percent, and the least and the largest."""
    percent = [100 * share for share in of_all]
    return f"{median(percent):.1f} ({min(percent):.1f} to {max(percent):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of a few only: for seeing that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the markers of this page")
    asked = parser.parse_args()
    about, clock = machine(), time.monotonic()
    torch.set_num_threads(1)
    packs = PACKS[:1] if asked.quick else PACKS
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nothing is compiled yet
        rows, to_compile = steps(STACKS[1:3] if asked.quick else STACKS, packs, 1 if asked.quick else 5)
    lines = evaluation(EVALUATED, 3 if asked.quick else EPOCHS, 1 if asked.quick else 3)
    about["seconds"] = f"{time.monotonic() - clock:.0f}"
    told = "; ".join(f"{stack} {', '.join(f'{s:.0f}' for s in seconds)}" for stack, seconds in to_compile.items())
    below = textwrap.fill(
        f"Seconds to compile, for {' and '.join(map(str, packs))} runs: {told}. The first finds out, too, what the "
        "processor can do, and what comes later finds some of it done.",
        120,
    )
    page = "\n".join([of(about), table("the step as written", rows), "", below, "", lined(lines)])
    print(page)
    stored = {"machine": about, "rows": [asdict(one) for one in rows], "to_compile_s": to_compile, "studies": lines}
    store(Path("outputs/bench/steps.json"), stored)
    if asked.write:
        put(asked.write, "steps", page)


if __name__ == "__main__":
    main()
