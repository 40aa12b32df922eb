"""Everything that trains and measures works on another device than the CPU, though none may be here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import test_checkpoint
import test_nets
import test_regression
import torch
from cases import CASES
from pretend import pretending
from settings import SHAPES
from test_checkpoint import After
from test_engine import outcomes
from torch import are_deterministic_algorithms_enabled as enabled

from runner.data.labels import LabelNoise
from runner.engine.finish import Outcome
from runner.engine.loop import train
from runner.engine.rehearsal import rehearse, unmappable
from runner.engine.robustness import Attack
from runner.experiment import Asked, Experiment
from runner.grid import Run
from runner.methods.base import Method, Now, Params
from runner.methods.dropping import Dropout
from runner.methods.ensembles import Ensemble
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping

SLOW = ("inception_small",)
MODELS = {
    **{name: (shape, make) for name, (shape, make, *_) in test_nets.TINY.items()},
    **{f"{name}, batch norm": model for name, model in test_nets.NORMED.items()},
}


def trial(kind: str, stack: Stack, epochs: int = 1) -> Experiment:
    """Epochs of two steps on random examples of this kind."""
    plain = test_checkpoint.small(kind, stack)
    return replace(plain, budget=replace(plain.budget, epochs=epochs))


def numbers(outcome: Outcome) -> dict[str, float]:
    """Every number that a run has, by name; those of tables with the number of their row."""
    tables = {
        f"{table} {number} {name}": value
        for table, rows in outcome.tables.items()
        for number, row in enumerate(rows)
        for name, value in row.items()
        if isinstance(value, float)
    }
    return {**outcome.figures, **tables}


def same(device: torch.device, trial: Experiment) -> None:
    """Train here and there, in float64 so that the order of sums does not show."""
    here = replace(trial, dtype=torch.float64)
    there = replace(here, device=device)
    for one, other in zip(outcomes(here, 2), outcomes(there, 2), strict=True):
        assert other.split_hash == one.split_hash
        assert numbers(other) == pytest.approx(numbers(one), rel=1e-6, abs=1e-6, nan_ok=True)


def of_method(device: torch.device, name: str) -> None:
    same(device, trial(CASES[name].kinds[0], Stack({name: CASES[name].method})))


def of_model(device: torch.device, name: str) -> None:
    same(device, test_nets.trial(*MODELS[name], Stack({})))


def alone(device: torch.device, kind: str) -> None:
    same(device, replace(trial(kind, Stack({"batch_norm": BatchNorm(1e-5)})), lanes=1))


def gone_through_again(device: torch.device, kind: str) -> None:
    same(device, trial(kind, Stack({"batch_norm": BatchNorm(1e-5), "dropout": Dropout(0.2, 0.1)}), epochs=4))


def asked_for(device: torch.device, kind: str) -> None:
    stack = Stack({"batch_norm": BatchNorm(1e-5), "early_stopping": EarlyStopping(1, 0.0)})
    same(device, replace(trial(kind, stack), asked=Asked(corruptions=True, attack=Attack(0.3, 2), measures=True)))


def spoiled(device: torch.device) -> None:
    plain = trial("table", Stack({"ensemble": Ensemble(2)}))
    x = plain.data.x.clone()
    x[::7, 2] = torch.nan
    wrong = replace(plain.splitter, noise=LabelNoise(0.3, "symmetric", on_val=True, random=False), imbalance=2.0)
    same(device, replace(plain, data=replace(plain.data, x=x), splitter=wrong))


def rehearsed(device: torch.device) -> tuple[list[str], str | None]:
    """Where the weights of a rehearsal are, and why such runs cannot be mapped."""
    where: list[str] = []

    class Looking(Method):
        def project(self, params: Params, now: Now) -> Params:
            where.extend(w.device.type for w in params.values())
            return params

    there, run = replace(trial("table", Stack({"looking": Looking()})), device=device), Run(0, "report", {}, 0)
    rehearse(there, run)
    return where, unmappable(there, run)


def regression(device: torch.device) -> None:
    same(device, test_regression.trial(epochs=2))  # after which not every run is at its best


def cut_off(device: torch.device) -> None:
    there = replace(test_checkpoint.small("image", Stack({"batch_norm": BatchNorm(1e-5)})), device=device)
    cut = After(3)
    assert test_checkpoint.outcomes(there, cut) == []
    rest, whole = (test_checkpoint.outcomes(there, After(-1, found)) for found in (cut.found, ()))
    assert len(rest) == len(test_checkpoint.RUNS)
    for one, other in zip(rest, whole, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=0, abs=0, nan_ok=True)


def mixed(device: torch.device) -> float:
    return float((torch.ones(3, device=device) + torch.ones(3)).sum())


def moved(device: torch.device) -> float:
    return float((torch.ones(3, device=device) * 2 + torch.tensor(1.0) + torch.ones(3).to(device)).sum())


def bounded(device: torch.device) -> float:
    return float(torch.ones(3, device=device).clamp_max(torch.tensor(0.5)).sum())


def told(device: torch.device, asked: bool) -> list[bool]:
    """Whether torch is to repeat its bits after each of two epochs on the CPU, and after each of two there."""
    seen: list[bool] = []
    torch.use_deterministic_algorithms(False)  # whatever was trained before
    plain, run = replace(trial("table", Stack({}), epochs=2), deterministic=asked), Run(0, "report", {}, 0)
    for where in (torch.device("cpu"), device):
        list(train(replace(plain, device=where), [run], lambda _: seen.append(enabled())))
    return seen


def test_what_is_left_behind_is_noticed() -> None:
    assert pretending(moved) == 12.0
    with pytest.raises(AssertionError, match="on the CPU"):
        pretending(mixed)
    with pytest.raises(AssertionError, match="on the CPU"):
        pretending(bounded)


@pytest.mark.parametrize("name", CASES)
def test_every_method_trains_there(name: str) -> None:
    pretending(of_method, name)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS])
def test_every_model_trains_there(name: str) -> None:
    pretending(of_model, name)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_run_alone_trains_there(kind: str) -> None:
    pretending(alone, kind)


@pytest.mark.parametrize("kind", SHAPES)
def test_steps_are_gone_through_again_there(kind: str) -> None:
    pretending(gone_through_again, kind)


@pytest.mark.parametrize("kind", ["table", *(pytest.param(k, marks=pytest.mark.slow) for k in ("signal", "image"))])
def test_all_that_can_be_asked_for_is_measured_there(kind: str) -> None:
    pretending(asked_for, kind)


def test_wrong_labels_and_missing_numbers_are_there() -> None:
    pretending(spoiled)


def test_a_rehearsal_is_held_there() -> None:
    where, why = pretending(rehearsed)
    assert set(where) == {"pretend"}
    assert why is None


def test_numbers_are_predicted_there() -> None:
    pretending(regression)


def test_a_training_cut_off_there_goes_on() -> None:
    pretending(cut_off)


@pytest.mark.parametrize("asked", [True, False])
def test_torch_is_told_to_repeat_its_bits(asked: bool) -> None:
    assert pretending(told, asked) == [False, False, asked, asked]
