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
from settings import CLASSES, SHAPES, tiny
from test_engine import experiment, outcomes

from runner.data.base import Data
from runner.data.labels import LabelNoise
from runner.engine.loop import Outcome
from runner.engine.robustness import Attack
from runner.experiment import Asked, Experiment
from runner.methods.ensembles import Ensemble
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.methods.stopping import EarlyStopping


def trial(kind: str, stack: Stack | None = None) -> Experiment:
    """Two epochs on 90 random examples of this kind, in float64 so that the order of sums does not show."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % CLASSES
    x = torch.randn(90, *SHAPES[kind], generator=g) + y.view(-1, *[1] * len(SHAPES[kind]))
    data = Data("random", kind, x, y, CLASSES, torch.arange(60, 90))
    plain = replace(experiment(stack, data, epochs=2), model=lambda: tiny(kind), dtype=torch.float64)
    return replace(plain, splitter=replace(plain.splitter, train_size=40, val_size=20))


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


def check(trial: Experiment, seeds: int = 2) -> None:
    """Train here and there."""
    here = outcomes(trial, seeds)
    with pretending() as device:
        there = outcomes(replace(trial, device=device), seeds)
    assert [outcome.split_hash for outcome in there] == [outcome.split_hash for outcome in here]
    for one, other in zip(there, here, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-6, abs=1e-6, nan_ok=True)


def test_what_is_left_behind_is_noticed() -> None:
    with pretending() as device:
        there = torch.ones(3, device=device)
        assert (there * 2 + torch.tensor(1.0)).sum().item() == 9.0
        with pytest.raises(RuntimeError, match="on the CPU"):
            there + torch.ones(3)


@pytest.mark.parametrize("name", CASES)
def test_every_method_trains_there(name: str) -> None:
    check(trial(CASES[name].kinds[0], Stack({name: CASES[name].method})))


SLOW = ("inception_small",)
MODELS = {
    **{name: (shape, make) for name, (shape, make, *_) in test_nets.TINY.items()},
    **{f"{name}, batch norm": model for name, model in test_nets.NORMED.items()},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS])
def test_every_model_trains_there(name: str) -> None:
    plain = test_nets.trial(*MODELS[name], Stack({}))
    check(replace(plain, dtype=torch.float64))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_run_alone_trains_there(kind: str) -> None:
    check(replace(trial(kind, Stack({"batch_norm": BatchNorm(1e-5)})), lanes=1))


@pytest.mark.parametrize("kind", SHAPES)
def test_all_that_can_be_asked_for_is_measured_there(kind: str) -> None:
    stack = Stack({"batch_norm": BatchNorm(1e-5), "early_stopping": EarlyStopping(1, 0.0)})
    check(replace(trial(kind, stack), asked=Asked(corruptions=True, attack=Attack(0.3, 2), measures=True)))


def test_wrong_labels_and_missing_numbers_are_there() -> None:
    plain = trial("table", Stack({"ensemble": Ensemble(2)}))
    x = plain.data.x.clone()
    x[::7, 2] = torch.nan
    wrong = replace(plain.splitter, noise=LabelNoise(0.3, "symmetric", on_val=True, random=False), imbalance=2.0)
    check(replace(plain, data=replace(plain.data, x=x), splitter=wrong))


def test_numbers_are_predicted_there() -> None:
    check(replace(test_regression.trial(epochs=2), dtype=torch.float64))


def test_a_training_cut_off_there_goes_on() -> None:
    plain = test_checkpoint.small("image", Stack({"batch_norm": BatchNorm(1e-5)}))
    with pretending() as device:
        there = replace(plain, device=device)
        cut = test_checkpoint.After(3)
        assert test_checkpoint.outcomes(there, cut) == []
        rest = test_checkpoint.outcomes(there, test_checkpoint.After(-1, cut.found))
        whole = test_checkpoint.outcomes(there, test_checkpoint.After(-1))
    assert [outcome.figures for outcome in rest] == [pytest.approx(dict(one.figures), rel=0, abs=0) for one in whole]
