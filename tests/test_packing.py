"""How runs are trained is measured where it is not known, and the same the next time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from runner.data.base import Data, Splitter
from runner.engine import packing, workers
from runner.engine.finish import Outcome
from runner.engine.loop import train
from runner.engine.optimizers import SGD
from runner.engine.pack import Lanes, Pack
from runner.engine.packing import packed
from runner.engine.schedules import Constant
from runner.experiment import Budget, Experiment
from runner.grid import Run
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.nets.convolutional import conv1d, convnet
from runner.nets.dense import mlp

RUNS = [Run(seed, "report", {}, 0) for seed in range(20)]


def experiment(shape: tuple[int, ...], model: Callable[[], nn.Module], lanes: int | None = None) -> Experiment:
    g = torch.Generator().manual_seed(0)
    data = Data("noise", "image", torch.randn(60, *shape, generator=g), torch.arange(60) % 3, 3, torch.arange(50, 60))
    stack = Stack({"dropout": Dropout(0.2, 0.0), "batch_norm": BatchNorm(1e-5)})
    splitter, cpu = Splitter(40, 10, None, "train_val", 0, True), torch.device("cpu")
    budget = Budget(3, 10, 1)
    return Experiment(
        data, splitter, model, stack, SGD(0.05, 0.9, False), Constant(), budget, cpu, torch.float32, lanes
    )


def images(lanes: int | None = None) -> Experiment:
    return experiment((3, 8, 8), lambda: convnet((3, 8, 8), 3, 4, 8), lanes)


def told(monkeypatch: pytest.MonkeyPatch, fastest: tuple[int, bool]) -> list[tuple[int, bool]]:
    """Make one way the fastest; the ways that are tried, in order and as often as they take steps."""
    tried: list[tuple[int, bool]] = []
    clock = [0.0]

    def steps(pack: Pack, lanes: Lanes, count: int) -> Lanes:
        way = (len(lanes.run), pack.experiment.channels_last)
        tried.append(way)
        clock[0] += (1.0 if way == fastest else 2.0) * len(lanes.run)
        return lanes

    monkeypatch.setattr(packing, "clock_after", lambda device: clock[0])
    monkeypatch.setattr(packing, "few_steps", steps)
    return tried


@pytest.mark.parametrize("fastest", [(1, False), (1, True), (16, False)])
def test_the_fastest_way_is_taken_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fastest: tuple[int, bool]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = told(monkeypatch, fastest)
    chosen = packed(images(), RUNS, 1)
    even = (10 if fastest[0] == 16 else 1, fastest[1])  # of 20 runs
    assert (chosen.lanes, chosen.channels_last) == even
    assert set(tried) == {(1, False), (1, True), (4, False), (16, False)}
    tried.clear()
    again = packed(images(), RUNS, 1)
    assert (again.lanes, again.channels_last) == even
    assert not tried


@pytest.mark.parametrize(("cost", "chosen"), [(0.5, torch.bfloat16), (0.95, torch.float32), (2.0, torch.float32)])
def test_a_precision_left_open_is_measured_once_and_the_same_for_all_methods(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cost: float, chosen: torch.dtype
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried, clock = [], [0.0]

    def steps(pack: Pack, lanes: Lanes, count: int) -> Lanes:
        tried.append(pack.experiment.dtype)
        clock[0] += cost if pack.experiment.dtype == torch.bfloat16 else 1.0
        return lanes

    monkeypatch.setattr(packing, "clock_after", lambda device: clock[0])
    monkeypatch.setattr(packing, "few_steps", steps)
    trial = replace(experiment((2, 12), lambda: mlp((2, 12), 3, 8, 1)), dtype=None)
    points = [replace(run, point={"dropout.rate": 0.3}) for run in RUNS]
    assert packed(trial, points, 1).dtype == chosen
    assert tried == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert packed(replace(trial, stack=Stack({})), RUNS, 1).dtype == chosen
    assert len(tried) == 4
    assert packed(replace(trial, dtype=torch.float64), RUNS, 1).dtype == torch.float64


def test_jobs_that_begin_together_take_what_the_first_has_found(tmp_path: Path) -> None:
    path, asked, let_go, taken = tmp_path / "cache" / "dtype-0", threading.Event(), threading.Event(), []

    def first() -> str:
        asked.set()
        assert let_go.wait(60)
        return "float32"

    def second() -> str:
        return "bfloat16"

    known = ("float32", "bfloat16")
    jobs = [threading.Thread(target=lambda find=find: taken.append(packing._found_once(path, known, find)))
            for find in (first, second)]  # fmt: skip
    jobs[0].start()
    assert asked.wait(60)
    jobs[1].start()
    let_go.set()
    for job in jobs:
        job.join(60)
    assert taken == ["float32", "float32"]
    path.write_text("float6")  # cut off, or of another version
    assert packing._found_once(path, known, second) == path.read_text() == "bfloat16"


def test_what_is_found_on_one_device_is_not_another_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    here = images()
    there = replace(here, device=torch.device("cuda"))
    net = here.model()
    assert packing._kept_in("dtype", here, net, []) != packing._kept_in("dtype", there, net, [])
    assert packing._kept_in("dtype", here, net, []) == packing._kept_in("dtype", here, net, [])


def test_a_process_takes_no_more_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's one thread stays one, and memory is shared with the processes that it puts on the other cores."""
    large = experiment((3, 12, 12), lambda: mlp((3, 12, 12), 3, 3000, 3))
    monkeypatch.setattr(packing, "cores", lambda: 8)
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(packing, "available", lambda device: 64_000_000_000)
    for given, threads in ((1, 1), (2, 2), (64, 8)):
        monkeypatch.setattr(packing, "THREADS", given)
        assert packing.threads(large) == threads
    alone = packing.fitting(large, RUNS[0], 1)
    monkeypatch.setattr(workers, "THREADS", 2)
    assert workers.beside() == 1
    monkeypatch.setattr(workers, "launched", lambda: True)
    assert workers.beside() == 4
    assert 2 <= packing.fitting(large, RUNS[0], 1) <= alone // 4


