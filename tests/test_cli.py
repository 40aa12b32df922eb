"""The command itself: its help, its sweeps, its names for studies."""

from __future__ import annotations

import gc
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Regrun, Terminal
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_conf import composed
from test_study import SMALL, job_of, rows_of

from runner.cli import GROUPS
from runner.paths import conf_dir, options
from runner.progress import progress_of

UNNAMED = [argument for argument in SMALL if not argument.startswith("study=")]
HELP = (conf_dir() / "config.yaml").read_text(encoding="utf-8")
EXAMPLES = [
    re.split(r"  +", line.strip())[0].removeprefix("regrun ")
    for line in HELP[HELP.index("Examples") :].splitlines()
    if line.strip().startswith("regrun ")
]


def strengths(study: Path, method: str) -> list[str]:
    """The strengths of a method's rows, each once, in order."""
    return list(dict.fromkeys(row["strengths"] for row in rows_of(study, method)))


def methods(study: Path) -> set[str]:
    return {row["method"] for row in rows_of(study)}


def test_help_lists_every_group_and_option(regrun: Regrun) -> None:
    told = regrun("--help")
    assert told.code == 0
    listed = {key: value for key, _, value in (line.partition(": ") for line in told.out.splitlines())}
    for group in GROUPS:
        assert listed[group].split(", ") == options(group)
    for example in EXAMPLES:
        assert f"regrun {example}" in told.out
    assert not any("/" in group for group in listed if " " not in group)  # conf/data/base is no choice


