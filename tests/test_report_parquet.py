"""Tables as Parquet: the same rows as the CSV beside them, with types; nothing without pyarrow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from report_data import Plan, write_study

from runner.report import parquet
from runner.report.build import build

TWO = Plan(
    methods=("l2",), tune=2, report=3, strengths=(0.1, 1.0), groups=(("digits", "mlp", ""), ("fashion", "mlp", "")),
    diverged=(("l2", "report", 3),),
)  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_every_table_is_there_as_parquet_with_the_same_rows_and_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    report = build(write_study(tmp_path, TWO))
    folder = tmp_path / "report"
    written = {path.name for path in report.tables}
    for name in ("headline", "by_strength", "pooled"):
        assert {f"{name}.csv", f"{name}.parquet"} <= written
        table = pd.read_parquet(folder / f"{name}.parquet")
        text = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
        assert list(table.columns) == list(text.columns)
        for column in table:
            if table[column].dtype.kind in "if":  # the CSV has six digits
                numbers = pd.to_numeric(text[column])
                pd.testing.assert_series_equal(table[column], numbers, check_dtype=False, rtol=1e-5)
            else:
                assert [str(value) for value in table[column]] == text[column].tolist(), column
    headline = pd.read_parquet(folder / "headline.parquet")
    kinds = {name: headline[name].dtype.kind for name in ("n_report", "n_failed", "family_size", "best", "mean", "p")}
    assert kinds == {"n_report": "i", "n_failed": "i", "family_size": "i", "best": "b", "mean": "f", "p": "f"}
    assert pd.api.types.is_string_dtype(headline["method"])
    runs = pd.read_parquet(folder / "runs.parquet")
    assert len(runs) == len(pd.read_csv(tmp_path / "runs.csv"))
    assert (runs["seed"].dtype.kind, runs["selected"].dtype.kind, runs["last_test_acc"].dtype.kind) == ("i", "b", "f")
    assert runs["last_test_acc"].isna().sum() == 2  # the runs that failed


@pytest.mark.usefixtures("undrawn")
def test_without_pyarrow_there_is_no_parquet_and_no_stale_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path, Plan(methods=("l2",), protocol="fixed", report=2, strengths=(0.1,)))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "headline.parquet").touch()
    found = importlib.util.find_spec
    monkeypatch.setattr(parquet, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    report = build(tmp_path)
    assert not [path for path in report.tables if path.suffix == ".parquet"]
    assert not list(tmp_path.rglob("*.parquet"))
