"""What does regrun cost beside training: to begin, to show its help, and for each job of a sweep?

    python scripts/bench/startup.py                               two to three minutes; --quick: half a minute
    python scripts/bench/startup.py --write docs/benchmarks.md

Commands run in processes of their own, in a folder that is removed after. Seconds are of the clock on the wall, and of
the processor for the process and its children: the second is what a neighbour on the machine changes little. A job's
overhead is what two sweeps of different length differ by, without the report and without the training.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from turns import machine, of, put, store

SMALL = ["epochs=1", "seeds=1", "data.train_size=100", "data.val_size=50", "batch_size=50", "progress=false"]
HELP, SMOKE, JOB = 0.7, 6.0, 0.15  # seconds on the wall that each may take
# A sweep as regrun runs it, without the report; at its end it says its seconds beyond training, by either clock.
SWEEP = """
import sys, time
from runner import cli, study, sweep
clocks = time.perf_counter, time.process_time
spent = [0.0, 0.0]
def apart(call):
    def inner(*arguments):
        began = [clock() for clock in clocks]
        try:
            return call(*arguments)
        finally:
            spent[:] = [s + clock() - b for s, clock, b in zip(spent, clocks, began)]
    return inner
train = study.train_across
study.train_across = apart(lambda *arguments: list(train(*arguments)))
sweep.report = lambda *arguments: 0
began = [clock() for clock in clocks]
cli.main()
print(*(clock() - b - s for s, clock, b in zip(spent, clocks, began)))
"""


class Spent(NamedTuple):
    """Seconds of a command."""

    wall: float
    processor: float


def command(arguments: list[str], folder: Path) -> tuple[Spent, str]:
    """What a command of Python's takes, and what it prints."""
    here = Path(__file__).resolve().parents[2]
    paths = [str(here), str(here / "runner" / "_plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    wall, after = time.monotonic() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def sweep(jobs: int, folder: Path) -> Spent:
    """Seconds of a sweep of so many jobs, and its baseline, without training and report."""
    rates = ",".join(f"{number / 1000:g}" for number in range(1, jobs + 1))
    arguments = ["-m", "method=l2", f"method.l2.rate={rates}", *SMALL, f"study={jobs}"]
    wall, processor = command(["-c", SWEEP, *arguments], folder)[1].split()[-2:]
    return Spent(float(wall), float(processor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few jobs and one turn: for seeing that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/startup.json"))
    asked = parser.parse_args()
    few, many, count = (2, 8, 1) if asked.quick else (5, 205, 5)
    about = machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = ["-m", "runner.cli"]
        commands = {
            "an empty Python program": (["-c", ""], None),
            "import torch": (["-c", "import torch"], None),
            "regrun --help": ([*run, "--help"], HELP),
            "regrun protocol=smoke": ([*run, "protocol=smoke", "progress=false"], SMOKE),
        }
        seen = {
            what: [command(arguments, folder)[0] for _ in range(count)] for what, (arguments, _) in commands.items()
        }
        rows = [
            (what, median(s.wall for s in seen[what]), median(s.processor for s in seen[what]), most)
            for what, (_, most) in commands.items()
        ]
        short, long = sweep(few, folder), sweep(many, folder)
        each = [(more - less) / (many - few) for less, more in zip(short, long, strict=True)]
        rows.append((f"a job of a sweep, of {many - few}, beyond its training", each[0], each[1], JOB))
    page = "\n".join(
        [
            of(about),
            "| | seconds on the wall | of the processor | may take |", "| --- | ---: | ---: | ---: |",
            *(f"| {what} | {wall:.2f} | {cpu:.2f} | {most or '–'} |" for what, wall, cpu, most in rows),
        ]
    )  # fmt: skip
    print(page)
    table = [dict(zip(("what", "wall_s", "processor_s", "may_take_s"), row, strict=True)) for row in rows]
    store(asked.out, {"machine": about, "table": table})
    if asked.write:
        put(asked.write, "startup", page)


if __name__ == "__main__":
    main()
