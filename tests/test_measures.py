"""Measures of generalization: by hand, and against torch's and scipy's own computations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import Regrun
from report_data import Plan, write_study
from scipy.stats import kendalltau, norm
from test_engine import experiment, outcomes
from torch import Tensor, nn
from torch.func import functional_call

from runner.engine import measures
from runner.engine.measures import (
    MEASURES,
    has_paths,
    hessian_top,
    largest_sigma,
    margin_of,
    measured,
    path_norm,
    sharpness,
    spectral,
)
from runner.engine.optimizers import SGD
from runner.experiment import Asked
from runner.keys import Key
from runner.methods.base import Method, Params
from runner.methods.dropping import Dropout
from runner.methods.ensembles import Ensemble, MCDropout
from runner.methods.normalization import BatchNorm
from runner.methods.reparametrization import WeightNorm, WeightStandardization
from runner.methods.stack import Stack
from runner.methods.weight_penalties import L0
from runner.nets.dense import mlp
from runner.records import ASKED, read_table
from runner.report.build import build
from runner.report.collect import collect
from runner.report.measures import LABELS, correlations, measures_figure, read_measures, tau_interval
from runner.report.tables import read_runs

ASKING = Asked(corruptions=False, attack=None, measures=True)


def tiny() -> tuple[nn.Module, Params]:
    """A net of 31 weights, in float64, with kinks away from its inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return net, {name: w.detach() for name, w in net.named_parameters()}


def test_the_names_are_the_same_everywhere() -> None:
    assert ASKED["measures"] == ("run_id", *MEASURES)
    assert tuple(LABELS) == MEASURES


def test_the_largest_eigenvalue_is_that_of_the_full_hessian() -> None:
    net, params = tiny()
    x, y = Key.of(0).normal(20, 3).double(), torch.arange(20) % 3

    def loss_at(at: Params) -> Tensor:
        return F.cross_entropy(functional_call(net, at, (x,)), y)

    flat = torch.cat([w.flatten() for w in params.values()])

    def flat_loss(v: Tensor) -> Tensor:
        parts = v.split([w.numel() for w in params.values()])
        return loss_at({n: p.view_as(w) for (n, w), p in zip(params.items(), parts, strict=True)})

    want = torch.linalg.eigvalsh(torch.autograd.functional.hessian(flat_loss, flat))
    assert hessian_top(loss_at, params, Key.of(1)).item() == pytest.approx(want[-1].item(), rel=1e-3)


def test_eigenvalues_by_hand() -> None:
    # (3 a^2 - 5 b^2) / 2: the largest is 3, not the -5 that is largest in size; a linear loss has none
    at = {"a": torch.tensor([0.7]), "b": torch.tensor([0.2])}
    assert hessian_top(lambda p: (1.5 * p["a"] ** 2 - 2.5 * p["b"] ** 2).sum(), at, Key.of(0)).item() == pytest.approx(
        3
    )
    assert hessian_top(lambda p: (2 * p["a"] + p["b"]).sum(), at, Key.of(0)).item() == 0


