"""Accuracy under each kind of corruption, where runs have it: the figure of kinds by methods."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm

from runner.report.sheet import Drawing, interval_note, named, settle, sheet, shortened, styled
from runner.report.stats import Values
from runner.report.tables import BASELINE, groups
from runner.report.writers import Row, records, signed

COLUMNS = ["run_id", "kind", "severity", "acc"]
LEAST = 1.0  # percentage points: differences below it are never drawn in full colour


def read_corruptions(study_dir: Path) -> pd.DataFrame:
    """All `<job>/corruptions.csv` of a study: run_id, kind, severity, acc; no rows where none was asked for."""
    paths = [path for path in sorted(study_dir.glob("*/corruptions.csv")) if path.stat().st_size]
    frames = [pd.read_csv(path, dtype={"run_id": str, "kind": str})[COLUMNS] for path in paths]
    if not frames:
        types = {"run_id": str, "kind": str, "severity": int, "acc": float}
        return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in types.items()})
    return pd.concat(frames, ignore_index=True).drop_duplicates(COLUMNS[:3], keep="last")


def by_kind(runs: pd.DataFrame, row: Row, found: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the report runs of a row of the headline, mean over severities: a row per seed, a column per kind."""
    same = (runs["method"] == row["method"]) & (runs["strengths"] == row["strengths"])
    own = runs[same & (runs["role"] == "report") & (runs["status"] == "ok")]
    known = found.merge(own[["run_id", "seed"]], on="run_id")
    return known.pivot_table(index="seed", columns="kind", values="acc", aggfunc="mean")


def corruptions(runs: pd.DataFrame, headline: pd.DataFrame, found: pd.DataFrame) -> Drawing | None:
    """Kinds of corruption by methods: the accuracy of none, and the paired difference of every other row to it.

    Frames of one group, and what `read_corruptions` gives. None where `none` has no such runs.
    """
    return styled(lambda: _corruptions(runs, headline, found))


def _corruptions(runs: pd.DataFrame, headline: pd.DataFrame, found: pd.DataFrame) -> Drawing | None:
    rows = records(headline)
    tables = [by_kind(runs, row, found) for row in rows]
    base = next((t for row, t in zip(rows, tables, strict=True) if row["method"] == BASELINE and len(t)), None)
    if base is None:
        return None
    kinds = list(base.mean().sort_values(ascending=False).index)
    shown = [(row, name, table) for row, name, table in zip(rows, named(rows), tables, strict=True) if len(table)]
    values = np.array(
        [100 * _means(table if row["method"] == BASELINE else table - base, kinds) for row, _, table in shown]
    )
    note = (
        f"{interval_note(headline).split('. ')[0]}. Means over five severities and the seeds: of none its accuracy in "
        "percent, of the others the paired difference to none in percentage points, orange below 0 and purple above. "
        "At one seed all methods meet the same corrupted examples. Cells have no tests; the table of accuracy under "
        "corruptions has intervals."
    )
    title = f"{groups(headline)[0][0]}: test accuracy under corruptions"
    names = [shortened(name, 24, 1) for _, name, _ in shown]
    figure = sheet(7.2, 0.9 + 0.24 * len(shown), title, note, [])
    axes = figure.subplots()
    apart = np.where([[row["method"] == BASELINE] for row, _, _ in shown], math.nan, values)
    reach = max(LEAST, float(np.nanmax(np.abs(apart)))) if np.isfinite(apart).any() else LEAST
    axes.imshow(apart, cmap="PuOr", norm=TwoSlopeNorm(0.0, -reach, reach), aspect="auto")
    for y, (row, _, _) in enumerate(shown):
        for x, value in enumerate(values[y]):
            plain = row["method"] == BASELINE
            text = f"{value:.1f}" if plain else signed(value)
            dark = not plain and abs(value) > 0.6 * reach
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    settle(figure)
    data = pd.DataFrame(
        [
            {"method": row["method"], "strengths": row["strengths"], "kind": kind, "n": len(table),
             "acc": float(_means(table, [kind])[0]), "diff": float(_means(table - base, [kind])[0])}
            for row, _, table in shown
            for kind in kinds
        ]
    )  # fmt: skip
    return Drawing(figure, data)


def _means(table: pd.DataFrame, kinds: list[str]) -> Values:
    """The mean of each kind over the seeds [kinds], nan for one that is not there."""
    means: Values = table.reindex(columns=kinds).mean().to_numpy(dtype=np.float64)
    return means
