"""What is tried before a job begins, on a few examples: whether its runs can train at all, and side by side."""

from __future__ import annotations

import warnings
from dataclasses import replace

from runner.engine.evaluate import evaluate
from runner.engine.pack import begin, few_steps
from runner.experiment import Experiment
from runner.grid import Run


def rehearse(experiment: Experiment, run: Run) -> None:
    """Take the first step of a run on a small batch and forget it: what would be refused in training is refused now."""
    few_steps(*begin(_small(experiment, run, 16, 1), [run]), 1)


def unmappable(experiment: Experiment, run: Run) -> str | None:
    """Why runs cannot be trained in one pass, in a line; None if they can.

    Found by trying: the first step of two lanes, and an evaluation, on a few examples. An operation that torch can only
    map by a loop of its own counts as one that it cannot map.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="There is a performance drop")
            pack, lanes = begin(_small(experiment, run, 4, 2), [run, run])
            lanes = few_steps(pack, lanes, 1)
            few = {"train": lanes.rows["train"][:, :4]}
            evaluate(pack.examiner, pack.kept(lanes, 1), pack.pool(lanes), few)
    except Exception as error:  # whatever a foreign net raises; that the run works alone is known
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return said if len(said) <= 200 else f"{said[:199]}…"
    return None


def _small(experiment: Experiment, run: Run, examples: int, lanes: int) -> Experiment:
    """The experiment with a small batch, at the strengths of a run that shape the net.

    On its own device, since what a GPU maps, differentiates or repeats bit for bit is not what a CPU does.
    """
    budget = replace(experiment.budget, batch_size=min(experiment.budget.batch_size, examples))
    return replace(experiment.shaped(run.point), budget=budget, lanes=lanes)
