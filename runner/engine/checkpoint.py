"""The state of a job's running packs, so that a training that was cut off goes on to the same numbers.

A checkpoint has the weights, the optimizer's moments, the methods' memory, the best weights, the curves and the seconds
of every run that has begun and not ended. All else (the sets, the order, the noise) is a function of the run's seed.
Each process that trains keeps two, `checkpoint-<process>-1` and `-2`, and replaces the older one each time:

    regrun checkpoint 1
    <number, one more each time> <sha256 of what follows>
    <torch.save, read back with weights_only=True: tensors, numbers and texts, and no code>

Of all that are whole, each run goes on from where it is farthest; neither clocks nor times of change are asked.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from runner.engine.step import State
from runner.files import write_atomic
from runner.grid import Run
from runner.methods.base import Params

HEAD = b"regrun checkpoint 1"
NAME = "checkpoint-{process}-{which}"
# what a file that was cut off, or changed, makes of being read
DAMAGED = pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, EOFError
SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # of which the last is a warning: training goes on
ASKED_FOR = "SIGUSR2"  # taken only from whoever has a handler for it: submitit, before a job of Slurm ends
Name: TypeAlias = tuple[str, int, tuple[tuple[str, float], ...]]  # of a run: see runner.grid.Run


class Point(NamedTuple):
    """One evaluation on the way: clean train and validation figures after `epoch` epochs."""

    epoch: int
    step: int
    figures: Mapping[str, float]  # train_loss, train_acc, val_loss, val_acc; of a regression r2 for acc


class Kept(NamedTuple):
    """What of the lanes of a pack no seed can bring back; every leaf has a leading [K]."""

    state: State
    finite: Tensor
    curve: Tensor
    best: Params
    best_epoch: Tensor


@dataclass(frozen=True)
class Part:
    """The runs of a pack that have not ended, part of the way."""

    names: Sequence[Name]  # [K]
    began: int  # how many runs the pack began with
    epoch: int  # whole epochs trained
    step: int  # steps of the next epoch taken
    kept: Kept
    curves: Sequence[Sequence[Point]]  # [K]
    seconds: Sequence[float]  # [K] of training

    def of(self, names: Sequence[Name]) -> Part:
        """The part with these of its runs only, in its own order."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        index = torch.tensor(rows, dtype=torch.int64)
        return replace(
            self,
            names=[self.names[row] for row in rows],
            kept=tree_map(lambda leaf: leaf[index.to(leaf.device)], self.kept),
            curves=[self.curves[row] for row in rows],
            seconds=[self.seconds[row] for row in rows],
        )

    def among(self, runs: Sequence[Run]) -> list[Run]:
        """Its runs, in its own order, of those given."""
        named = {run.name: run for run in runs}
        return [named[name] for name in self.names if name in named]


class Stopped(KeyboardInterrupt):
    """The signal `number` ended the training, whose state is kept."""

    def __init__(self, number: int) -> None:
        """`number` is the system's, as in signal.SIGTERM."""
        super().__init__(signal.Signals(number).name)
        self.number = number


class Keeper:
    """Keeps nothing; what `runner.engine.loop` asks of one that does."""

    found: Sequence[Part] = ()  # what an earlier training left

    def due(self) -> bool:
        """Whether to keep the state now; asked after every step."""
        return False

    def keep(self, parts: Sequence[Part]) -> None:
        """Keep these parts in place of all that were kept before."""

    def check(self) -> None:
        """Raise Stopped if a signal has asked for that."""

    def say(self, line: str) -> None:
        """Tell the user."""

    def share(self, process: int) -> None:
        """Be the keeper of one of several processes, in that process."""

    def also_tell(self, process: int) -> None:
        """Hand signals on to a process with this id, too."""


