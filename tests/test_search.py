"""Random search: what is drawn, and that a method which is off is not there at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Regrun
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runner.config import read
from runner.engine.loop import train
from runner.errors import Refusal
from runner.grid import Run
from runner.job import Job
from runner.keys import Key
from runner.methods.base import Range
from runner.paths import conf_dir, options, stacked
from runner.records import read_table
from runner.search import Space, between, drawn

PLAIN, WHOLE = Range(0, math.inf, 0, False, False, False, False), Range(1, 9, None, False, False, True, False)
GRIDS: dict[str, list[float]] = {
    "l2.rate": [1e-4, 1e-1], "dropout.rate": [0.1, 0.5], "mixup.alpha": [0.1, 2.0], "cutmix.alpha": [0.1, 2.0],
    "lookahead.every": [1, 5], "shake_drop.rate": [0.1, 0.4], "skip.scale": [0.5, 1.0], "optimizer.lr": [1e-3, 1e-1],
}  # fmt: skip
ALLOWED = dict.fromkeys(GRIDS, PLAIN) | {"lookahead.every": WHOLE}
TRIALS = 2000
SPACE = Space(GRIDS, ALLOWED, [["mixup", "cutmix", "absent"]], {"shake_drop": "skip"})
POINTS = drawn(SPACE, TRIALS, Key.of(0))
SMALL = ["data=optdigits", "data.train_size=100", "model=resnet_mlp", "model.width=8", "model.depth=1", "epochs=2"]


def composed(*overrides: str) -> Job:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return read(compose("config", [*overrides, "batch_size=50"]), overrides)


def on(point: Mapping[str, float], name: str) -> bool:
    assert (name in point) != any(path.startswith(f"{name}.") for path in point)  # a switch or strengths, never both
    return name not in point


def share(*names: str) -> float:
    return sum(all(on(point, name) for name in names) for point in POINTS) / TRIALS


def test_a_method_is_on_in_half_of_the_trials_independently_of_others() -> None:
    # five standard errors of a share of 1/2 over 2,000 trials are 0.056, of 1/4 0.048
    assert share("l2") == pytest.approx(1 / 2, abs=0.056)
    assert share("l2", "dropout") == pytest.approx(1 / 4, abs=0.048)
    assert share("shake_drop") == pytest.approx(1 / 2, abs=0.056)


def test_of_alternatives_one_at_most_is_on() -> None:
    assert share("mixup", "cutmix") == 0
    assert share("mixup") == pytest.approx(1 / 4, abs=0.048)
    assert share("mixup") + share("cutmix") == pytest.approx(1 / 2, abs=0.056)


def test_what_a_method_requires_is_on_with_it() -> None:
    assert share("shake_drop", "skip") == share("shake_drop")
    assert share("skip") == pytest.approx(3 / 4, abs=0.048)


def test_methods_that_refuse_each_other_are_never_on_together() -> None:
    job = composed("method=[weight_norm,l2,spectral_norm]", "protocol=search", "protocol.trials=60", "epochs=1")
    both = [{name for name in ("weight_norm", "spectral_norm") if on(point, name)} for point in job.points]
    assert {frozenset(names) for names in both} == {
        frozenset(),
        frozenset({"weight_norm"}),
        frozenset({"spectral_norm"}),
    }
    assert sum("weight_norm" in names for names in both) > sum("spectral_norm" in names for names in both)  # the first


def test_strengths_lie_between_the_ends_of_their_grids_on_the_scale_of_the_grid() -> None:
    l2 = sorted(point["l2.rate"] for point in POINTS if "l2.rate" in point)
    assert 1e-4 <= l2[0] < 1.1e-4
    assert 0.09 < l2[-1] <= 0.1
    assert l2[len(l2) // 2] == pytest.approx(math.sqrt(1e-4 * 1e-1), rel=0.5)  # log-uniform: the geometric middle
    rates = [point["dropout.rate"] for point in POINTS if "dropout.rate" in point]
    assert sum(rates) / len(rates) == pytest.approx(0.3, abs=0.02)  # uniform: the middle
    assert {point.get("lookahead.every", 1.0) for point in POINTS} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert all(1e-3 <= point["optimizer.lr"] <= 1e-1 for point in POINTS)  # the optimizer is always on


def test_a_method_alone_is_always_on_with_the_strengths_it_has_in_a_stack() -> None:
    alone = drawn(Space({"l2.rate": GRIDS["l2.rate"]}, ALLOWED, [], {}), 50, Key.of(0))
    assert all("l2.rate" in point for point in alone)
    together = [(a["l2.rate"], b["l2.rate"]) for a, b in zip(alone, POINTS[:50], strict=True) if "l2.rate" in b]
    assert together
    assert all(one == other for one, other in together)
    assert drawn(SPACE, 5, Key.of(1)) != drawn(SPACE, 5, Key.of(0))


NEAR_ONE = Space({"ema.decay": [0.9, 0.999]}, {"ema.decay": PLAIN}, [], {})


def test_points_that_look_alike_in_the_tables_are_one() -> None:
    decays = [point["ema.decay"] for point in drawn(NEAR_ONE, 100, Key.of(0))]
    exact = [between(0.9, 0.999, float(Key.of(0).fold(at).fold("ema.decay").uniform()), False) for at in range(100)]
    (extra,) = set(exact) - set(decays)
    assert f"{extra:g}" in {f"{decay:g}" for decay in decays}
    assert [decay for decay in exact if decay != extra] == decays  # the others are as they were drawn


def test_values_by_hand() -> None:
    assert between(1e-4, 1e-2, 0.5, whole=False) == pytest.approx(1e-3)
    assert between(0.0, 1.0, 0.25, whole=False) == 0.25  # a grid that begins at 0 has no logarithm
    # 1 - x runs by factors from 0.1 to 0.001: a quarter of the way it is 0.1 / sqrt(10) = 0.0316228
    assert between(0.9, 0.999, 0.25, whole=False) == 0.9683772
    assert [between(0.9, 0.999, share, whole=False) for share in (0.0, 1.0)] == [0.9, 0.999]
    assert between(0.9, 0.99, 0.5, whole=False) == pytest.approx(1 - 10**-1.5)  # a decade, whatever floats make of it
    assert between(0.2, 0.9, 0.5, whole=False) == 0.55  # 0.8 and 0.1 are less than a decade apart
    assert [between(1, 3, share, whole=True) for share in (0.0, 0.34, 0.99)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("lanes", [1, None])
def test_a_method_that_is_off_is_not_there(lanes: int | None) -> None:
    """Bit for bit the runs of the stack without it, whatever else it would have built or drawn."""
    whole = composed(*SMALL, "method=[batch_norm,mixup,l2]").experiment
    part = composed(*SMALL, "method=[mixup]").experiment
    point = {"mixup.alpha": 0.3, "batch_norm": 0.0, "l2": 0.0}
    runs = [Run(seed, "report", point, 0) for seed in (0, 1)]
    bare = [replace(run, point={"mixup.alpha": 0.3}) for run in runs]
    switched = list(train(replace(whole, lanes=lanes), runs))
    without = list(train(replace(part, lanes=lanes), bare))
    assert [o.figures for o in switched] == [o.figures for o in without]
    assert [o.curve for o in switched] == [o.curve for o in without]


def test_a_search_chooses_one_point_and_reports_it_on_fresh_seeds(regrun: Regrun, tmp_path: Path) -> None:
    for method in ("none", "weight_decay", "[dropout,swa,ema]"):
        command = ["protocol=search", "protocol.trials=4", "seeds=3", "batch_size=50", "study=s", "progress=false"]
        told = regrun(f"method={method}", *command, *SMALL)
        assert told.code == 0, told.err
    rows = read_table(tmp_path / "outputs" / "s" / "runs.csv")
    tune = {m: [r for r in rows if r["method"] == m and r["role"] == "tune"] for m in {r["method"] for r in rows}}
    assert {method: len(own) for method, own in tune.items()} == {"none": 0, "weight_decay": 8, "dropout+swa+ema": 8}
    assert not any("swa." in row["strengths"] and "ema." in row["strengths"] for row in rows)
    for method in ("weight_decay", "dropout+swa+ema"):
        report = [r for r in rows if r["method"] == method and r["role"] == "report"]
        assert len({r["strengths"] for r in report}) == 1
        assert {r["seed"] for r in report} == {"2", "3", "4"}
    assert {r["strength"] for r in tune["dropout+swa+ema"]} == {""}  # no single strength orders its points
    assert len({r["strength"] for r in tune["weight_decay"]}) == 4


def test_the_baseline_of_a_search_has_nothing_to_draw() -> None:
    assert composed("protocol=search", *SMALL).points == [{}]


def test_a_search_draws_the_learning_rate_too_the_same_at_a_trial_for_every_stack() -> None:
    tune = ["protocol=search", "protocol.trials=6", "protocol.tune=[optimizer.lr]", *SMALL]
    jobs = {name: composed(f"method={name}", *tune) for name in ("none", "l2", "[l2,dropout]")}
    rates = {name: [point["optimizer.lr"] for point in job.points] for name, job in jobs.items()}
    assert rates["none"] == rates["l2"] == rates["[l2,dropout]"]
    assert len(set(rates["none"])) == 6
    assert all(0.003 <= rate <= 0.03 for rate in rates["none"])  # conf/optimizer/adam.yaml
    assert jobs["none"].tunes
    assert [set(point) for point in jobs["none"].points] == [{"optimizer.lr"}] * 6
    assert [set(point) for point in jobs["l2"].points] == [{"optimizer.lr", "l2.rate"}] * 6
    # the strengths are those of the search that leaves the rate alone, and a list takes the place of the grid
    plain = composed("method=l2", "protocol=search", "protocol.trials=6", *SMALL)
    assert [point["l2.rate"] for point in plain.points] == [point["l2.rate"] for point in jobs["l2"].points]
    assert plain.name != jobs["l2"].name
    listed = composed("method=l2", *tune, "optimizer.lr=[0.1,0.2]")
    assert all(0.1 <= point["optimizer.lr"] <= 0.2 for point in listed.points)
    same = composed("method=l2", "protocol=search", "protocol.trials=6", "optimizer.lr=[0.003,0.01,0.03]", *SMALL)
    assert (same.name, same.points) == (jobs["l2"].name, jobs["l2"].points)


@pytest.mark.usefixtures("sketched")
def test_a_search_reports_the_drawn_rate_of_each_method_in_one_comparison(regrun: Regrun, tmp_path: Path) -> None:
    rate = ["protocol.tune=[optimizer.lr]", "protocol.trials=3", "protocol.tune_seeds=2"]
    told = regrun("-m", "method=l2", "protocol=search", *rate, "seeds=2", "study=s", "batch_size=50", *SMALL)
    assert told.code == 0, told.err
    study = tmp_path / "outputs" / "s"
    rows = read_table(study / "runs.csv")
    assert {row["setting"] for row in rows} == {""}
    for method in ("none", "l2"):
        tune = [row for row in rows if (row["method"], row["role"]) == (method, "tune")]
        assert len(tune) == 6
        assert len({row["lr"] for row in tune}) == 3
        (chosen,) = {row["strengths"] for row in rows if (row["method"], row["role"]) == (method, "report")}
        assert chosen in {row["strengths"] for row in tune}
        assert "optimizer.lr=" in chosen
    text = (study / "report" / "headline.md").read_text()
    assert "strengths and the learning rate of each method chosen" in text
    assert "(6 tuning runs per method, 6 runs for none)" in text
    assert not (study / "report" / "figures" / "strength_curves.pdf").exists()  # no two points share a rate


NAMED = [name for name in options("method") if stacked(name) != [name]]


@pytest.mark.parametrize("name", NAMED)
def test_a_named_stack_lists_what_it_stacks(name: str) -> None:
    node = OmegaConf.load(conf_dir() / "method" / f"{name}.yaml")
    assert list(node.defaults) == stacked(name) == list(node.stacks[name])


def test_a_named_stack_is_one_word_and_takes_others() -> None:
    job = composed("method=cocktail", *SMALL)
    assert job.method == "cocktail"
    assert list(job.experiment.stack.methods) == stacked("cocktail")
    more = composed("method=[cocktail,l1]", "method.dropout.rate=0.125", *SMALL)
    assert more.method == "cocktail+l1"
    assert more.experiment.stack.methods["dropout"].rate == 0.125  # type: ignore[attr-defined]
    assert (
        job.experiment.stack.at({}).methods
        == composed(f"method=[{','.join(stacked('cocktail'))}]", *SMALL).experiment.stack.methods
    )


def test_the_whole_space_of_cocktails_is_refused_unless_it_is_searched() -> None:
    with pytest.raises(Refusal, match="choose the weights to evaluate"):
        composed("method=cocktail_space", *SMALL)
    job = composed("method=cocktail_space", "protocol=search", *SMALL, "model.skip=0")
    assert len(stacked("cocktail_space")) == 13
    assert len(job.points) == 20
    assert len({tuple(sorted(p for p in point if "." not in p)) for point in job.points}) > 15


TPE = ["protocol=optuna", "protocol.trials=7", "protocol.batch=3", "seeds=2", "study=s", "progress=false"]


def asked_in(study: Path, method: str) -> list[tuple[dict[str, object], list[float] | None]]:
    """What each trial of a job was asked for and told, read with Optuna."""
    optuna = pytest.importorskip("optuna")
    (path,) = study.glob(f"{method}-*/optuna.db")
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{path}").trials
    return [(trial.user_attrs["point"], trial.values) for trial in trials]


@pytest.mark.parametrize("method", ["l2", "[dropout,swa,ema]"])
@pytest.mark.usefixtures("undrawn")
def test_optuna_is_told_validation_figures_and_its_best_point_is_reported(
    regrun: Regrun, tmp_path: Path, method: str
) -> None:
    pytest.importorskip("optuna")
    told = regrun("-m", f"method={method}", *TPE, *SMALL, "batch_size=50")
    assert told.code == 0, told.err
    name = method.strip("[]").replace(",", "+")
    rows = read_table(tmp_path / "outputs" / "s" / "runs.csv")
    tune = [row for row in rows if row["method"] == name and row["role"] == "tune"]
    trials = asked_in(tmp_path / "outputs" / "s", name)
    assert len(trials) == 7
    points = list(dict.fromkeys(tuple(sorted(point.items())) for point, _ in trials))
    for number, point in enumerate(points):
        mine = [row for row in tune if int(row["strength_idx"]) == number]
        assert {row["seed"] for row in mine} == {"0", "1"}
        mean = sum(float(row["last_val_acc"]) for row in mine) / 2
        told_of = {v[0] for p, v in trials if v and tuple(sorted(p.items())) == point}
        assert len(told_of) == 1
        assert told_of.pop() == pytest.approx(mean)
    first = composed(*TPE, f"method={method}", *SMALL).points
    assert [point for point, _ in trials[:3]] == first  # drawn as protocol=search draws, equal for every stack
    assert first == composed("protocol=search", "protocol.trials=7", f"method={method}", *SMALL).points[:3]
    best = max(points, key=lambda point: next(v[0] for p, v in trials if v and tuple(sorted(p.items())) == point))
    (shown,) = {row["strengths"] for row in rows if row["method"] == name and row["role"] == "report"}
    assert shown == " ".join(f"{path}={value:g}" for path, value in dict(best).items() if "." in path)
    assert not any("swa." in row["strengths"] and "ema." in row["strengths"] for row in rows)


def test_a_search_by_optuna_that_was_cut_off_asks_for_the_same_points(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    from runner import records

    command = ["method=l2", *TPE, *SMALL, "batch_size=50"]
    assert regrun(*command, "out=whole").code == 0
    write, left = records.write_ended, 8

    def breaks(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("cut off")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(records, "write_ended", breaks)
    assert regrun(*command).code == 1  # in the second batch: 3 points, of 2 seeds each, and 2 runs
    monkeypatch.setattr(records, "write_ended", write)
    assert regrun(*command).code == 0
    whole, mine = (asked_in(tmp_path / out / "s", "l2") for out in ("whole", "outputs"))
    assert mine == whole
    tables = [
        {row["run_id"]: row["last_test_loss"] for row in read_table(tmp_path / out / "s" / "runs.csv")}
        for out in ("whole", "outputs")
    ]
    assert tables[0] == tables[1]
    assert regrun(*command).code == 0
    assert asked_in(tmp_path / "outputs" / "s", "l2") == whole  # complete: nothing more is asked for


def test_points_of_optuna_that_look_alike_in_the_tables_are_one(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from runner.asking import Asking

    asking = Asking(tmp_path / "optuna.db", NEAR_ONE, [{"ema.decay": decay} for decay in (0.99876543, 0.99876541)], 0)
    assert asking.ask(3, 2)
    assert asking.points() == [{"ema.decay": 0.99876543}]
    asking.tell({0: 0.5})  # of both
    assert asking.ask(3, 2)


def test_a_run_that_optuna_has_asked_for_can_be_verified(regrun: Regrun, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from runner.verify import verify

    assert regrun("method=l2", *TPE, *SMALL, "batch_size=50").code == 0
    assert [verify(tmp_path / "outputs" / "s", seed, ())[0] for seed in range(4)] == [True] * 4


def test_what_a_search_by_optuna_refuses(regrun: Regrun, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(Refusal, match="lanes_per_job is 2; a search that asks"):
        composed("method=l2", *TPE, *SMALL, "lanes_per_job=2")
    with pytest.raises(Refusal, match="no sampler 'tep'; did you mean 'tpe'"):
        composed("method=l2", *TPE, *SMALL, "protocol.sampler=tep")
    monkeypatch.setattr("runner.config.find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"pip install 'regrun\[optuna\]'"):
        composed("method=l2", *TPE, *SMALL)
