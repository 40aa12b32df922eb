"""The same runs on a CUDA device as on the CPU, to rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_engine import STACKS, experiment, outcomes, same
from test_memory import RUNS, Says

from runner.engine.loop import train
from runner.engine.memory import available, footprint
from runner.nets.dense import mlp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_gpu_trains_the_same_runs(name: str, seeds: int) -> None:
    trial = replace(experiment(STACKS[name], epochs=2), dtype=torch.float64)
    on_cpu, on_gpu = outcomes(trial, seeds), outcomes(replace(trial, device=torch.device("cuda")), seeds)
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert here.split_hash == there.split_hash
        for figure, value in here.figures.items():
            assert there.figures[figure] == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", STACKS)
def test_a_gpu_repeats_its_bits_where_it_is_asked_to(name: str) -> None:
    trial = replace(experiment(STACKS[name], epochs=2), device=torch.device("cuda"), deterministic=True)
    for one, other in zip(outcomes(trial, 3), outcomes(trial, 3), strict=True):
        assert same(one, other)


def test_bfloat16_trains() -> None:
    trial = replace(experiment(STACKS["mixed"]), dtype=torch.bfloat16, device=torch.device("cuda"))
    assert all(outcome.status == "ok" for outcome in outcomes(trial, 3))


def test_a_compiled_run_is_the_same_on_a_gpu() -> None:
    trial = replace(experiment(STACKS["mixed"], epochs=2), device=torch.device("cuda"), lanes=3)
    says = Says()
    got = list(train(replace(trial, compiled=True), RUNS[:3], keeper=says))
    assert says.said == []
    assert all(outcome.compiled for outcome in got)
    for mine, theirs in zip(got, train(trial, RUNS[:3]), strict=True):
        assert mine.figures["last_val_loss"] == pytest.approx(theirs.figures["last_val_loss"], rel=1e-2)


def test_memory_that_ends_on_a_gpu_halves_the_pack() -> None:
    """The device is told to give out so little that six runs of a wide net do not fit, and one does."""
    device = torch.device("cuda")
    trial = experiment(next(iter(STACKS.values())), epochs=2)
    wide = replace(trial, model=partial(mlp, trial.data.shape, trial.data.classes, 2000, 3), device=device, lanes=None)
    whole = {outcome.run.seed: outcome for outcome in train(wide, RUNS)}
    torch.cuda.empty_cache()
    need = footprint(wide, RUNS[0])
    torch.cuda.set_per_process_memory_fraction(need.of(4) / torch.cuda.get_device_properties(device).total_memory)
    try:
        says = Says()
        halved = {outcome.run.seed: outcome for outcome in train(wide, RUNS, keeper=says)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory ran out" in says.said[0]
    for seed, outcome in halved.items():
        assert outcome.figures["last_val_loss"] == pytest.approx(whole[seed].figures["last_val_loss"], rel=1e-3)


def test_free_memory_is_the_devices() -> None:
    device = torch.device("cuda")
    free = available(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert free - available(device) >= held.nbytes


def test_the_prediction_holds_on_a_gpu() -> None:
    device = torch.device("cuda")
    trial = experiment(next(iter(STACKS.values())), epochs=1)
    wide = replace(trial, model=partial(mlp, trial.data.shape, trial.data.classes, 1000, 3), device=device, lanes=None)
    told = footprint(wide, RUNS[0]).of(len(RUNS))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    list(train(wide, RUNS))
    measured = torch.cuda.max_memory_allocated() - before
    assert measured / 2 < told < 2.5 * measured