def test_margins_by_hand() -> None:
    # right less the best other: 2 - 1, 0 - 3, ...; of 0, 1, ..., 10 the tenth percentile is 1
    logits = torch.tensor([[2.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    assert margin_of(logits[:1], torch.tensor([0])).item() == 1
    assert margin_of(logits[1:], torch.tensor([1])).item() == -3
    many = torch.stack([torch.arange(11.0), torch.zeros(11)], 1)
    assert margin_of(many, torch.zeros(11, dtype=torch.int64)).item() == pytest.approx(1)


def test_norms_by_hand() -> None:
    # matrices diag(3, 4) and (1, 2): Frobenius 25 and 5, spectral 16 and 5; from zero the distances are the norms
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    params = {
        "0.weight": torch.diag(torch.tensor([3.0, 4.0])), "0.bias": torch.zeros(2),
        "2.weight": torch.tensor([[1.0, 2.0]]), "2.bias": torch.tensor([1.0]),
    }  # fmt: skip
    start = {name: torch.zeros_like(w) for name, w in params.items()}
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = measured(net, params, start, {}, x, torch.tensor([3.0, 9.0, 12.0]), Key.of(0))
    assert tuple(found) == MEASURES
    assert found["param_norm"].item() == pytest.approx(math.sqrt(30))
    assert found["dist_init"].item() == pytest.approx(math.sqrt(30))
    assert found["dist_init_spec"].item() == pytest.approx(math.sqrt(21))
    assert found["log_prod_frob"].item() == pytest.approx(math.log(125))
    assert found["log_prod_spec"].item() == pytest.approx(math.log(80))
    # paths: 3 * 1 and 4 * 2, and the last bias: 9 + 64 + 1
    assert found["path_norm"].item() == pytest.approx(math.sqrt(74))
    assert math.isnan(found["margin"].item())  # numbers to predict have no classes
    filters = Key.of(0).normal(5, 2, 3)
    assert spectral(filters).item() == pytest.approx(float(np.linalg.svd(filters.flatten(1).numpy())[1][0]), rel=1e-5)


def test_paths_are_those_of_plain_relu_nets() -> None:
    net, params = tiny()
    assert not has_paths(net, params)  # tanh
    plain = mlp((6,), 3, width=5, depth=2)
    weights: Params = dict(plain.named_parameters())
    assert has_paths(plain, weights)
    # by the product of squared matrices, biases left out
    at = {name: w if w.ndim == 2 else torch.zeros_like(w) for name, w in weights.items()}
    first, second, third = (w.double() ** 2 for w in weights.values() if w.ndim == 2)
    assert path_norm(plain, at, torch.zeros(1, 6)).item() == pytest.approx((third @ second @ first).sum().sqrt().item())
    assert not has_paths(MCDropout(0.5, 2).build(plain), weights)
    assert not has_paths(BatchNorm(1e-5).build(mlp((6,), 3, width=5, depth=2)), weights)


def test_sharpness_by_hand() -> None:
    # the loss w^2 rises most from w = 1 to 1.05: 1.05^2 - 1
    at = {"w": torch.tensor([1.0], dtype=torch.float64)}
    assert sharpness(lambda p: (p["w"] ** 2).sum(), at).item() == pytest.approx(1.05**2 - 1)
    # of a steep and a flat direction the steep one counts, and it is found from the side
    at = {"w": torch.tensor([1e-3, 1e-3], dtype=torch.float64)}
    most = sharpness(lambda p: 50 * p["w"][0] ** 2 + p["w"][1] ** 2, at).item()
    assert most == pytest.approx(50 * 0.051**2, rel=0.02)


def test_the_noise_endured_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # a weight of 2 gives the logits w and 0: a draw's score is 1 while 2 + sigma u > 0, so the mean falls by 0.1 where
    # P(u < -2 / sigma) is 0.1: sigma = 2 / 1.2816, or relative to the weight half of it
    monkeypatch.setattr(measures, "DRAWS", 4000)
    monkeypatch.setattr(measures, "MOST", 10.0)
    params = {"w": torch.tensor([2.0])}
    target = torch.tensor([[1.0, 0.0]])

    def forward(at: Params) -> Tensor:
        return torch.stack([at["w"], torch.zeros(1)], 1)

    want = 2 / -norm.ppf(0.1)
    assert largest_sigma(forward, params, target, Key.of(0), relative=False).item() == pytest.approx(want, rel=0.05)
    assert largest_sigma(forward, params, target, Key.of(0), relative=True).item() == pytest.approx(want / 2, rel=0.05)
    # what no noise harms, and what all does, however many draws there are
    monkeypatch.setattr(measures, "DRAWS", 10)
    fixed = torch.tensor([[5.0, 0.0]])
    assert largest_sigma(lambda at: fixed, params, target, Key.of(0), relative=False).item() == 10
    edge = {"w": torch.tensor([1e-9])}
    assert largest_sigma(forward, edge, target, Key.of(0), relative=False).item() == 1e-5


def test_asking_changes_no_other_number_and_packs_agree() -> None:
    trial = experiment(Stack({"dropout": Dropout(0.2, 0.0), "batch_norm": BatchNorm(1e-5)}))
    asking = replace(trial, asked=ASKING)
    together = outcomes(asking, 3)
    for one, more in zip(outcomes(trial, 3), together, strict=True):
        assert one.figures == more.figures
        (row,) = more.tables["measures"]
        assert tuple(row) == MEASURES
        assert math.isnan(float(str(row["path_norm"])))
        assert float(str(row["dist_init"])) == pytest.approx(more.figures["w_dist_init"], rel=1e-6)
        assert float(str(row["param_norm"])) == pytest.approx(more.figures["w_l2"], rel=1e-6)
        assert 1e-5 < float(str(row["pac_bayes_sigma"])) < 1
        assert float(str(row["hessian_top"])) > 0
    for wide, narrow in zip(together, outcomes(replace(asking, lanes=2), 3), strict=True):
        assert str(wide.tables) == str(narrow.tables)
    for wide, alone in zip(together, outcomes(replace(asking, lanes=1), 3), strict=True):
        ours, theirs = wide.tables["measures"][0], alone.tables["measures"][0]
        for name in ("param_norm", "log_prod_spec", "margin", "sharpness", "hessian_top"):
            assert float(str(ours[name])) == pytest.approx(float(str(theirs[name])), rel=0.02)


@pytest.mark.parametrize("method", [None, WeightNorm(1.0), WeightStandardization(1e-5, True), L0(0.1, 0.5)])
def test_of_several_members_the_first_is_measured_as_layers_compute_with_it(method: Method | None) -> None:
    methods: dict[str, Method] = {"method": method} if method else {}
    alone = outcomes(replace(experiment(Stack(methods)), asked=ASKING), 1)[0]
    several = outcomes(replace(experiment(Stack({"ensemble": Ensemble(2), **methods})), asked=ASKING), 1)[0]
    for name in ("param_norm", "dist_init", "margin", "sharpness", "hessian_top"):
        ours, theirs = (float(str(one.tables["measures"][0][name])) for one in (alone, several))
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_reparametrized_net_that_has_not_moved_is_at_its_start(copies: int) -> None:
    trial = experiment(Stack({"norm": WeightStandardization(1e-5, True), "ensemble": Ensemble(copies)}), epochs=1)
    still = replace(trial, optimizer=SGD(1e-30, 0.0, False))
    assert [outcome.figures["w_dist_init"] for outcome in outcomes(still, 2)] == [0, 0]


def test_a_weight_that_is_not_used_leaves_the_eigenvalue_as_it_is() -> None:
    at = {"w": torch.tensor([1.0, 2.0]), "unused": torch.tensor([5.0])}
    top = hessian_top(lambda p: (torch.tensor([1.5, 0.5]) * p["w"] ** 2).sum(), at, Key.of(0))
    assert top.item() == pytest.approx(3.0, rel=1e-4)


def test_tau_is_that_of_scipy_and_its_interval_covers_it() -> None:
    x = np.arange(60.0)
    y = x + 25 * np.random.default_rng(1).normal(size=60)
    tau, low, high = tau_interval(x, y)
    assert tau == pytest.approx(kendalltau(x, y).statistic)
    assert low < tau < high
    assert tau_interval(x, -x)[0] == -1
    assert tau_interval(x, y) == (tau, low, high)


def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.report.measures.RESAMPLES", 250)  # the ends are the sixth of them, from either side
    # of a normal pair with correlation r, tau is 2 / pi asin r
    draw, r, inside = np.random.default_rng(3), 0.5, 0
    for _ in range(40):
        x = draw.normal(size=40)
        _, low, high = tau_interval(x, r * x + math.sqrt(1 - r**2) * draw.normal(size=40))
        inside += low <= 2 / math.pi * math.asin(r) <= high
    assert (
        inside >= 33
    )  # 38 of 40 expected, with a standard deviation of 1.4; the percentile interval is a little short


@pytest.mark.usefixtures("sketched")
def test_the_report_correlates_measures_with_the_gap(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=4, tune=3))
    for job in study.iterdir():
        runs = pd.read_csv(job / "runs.csv")
        table = pd.DataFrame({"run_id": runs["run_id"], "sharpness": runs["last_gap_acc"] ** 3, "margin": 1.0})
        table["hessian_top"] = -runs["last_gap_acc"]
        table.to_csv(job / "measures.csv", index=False)
    report = build(study)
    frame = pd.read_csv(study / "report" / "measures.csv").set_index("measure")
    assert set(frame.index) == {"sharpness", "hessian_top"}  # a constant goes with nothing
    assert frame.loc["sharpness", "tau"] == pytest.approx(1)
    assert [frame.at["hessian_top", name] for name in ("tau", "lo", "hi")] == pytest.approx([-1, -1, -1])
    runs = read_runs(collect(study))
    assert frame["n_runs"].tolist() == [int(np.sum(runs["status"] == "ok"))] * 2
    text = (study / "report" / "headline.md").read_text()
    assert "| sharpness | +1.00 [+1.00, +1.00] |" in text
    assert "95% bootstrap interval over runs" in text
    assert any(path.name.startswith("measures") for path in report.figures)
    none = correlations(runs, read_measures(tmp_path / "nowhere"))
    assert none.empty
    assert measures_figure(none) is None


@pytest.mark.parametrize("model", ["mlp", "conv1d"])
def test_a_study_has_them_where_they_are_asked_for(regrun: Regrun, tmp_path: Path, model: str) -> None:
    size = ("data.pool=400", "data.test=300", "data.train_size=200", "data.val_size=100")
    small = (*size, "epochs=2", "batch_size=50", "seeds=2", "out=out", f"model={model}")
    assert regrun("method=l2", "study=s", *small, "evaluate.measures=true").code == 0
    (job,) = tmp_path.glob("out/s/l2-*")
    rows, found = read_table(job / "runs.csv"), read_table(job / "measures.csv")
    assert [row["run_id"] for row in rows] == [row["run_id"] for row in found]
    assert all(float(row["path_norm"]) > 0 for row in found)
    told = regrun("method=l2", "study=s", *small)
    assert (told.code, "evaluate.measures" in told.err) == (2, True)
    assert (
        regrun("method=l2", "data=diabetes", "study=r", "epochs=2", "batch_size=20", "evaluate.measures=true").code == 0
    )
    assert "evaluate.measures is 3" in regrun("method=l2", *small, "evaluate.measures=3").err
