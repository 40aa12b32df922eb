"""Kill a study at random moments, start it again each time, and compare what it leaves with an undisturbed one.

python scripts/stress/kill.py            60 runs, killed 100 times, about 25 minutes on a shared core
python scripts/stress/kill.py --seeds 2 --methods l2 dropout --epochs 60 --kills 6

A moment is drawn in three steps: how much training is let go by, in which phase of the study the process is then to
die (phases.py tells which it is in), and how far into it. The phase that it died in is read afterwards, and counted.
A process that ends before its moment is no kill: another is begun, to die in the report, which every start makes.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phases import PHASES, named

METHODS = ("l2", "dropout", "ema", "batch_norm", "mixup", "early_stopping", "sam", "lookahead", "l1")
# What a second run of the same may change: times, and the pack and the process that a run trained in.
MOVING = ("train_s", "s_per_step", "peak_mem_mb", "started_at", "lanes", "threads")
SMALL = (
    "data=digits", "data.train_size=200", "data.val_size=100", "model.width=16", "model.depth=1", "batch_size=20",
    "evaluate.every=5", "checkpoint.minutes=0.002", "study=killed", "workers=1",
)  # fmt: skip

PHASED = Path(__file__).resolve().parent / "phases.py"
# Of a hundred kills, how many are to fall in which phase; the others come in the report, when all is trained.
ASKED = {"start": 10, "training": 30, "evaluation": 18, "checkpoint": 15, "writing": 12}
SHORT = ("evaluation", "checkpoint", "writing")  # phases that last for milliseconds and come again and again

Rows = dict[str, dict[str, str]]


def command(methods: Sequence[str], seeds: int, epochs: int) -> list[str]:
    """The study, as arguments of regrun."""
    return ["-m", f"method={','.join(methods)}", f"seeds={seeds}", f"epochs={epochs}", *SMALL]


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


def predictions(study: Path) -> dict[str, bytes]:
    """What each run says about the test examples, as it is on the disk."""
    return {path.stem: path.read_bytes() for path in study.glob("*/predictions/*.npz")}


@dataclass(frozen=True)
class Moment:
    """When a process is to die."""

    trained: float  # seconds that it has spent in training by then
    phase: str  # that it is to be in then; the report if that comes first
    share: float  # of that phase's usual length to let go by


@dataclass(frozen=True)
class Ended:
    """What became of a process."""

    phase: str  # that it died in; "" where it ended by itself
    said: str
    spent: Mapping[str, float]  # seconds in each phase
    visits: Mapping[str, int]  # how often each was come to


def run(arguments: Sequence[str], folder: Path, moment: Moment | None, usual: Mapping[str, float]) -> Ended:
    """The study in a folder, killed at a moment if it gets there; `usual` has the length of each phase in seconds."""
    spent, visits = dict.fromkeys(PHASES, 0.0), Counter[str]()
    heard, tells = os.pipe()
    with (folder / "said").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, PHASED, str(tells), *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True, pass_fds=[tells],
        )  # fmt: skip
    os.close(tells)
    phase, clock = PHASES[0], time.monotonic()
    left = _left(moment, phase, spent, usual)
    while left is None or select.select([heard], [], [], left)[0]:
        letters = os.read(heard, 1)
        now = time.monotonic()
        spent[phase], clock = spent[phase] + now - clock, now
        if not letters:
            break
        if moment and left is not None and phase in SHORT:  # it was over sooner than that
            moment = replace(moment, share=moment.share / 2)
        phase = named(letters.decode())
        visits[phase] += 1
        left = _left(moment, phase, spent, usual)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    rest = os.read(heard, 1000).decode()
    os.close(heard)
    text = (folder / "said").read_text("utf-8")
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"exit code {process.returncode}: {text}")
    died = named(rest[-1]) if rest else phase
    return Ended(died if process.returncode else "", text, spent, visits)


def _left(moment: Moment | None, phase: str, spent: Mapping[str, float], usual: Mapping[str, float]) -> float | None:
    """In how many seconds a process that has just come to a phase is to die; None if it must not in this phase."""
    if moment is None:
        return None
    if phase == "report" or (phase == "start" and moment.phase == "start"):
        return max(0.0, moment.share * usual[phase] - spent[phase])
    if moment.phase == "start":
        return 0.0  # it began sooner than usual
    if phase == "training" and moment.phase == "training":
        return max(0.0, moment.trained - spent[phase])
    begun = spent["training"] > 0 and spent["training"] >= moment.trained
    return moment.share * usual[phase] if phase == moment.phase and begun else None


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
    if predictions(study) != predictions(whole):
        return "the predictions are not the same"
    if not (study / "report" / "report.html").is_file():
        return "there is no report"
    left = [str(path) for pattern in (".*.part", "checkpoint-*", "ended.jsonl") for path in study.rglob(pattern)]
    return f"left behind: {', '.join(left)}" if left else ""


def moments(draw: random.Random, kills: int, training: float) -> list[Moment]:
    """The moments in order, so that all of the training is done when those of the report come."""
    phases = [phase for phase, share in ASKED.items() for _ in range(round(share * kills / 100))]
    draw.shuffle(phases)
    # Half of the training is left to those that wait for what is written at the end of a job.
    most = training / max(1, len(phases))
    found = [Moment(draw.uniform(0, most) * (phase != "writing"), phase, draw.random()) for phase in phases]
    return found + [Moment(0.0, "report", draw.random()) for _ in range(kills - len(found))]


def stress(folder: Path, arguments: Sequence[str], kills: int, seed: int) -> str:
    """Begin the study until it was killed `kills` times, let it end, and say what is different then; else nothing."""
    apart, together = folder / "apart", folder / "whole"
    for place in (apart, together):
        place.mkdir()
    undisturbed = run(arguments, together, None, {})
    spent, visits = undisturbed.spent, undisturbed.visits
    told = ", ".join(f"{phase} {spent[phase]:.1f} s" for phase in PHASES)
    print(f"undisturbed {sum(spent.values()):.0f} s: {told}", flush=True)
    usual = {**spent, **{phase: spent[phase] / max(1, visits[phase]) for phase in SHORT}}
    died: Counter[str] = Counter()
    starts = resumed = 0
    draw = random.Random(seed)
    ahead = moments(draw, kills, spent["training"])
    while died.total() < kills:
        if starts == 3 * kills:
            return f"{starts} starts, and only {died.total()} were killed"
        starts += 1
        ended = run(arguments, apart, ahead.pop(0) if ahead else Moment(0.0, "report", draw.random()), usual)
        died[ended.phase] += bool(ended.phase)
        usual["report"] = min(usual["report"], usual["report"] if ended.phase else ended.spent["report"])
        resumed += "goes on with" in ended.said
        print(f"{starts}: {f'killed in {ended.phase}' if ended.phase else 'ended before'}", flush=True)
    whole = run(arguments, apart, None, {})
    resumed += "goes on with" in whole.said
    fell = ", ".join(f"{phase} {died[phase]}" for phase in PHASES)
    print(f"killed {died.total()} times in {starts} starts: {fell}; {resumed} starts went on inside a training")
    if not resumed:
        return "no training went on where it was"
    return difference(apart / "outputs" / "killed", together / "outputs" / "killed")


def main() -> int:
    """0 if the killed study equals the other one, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, default=6)  # with the baseline ten jobs of six runs
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = stress(Path(folder), command(given.methods, given.seeds, given.epochs), given.kills, given.seed)
    print(said or "the same runs, each once, with the same figures")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
