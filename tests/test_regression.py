"""Numbers to predict: losses and R2 by hand and against scikit-learn, what is refused, and how it is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Regrun
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score
from test_engine import experiment, outcomes, same
from torch import nn

from runner.data.base import Data, Splitter
from runner.data.tables import diabetes
from runner.data.teacher import teacher
from runner.engine.evaluate import Examiner, Pool, evaluate
from runner.engine.loop import train
from runner.engine.step import mean_loss
from runner.errors import Refusal
from runner.experiment import Experiment
from runner.grid import Run
from runner.keys import Key
from runner.methods.base import Method, Now, Params
from runner.methods.dropping import Dropout
from runner.methods.ensembles import Ensemble, MCDropout
from runner.methods.mixing import Mixup
from runner.methods.normalization import BatchNorm
from runner.methods.smoothness import FGSM, Flooding, InputGradient
from runner.methods.stack import Stack
from runner.nets.dense import mlp
from runner.paths import options
from runner.records import read_table
from runner.report.answers import answers
from runner.report.build import build
from runner.report.tables import headline, read_runs
from runner.report.writers import caption

SMALL = ("data=diabetes", "seeds=2", "epochs=3", "batch_size=20", "out=out", "progress=false")


def curve(n: int = 300) -> Data:
    """Ten inputs and a number that depends on them, far from zero and in large units; the last hundred are the test."""
    x = Key.of(0).normal(n, 10)
    y = 500 + 40 * (x[:, 0] - x[:, 1] * x[:, 2]) + 5 * Key.of(1).normal(n)
    return Data("curve", "table", x, y, 1, torch.arange(n - 100, n), task="regression")


def trial(stack: Stack | None = None, data: Data | None = None, epochs: int = 4) -> Experiment:
    base = experiment(stack, data or curve(), epochs)
    return replace(base, model=lambda: mlp((10,), 1, width=12, depth=2), splitter=replace(base.splitter, val_size=50))


def test_the_loss_of_a_single_output_by_hand() -> None:
    # (0 - 1)^2 = 1 and (3 - 1)^2 = 4
    assert mean_loss(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [3.0]])).item() == 2.5


def test_targets_are_standardized_by_training_rows_alone() -> None:
    data = curve()
    split = Splitter(120, 50, None, "train_val", 0, True).split(data, 3)
    told = split.y[split.train].double()
    assert told.mean().item() == pytest.approx(0, abs=1e-6)
    assert told.std(unbiased=False).item() == pytest.approx(1, rel=1e-6)
    assert split.unit.item() == pytest.approx(data.y[split.train].double().std(unbiased=False).item(), rel=1e-6)
    spoiled = replace(data, y=torch.where(torch.arange(300) < 200, data.y, -1e4))
    again = Splitter(120, 50, None, "train_val", 0, True).split(spoiled, 3)
    assert torch.equal(again.y[:200], split.y[:200])


@pytest.mark.parametrize("lanes", [1, None])
def test_figures_are_those_of_scikit_learn(lanes: int | None, as_written: None) -> None:
    @dataclass(frozen=True)
    class Spy(Method):
        last: list[Params] = field(default_factory=list)

        def project(self, params: Params, now: Now) -> Params:
            self.last.append({n: w.detach().clone() for n, w in params.items()})
            return params

    spy = Spy()
    alone = trial(Stack({"spy": spy}))
    (outcome,) = train(replace(alone, lanes=1), [Run(5, "report", {}, 0)])
    if lanes is None:
        (outcome,) = train(replace(trial(), lanes=None), [Run(5, "report", {}, 0)])
    net = alone.model()
    net.load_state_dict(spy.last[-1])
    split = alone.splitter.split(alone.data, 5)
    y = alone.data.y.double()
    mean, sd = y[split.train].mean(), y[split.train].std(unbiased=False)
    for name, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
        x = (alone.data.x[rows] - split.mean) / split.std
        says = (net(x)[:, 0].double() * sd + mean).detach().numpy()  # in the target's own units
        error = mean_squared_error(y[rows].numpy(), says)
        assert outcome.figures[f"last_{name}_r2"] == pytest.approx(r2_score(y[rows].numpy(), says), abs=1e-4)
        assert outcome.figures[f"last_{name}_loss"] == pytest.approx(error / sd.item() ** 2, rel=1e-4)
        if name == "test":
            assert outcome.figures["last_test_rmse"] == pytest.approx(error**0.5, rel=1e-4)
    gap = outcome.figures["last_train_r2"] - outcome.figures["last_test_r2"]
    assert outcome.figures["last_gap_r2"] == pytest.approx(gap)
    assert not [name for name in outcome.figures if name.endswith(("_acc", "_ece", "_brier"))]
    assert set(outcome.curve[0].figures) == {"train_loss", "train_r2", "val_loss", "val_r2"}


def test_a_linear_net_finds_the_least_squares() -> None:
    base = trial(data=diabetes(), epochs=400)
    splitter = Splitter(200, 100, 142, "train_val", 0, True)
    linear = replace(base, model=lambda: nn.Linear(10, 1), splitter=splitter, budget=replace(base.budget, epochs=400))
    (outcome,) = train(replace(linear, budget=replace(linear.budget, batch_size=200)), [Run(0, "report", {}, 0)])
    split = splitter.split(diabetes(), 0)
    x, y = diabetes().x.double().numpy(), diabetes().y.double().numpy()
    fitted = LinearRegression().fit(x[split.train], y[split.train])
    assert outcome.figures["last_train_r2"] == pytest.approx(fitted.score(x[split.train], y[split.train]), abs=2e-3)
    assert outcome.figures["last_test_r2"] == pytest.approx(fitted.score(x[split.test], y[split.test]), abs=2e-2)


def test_members_predict_their_mean() -> None:
    # members say 1 and 3, together 2: off by 1 and by 2, so (1 + 4) / 2; the mean of the targets 1 and 4 is 2.5, their
    # variance 2.25, and R2 1 - 2.5 / 2.25
    params = {"weight": torch.zeros(1, 2, 1, 1), "bias": torch.tensor([[[1.0], [3.0]]])}
    pool = Pool(torch.zeros(2, 1), torch.tensor([[1.0, 4.0]]), torch.zeros(1, 1), torch.ones(1, 1))
    for mapped in (False, True):
        seen = evaluate(Examiner(nn.Linear(1, 1), mapped, members=2), params, pool, {"train": torch.tensor([[0, 1]])})
        assert seen["train"].loss.item() == pytest.approx(2.5)
        assert seen["train"].acc.item() == pytest.approx(1 - 2.5 / 2.25)


def test_monte_carlo_dropout_averages_predictions() -> None:
    net = mlp((10,), 1, width=256, depth=1).eval()
    x = Key.of(0).normal(50, 10)
    with torch.no_grad():
        plain = net(x)
        said = MCDropout(0.5, 64).build(net)(x)
    # dropout keeps the mean of a hidden unit, and the output is linear in them; logs of probabilities would all be 0
    assert (said - plain).abs().mean() < 0.3 * plain.std()
    assert not torch.equal(said, plain)


STACKS: dict[str, Callable[[], Stack]] = {
    "noise": lambda: Stack({"dropout": Dropout(0.2, 0.0), "batch_norm": BatchNorm(1e-5), "mixup": Mixup(0.2)}),
    "loss": lambda: Stack({"fgsm": FGSM(0.1, 0.5), "input_gradient": InputGradient(0.01)}),
    "flooding": lambda: Stack({"flooding": Flooding(0.1)}),
    "ensemble": lambda: Stack({"ensemble": Ensemble(2)}),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_lane_is_the_run_alone(name: str) -> None:
    tried = trial(STACKS[name]())
    together = outcomes(tried, 4)
    for wide, narrow in zip(together, outcomes(replace(tried, lanes=2), 4), strict=True):
        assert same(wide, narrow)  # a pack of one, a matrix times a vector, agrees to rounding
    for lane, alone in zip(together, outcomes(replace(tried, lanes=1), 4), strict=True):
        assert lane.figures["last_test_loss"] == pytest.approx(alone.figures["last_test_loss"], rel=1e-3)


def test_test_rows_reach_nothing_but_the_test_figures() -> None:
    data = curve()
    other = replace(data, y=torch.where(torch.arange(300) < 200, data.y, -data.y))
    for mine, theirs in zip(outcomes(trial()), outcomes(trial(data=other)), strict=True):
        assert mine.figures["last_test_r2"] != theirs.figures["last_test_r2"]
        assert all(theirs.figures[n] == v for n, v in mine.figures.items() if "test" not in n and "gap" not in n)


def test_the_teacher_explains_all_but_the_noise() -> None:
    data = teacher(1000, 20000, 12, 6, 8, 4, 0.3, 0, "regression")
    assert data.truth is not None
    test = data.official_test
    assert r2_score(data.y[test].numpy(), data.truth[test].numpy()) == pytest.approx(0.7, abs=0.015)
    with pytest.raises(Refusal, match=r"data\.task is 'ranking'; it must be classification or regression"):
        teacher(10, 10, 12, 6, 8, 4, 0.3, 0, "ranking")


def test_numbers_that_are_missing_are_refused() -> None:
    with pytest.raises(Refusal, match="none missing or infinite"):
        Data("bad", "table", torch.zeros(2, 1), torch.tensor([1.0, torch.nan]), 1, None, task="regression")


@pytest.mark.usefixtures("sketched")
def test_a_study_of_a_regression(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun("-m", "method=l2,dropout", "study=s", *SMALL).code == 0
    rows = read_table(tmp_path / "out/s/runs.csv")
    assert {row["task"] for row in rows} == {"regression"}
    assert all(row["last_test_acc"] == row["last_test_brier"] == "" for row in rows)
    assert all(row["last_test_r2"] and row["best_gap_r2"] and row["last_test_rmse"] for row in rows)
    assert not list(tmp_path.glob("out/s/*/predictions"))
    curves = pd.concat(map(pd.read_csv, tmp_path.glob("out/s/*/curves.csv")))
    assert set(curves["metric"]) == {"loss", "r2"}
    report = build(tmp_path / "out/s")
    frame = headline(read_runs(tmp_path / "out/s/runs.csv"))
    assert set(frame["metric"]) == {"test_r2"}
    own = [float(row["last_test_r2"]) for row in rows if row["method"] == "l2"]
    assert frame.set_index("method").loc["l2", "mean"] == pytest.approx(sum(own) / 2)
    written = (tmp_path / "out/s/report/headline.md").read_text()
    for text in (written, caption(frame), " ".join(words for _, words in answers(report.headline))):
        assert "R²" in text
        assert not [word for word in ("accuracy", "nats", "entropy") if word in text]
    assert "variances of the training targets" in written


@pytest.mark.usefixtures("sketched")
def test_classes_and_numbers_are_pooled_apart(regrun: Regrun, tmp_path: Path) -> None:
    small = ("seeds=2", "epochs=1", "batch_size=20", "data.train_size=60", "out=out", "progress=false")
    assert regrun("-m", "method=l2", "data=diabetes,wine,iris", "study=s", *small).code == 0
    rows = {row["last_test_acc"] == "" for row in read_table(tmp_path / "out/s/runs.csv")}
    assert rows == {True, False}
    pooled = pd.read_csv(tmp_path / "out/s/report/pooled.csv")
    assert pooled[["metric", "datasets"]].to_numpy().tolist() == [["test_acc", "iris wine"]]
    frame = headline(read_runs(tmp_path / "out/s/runs.csv"))
    assert dict(zip(frame["dataset"], frame["metric"], strict=True)) == {
        "diabetes": "test_r2",
        "wine": "test_acc",
        "iris": "test_acc",
    }
    assert "accuracy or R²" in (tmp_path / "out/s/report/report.html").read_text()


def test_strengths_are_chosen_on_the_validation_score(regrun: Regrun, tmp_path: Path) -> None:
    grid = ("method=l2", "method.l2.rate=[0.001,1e4]", "protocol=tuned", "protocol.tune_seeds=2", "study=t")
    assert regrun(*grid, *SMALL).code == 0  # 1e4 leaves no weights
    report = [row for row in read_table(tmp_path / "out/t/runs.csv") if row["role"] == "report"]
    assert {float(row["strength"]) for row in report} == {0.001}


def test_a_table_with_a_number_to_predict(regrun: Regrun, tmp_path: Path) -> None:
    x = Key.of(0).normal(200, 2)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "price": 1e3 + 100 * x[:, 0], "name": ["u", "v"] * 100})
    frame.to_csv(tmp_path / "my.csv", index=False)
    own = ("data=table", "data.path=my.csv", "data.target=price", "epochs=60", "batch_size=20", "seeds=2", "out=out")
    told = regrun("method=none", "data.task=regression", "study=s", *own)
    assert told.code == 0, told.err
    rows = read_table(tmp_path / "out/s/runs.csv")
    assert all(float(row["last_test_r2"]) > 0.9 for row in rows)
    assert all(0 < float(row["last_test_rmse"]) < 40 for row in rows)  # of a number with standard deviation 100
    assert "classes" in regrun("method=none", *own).err  # a number to classify
    told = regrun("method=none", "data.task=regression", *own[:2], "data.target=name", *own[3:])
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "'name' of my.csv is not all numbers" in told.err
    # a classification's settings are what they were before there was a task
    assert regrun("method=none", *own[:2], "data.target=name", "study=c", "epochs=1", *own[4:]).code == 0
    settings = json.loads((tmp_path / "out/c/study.json").read_text())["settings"]["table/mlp"]
    assert "data.task" not in settings


REFUSED = (
    "label_smoothing", "disturb_label", "bootstrap", "confidence_penalty", "focal", "logit_penalty", "r_drop",
    "virtual_adversarial", "aug_mix_jsd", "mean_teacher",
)  # fmt: skip


@pytest.mark.parametrize("method", REFUSED)
def test_methods_about_classes_are_refused(regrun: Regrun, method: str) -> None:
    told = regrun(f"method={method}", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert f"method.{method} is about classes; diabetes is a regression" in told.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.label_noise=0.1", "data.label_noise is 0.1; a regression has no classes"),
        ("data.imbalance=10", "data.imbalance is 10; a regression has no classes"),
        ("evaluate.adversarial=true", "evaluate.adversarial is true; it counts correct classes"),
    ],
)
def test_settings_about_classes_are_refused(regrun: Regrun, override: str, said: str) -> None:
    told = regrun("method=l2", override, *SMALL)
    assert told.code == 2
    assert said in told.err


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in options("method") if name not in (*REFUSED, "cocktail_space")])
def test_every_other_method_trains_on_numbers_or_says_why_not(regrun: Regrun, method: str) -> None:
    told = regrun(f"method={method}", *SMALL[:1], "seeds=1", "epochs=1", *SMALL[3:])
    assert told.code == 0 or (told.code == 2 and "regression" not in told.err), told.err
