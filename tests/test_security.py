"""What is not trusted runs no code and leaves its folder: configuration, data, names. Checkpoints: test_checkpoint."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Regrun
from test_study import SMALL

from runner.report.build import build

TARGETS = [
    ("os.system", "allow=[os]"),
    ("runner.study.run_job", "must begin with"),
    ("runner.errors.Refusal", "must begin with"),
    ("runner.engine.loop.train", "must begin with"),
    ("runner.files.write_atomic", "must begin with"),
    ("torch.load", "must begin with"),
    ("runner.data.base.os.system", "not there"),
    ("runner.data.fetch.redirect_stdout", "it must be what runner.data.fetch defines"),
    ("runner.methodsx.Evil", "must begin with"),
    ("runner.building.import_module", "must begin with"),
    ("runner.nets.foreign.partial", "which is of functools; it must be what runner.nets.foreign defines"),
    ("timm.models._helpers.load_state_dict", "must begin with"),
    ("torch.nn.utils.clip_grad_norm_", "it must be a class of modules"),
    ("torch.nn.init.eye_", "it must be a class of modules"),
    ("torchvision.models.get_model", "must begin with"),
    ("torchvision.models.squeezenet1_1", "must begin with"),
    ("runner.nets.foreign.sdpa_kernel", "it must be what runner.nets.foreign defines"),
]


@pytest.mark.parametrize(("target", "said"), TARGETS)
@pytest.mark.parametrize("group", ["model", "data", "method", "optimizer"])
def test_a_configuration_file_names_only_what_is_trusted(
    regrun: Regrun, tmp_path: Path, target: str, said: str, group: str
) -> None:
    folder = tmp_path / "mine" / group
    folder.mkdir(parents=True)
    lines = {
        "method": f"evil:\n  _target_: {target}\n  command: touch gone_off\n",
        "data": f"defaults: [base/splits@_here_, _self_]\nname: evil\n_target_: {target}\ncommand: touch gone_off\n",
    }.get(group, f"name: evil\n_target_: {target}\ncommand: touch gone_off\n")
    (folder / "evil.yaml").write_text(lines)
    told = regrun("--config-dir", "mine", f"{group}=evil", *[a for a in SMALL if not a.startswith(("model.", "data"))])
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told.err
    assert said in told.err
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


ALLOWING = [
    "allow: [os]",
    "hydra: {mode: MULTIRUN, sweeper: {params: {allow: '[os]'}}}",
    "hydra: {mode: MULTIRUN, sweeper: {params: {++allow: '[os]'}}}",
    "allow: [json]\nhydra: {mode: MULTIRUN, sweeper: {params: {allow: '[json]', allow.0: os}}}",
]


@pytest.mark.parametrize("typed", [(), ("allow=[json]",)])
@pytest.mark.parametrize("lines", ALLOWING)
def test_allow_in_a_file_is_not_honoured(regrun: Regrun, tmp_path: Path, lines: str, typed: tuple[str, ...]) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "evil.yaml").write_text(
        f"# @package _global_\n{lines}\nmodel:\n  name: evil\n  _target_: os.system\n  command: touch gone_off\n"
    )
    told = regrun("--config-dir", "mine", "experiment=evil", *typed)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "a package of yours must be named on the command line: allow=[os]" in told.err
    assert not (tmp_path / "gone_off").exists()


def test_an_archive_is_not_unpacked(regrun: Regrun, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("../../escaped.png", b"")
    told = regrun("data=image_folder", "data.path=photos.zip")
    assert told.code == 2
    assert "unpack it first" in told.err
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as archive:
        archive.writestr("../../escaped.npy", b"")
    assert regrun("data=npz", "data.path=arrays.npz").code == 2
    assert not list(tmp_path.parent.parent.rglob("escaped*"))


def test_arrays_are_not_unpickled(regrun: Regrun, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "gone off"),)

    np.savez(tmp_path / "my.npz", x=np.array([Bomb()], dtype=object), y=np.array([0]), allow_pickle=True)
    told = regrun("data=npz", "data.path=my.npz")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert not (tmp_path / "gone off").exists()


SCRIPT = '<script>alert("x")</script>&{}$%#_~^\\input{/etc/passwd}\x1b[31m\x07[bold]'


@pytest.mark.usefixtures("unreported")
def test_names_stay_names_in_a_report(
    regrun: Regrun, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    assert regrun("-m", "method=l2", "seeds=2", *SMALL).code == 0
    study = tmp_path / "outputs" / "first"
    for path in study.glob("*/runs.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                method = row["method"] if row["method"] == "none" else SCRIPT
                writer.writerow(row | {"method": method, "model": SCRIPT})
    build(study)
    page = (study / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    latex = (study / "report" / "headline.tex").read_text().splitlines()
    assert not any("\\input{" in line for line in latex if not line.startswith("%"))
    from runner.report.cli import main

    request.getfixturevalue("undrawn")  # again
    capsys.readouterr()
    main([str(study)])
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "\x07" not in shown


UNFIT = [
    "../up", "../../up", "a/b", "a b", "<script>", "\x1b[31m", "a\nb", "📈", "", ".hidden", "-led", "my.l1", "l1+l2",
    "l1=l2", "x" * 101,
]  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_method_has_a_name_that_may_be_a_folder(regrun: Regrun, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    node = {name: {"_target_": "runner.methods.weight_penalties.L2", "rate": 0.1, "biases": False}}
    (tmp_path / "mine" / "method" / "evil.yaml").write_text(json.dumps(node))
    told = regrun("--config-dir", "mine", "method=evil", *SMALL)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told.err
    assert "method has" in told.err
    assert "a name must be at most 100 letters, digits, _ and -" in told.err
    assert told.err.strip().isprintable() or name == "📈"
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize("name", UNFIT)
def test_a_named_stack_has_a_name_that_may_be_a_folder(regrun: Regrun, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    node = {"defaults": ["dropout"], "stacks": {name: ["dropout"]}}
    (tmp_path / "mine" / "method" / "evil.yaml").write_text(json.dumps(node))
    told = regrun("--config-dir", "mine", "method=evil", *SMALL)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told.err
    assert "method.stacks has" in told.err
    assert "a name must be at most 100 letters, digits, _ and -" in told.err
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
