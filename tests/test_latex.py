"""The LaTeX table in a real document, with names that TeX would read as commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from report_data import Plan, write_study

from runner.report.build import build
from runner.report.collect import collect
from runner.report.tables import headline, in_order, read_runs
from runner.report.writers import to_latex

NASTY = ("drop_out", "50%_off", "this&that", "#1", "{braces}", "~tilde", "hat^2", "back\\slash", "$cost", "[first]")
DOCUMENT = r"""
\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=1cm]{geometry}
\usepackage{booktabs}
\begin{document}
\footnotesize
\noindent\input{%s}
\end{document}
"""


def compiled(folder: Path, table: str) -> str:
    """The text of the one page that pdflatex makes of the table; its log must name no error and no overfull box."""
    (folder / "table.tex").write_text(table, encoding="utf-8")
    (folder / "paper.tex").write_text(DOCUMENT % "table.tex", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Output written on paper.pdf (1 page" in done.stdout
    assert "Overfull" not in done.stdout
    assert "Missing character" not in (folder / "paper.log").read_text(errors="replace")
    if shutil.which("pdftotext") is None:
        return ""
    return subprocess.run(
        ["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX on this machine")
def test_the_table_compiles_whatever_the_methods_are_called(tmp_path: Path) -> None:
    plan = Plan(
        methods=("l2", "dropout", "mixup"), tune=2, report=4, strengths=(0.01, 0.1),
        groups=(("digits", "mlp", ""), ("a_b", "mlp", "optimizer.lr=0.1")), diverged=(("mixup", "report", 3),),
    )  # fmt: skip
    build(write_study(tmp_path / "study", plan))
    text = compiled(tmp_path, (tmp_path / "study" / "report" / "headline.tex").read_text())
    assert not text or "mixup (1 of 4 failed)" in text

    runs = in_order(read_runs(collect(tmp_path / "study")))
    one = runs[runs["dataset"] == "digits"]
    copies = [
        one[one["method"] == "l2"].assign(method=name, strengths=one["strengths"].str.replace("l2", name, regex=False))
        for name in NASTY
    ]
    text = compiled(tmp_path, to_latex(headline(pd.concat([one, *copies]))))
    if text:
        found = re.sub("[˜∼]", "~", text).replace("ˆ", "^")
        # an underscore is drawn as a rule, which is no text
        assert [name for name in NASTY if name.replace("_", " ") not in found] == []