def test_a_short_job_does_not_decide_for_a_long_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = told(monkeypatch, (1, True))
    assert packed(images(), RUNS[:1], 1).channels_last
    assert set(tried) == {(1, False), (1, True)}
    packed(images(), RUNS, 1)
    assert (16, False) in tried


def test_runs_that_are_part_of_the_way_go_on_as_they_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is faster here and now: on another node of a cluster, or with fewer runs left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = told(monkeypatch, (1, True))
    monkeypatch.setattr(packing, "_repays", lambda *arguments: True)
    open_ended = replace(images(), dtype=None, compiled=None)
    for mapped, last, dtype, compiled in (
        (False, False, torch.bfloat16, False), (False, True, torch.float32, False), (True, False, torch.float32, True),
    ):  # fmt: skip
        before = {"mapped": str(mapped), "channels_last": str(last), "compiled": str(compiled), "torch": "2"}
        before["dtype"] = str(dtype).removeprefix("torch.")
        way = packed(open_ended, RUNS, 1, before)
        assert (way.lanes != 1, way.channels_last, way.dtype, way.compiled) == (mapped, last, dtype, compiled)
    assert {way[0] for way in tried} == {4, 16}  # which width of a pack, which changes no number
    asked = packed(replace(open_ended, dtype=torch.float64, lanes=4), RUNS, 1, before | {"mapped": "False"})
    assert (asked.lanes, asked.dtype) == (4, torch.float64)


def test_what_the_user_asks_for_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = told(monkeypatch, (1, True))
    alone, four = packed(images(1), RUNS, 1), packed(images(4), RUNS, 1)
    assert (alone.lanes, alone.channels_last, four.lanes, four.channels_last) == (1, True, 4, False)
    assert set(tried) == {(1, False), (1, True)}


def test_a_dense_net_is_packed_as_wide_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = told(monkeypatch, (1, True))
    assert packed(experiment((2, 12), lambda: mlp((2, 12), 3, 8, 1)), RUNS, 1).lanes == 20
    assert not tried


@pytest.mark.parametrize(("fastest", "workers", "lanes"), [(4, 1, 4), (8, 1, 7), (16, 1, 10), (16, 2, 10), (8, 2, 5)])
def test_signals_are_packed_as_wide_as_is_fastest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fastest: int, workers: int, lanes: int
) -> None:
    """20 runs, or 10 in each of two processes, in packs of one size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = told(monkeypatch, (fastest, False))
    assert packed(experiment((2, 12), lambda: conv1d((2, 12), 3, 4)), RUNS, workers).lanes == lanes
    assert set(tried) == {(4, False), (8, False), (16, False)}


def test_a_layout_changes_no_more_than_rounding() -> None:
    def last(channels_last: bool) -> Outcome:
        return next(train(replace(images(1), channels_last=channels_last), RUNS[:1]))

    one, other, again = last(False), last(True), last(True)
    assert other.figures == again.figures
    assert other.figures["last_train_loss"] == pytest.approx(one.figures["last_train_loss"], rel=1e-3)
