"""A run of a study, trained again from what is stored of it: the same figures, or a line that says which are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Regrun
from test_bad_input import BOMB
from test_study import SMALL, job_of, rows_of

from runner.report.cli import main

STUDY = Path("outputs") / "first"


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([str(STUDY), "--verify", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    "command",
    [
        "method=l2 method.l2.rate=[0.001,0.1] seeds=2 protocol=fixed",
        "method=[dropout,batch_norm] seeds=1",
        "method=l2 optimizer.lr=0.02,0.05 data.train_size=80,90 seeds=2 -m",
        "method=ema protocol=tuned protocol.tune_seeds=1 method.ema.decay=[0.9,0.99] seeds=1",
        "method=cocktail seeds=2",
        "method=l2 method.l2.rate=[0.001,0.1] protocol=tuned protocol.tune_seeds=1 protocol.tune=[optimizer.lr]",
        "method=l2 seeds=2 evaluate.corruptions=true evaluate.measures=true",
        "method=l2 seeds=2 data=teacher",
        "method=l1 method.l1.form=proximal,subgradient seeds=1 -m",
    ],
)
@pytest.mark.usefixtures("unreported")
def test_a_run_is_the_same_again(regrun: Regrun, capsys: pytest.CaptureFixture[str], command: str) -> None:
    small = [argument for argument in SMALL if "study" not in argument]
    assert regrun(*command.split(), *small, "study=first", "model=mlp").code == 0
    lines = set()
    for seed in range(3):
        code, out, err = verified(capsys, f"--seed={seed}")
        assert (code, err, out.count("\n")) == (0, "", 1), out + err
        assert f"--seed {seed}" in out
        lines.add(out.split("(")[0])
    assert len(lines) > 1 or len(rows_of(STUDY)) == 1
    assert "are the same" in verified(capsys)[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_precision_that_was_measured_is_recorded_and_taken_again(
    regrun: Regrun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("runner.engine.packing._precision", lambda experiment, run: dtype)
        assert regrun("method=l2", "seeds=1", "dtype=auto", *SMALL).code == 0
    assert [row["dtype"] for row in rows_of(STUDY)] == [str(dtype).removeprefix("torch.")]
    code, out, err = verified(capsys)
    assert (code, err) == (0, ""), out


def test_a_figure_that_was_changed_is_found(regrun: Regrun, capsys: pytest.CaptureFixture[str]) -> None:
    assert regrun("method=l2", "seeds=1", "evaluate.measures=true", *SMALL).code == 0
    job = job_of(STUDY, "l2")
    path, (row,) = job / "runs.csv", rows_of(STUDY)
    sound = path.read_text()
    path.write_text(sound.replace(row["last_test_loss"], f"{float(row['last_test_loss']) + 1e-8:.9g}"))
    code, out, _ = verified(capsys)
    assert (code, out.count("\n")) == (1, 1)
    assert "last_test_loss" in out
    assert "not the same" in out
    path.write_text(sound)
    curves = (job / "curves.csv").read_text()
    (job / "curves.csv").write_text(curves.replace("train,acc,", "train,acc,1", 1))
    assert "curve not the same" in verified(capsys)[1]
    (job / "curves.csv").write_text(curves)
    measures = (job / "measures.csv").read_text()
    (job / "measures.csv").write_text(measures.replace(",", ",1", 20))
    assert "measures not the same" in verified(capsys)[1]
    (job / "measures.csv").write_text(measures)
    (predictions,) = (job / "predictions").iterdir()
    predictions.write_bytes(b"")
    assert "predictions not the same" in verified(capsys)[1]


def test_a_stored_configuration_is_not_trusted(regrun: Regrun, capsys: pytest.CaptureFixture[str]) -> None:
    assert regrun("method=l2", "seeds=1", *SMALL).code == 0
    path = job_of(STUDY, "l2") / "config.yaml"
    sound = path.read_text()
    for changed, said in (
        (sound.replace("rate: 0.001", "rate: 0.1"), "no longer what it was"),
        (sound.replace("runner.nets.dense.mlp", "os.system"), "os.system"),
        (sound.replace("runner.nets.dense.mlp", "os.system") + "allow: [os]\n", "os.system"),
        ("[" * 500, "is not a configuration"),
        ("a: &a [*a]", "is not a configuration"),
        (BOMB, "with its aliases written out"),
        ("", "is not a configuration"),
    ):
        path.write_text(changed)
        code, out, err = verified(capsys)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_every_record_says_how_it_was_made(regrun: Regrun) -> None:
    assert regrun("method=l2", "seeds=2", "threads=1", *SMALL).code == 0
    for row in rows_of(STUDY):
        assert (STUDY / row["job"] / "config.yaml").is_file()
        assert (row["device"], row["threads"], row["mapped"]) == ("cpu", "1", "true")
        assert row["torch"]
        assert row["regrun"]


@pytest.mark.parametrize("command", [["--nonsense"], [], ["a", "b"], ["a", "--seed=x"], ["nowhere", "--verify"]])
def test_a_command_line_that_is_wrong_is_a_line(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    try:
        code: object = main(command)
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("regrun-report: ")
