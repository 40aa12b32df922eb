"""Calibration figures worked by hand, and against scikit-learn and scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from test_engine import experiment, outcomes, same
from torch import Tensor, nn

from runner.engine.calibration import (
    BINS,
    COLDEST,
    FINEST,
    HOTTEST,
    best_temperature,
    bins,
    calibration_error,
    marks,
    null_draws,
    null_level,
)
from runner.engine.evaluate import Examiner, Pool, examine
from runner.keys import Key
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack

ONE = torch.tensor(1.0)


def logp_of(n: int, classes: int = 10, spread: float = 2.0) -> Tensor:
    """Log-probabilities [n, C] of an uneven net."""
    return (spread * Key.of(3).normal(n, classes)).double().log_softmax(1)


def labels_of(logp: Tensor, name: str = "labels") -> Tensor:
    """Labels [n] drawn with these probabilities, so that a net which says them is calibrated."""
    edges = logp.exp().cumsum(1)
    return (Key.of(4).fold(name).uniform(len(logp))[:, None] > edges).sum(1).clamp_max(logp.shape[1] - 1)


def test_brier_score_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    seen = marks(p.log(), torch.tensor([0, 2]), ONE)
    # 0.3^2 + 0.2^2 + 0.1^2 = 0.14 where it is right, 0.7^2 + 0.2^2 + 0.9^2 = 1.34 where it is wrong
    assert seen.brier.tolist() == pytest.approx([0.14, 1.34])
    assert seen.hits.tolist() == [True, False]
    assert seen.confidence.tolist() == pytest.approx([0.7, 0.7])


def test_scaling_by_hand() -> None:
    # at T = 2 the odds of 4 to 1 become their root, 2 to 1
    seen = marks(torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log(), torch.tensor([0, 1]), torch.tensor(2.0))
    assert seen.scaled.tolist() == pytest.approx([math.log(3 / 2), math.log(3)])


def test_calibration_error_by_hand() -> None:
    # bins are 1/15 wide and hold their upper end: four at 0.95 with three hits are 0.75 - 0.95 apart, times 4: 0.8;
    # two hits at 0.5: 0.5 * 2 = 1; a miss at 9/15, not in the bin of the hit at 0.61: 0.6, and 0.39
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.5, 0.5, 0.6, 0.61], dtype=torch.float64)
    hits = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)
    assert calibration_error(hits, confidence).item() == pytest.approx((0.8 + 1.0 + 0.6 + 0.39) / 8)


def test_temperature_by_hand() -> None:
    # a net that says 0.9 and is right 3 times of 4: odds of 9 to 1 should be 3 to 1, their root, so T = 2
    logp = torch.tensor([0.9, 0.1]).log().expand(4, 2)
    assert best_temperature(logp, torch.tensor([0, 0, 0, 1])).item() == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(true: float) -> None:
    logp = logp_of(20_000)
    told = (logp * true).log_softmax(1)  # too sure of itself by `true`
    assert best_temperature(told, labels_of(logp)).item() == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("scale", [0.03, 1.0, 20.0])
@pytest.mark.parametrize("n", [5, 300])
def test_the_temperature_is_that_of_a_general_minimizer(scale: float, n: int) -> None:
    logp, y = logp_of(n), labels_of(logp_of(n))
    told = (logp * scale).log_softmax(1)

    def loss(log_t: float) -> float:
        return marks(told, y, torch.tensor(math.exp(log_t))).scaled.mean().item()

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    mine = best_temperature(told, y).item()
    assert math.log(mine) == pytest.approx(found.x, abs=1e-4)
    assert loss(math.log(mine)) <= found.fun + 1e-12


def test_temperatures_without_a_least_loss_end_the_range() -> None:
    logp = logp_of(50)
    assert best_temperature(logp, logp.argmax(1)).item() == pytest.approx(COLDEST)
    assert best_temperature(logp, logp.argmin(1)).item() == pytest.approx(HOTTEST)
    assert math.isnan(best_temperature(logp[:0], logp[:0].argmax(1)).item())
    assert math.isnan(best_temperature(logp * math.nan, logp.argmax(1)).item())


def test_figures_are_those_of_scikit_learn() -> None:
    logp, y = logp_of(400), labels_of(logp_of(400))
    seen = marks(logp, y, torch.tensor(1.7, dtype=torch.float64))
    classes = np.arange(10)
    assert seen.brier.mean().item() == pytest.approx(
        brier_score_loss(y.numpy(), logp.exp().numpy(), labels=classes, scale_by_half=False)
    )
    scaled = (logp / 1.7).softmax(1).numpy()
    assert seen.scaled.mean().item() == pytest.approx(log_loss(y.numpy(), scaled, labels=classes))


def test_a_calibrated_net_exceeds_the_null_level_one_time_in_twenty() -> None:
    logp = logp_of(500)
    draws = null_draws(500, torch.device("cpu"))
    confidence = logp.exp().amax(1)
    level = null_level(confidence, draws).item()
    seen = [marks(logp, labels_of(logp, str(i)), ONE) for i in range(400)]
    errors = torch.stack([calibration_error(one.hits, one.confidence) for one in seen])
    # 20 of 400 expected, with a standard deviation of 4.4; and a quantile of 200 draws moves it by about 6
    assert 5 <= int((errors > level).sum()) <= 40
    # most of the error is there without any miscalibration
    assert errors.mean() > 0.6 * level
    # a net that is too sure of itself is told at once
    sure = (logp * 2).log_softmax(1)
    wrong = marks(sure, labels_of(logp), ONE)
    assert calibration_error(wrong.hits, wrong.confidence) > 2 * null_level(wrong.confidence, draws)


def test_a_draw_is_a_hit_exactly_where_it_is_below_the_confidence() -> None:
    """On grid points of the draws, where rounding would show, and between them."""
    draws = null_draws(400, torch.device("cpu"))
    near = draws[0].double() / FINEST + torch.tensor([0.0, 1e-9, -1e-9, 1e-4]).double().repeat(100)
    confidence = near.clamp(0.0, 1.0)
    hits = ((draws.double() / FINEST) < confidence).double()
    places = torch.nn.functional.one_hot(bins(confidence), BINS).double()
    errors = (hits @ places - confidence @ places).abs().sum(1) / 400
    assert null_level(confidence, draws).item() == pytest.approx(errors.quantile(0.95).item(), abs=1e-12)


def test_certainty_has_a_null_level_of_zero() -> None:
    assert null_level(torch.ones(20, dtype=torch.float64), null_draws(20, torch.device("cpu"))).item() == 0.0


def test_an_ensemble_is_judged_by_the_mean_probability() -> None:
    # members say 1/2 and 1/4 of class 0, so together 3/8: Brier 2 (5/8)^2 where class 0 is right and 2 (3/8)^2 where
    # class 1 is; the odds of class 1 are 5/3, and of four validation examples class 1 has 25/34 = 1 / (1 + (3/5)^2),
    # nearly three: fit on 34 examples with 25 of class 1, where T = 1/2 makes the odds (5/3)^2 = 25/9
    params = {"weight": torch.zeros(1, 2, 2, 1), "bias": torch.tensor([[[0.0, 0.0], [-math.log(3), 0.0]]])}
    y = torch.tensor([0, 1, *[0] * 9, *[1] * 25])
    pool = Pool(torch.zeros(36, 1), y, torch.zeros(1, 1), torch.ones(1, 1))
    rows = {"train": torch.tensor([[0]]), "val": torch.arange(2, 36)[None], "test": torch.tensor([[0, 1]])}
    for mapped in (False, True):
        seen = examine(Examiner(nn.Linear(1, 2), mapped, members=2), params, pool, rows)
        assert seen.calibrated is not None
        brier = (2 * (5 / 8) ** 2 + 2 * (3 / 8) ** 2) / 2
        assert seen.calibrated.test_brier.tolist() == pytest.approx([brier])
        assert seen.calibrated.temperature.tolist() == pytest.approx([0.5], rel=1e-5)
        assert seen.calibrated.test_nll_t.tolist() == pytest.approx(
            [-(math.log(9 / 34) + math.log(25 / 34)) / 2], rel=1e-5
        )
        assert seen.hits.tolist() == [[False, True]]
        assert seen.confidence[0].tolist() == pytest.approx([5 / 8, 5 / 8])


def test_examples_of_a_lane_are_those_of_the_run_alone() -> None:
    trial = experiment(Stack({"dropout": Dropout(0.2, 0.0), "batch_norm": BatchNorm(1e-5)}))
    together = outcomes(trial, 3)
    for wide, narrow in zip(together, outcomes(replace(trial, lanes=2), 3), strict=True):
        assert same(wide, narrow)
        assert torch.equal(wide.hits, narrow.hits)
        assert torch.equal(wide.confidence, narrow.confidence)
    for lane, alone in zip(together, outcomes(replace(trial, lanes=1), 3), strict=True):
        for name in ("test_brier", "test_ece", "test_ece_null", "test_nll_t", "temperature"):
            assert lane.figures[f"last_{name}"] == pytest.approx(alone.figures[f"last_{name}"], rel=0.02, abs=1e-3)
        assert lane.hits.double().mean() == lane.figures["last_test_acc"]


def test_kept_examples_are_those_of_the_last_checkpoint() -> None:
    ended = outcomes(experiment(epochs=12), 3)
    assert any(one.figures["last_test_acc"] != one.figures["best_test_acc"] for one in ended)
    for one in ended:
        assert one.hits.double().mean() == one.figures["last_test_acc"]


def test_without_validation_rows_there_is_no_temperature() -> None:
    trial = experiment()
    (outcome,) = outcomes(replace(trial, splitter=replace(trial.splitter, val_size=0)), 1)
    assert math.isnan(outcome.figures["last_temperature"])
    assert math.isnan(outcome.figures["last_test_nll_t"])
    assert 0 < outcome.figures["last_test_brier"] < 2
    assert all(math.isnan(value) for name, value in outcome.figures.items() if name.startswith("best_"))


def test_weights_that_are_not_numbers_are_examined_to_the_end() -> None:
    params = {"weight": torch.full((1, 2, 1), math.nan), "bias": torch.zeros(1, 2)}
    pool = Pool(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]), torch.zeros(1, 1), torch.ones(1, 1))
    rows = {split: torch.arange(4)[None] for split in ("train", "val", "test")}
    seen = examine(Examiner(nn.Linear(1, 2), mapped=True), params, pool, rows)
    assert seen.calibrated is not None
    assert math.isnan(seen.calibrated.test_brier.item())
    assert math.isnan(seen.calibrated.temperature.item())
