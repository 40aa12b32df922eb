"""The reliability diagram: how often the runs are right where they say how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from scipy import special  # type: ignore[import-untyped, unused-ignore]  # scipy ships no type information

from runner.report.figures import COLUMNS, panels_of, width_of
from runner.report.predictions import Predictions
from runner.report.sheet import Drawing, named, settle, sheet, shortened, styled
from runner.report.stats import Values
from runner.report.style import darker, mark_of
from runner.report.tables import BASELINE, groups
from runner.report.writers import Row, protocol_text, records

BINS = 15  # those of the engine's calibration error
FEWEST = 10  # examples in a bin, below which its accuracy says nothing
NONE = "#999999"
BARS = "#dddddd"


def wilson(hits: Values, n: Values, level: float = 0.95) -> tuple[Values, Values]:
    """The interval of a share `hits` / `n`, both [k] and n above 0, at its two ends  (Wilson 1927)."""
    z = float(special.ndtri(0.5 + level / 2))
    share, room = hits / n, z**2 / n
    center = (share + room / 2) / (1 + room)
    half = np.sqrt(share * (1 - share) * room + room**2 / 4) / (1 + room)
    return center - half, center + half


def binned(said: Sequence[Predictions], level: float = 0.95) -> pd.DataFrame:
    """The bins of confidence that hold examples of these runs: n, share of all, mean confidence, accuracy, lo, hi.

    The runs are taken together; the interval is that of as many examples as a run has in the bin on average, since
    seeds that share a test set are not further examples.
    """
    confidence = np.concatenate([run.confidence.astype(np.float64) for run in said])
    correct = np.concatenate([run.correct for run in said]).astype(np.float64)
    at = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    n, sure, hits = (np.bincount(at, weights=w, minlength=BINS) for w in (np.ones(len(at)), confidence, correct))
    kept = np.flatnonzero(n)
    n, sure, hits = n[kept], sure[kept], hits[kept]
    low, high = wilson(hits / len(said), n / len(said), level)
    return pd.DataFrame(
        {
            "bin": kept + 1, "n": n.astype(np.int64), "share": n / n.sum(), "confidence": sure / n,
            "accuracy": hits / n, "lo": low, "hi": high,
        }
    )  # fmt: skip


def reliability(runs: pd.DataFrame, headline: pd.DataFrame, said: Mapping[str, Predictions]) -> Drawing | None:
    """Accuracy against confidence, a panel per reported configuration, with the share of examples in each bin.

    Frames of one group, and the predictions of its runs by run_id. None if none of them has any.
    """
    return styled(lambda: _reliability(runs, headline, said))


def _of(runs: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The report runs of a row of the headline that came to their end."""
    same = (runs["method"] == row["method"]) & (runs["strengths"] == row["strengths"])
    return runs[same & (runs["role"] == "report") & (runs["status"] == "ok")]


def _reliability(runs: pd.DataFrame, headline: pd.DataFrame, said: Mapping[str, Predictions]) -> Drawing | None:
    level = float(headline["level"].iloc[0])
    every = records(headline)
    ended = [list(_of(runs, row)["run_id"]) for row in every]
    known = [[said[run] for run in own if run in said] for own in ended]
    rows = [row for row, own in zip(every, known, strict=True) if own]
    if not rows:
        return None
    names = [name for name, own in zip(named(every), known, strict=True) if own]
    without = [name for name, own, of in zip(named(every), known, ended, strict=True) if len(own) < len(of)]
    tables = [binned(own, level) for own in known if own]
    base = next((table for row, table in zip(rows, tables, strict=True) if row["method"] == BASELINE), None)
    handles: list[Artist] = [
        Line2D([], [], color="#444444", marker="o", markersize=3, label=f"accuracy, {100 * level:g}% Wilson interval"),
        Patch(color=BARS, label="share of the examples"),
        Line2D([], [], color="black", linewidth=0.6, linestyle=":", label="calibrated"),
    ]
    if base is not None and len(rows) > 1:
        handles.append(Line2D([], [], color=NONE, linewidth=1.0, label="none"))
    note = (
        f"{protocol_text(headline)}. Test examples of all report runs in {BINS} bins of their confidence, the "
        f"probability of the predicted class, at a bin's mean confidence, from {FEWEST} examples on; intervals are for "
        "as many examples as one run has. Below the diagonal a net is too sure of itself. ECE: expected calibration "
        "error, mean over the runs; in brackets what it stays below in 95 of 100 cases where a net with these "
        "confidences is calibrated."
    )
    if without:
        note += f" Without predictions of some or all runs: {', '.join(without)}."
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    title = f"{groups(headline)[0][0]}: reliability on test data, at the last checkpoint"
    figure = sheet(width_of(columns), 0.35 + 1.75 * lines, title, note, handles)
    panels = panels_of(figure, len(rows), columns, "confidence (%)", "accuracy (%)")
    drawn = []
    counts = [len(own) for own in known if own]
    for row, name, table, count, axes in zip(rows, names, tables, counts, panels, strict=True):
        _panel(axes, row, table, base)
        own = _of(runs, row)
        error, least = (_mean(own, f"last_test_{column}") for column in ("ece", "ece_null"))
        axes.set_title(shortened(name, 24 if columns == COLUMNS else 40, 2), pad=13)
        if math.isfinite(error):
            axes.text(0, 1.03, f"ECE {100 * error:.1f}% (≤ {100 * least:.1f}%)", fontsize=7, transform=axes.transAxes)
        about = {"method": row["method"], "strengths": row["strengths"], "n_runs": count, "ece": error}
        shown = pd.DataFrame([about | {"ece_null": least}] * len(table))
        drawn.append(pd.concat([shown, table], axis=1))
    settle(figure)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _mean(runs: pd.DataFrame, column: str) -> float:
    """The mean of a column over these runs; nan where none has it."""
    return float(runs[column].mean()) if column in runs.columns else math.nan


def _curve(table: pd.DataFrame) -> list[Values]:
    """Confidence, accuracy and the ends of its interval, in percent, of the bins that hold enough examples."""
    kept = table[table["n"] >= FEWEST]
    return [100 * kept[name].to_numpy(dtype=np.float64) for name in ("confidence", "accuracy", "lo", "hi")]


def _panel(axes: Axes, row: Row, table: pd.DataFrame, base: pd.DataFrame | None) -> None:
    """Bars, diagonal, the curve of `none` and the curve of a configuration with its intervals."""
    left, share = 100 * (table["bin"] - 1) / BINS, 100 * table["share"]
    axes.bar(left, share, width=100 / BINS, align="edge", color=BARS, edgecolor="white", linewidth=0.4, zorder=1)
    axes.plot([0, 100], [0, 100], ":", color="black", linewidth=0.6, zorder=2)
    if base is not None and row["method"] != BASELINE:
        x, y, *_ = _curve(base)
        axes.plot(x, y, color=NONE, linewidth=1.0, zorder=3)
    x, y, low, high = _curve(table)
    color = darker(mark_of(str(row["family"]))[0], 0.1)
    axes.vlines(x, low, high, color=color, linewidth=0.8, zorder=4)
    axes.plot(x, y, "o-", color=color, markersize=2.5, linewidth=1.0, zorder=5)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 50, 100]))
