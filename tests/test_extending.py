"""More report seeds for a study that is there: who gets them, what is on record, and what the report says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import Regrun
from report_data import Plan, write_study
from test_study import SMALL, job_of, rows_of

from runner.records import read_table
from runner.report.build import build
from runner.report.extensions import read_extensions

TUNED = ["-m", "protocol=tuned", "method=l2", "method.l2.rate=[1e-3,1.0]", "protocol.tune_seeds=2", "seeds=2", *SMALL]


def seeds(study: Path, method: str, role: str = "report") -> list[int]:
    return sorted(int(row["seed"]) for row in rows_of(study, method) if row["role"] == role)


def recorded(study: Path) -> list[tuple[object, ...]]:
    entries = json.loads((study / "study.json").read_text()).get("extensions", [])
    return [(e["group"], tuple(e["methods"]), e["from"], e["to"], e["asked"]) for e in entries]


@pytest.mark.usefixtures("undrawn")
def test_an_extension_gives_every_configuration_more_seeds_and_is_told(regrun: Regrun, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "first"
    assert regrun(*TUNED).code == 0
    assert recorded(study) == []
    before = {path: path.read_text() for path in study.glob("*/runs.csv")}
    told = regrun(*TUNED, "extend=+3")
    assert told.code == 0, told.err
    # 2 tune seeds, 0 and 1; report seeds 2 and 3, then 4, 5, 6
    assert seeds(study, "l2") == seeds(study, "none") == [2, 3, 4, 5, 6]
    assert seeds(study, "l2", "tune") == [0, 0, 1, 1]  # of two strengths; nothing is chosen again
    for path, text in before.items():
        assert path.read_text().startswith(text)
    assert recorded(study) == [("digits/mlp", ("l2", "none"), 2, 5, "extend=+3")]
    entry = json.loads((study / "study.json").read_text())["extensions"][0]
    assert entry["at"].startswith("20")
    assert {"method=l2", "extend=+3"} <= {word.replace("choice(", "").rstrip(")") for word in entry["command"]}
    report = study / "report"
    assert "2 to 5 report seeds by extend=+3 (l2, none): regrun" in (report / "headline.md").read_text()
    page = (report / "report.html").read_text()
    assert "2 to 5 report seeds by extend=+3 (l2, none): regrun" in page
    assert "n = 5 report seeds (seeds were added after the study was begun: 2 to 5)" in page
    assert "(seeds were added after the study was begun: 2 to 5)" in (report / "headline.tex").read_text()

    # the first command again loses and hides nothing; a method that comes later gets as many
    assert regrun(*TUNED).code == 0
    assert seeds(study, "l2") == [2, 3, 4, 5, 6]
    assert "2 to 5" in (report / "headline.md").read_text()
    added = regrun(
        "method=l1", "protocol=tuned", "method.l1.rate=[1e-3,1.0]", "protocol.tune_seeds=2", "seeds=2", *SMALL
    )
    assert added.code == 0, added.err
    assert seeds(study, "l1") == [2, 3, 4, 5, 6]
    assert len(recorded(study)) == 1


@pytest.mark.usefixtures("unreported")
def test_an_extension_that_was_cut_off_is_gone_on_with(regrun: Regrun, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "first"
    command = ["-m", "method=l2", "seeds=2", *SMALL]
    assert regrun(*command).code == 0
    path = job_of(study, "l2") / "runs.csv"
    short = path.read_text()
    assert regrun(*command, "extend=1").code == 0
    whole = read_table(path)
    path.write_text(short)  # as if it had ended before the second job
    assert regrun(*command, "extend=1").code == 0
    assert [row["run_id"] for row in read_table(path)] == [row["run_id"] for row in whole]
    assert recorded(study) == [("digits/mlp", ("l2", "none"), 2, 3, "extend=+1")]
    assert regrun(*command, "extend=1").code == 0
    assert seeds(study, "l2") == seeds(study, "none") == [0, 1, 2, 3]
    assert [entry[2:4] for entry in recorded(study)] == [(2, 3), (3, 4)]


@pytest.mark.usefixtures("unreported")
def test_more_seeds_by_the_other_way_are_on_record_too(regrun: Regrun, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "first"
    assert regrun("-m", "method=l2", "seeds=2", *SMALL).code == 0
    assert regrun("-m", "method=l2,l1", "seeds=3", *SMALL).code == 0
    assert recorded(study) == [("digits/mlp", ("l2", "none"), 2, 3, "seeds=3")]
    assert regrun("-m", "method=l2,l1", "seeds=3", *SMALL).code == 0
    assert len(recorded(study)) == 1


@pytest.mark.usefixtures("unreported")
def test_what_cannot_be_extended_is_refused(regrun: Regrun, tmp_path: Path) -> None:
    study = tmp_path / "outputs" / "first"
    for command, told_of in (
        (["method=l2", "extend=+5", *SMALL], "study 'first' has no runs to add seeds to"),
        (["-m", "method=l2", "extend=+5", *SMALL], "study 'first' has no runs to add seeds to"),
        (["method=l2", "extend=+5"], "study is null"),
        (["method=l2", "extend=-1", *SMALL], "extend is -1"),
        (["-m", "method=l2", "extend=1,2", *SMALL], "extend has several values"),
    ):
        told = regrun(*command)
        assert (told.code, told.err.count("\n")) == (2, 1), told.err
        assert told_of in told.err
        assert not study.exists()
    assert regrun("-m", "method=l2,l1", "seeds=2", *SMALL).code == 0
    for command in (["-m", "method=l2"], ["method=l2"]):
        told = regrun(*command, "extend=+1", *SMALL)
        assert (told.code, told.err.count("\n")) == (2, 1), told.err
        assert f"leaves out {job_of(study, 'l1').name}" in told.err
    told = regrun("-m", "method=l2", "extend=+1", *SMALL, "model.width=9")
    assert (told.code, "model.width=8" in told.err) == (2, True)
    assert recorded(study) == []
    assert seeds(study, "l1") == [0, 1]


@pytest.mark.usefixtures("undrawn")
def test_the_report_lists_every_extension_of_the_group_and_no_other(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), groups=(("a", "mlp", ""), ("b", "mlp", ""))))
    entries = [
        {
            "group": "a/mlp", "methods": ["l2", "none"], "from": start, "to": start + 5, "asked": "extend=+5",
            "at": "2026-01-01T10:00:00+00:00", "command": ["regrun", "extend=+5"],
        }
        for start in (10, 15, 15)  # a step that two of the studies made which were merged is told once
    ]  # fmt: skip
    (study / "study.json").write_text(json.dumps({"extensions": entries}))
    report = build(study)
    words = "(seeds were added after the study was begun: 10 to 15, 15 to 20)"
    text = (study / "report" / "headline.md").read_text()
    first, second = text.split("## b · mlp")[0], text.split("## b · mlp")[1].split("## All data sets")[0]
    assert first.count(words) == 4  # the primary table and three secondary ones
    assert words not in second
    assert "Seeds were added after the study was begun: a 10 to 15, 15 to 20." in text
    assert "2026-01-01 10:00 UTC, a/mlp: 15 to 20 report seeds by extend=+5 (l2, none): regrun extend=+5" in text
    assert list(report.headline["extended"]) == ["10 to 15, 15 to 20"] * 2 + [""] * 2
    table = pd.read_csv(study / "report" / "headline.csv", keep_default_na=False)
    assert set(table["extended"]) == {"10 to 15, 15 to 20", ""}
    (study / "study.json").write_text('{"extensions": [{"group": "a/mlp"}]}')
    with pytest.raises(ValueError, match=r"study.json: extensions"):
        read_extensions(study)