def test_a_sweep_keeps_no_configuration_of_a_job_that_has_ended(
    regrun: Regrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def report(*arguments: object) -> int:
        kept.append(sum(type(seen) is JobReturn and seen.cfg is not None for seen in gc.get_objects()))
        return 0

    monkeypatch.setattr("runner.sweep.report", report)
    assert regrun("-m", "method=l2", "method.l2.rate=0.1,0.2", *SMALL).code == 0
    assert kept == [0]


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "pandas", "matplotlib", "scipy", "numpy", "sklearn"}
    code = (
        "import atexit, sys; from runner.cli import main; sys.argv = ['regrun', '--help'];"
        f"atexit.register(lambda: print('heavy:', *sorted({heavy!r} & set(sys.modules)), file=sys.stderr)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples" in done.stdout
    assert done.stderr.strip() == "heavy:"


def test_a_start_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    """torch's compiler, scipy.stats, pandas and matplotlib take a second or two each; a mapped job needs none."""
    heavy = {"torch._dynamo", "torch._inductor", "scipy.stats", "pandas", "matplotlib", "sklearn"}
    code = (
        "import sys; from runner.cli import main;"
        "sys.argv = ['regrun', 'protocol=smoke', 'data=teacher', 'progress=false'];"
        "main();"
        f"print('heavy:', *sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "heavy:"
    assert "accuracy" in done.stdout  # it has trained


@pytest.mark.usefixtures("unreported")
def test_a_sweep_composes_each_job_once(regrun: Regrun, monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[tuple[str, ...]] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(
        self: ConfigLoaderImpl, config_name: str, overrides: list[str], *more: object, **named: object
    ) -> object:
        composed.append(tuple(overrides))
        return load(self, config_name, overrides, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert regrun("-m", "method=l2,dropout", "method.l2.rate=0.1,0.2", "seeds=1", *SMALL).code == 0
    of_jobs = [overrides for overrides in composed if any(o.startswith("axes=") for o in overrides)]
    # none, l2 twice and dropout twice (which does not take the rate, and is one job), and the first once more, to know
    # the name of the study
    assert len(of_jobs) == 5
    assert len(set(of_jobs)) == 5


def test_what_is_composed_once_is_what_hydra_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.plugins import Plugins
    from hydra_plugins.regrun_sweeper import OnceComposed

    Plugins.instance()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        ours = OnceComposed(loader.get_search_path())
        for overrides in (["method=l2", "method.l2.rate=0.5"], ["method=[dropout,l2]", "model=conv1d", "epochs=3"]):
            plain = loader.load_sweep_config(master, overrides)
            for cfg in (ours.plan_sweep_config(master, overrides), ours.load_sweep_config(master, overrides)):
                assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(plain)
                assert OmegaConf.is_struct(cfg)
            assert not ours._composed  # handed out once
        again = pickle.loads(pickle.dumps(ours))
        assert OmegaConf.to_yaml(again.load_sweep_config(master, overrides)) == OmegaConf.to_yaml(plain)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5
    assert sum("-m" in shlex.split(example) for example in EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_help_works(
    regrun: Regrun, tmp_path: Path, request: pytest.FixtureRequest, example: str
) -> None:
    if "tuned" in example:  # one of the two sweeps draws its figures to the end
        request.getfixturevalue("sketched")
    small = [] if "protocol=" in example else ["protocol=smoke"]
    smaller = ["epochs=2", "seeds=2", "data.train_size=100", "data.val_size=50", "batch_size=50", "data.pool=300"]
    told = regrun(*shlex.split(example), *small, *smaller, "data.test=100")
    assert told.code == 0, told.err
    (study,) = (tmp_path / "outputs").iterdir()
    assert (study / "runs.csv").is_file()
    assert (study / "report").is_dir() == ("-m" in shlex.split(example))


@pytest.mark.usefixtures("unreported")
def test_a_study_without_a_name_gets_a_readable_one(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun("method=[dropout,l2]", "seeds=1", *UNNAMED).code == 0
    assert regrun("method=l2", "-m", "seeds=1", *UNNAMED).code == 0
    first, second = sorted((path.name for path in (tmp_path / "outputs").iterdir()), key=len, reverse=True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_dropout\+l2", first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_sweep", second)
    assert methods(tmp_path / "outputs" / second) == {"none", "l2"}  # in one folder


@pytest.mark.usefixtures("unreported")
def test_studies_without_a_name_that_begin_in_one_second_are_two(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sweep.stamp", lambda what: f"now_{what}")
    for command in (["-m", "method=l2"], ["method=l2"]):
        for more in (["seeds=1"], ["seeds=1", "epochs=3"]):  # which one study would refuse
            told = regrun(*command, *UNNAMED, *more)
            assert told.code == 0, told.err
    studies = tmp_path / "outputs"
    assert sorted(path.name for path in studies.iterdir()) == ["now_l2", "now_l2-2", "now_sweep", "now_sweep-2"]
    assert methods(studies / "now_sweep") == methods(studies / "now_sweep-2") == {"none", "l2"}
    assert {row["epochs"] for row in rows_of(studies / "now_sweep-2")} == {"3"}


@pytest.mark.parametrize("name", ["a=b", "été", "true", "7"])
@pytest.mark.usefixtures("unreported")
def test_a_sweep_may_have_any_name_that_a_job_may_have(regrun: Regrun, tmp_path: Path, name: str) -> None:
    for command in (["method=l2"], ["-m", "method=l2"]):
        told = regrun(*command, "seeds=1", f'study="{name}"', *UNNAMED)
        assert told.code == 0, told.err
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [name]
    assert methods(tmp_path / "outputs" / name) == {"none", "l2"}


@pytest.mark.usefixtures("undrawn")
def test_a_table_shows_names_as_they_are(regrun: Regrun) -> None:
    told = regrun("-m", "method=l2", 'data.name="[/a]"', "seeds=2", *SMALL)  # which rich would take for markup
    assert told.code == 0, told.err
    assert "[/a] · mlp" in told.out


@pytest.mark.parametrize("baseline", ["method=none", "method=[]", "epochs=2"])
@pytest.mark.usefixtures("undrawn")
def test_the_baseline_by_any_name_is_one_job(regrun: Regrun, tmp_path: Path, baseline: str) -> None:
    assert regrun("seeds=1", *SMALL, baseline).code == 0
    told = regrun("-m", "seeds=1", *SMALL, baseline)
    assert told.code == 0, told.err
    (job,) = (tmp_path / "outputs" / "first").glob("*/status.json")
    assert re.fullmatch(r"none-[0-9a-f]{8}", job.parent.name)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("method=dropout,l2 -m", {"none", "dropout", "l2"}),
        ("-m method='[dropout,l2],l2,none'", {"none", "l2", "dropout+l2"}),
        ("method='[l2,dropout],[dropout,l2]' --multirun", {"none", "dropout+l2", "l2+dropout"}),
        ("method=l2 hydra.mode=MULTIRUN", {"none", "l2"}),
        ("method=l2", {"l2"}),
        ("method=[dropout,l2]", {"dropout+l2"}),
    ],
)
@pytest.mark.usefixtures("unreported")
def test_a_command_runs_these_methods(regrun: Regrun, tmp_path: Path, command: str, expected: set[str]) -> None:
    told = regrun(*shlex.split(command), "seeds=1", *SMALL)
    assert told.code == 0, told.err
    assert methods(tmp_path / "outputs" / "first") == expected
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}  # no multirun.yaml, no log


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("method=l2 method.l2.rate=[1e-3,1e-2]", {"l2": ["l2.rate=0.001", "l2.rate=0.01"]}),
        (
            "method=dropout,l2 method.dropout.rate=[0.1,0.3] -m",
            {"none": [""], "dropout": ["dropout.rate=0.1", "dropout.rate=0.3"], "l2": ["l2.rate=0.001"]},
        ),
        ("method=dropout,l2 method.l2.rate=0.5 -m", {"dropout": ["dropout.rate=0.3"], "l2": ["l2.rate=0.5"]}),
        (
            "method=[dropout,l2] method.dropout.rate=[0.1,0.3] method.l2.rate=[0.0,1.0]",
            {"dropout+l2": [f"dropout.rate={rate} l2.rate={other}" for rate in ("0.1", "0.3") for other in ("0", "1")]},
        ),
        ("method=dropout method.dropout.rate=0.1,0.2 -m", {"dropout": ["dropout.rate=0.1", "dropout.rate=0.2"]}),
    ],
)
@pytest.mark.usefixtures("unreported")
def test_strengths_written_as_lists_are_a_grid(
    regrun: Regrun, tmp_path: Path, command: str, expected: dict[str, list[str]]
) -> None:
    told = regrun(*shlex.split(command), "seeds=2", *SMALL)
    assert told.code == 0, told.err
    for method, points in expected.items():
        assert sorted(strengths(tmp_path / "outputs" / "first", method)) == points
        assert len(rows_of(tmp_path / "outputs" / "first", method)) == 2 * len(points)


@pytest.mark.usefixtures("unreported")
def test_a_swept_setting_has_its_own_baseline_and_name(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("-m", "method=l2", "epochs=1,2", "seeds=1", *[a for a in SMALL if a != "epochs=2"])
    assert told.code == 0, told.err
    rows = rows_of(tmp_path / "outputs" / "first")
    assert {(row["method"], row["setting"], row["epochs"]) for row in rows} == {
        (method, f"epochs={epochs}", epochs) for method in ("none", "l2") for epochs in ("1", "2")
    }


MINE = {
    "method/pair": "defaults: [dropout, l2]\nstacks:\n  pair: [dropout, l2]\n",
    "method/mild": "defaults: [l2]\nl2:\n  biases: true\n",  # whose name is not that of its method
    "experiment/my": "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {method: 'pair,dropout'}}}\n",
    "experiment/one": "# @package _global_\ndefaults: [override /method: pair]\n",
}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("-m method=pair method.dropout.rate=0.125", {"none": [""], "pair": ["dropout.rate=0.125 l2.rate=0.001"]}),
        ("-m method=mild,dropout method.l2.rate=0.5", {"l2": ["l2.rate=0.5"], "dropout": ["dropout.rate=0.3"]}),
        (
            "experiment=my method.l2.rate=0.5",
            {"none": [""], "pair": ["dropout.rate=0.3 l2.rate=0.5"], "dropout": ["dropout.rate=0.3"]},
        ),
        ("-m experiment=one method.l2.rate=0.5", {"none": [""], "pair": ["dropout.rate=0.3 l2.rate=0.5"]}),
        ("experiment=my method=l2 method.l2.rate=0.5", {"none": [""], "l2": ["l2.rate=0.5"]}),
    ],
)
@pytest.mark.usefixtures("unreported")
def test_stacks_and_experiments_in_a_folder_of_ones_own_are_seen(
    regrun: Regrun, tmp_path: Path, command: str, expected: dict[str, list[str]]
) -> None:
    for name, text in MINE.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    told = regrun(*command.split(), "--config-dir", "mine", "seeds=1", *SMALL)
    assert told.code == 0, told.err
    for method, points in expected.items():
        assert strengths(tmp_path / "outputs" / "first", method) == points


@pytest.mark.usefixtures("unreported")
def test_a_plus_before_a_swept_key_changes_nothing(regrun: Regrun, tmp_path: Path) -> None:
    few = ["seeds=1", *[a for a in SMALL if a != "epochs=2"]]
    told = regrun("-m", "method=l2,l1", "++method.l1.form=proximal,subgradient", "++epochs=1,2", *few)
    assert told.code == 0, told.err
    rows = rows_of(tmp_path / "outputs" / "first")
    names = ("none", "l2", "l1.form=proximal", "l1.form=subgradient")
    assert sorted((row["method"], row["setting"]) for row in rows) == sorted(
        (name, f"epochs={epochs}") for name in names for epochs in (1, 2)
    )


def test_what_is_shown_at_the_end_holds_the_figures_and_the_folder(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("method=l2", "seeds=2", *SMALL)
    accuracy = [100 * float(row["last_test_acc"]) for row in rows_of(tmp_path / "outputs" / "first")]
    assert f"{sum(accuracy) / 2:.1f} ±" in told.out
    assert told.out.splitlines()[-1] == str(Path("outputs/first"))
    assert told.err == ""  # progress=false
    assert job_of(tmp_path / "outputs" / "first", "l2").is_dir()


def test_names_are_shown_as_they_are_and_not_as_markup(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("method=l2", "seeds=1", 'out="[lane] :warning:"', 'data.name="[/a] [bold]"', *SMALL)
    assert told.code == 0, told.err
    assert "l2 on [/a] [bold], mlp: accuracy" in told.out
    assert told.out.splitlines()[-1] == str(Path("[lane] :warning:/first"))
    told = regrun("marks=show", 'data.name="[/a] [bold]"', *SMALL)
    assert "mlp on [/a] [bold], none" in told.out


def test_what_is_said_on_a_terminal_is_no_markup(opened: Callable[[], Terminal]) -> None:
    terminal = opened()
    said = "[lane] of [/a] at :warning:"
    with progress_of(composed("method=l2", *SMALL, "progress=true")) as (say, _):
        say(said)
    assert said in terminal.shown
    assert "epoch 0/2" in terminal.shown  # it was a bar


@pytest.mark.slow
def test_the_experiment_of_the_brief_runs(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun(
        "experiment=brief", "epochs=2", "seeds=2", "data.train_size=200", "data.pool=400", "data.val_size=100"
    )
    assert told.code == 0, told.err
    assert {path.parent.name.split("-")[0] for path in (tmp_path / "outputs" / "brief").glob("*/status.json")} == {
        "none", "l1", "l2", "weight_decay", "dropout", "early_stopping", "batch_norm", "augment",
    }  # fmt: skip
