"""A job: one stack on one data set and model, with all its runs; and how it spends its seeds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.experiment import Experiment
from runner.grid import Run, runs
from runner.search import Space


@dataclass(frozen=True)
class Protocol:
    """How seeds are spent."""

    name: str  # one of PROTOCOLS
    tune_seeds: int  # seeds that choose a strength; 0 where nothing is chosen
    trials: int  # points that a search draws for each stack; 0 where they are not drawn
    batch: int  # points that are asked for at a time, by the figures of those before; 0 where all are drawn at once
    alternatives: Sequence[Sequence[str]]  # methods of which a search takes one at most
    requires: Mapping[str, str]  # methods that a search takes together with another
    select: str  # the validation figure that chooses: val_acc or val_loss


@dataclass(frozen=True)
class Job:
    """One stack on one data set and model, with all its runs."""

    settings: Mapping[str, Any]  # the resolved configuration, without what changes no number
    study: str | None
    out: Path
    progress: bool
    predictions: bool  # whether what each run says about each test example is kept
    lanes_per_job: int | None  # the most runs that one process of a sweep trains; None: all of the job
    share: int | None  # which so many runs this process trains, from 0 on; None: all
    threads: int | None  # None: as many as the work is worth
    workers: int | None  # processes; None: as many as the work is worth
    keep_every: float | None  # seconds between two checkpoints of the training; None: at signals only
    trackers: Sequence[str]  # that its records are shown in, too
    dataset: str
    model: str
    setting: str  # the axes of the sweep other than methods, "optimizer.lr=0.01"; usually empty
    protocol: Protocol
    margins: Mapping[str, float]  # differences that count as none, by metric
    method: str  # the stack in one word: "dropout+l2", or "none"
    experiment: Experiment
    one_by_one: str | None  # why its runs cannot be trained side by side, if they cannot
    marks: bool  # whether to show where the model's marks are, and train nothing
    points: Sequence[Mapping[str, float]]  # the configurations of the job; where they are asked for, the first of them
    space: Space | None  # what the others are asked from
    seeds: Sequence[int]  # of the runs to report
    tune_seeds: Sequence[int]
    extend: int  # report seeds to add to every configuration of a study that is there

    @property
    def name(self) -> str:
        """The job's folder: readable, and different for any two jobs whose numbers may differ."""
        return f"{self.method}-{self.digest}"

    @property
    def digest(self) -> str:
        """What tells the job from others of the same methods in the same order, whatever it is called."""
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells the job from all others, whatever it is called."""
        return (self.digest, *self.settings["method"])

    @property
    def shares(self) -> Sequence[int]:
        """Into how many shares each stage of the job is split; nothing if one process trains it all."""
        if self.lanes_per_job is None:
            return ()
        stages = [self.tuning(), self.reporting(0 if self.tunes else None)]
        counts = [math.ceil(len(stage) / self.lanes_per_job) for stage in stages if stage]
        return counts if max(counts) > 1 else ()

    def mine(self, stage: Sequence[Run]) -> Sequence[Run]:
        """The runs of a stage that are this process's to train."""
        if self.share is None or self.lanes_per_job is None:
            return stage
        return stage[self.share * self.lanes_per_job : (self.share + 1) * self.lanes_per_job]

    @property
    def tunes(self) -> bool:
        """Whether a strength is to be chosen."""
        return bool(self.tune_seeds) and len(self.points) > 1

    def tuning(self) -> list[Run]:
        """The runs that choose a strength; none where there is nothing to choose."""
        return runs(self.points, self.tune_seeds, "tune") if self.tunes else []

    def reporting(self, chosen: int | None) -> list[Run]:
        """The runs to report: of the chosen point, or of every point if none was chosen."""
        return [run for run in runs(self.points, self.seeds, "report") if chosen in (None, run.index)]
