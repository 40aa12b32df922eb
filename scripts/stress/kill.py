"""Kill a study at random moments, start it again each time, and compare what it leaves with an undisturbed one.

python scripts/stress/kill.py            60 runs, about ten minutes on two cores
python scripts/stress/kill.py --seeds 2 --methods l2 dropout --kills 6
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

METHODS = ("l2", "dropout", "ema", "batch_norm", "mixup", "early_stopping", "sam", "lookahead", "l1")
# What a second run of the same may change: times, and the pack and the process that a run trained in.
MOVING = ("train_s", "s_per_step", "peak_mem_mb", "started_at", "lanes", "threads")
SMALL = (
    "data=digits", "data.train_size=200", "data.val_size=100", "model.width=16", "model.depth=1", "batch_size=20",
    "checkpoint.minutes=0.002", "study=killed", "workers=1",
)  # fmt: skip

Rows = dict[str, dict[str, str]]


def command(methods: Sequence[str], seeds: int, epochs: int, *more: str) -> list[str]:
    """The study, as a command of this very Python."""
    study = (f"method={','.join(methods)}", f"seeds={seeds}", f"epochs={epochs}", *SMALL, *more)
    return [sys.executable, "-m", "runner.cli", "-m", *study]


def rows(study: Path) -> Rows:
    """The figures of every run of a study, by run_id; raises ValueError for a run that is there twice."""
    found: Rows = {}
    for path in sorted(study.glob("*/runs.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["run_id"] in found:
                    raise ValueError(f"{path} has run {row['run_id']} twice")
                found[row["run_id"]] = {name: value for name, value in row.items() if name not in MOVING}
    return found


def curves(study: Path) -> dict[str, list[str]]:
    """The lines of curves.csv of each job, in order."""
    return {path.parent.name: path.read_text("utf-8").splitlines() for path in sorted(study.glob("*/curves.csv"))}


def killed(arguments: Sequence[str], folder: Path, after: float, sight: bool = False) -> tuple[bool, str]:
    """Start a command in a folder and kill it and its children; whether it was still there, and what it said.

    It is killed so many seconds after it began, or after it has written a checkpoint if `sight` says so.
    """
    before = {path: path.read_bytes() for path in folder.rglob("checkpoint-*")}
    process = subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while sight and process.poll() is None and all(path in before for path in folder.rglob("checkpoint-*")):
        time.sleep(0.02)
    try:
        _, said = process.communicate(timeout=after)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {said}")
        return False, said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return True, process.communicate()[1]


def difference(study: Path, whole: Path) -> str:
    """The first difference between two studies' figures and curves, in a line; nothing where they are the same."""
    mine, theirs = rows(study), rows(whole)
    if mine.keys() != theirs.keys():
        return f"runs {sorted(mine.keys() ^ theirs.keys())} are in one of them only"
    for run, row in mine.items():
        apart = [name for name in row if row[name] != theirs[run][name]]
        if apart:
            return f"run {run} ({row['method']}): {apart[0]} is {row[apart[0]]} and was {theirs[run][apart[0]]}"
    if curves(study) != curves(whole):
        return "the curves are not the same"
    left = [str(path) for pattern in (".*.part", "checkpoint-*", "ended.jsonl") for path in study.rglob(pattern)]
    return f"left behind: {', '.join(left)}" if left else ""


def stress(folder: Path, arguments: Sequence[str], kills: int, seed: int) -> str:
    """Kill the study `kills` times, let it end, and say what is different then; nothing where all is well."""
    draw = random.Random(seed)
    apart, together = folder / "apart", folder / "whole"
    for place in (apart, together):
        place.mkdir()
    clock = time.monotonic()
    killed(arguments, together, 3600)
    full = time.monotonic() - clock
    done, resumed = 0, 0
    for number in range(kills):  # every other one in a training, the others anywhere: start, evaluation, report
        inside = number % 2 == 0
        after = draw.uniform(0, 1) if inside else draw.uniform(0.05 * full, full)
        alive, said = killed(arguments, apart, after, sight=inside)
        done += alive
        resumed += "goes on with" in said
    killed(arguments, apart, 3600)
    print(f"undisturbed {full:.0f} s; killed {done} times of {kills}, went on inside a training {resumed} times")
    if not resumed:
        return "no training went on where it was"
    return difference(apart / "outputs" / "killed", together / "outputs" / "killed")


def main() -> int:
    """0 if the killed study equals the other one, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=6)  # with the baseline ten jobs of six runs
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = stress(Path(folder), command(given.methods, given.seeds, given.epochs), given.kills, given.seed)
    print(said or "the same runs, each once, with the same figures")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
