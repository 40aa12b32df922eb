"""The learning rate tuned with the strengths: the same grid for every method, the baseline included."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Regrun
from test_conf import composed
from test_study import SMALL, rows_of

OPTIONS = ["data=digits", "protocol=tuned", "out=nowhere"]


def test_every_method_tunes_the_same_rates_crossed_with_its_own_strengths() -> None:
    job = composed("method=l2", "method.l2.rate=[0.1,0.2]", "protocol.tune=[optimizer.lr]", *OPTIONS)
    # conf/optimizer/adam.yaml; the strength is the outer axis, so that a tie goes to the weaker one
    assert [tuple(point.values()) for point in job.points] == [
        (0.1, 0.003), (0.1, 0.01), (0.1, 0.03), (0.2, 0.003), (0.2, 0.01), (0.2, 0.03)
    ]  # fmt: skip
    assert len(job.tuning()) == 18
    base = composed("protocol.tune=[optimizer.lr]", *OPTIONS)
    assert base.points == [{"optimizer.lr": lr} for lr in (0.003, 0.01, 0.03)]
    assert base.tunes
    stack = composed("method=[l2,dropout]", "protocol.tune=[optimizer.lr]", *OPTIONS)
    assert len(stack.points) == 15


@pytest.mark.parametrize("protocol", ["tuned", "search", "fixed"])
def test_no_seed_chooses_by_what_another_one_tests_on(protocol: str) -> None:
    job = composed("method=dropout", "data=digits", f"protocol={protocol}", "seeds=3", "out=nowhere")
    data, splitter = job.experiment.data, job.experiment.splitter
    chosen_by = [splitter.split(data, seed) for seed in job.tune_seeds]
    tested = {row for seed in job.seeds for row in splitter.split(data, seed).test.tolist()}
    used = {row for split in chosen_by for rows in (split.train, split.val) for row in rows.tolist()}
    assert not used & tested
    assert len(tested) == 1000 if chosen_by else len(tested) > 1000


def test_a_list_takes_the_place_of_the_grid_and_the_same_grid_is_the_same_job() -> None:
    named = composed("method=l2", "protocol.tune=[optimizer.lr]", *OPTIONS)
    listed = composed("method=l2", "optimizer.lr=[0.003,0.01,0.03]", *OPTIONS)
    both = composed("method=l2", "protocol.tune=[optimizer.lr]", "optimizer.lr=[0.5]", *OPTIONS)
    assert named.name == listed.name
    assert {point["optimizer.lr"] for point in both.points} == {0.5}
    # a grid that is not walked changes no number
    assert composed("method=l2", *OPTIONS).name == composed("method=l2", "optimizer.grid.lr=[9]", *OPTIONS).name


@pytest.mark.parametrize(
    ("arguments", "told_of"),
    [
        (["protocol.tune=[optimizer.lrr]"], "no number to tune 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["protocol.tune=[epochs]"], "no number to tune 'epochs'"),
        (["protocol.tune=[optimizer.beta1]"], "optimizer.beta1, which has no grid"),
        (["protocol.tune=optimizer.lr"], "protocol.tune is 'optimizer.lr'; it must be a list"),
        (["protocol=fixed", "protocol.tune=[optimizer.lr]"], "protocol=fixed chooses nothing"),
        (["protocol.tune=[optimizer.lr]", "optimizer.grid.lr=[0.1,-1]"], "optimizer.grid.lr is -1"),
        (["protocol.tune=[optimizer.lr]", "optimizer.grid=3"], "optimizer.grid is 3"),
    ],
)
def test_what_cannot_be_tuned_is_refused(regrun: Regrun, tmp_path: Path, arguments: list[str], told_of: str) -> None:
    told = regrun("method=l2", "protocol=tuned", *SMALL, *arguments)
    assert (told.code, told.err.count("\n")) == (2, 1), told.err
    assert told_of in told.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_study_reports_one_rate_for_each_method_in_one_comparison(regrun: Regrun, tmp_path: Path) -> None:
    rates = ["protocol.tune=[optimizer.lr]", "optimizer.lr=[1e-6,0.01]", "protocol.tune_seeds=2"]
    told = regrun(
        "-m", "method=l2", "protocol=tuned", "method.l2.rate=[1e-3,0.1]", "seeds=2", *rates, *SMALL, "epochs=8"
    )
    assert told.code == 0, told.err
    study = tmp_path / "outputs" / "first"
    rows = rows_of(study)
    assert {row["setting"] for row in rows} == {""}
    # 2 seeds x 2 rates for none, x 2 strengths for l2
    assert {m: sum(r["role"] == "tune" for r in rows if r["method"] == m) for m in ("none", "l2")} == {
        "none": 4,
        "l2": 8,
    }
    reported = {(row["method"], row["lr"]) for row in rows if row["role"] == "report"}
    assert reported == {("none", "0.01"), ("l2", "0.01")}  # at 1e-6 nothing is learned
    (none,) = {row["strengths"] for row in rows if row["role"] == "report" and row["method"] == "none"}
    assert none == "optimizer.lr=0.01"
    assert "(8 tuning runs per method, 4 runs for none)" in (study / "report" / "headline.md").read_text()
