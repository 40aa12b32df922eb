"""The same runs on a CUDA device as on the CPU, to rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_engine import STACKS, experiment, outcomes

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


def test_bfloat16_trains() -> None:
    trial = replace(experiment(STACKS["mixed"]), dtype=torch.bfloat16, device=torch.device("cuda"))
    assert all(outcome.status == "ok" for outcome in outcomes(trial, 3))