class Checkpoints(Keeper):
    """Keeps the state of one job in its folder, every `seconds` (None: never) and when a signal asks for it."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], seconds: float | None, say: Callable[[str], None]
    ) -> None:
        """`about` is what the numbers depend on besides the job, such as versions: with another they begin again."""
        self.folder, self.seconds, self._say = folder, seconds, say
        self.about = {key: str(value) for key, value in about.items()}  # torch's version is a class of its own
        self._asked: int | None = None  # the signal
        self._goes_on: set[int] = set()  # signals after which training goes on
        self._told: list[int] = []
        self._process = 0
        self._since = time.monotonic()
        self._number, self.found = self._read()

    def share(self, process: int) -> None:
        """Be the keeper of one of several processes, in that process: its checkpoints have names of their own."""
        self._process, self._told = process, []

    def also_tell(self, process: int) -> None:
        """Hand signals on to a process with this id, too."""
        self._told.append(process)

    def due(self) -> bool:
        """Whether so much time has passed, or a signal has come."""
        late = self.seconds is not None and time.monotonic() - self._since >= self.seconds
        return late or self._asked is not None

    def keep(self, parts: Sequence[Part]) -> None:
        """Write the parts in place of the older of the two checkpoints; raises Stopped if a signal asks for that."""
        content = {"about": self.about, "parts": [_plain(part) for part in parts]}
        payload = io.BytesIO()
        torch.save(content, payload)
        raw = payload.getvalue()
        self._number += 1
        head = b"%s\n%d %s\n" % (HEAD, self._number, hashlib.sha256(raw).hexdigest().encode())
        write_atomic(self.folder / NAME.format(process=self._process, which=self._number % 2 + 1), head + raw)
        self._since = time.monotonic()
        asked, self._asked = self._asked, None
        if asked is not None:
            self._leave(asked)

    def say(self, line: str) -> None:
        """Tell the user."""
        self._say(line)

    def clear(self) -> None:
        """Remove all, once the records hold what they were kept for."""
        for path in kept_in(self.folder):
            path.unlink(missing_ok=True)
        self.found = ()

    def check(self) -> None:
        """Raise Stopped if a signal came when nothing was left to keep."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self._leave(asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs; a second Ctrl-C ends the process at once, with nothing kept.

        A launcher that has taken signals before keeps its say. SIGTERM is then a warning too: Slurm sends it first to a
        job that must give way, and queues it again only if it did not end by itself. After SIGUSR2 the state is kept,
        the training stops, and the launcher's own handler is called, which queues the job again.
        """
        if threading.current_thread() is not threading.main_thread():  # only there can Python take signals
            yield
            return
        home = os.getpid()

        def take(number: int, frame: FrameType | None) -> None:
            if self._asked == number == signal.SIGINT:
                raise KeyboardInterrupt
            self._asked = number
            for process in self._told:
                with suppress(ProcessLookupError):  # it has ended
                    # A terminal's Ctrl-C reaches it by itself, and a second one would end it at once.
                    os.kill(process, signal.SIGTERM if number == signal.SIGINT else number)

        numbers = [getattr(signal, name) for name in (*SIGNALS, ASKED_FOR) if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        foreign = {n: h for n, h in before.items() if callable(h) and h is not signal.default_int_handler}
        taken = [n for n in numbers if signal.Signals(n).name != ASKED_FOR or n in foreign]
        self._goes_on = {n for n in taken if signal.Signals(n).name == SIGNALS[-1]}
        self._goes_on |= {n for n in foreign if n == signal.SIGTERM}
        for number in taken:
            signal.signal(number, take)
        try:
            yield
        except Stopped as stopped:
            for number in taken:
                signal.signal(number, before[number])
            if stopped.number in foreign and os.getpid() == home:
                foreign[stopped.number](stopped.number, None)  # ends the process where it takes the job over
            raise
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def _leave(self, number: int) -> None:
        if number not in self._goes_on:
            raise Stopped(number)

    def _read(self) -> tuple[int, list[Part]]:
        """The highest number in the folder, and for each run the part that has it farthest."""
        parts: list[Part] = []
        numbers = [0]
        foreign = ""
        for path in kept_in(self.folder):
            try:
                number, content = _content(path.read_bytes())
                kept = [_part(part) for part in content["parts"]]
                numbers.append(number)
            except DAMAGED as error:
                said = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:200]
                self.say(f"{path} is damaged and is left out: {type(error).__name__}: {said}")
                continue
            theirs = content["about"]
            other = [key for key in self.about if theirs.get(key) != self.about[key]]
            if other:
                foreign = f"{other[0]}={theirs.get(other[0])}, which is now {self.about[other[0]]}"
                continue
            parts += kept
        if foreign:
            self.say(f"what was kept is of a training with {foreign}; its runs begin again, so each is of one piece")
        farthest: list[Part] = []
        named: set[Name] = set()
        for part in sorted(parts, key=lambda part: (part.epoch, part.step), reverse=True):
            fresh = [name for name in part.names if name not in named]
            if fresh:
                farthest.append(part.of(fresh))
                named |= set(fresh)
        return max(numbers), farthest


def kept_about(folder: Path) -> Mapping[str, str]:
    """What the newest training that is kept in a folder, or in its shares, depends on besides the job; {} if none."""
    newest: tuple[int, Mapping[str, str]] = (0, {})
    for path in kept_in(folder):
        with suppress(OSError, *DAMAGED):  # as `Checkpoints` says when it reads them
            number, content = _content(path.read_bytes())
            newest = max(newest, (number, content["about"]), key=itemgetter(0))
    return newest[1]


def kept_in(folder: Path) -> list[Path]:
    """The files with states of trainings in a folder, and in its shares if the job was split."""
    name = NAME.format(process="*", which="*")
    return sorted([*folder.glob(name), *folder.glob(f"share-*/{name}")])


def _content(raw: bytes) -> tuple[int, dict[str, Any]]:
    """The number and the content of a checkpoint; raises ValueError, or what torch does, for one that is damaged."""
    head, _, rest = raw.partition(b"\n")
    about, _, payload = rest.partition(b"\n")
    number, _, digest = about.partition(b" ")
    if head != HEAD or not number.isdigit() or hashlib.sha256(payload).hexdigest().encode() != digest:
        raise ValueError("its checksum is not that of its content")
    content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not isinstance(content.get("about"), dict):
        raise ValueError("it holds no training")
    return int(number), content


def _plain(part: Part) -> dict[str, Any]:
    """A part as tensors, numbers, texts, lists and dictionaries."""
    state = part.kept.state
    return {
        "names": [[role, seed, [list(pair) for pair in point]] for role, seed, point in part.names],
        "began": part.began,
        "epoch": part.epoch,
        "step": part.step,
        "kept": {**part.kept._asdict(), "state": {name: dict(entries) for name, entries in state._asdict().items()}},
        "curves": [[[p.epoch, p.step, dict(p.figures)] for p in curve] for curve in part.curves],
        "seconds": list(part.seconds),
    }


def _part(plain: Mapping[str, Any]) -> Part:
    """What `_plain` was given."""
    kept = cast(dict[str, Any], dict(plain["kept"]))
    return Part(
        names=[(role, seed, tuple((path, value) for path, value in point)) for role, seed, point in plain["names"]],
        began=plain["began"],
        epoch=plain["epoch"],
        step=plain["step"],
        kept=Kept(**{**kept, "state": State(**kept["state"])}),
        curves=[[Point(*point) for point in curve] for curve in plain["curves"]],
        seconds=list(plain["seconds"]),
    )
