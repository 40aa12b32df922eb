"""A training that was cut off goes on to the same numbers, from checkpoints that are whole and hold no code."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES
from settings import CLASSES, SHAPES, tiny
from test_engine import experiment

from runner.data.base import Data, Splitter
from runner.engine.checkpoint import HEAD, Checkpoints, Keeper, Part, Stopped
from runner.engine.finish import Outcome
from runner.engine.loop import train
from runner.engine.optimizers import Adam
from runner.engine.workers import train_across
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping
from runner.records import as_text

ABOUT = {"torch": torch.__version__, "mapped": True}
# Four, so that two packs have two: a convolution mapped over one lane only takes another path, and differs by rounding.
RUNS = [Run(seed, "report", {}, 0) for seed in range(4)]


class After(Keeper):
    """Keeps the state in memory and stops when it has been asked `most` times."""

    def __init__(self, most: int, found: Sequence[Part] = ()) -> None:
        self.most, self.found, self.said = most, found, list[str]()

    def due(self) -> bool:
        self.most -= 1
        return self.most == 0

    def keep(self, parts: Sequence[Part]) -> None:
        self.found = parts
        raise Stopped(signal.SIGTERM)

    def say(self, line: str) -> None:
        self.said.append(line)


def small(kind: str, stack: Stack) -> Experiment:
    """Three epochs of two steps on random examples, with Adam and its moments."""
    g = torch.Generator().manual_seed(1)
    y = torch.arange(60) % CLASSES
    data = Data("random", kind, torch.randn(60, *SHAPES[kind], generator=g), y, CLASSES, torch.arange(40, 60))
    return replace(
        experiment(stack, data),
        model=lambda: tiny(kind),
        splitter=Splitter(16, 8, None, "train_val", 0, True),
        optimizer=Adam(0.01, 0.9, 0.999, 1e-8),
        budget=Budget(3, 8, 1),
    )


def outcomes(trial: Experiment, keeper: Keeper, runs: Sequence[Run] = RUNS) -> list[Outcome]:
    """Those that are known before the keeper stops the training."""
    found = []
    try:
        for outcome in train(trial, runs, keeper=keeper):
            found.append(outcome)
    except Stopped:
        pass
    return found


def equal(one: Sequence[Outcome], other: Sequence[Outcome]) -> bool:
    """Whether the same runs have the same curves and predictions bit for bit, and the same figures in a record.

    Sums over weights and test rows are taken lane by lane or at once, and then differ behind a record's nine digits.
    """
    pairs = list(zip(*(sorted(each, key=lambda o: (o.run.index, o.run.seed)) for each in (one, other)), strict=True))
    return all(
        (a.run, a.status, a.epochs, a.steps, a.split_hash) == (b.run, b.status, b.epochs, b.steps, b.split_hash)
        and a.curve == b.curve
        and as_text(list(a.figures), dict(a.figures)) == as_text(list(b.figures), dict(b.figures))
        and torch.equal(a.hits, b.hits)
        and torch.equal(a.confidence, b.confidence)
        for a, b in pairs
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("as_written")  # writing steps down takes as long as all the rest; the tests below do
def test_a_training_that_was_cut_off_goes_on_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    """Every method: cut off in the second of three epochs, through a file, and gone on with in smaller packs."""
    trial = small(CASES[name].kinds[0], Stack({name: CASES[name].method}))
    whole = outcomes(trial, Keeper())
    stopped = After(3)
    assert outcomes(trial, stopped) == []
    (part,) = stopped.found
    assert (part.epoch, part.step) == (1, 1)
    Checkpoints(tmp_path, ABOUT, None, print).keep(stopped.found)
    for lanes in (None, 2):
        said: list[str] = []
        assert equal(outcomes(replace(trial, lanes=lanes), Checkpoints(tmp_path, ABOUT, None, said.append)), whole)
        assert said[0] == f"goes on with {lanes or 4} runs after 1 of 3 epochs and 1 steps"


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_it_may_be_cut_off_at_any_step_and_more_than_once(most: int) -> None:
    """At the first step, at the end of an epoch before it is looked at, and at the very last step."""
    trial = small("image", Stack({}))
    keeper, done = After(most), list[Outcome]()
    for _ in range(7):
        left = [run for run in RUNS if run not in [outcome.run for outcome in done]]
        done += outcomes(trial, keeper, left)
        if len(done) == len(RUNS):
            break
        keeper = After(most, keeper.found)
    assert equal(done, outcomes(trial, Keeper()))
    assert (most == 6) == (not keeper.said) or "goes on with 4 runs after" in keeper.said[0]


def test_a_run_alone_goes_on_too() -> None:
    trial = replace(small("image", Stack({})), lanes=1)
    stopped = After(9)  # in the second run: six steps each
    first = outcomes(trial, stopped)
    assert [outcome.run for outcome in first] == RUNS[:1]
    assert [part.names for part in stopped.found] == [[RUNS[1].name]]
    assert equal(first + outcomes(trial, After(-1, stopped.found), RUNS[1:]), outcomes(trial, Keeper()))


def test_runs_that_have_ended_are_not_kept_and_their_neighbours_are() -> None:
    stack = Stack({"early_stopping": EarlyStopping(2, 0.0)})
    trial = experiment(stack, epochs=12)  # six steps an epoch
    runs = [Run(seed, "report", {"early_stopping.patience": p}, int(p > 1)) for p in (1.0, 1000.0) for seed in range(3)]
    whole = outcomes(trial, Keeper(), runs)
    stopped = After(6 * 11)
    ended = outcomes(trial, stopped, runs)
    assert 0 < len(ended) < 6
    (part,) = stopped.found
    assert {run.name for run in runs} == {outcome.run.name for outcome in ended} | set(part.names)
    left = [run for run in runs if run.name in part.names]
    assert equal(ended + outcomes(trial, After(-1, stopped.found), left), whole)
    # an older checkpoint than the last record: those that have ended are not trained again
    assert [o.run for o in outcomes(trial, After(-1, stopped.found), left[:1])] == left[:1]


def test_packs_that_wait_are_kept_beside_the_one_that_trains() -> None:
    trial = small("image", Stack({}))
    first, second = After(3), After(2)
    outcomes(trial, first)
    two = replace(trial, lanes=2)
    second.found = first.found
    assert outcomes(two, second) == []
    assert sorted(name for part in second.found for name in part.names) == sorted(run.name for run in RUNS)
    assert equal(outcomes(two, After(-1, second.found)), outcomes(trial, Keeper()))


def test_a_kept_state_of_another_form_is_left_out() -> None:
    trial = small("image", Stack({}))
    stopped = After(3)
    outcomes(trial, stopped)
    other = replace(trial, stack=Stack({"ema": CASES["ema"].method}))
    keeper = After(-1, stopped.found)
    assert equal(outcomes(other, keeper), outcomes(other, Keeper()))
    assert "no longer fits" in keeper.said[0]


def _kept(folder: Path, steps: Sequence[int], about: Mapping[str, Any] = ABOUT) -> list[Path]:
    """Checkpoints after so many steps of one training, in a folder."""
    trial = small("image", Stack({}))
    keeper = Checkpoints(folder, about, None, print)
    for most in steps:
        stopped = After(most)
        outcomes(trial, stopped)
        keeper.keep(stopped.found)
    return sorted(folder.glob("checkpoint-*"))


def _progress(parts: Sequence[Part]) -> list[tuple[int, int]]:
    return [(part.epoch, part.step) for part in parts]


def test_two_are_kept_and_the_farthest_is_taken(tmp_path: Path) -> None:
    paths = _kept(tmp_path, [1, 2, 3, 4])
    assert len(paths) == 2
    assert _progress(Checkpoints(tmp_path, ABOUT, None, pytest.fail).found) == [(1, 2)]
    for path, when in zip(paths, (2e9, 1e9), strict=True):  # the newer one looks older
        os.utime(path, (when, when))
    assert _progress(Checkpoints(tmp_path, ABOUT, None, pytest.fail).found) == [(1, 2)]
    Checkpoints(tmp_path, ABOUT, None, pytest.fail).clear()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_one_falls_back_to_the_one_before_with_a_line(tmp_path: Path) -> None:
    older, newer = sorted(_kept(tmp_path, [1, 3]), key=lambda path: path.read_bytes().split(b"\n")[1])
    raw = newer.read_bytes()
    flipped = bytes([raw[500] ^ 1])
    for damaged in (b"", raw[:10], raw[: len(raw) // 2], raw[:-1], raw[:500] + flipped + raw[501:], b"x" + raw):
        newer.write_bytes(damaged)
        said: list[str] = []
        assert _progress(Checkpoints(tmp_path, ABOUT, None, said.append).found) == [(0, 1)]
        assert [line.count("\n") for line in said] == [0]
        assert f"{newer} is damaged" in said[0]
    older.write_bytes(b"")
    assert not Checkpoints(tmp_path, ABOUT, None, said.append).found


def test_a_checkpoint_of_other_versions_is_left_out(tmp_path: Path) -> None:
    _kept(tmp_path, [3], {"torch": "that", "mapped": True})
    said: list[str] = []
    assert not Checkpoints(tmp_path, ABOUT, None, said.append).found
    assert f"torch=that, which is now {torch.__version__}" in said[0]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, form: str) -> None:
    """Its checksum is right: who writes into the folder can make one."""
    payload = io.BytesIO()
    content = {"about": ABOUT, "parts": [Bomb(tmp_path / "gone off")]}
    if form == "torch":
        torch.save(content, payload)
    else:
        pickle.dump(content, payload, protocol=2)
    raw = payload.getvalue()
    path = tmp_path / "checkpoint-0-1"
    path.write_bytes(b"%s\n1 %s\n" % (HEAD, hashlib.sha256(raw).hexdigest().encode()) + raw)
    said: list[str] = []
    assert not Checkpoints(tmp_path, ABOUT, None, said.append).found
    assert list(tmp_path.iterdir()) == [path]
    assert "damaged" in said[0]
    payload.seek(0)
    torch.load(payload, weights_only=False) if form == "torch" else pickle.load(payload)
    assert (tmp_path / "gone off").is_dir()  # it would have


@pytest.mark.parametrize(("name", "stops"), [("SIGINT", True), ("SIGTERM", True), ("SIGUSR1", False)])
def test_a_signal_keeps_the_state(tmp_path: Path, name: str, stops: bool) -> None:
    trial = small("image", Stack({}))
    number = getattr(signal, name)
    keeper = Checkpoints(tmp_path, ABOUT, None, print)
    before = signal.getsignal(number)
    done = list[Outcome]()
    with keeper.listening():
        os.kill(os.getpid(), number)
        with pytest.raises(Stopped, match=name) if stops else nullcontext():
            done += train(trial, RUNS, keeper=keeper)
    assert signal.getsignal(number) == before
    assert len(done) == (0 if stops else 4)
    again = Checkpoints(tmp_path, ABOUT, None, print)
    assert _progress(again.found) == [(0, 1)]
    assert equal(done + outcomes(trial, again, RUNS if stops else []), outcomes(trial, Keeper()))


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    keeper = Checkpoints(tmp_path, ABOUT, None, print)
    with keeper.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(raised.value, Stopped)


def test_time_passes_and_then_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("runner.engine.checkpoint.time.monotonic", lambda: clock)
    keeper = Checkpoints(tmp_path, ABOUT, 60.0, print)
    assert not keeper.due()
    clock = 60.0
    assert keeper.due()
    keeper.keep([])
    assert not keeper.due()
    assert not Checkpoints(tmp_path, ABOUT, None, print).due()


def test_several_processes_keep_and_stop_and_go_on_with_another_number_of_them(tmp_path: Path) -> None:
    trial = replace(small("image", Stack({})), budget=Budget(400, 8, 400))
    keeper = Checkpoints(tmp_path, ABOUT, None, print)
    with keeper.listening():
        signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        with pytest.raises(Stopped, match="SIGTERM"):
            list(train_across(trial, RUNS, lambda progress: None, 2, keeper))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    again = Checkpoints(tmp_path, ABOUT, None, print)
    assert sorted(name for part in again.found for name in part.names) == sorted(run.name for run in RUNS)
    assert min(_progress(again.found)) > (0, 0)
    assert equal(list(train_across(trial, RUNS, lambda progress: None, 1, again)), outcomes(trial, Keeper()))
