"""Figures of single runs: what the methods do to the weights, and how the reported runs spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from runner.report.sheet import Drawing, fence, in_view, interval_note, percent, settle, sheet, shortened, styled
from runner.report.stats import Flags, Values
from runner.report.style import NONE_COLOR, mark_of
from runner.report.tables import BASELINE, groups
from runner.report.writers import Row, number, records, score_of, strength_brief

NAME_WIDTH = 24
WEIGHTS = {
    "w_l2": ("norm of the weights, ‖w‖₂", 1.0),
    "w_near_zero": ("near zero (% of weights)", 100.0),
    "w_zero": ("exactly zero (% of weights)", 100.0),
    "w_dead_inputs": ("inputs without a weight (%)", 100.0),
}


def _names(rows: Sequence[Row]) -> list[str]:
    names = []
    for row in rows:
        brief = strength_brief(str(row["strengths"]))
        strength = f"  ({brief})" if brief else ""
        names.append(shortened(f"{row['method']}{strength}", NAME_WIDTH, 2))
    return names


def _rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _own(runs: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The report runs of one configuration, in the order of the seeds."""
    report = runs[(runs["role"] == "report") & (runs["method"] == row["method"])]
    return report[report["strengths"] == row["strengths"]].sort_values("seed")


def _jitter(count: int) -> Values:
    return np.array([((at * 0.618) % 1 - 0.5) * 0.5 for at in range(count)])


def weights(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    """The norm of the final weights and the shares of them near zero and exactly zero, a dot for every reported run.

    Frames of one group. None if the runs do not tell of their weights.
    """
    return styled(lambda: _weights(runs, headline))


def _weights(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    rows = [row for row in records(headline) if number(row, "n_report") > 0]
    columns = [name for name in WEIGHTS if name in runs.columns and runs[name].notna().any()]
    # A panel in which every run is at 0 says nothing.
    report = runs[runs["role"] == "report"]
    columns = [name for name in columns if name in ("w_l2", "w_near_zero") or (report[name] > 0).any()]
    if not rows or not columns:
        return None
    note = (
        "Matrices and filters of the weights that were evaluated last; biases and norms' scales are not counted. Near "
        "zero: below 1e-3 of the root mean square of their layer. A bar is the mean of the dots, one per report seed; "
        "the line is the mean of none. Single weights are not stored, so there is no distribution to draw."
    )
    title = f"{groups(headline)[0][0]}: what is left of the weights"
    names = _names(rows)
    tall = max(name.count("\n") for name in names)
    figure = sheet(7.2 if len(columns) > 1 else 4.6, 0.6 + (0.2 + 0.09 * tall) * len(rows), title, note, [])
    panels: list[Axes] = figure.subplots(1, len(columns), squeeze=False)[0].tolist()
    drawn = []
    for axes, column in zip(panels, columns, strict=True):
        label, scale = WEIGHTS[column]
        _rows(axes, len(rows))
        every = []
        for at, row in enumerate(rows):
            own = _own(runs, row)
            values = scale * own.loc[own["status"] == "ok", column].dropna().to_numpy(dtype=np.float64)
            if not len(values):
                continue
            every.append(values)
            color = mark_of(str(row["family"]))[0]
            axes.plot(values, at + _jitter(len(values)), ".", color=color, alpha=0.5, markersize=3.5, zorder=2)
            axes.plot([values.mean()] * 2, [at - 0.3, at + 0.3], color=color, linewidth=2, zorder=3)
            if row["method"] == BASELINE:
                axes.axvline(float(values.mean()), color=NONE_COLOR, linewidth=0.7, zorder=1)
            drawn.append(
                pd.DataFrame({"method": row["method"], "strengths": row["strengths"], "column": column,
                              "value": values / scale})
            )  # fmt: skip
        found = np.concatenate(every) if every else np.zeros(1)
        if column == "w_l2" and found.min() > 0 and found.max() > 4 * found.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(0 if column == "w_l2" else -0.03 * max(found.max(), 1.0), 1.06 * max(found.max(), 1.0))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
        axes.set_yticks(range(len(rows)), names if axes is panels[0] else [""] * len(rows))
    settle(figure)
    return Drawing(figure, pd.concat(drawn, ignore_index=True)) if drawn else None


def seed_spread(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    """Every reported run as a dot over the range of `none`; failed runs as crosses at the left edge.

    Frames of one group. None if no run was reported.
    """
    return styled(lambda: _seed_spread(runs, headline))


def _seed_spread(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    rows = [row for row in records(headline) if number(row, "n_report") + number(row, "n_failed") > 0]
    checkpoint = str(headline["checkpoint"].iloc[0])
    column = f"{checkpoint}_test_acc"
    parts = [_own(runs, row) for row in rows]
    if not rows or all(_usable(part, column).sum() == 0 for part in parts):
        return None
    values = [percent(part[_usable(part, column)], column) for part in parts]
    base = next((own for own, row in zip(values, rows, strict=True) if row["method"] == BASELINE), np.zeros(0))
    handles: list[Artist] = [
        Line2D([], [], color="#444444", marker="o", markersize=4, linestyle="none", label="one run"),
        Line2D([], [], color="#444444", marker="|", markersize=9, linestyle="none", label="mean"),
    ]
    if len(base) > 1:
        handles.append(Patch(color="black", alpha=0.1, label="runs of none: tenth to ninetieth percentile"))
    failed = sum(int(number(row, "n_failed")) for row in rows)
    if failed:
        handles.append(Line2D([], [], color="#D55E00", marker="x", linestyle="none", label="failed run, no value"))
    every = np.concatenate(values)
    center = float(base.mean()) if len(base) else float(np.median(every))
    low, high = fence(every, keep=list(center + in_view(every - center)))
    room = 0.06 * max(high - low, 0.5)
    low, high = low - (2.5 if failed else 1) * room, high + room
    names = _names(rows)
    tall = max(name.count("\n") for name in names)
    title = f"{groups(headline)[0][0]}: every reported run, at the {checkpoint} checkpoint"
    note = interval_note(headline)
    if math.isfinite(shared := float(headline["rho_paired"].median())):
        note += f" Correlation with none over seeds, which pairing gains from: {shared:.2f} (median)."
    if any(((own < low) | (own > high)).any() for own in values):
        note += " Numbers with a caret: runs outside the axes."
    figure = sheet(7.2, 0.6 + (0.24 + 0.09 * tall) * len(rows), title, note, handles)
    axes = figure.subplots()
    _rows(axes, len(rows))
    axes.set_xlim(low, high)
    if len(base) > 1:
        axes.axvspan(*np.quantile(base, [0.1, 0.9]), color="black", alpha=0.1, linewidth=0, zorder=0)
    drawn = []
    for at, (row, part, own) in enumerate(zip(rows, parts, values, strict=True)):
        color = mark_of(str(row["family"]))[0]
        inside = (own >= low) & (own <= high)
        axes.plot(own, at + _jitter(len(own)), "o", color=color, markersize=3.5, alpha=0.75, zorder=3)
        if len(own):
            axes.plot([own.mean()] * 2, [at - 0.34, at + 0.34], color=color, linewidth=2, zorder=4)
        for away in own[~inside]:
            left = away < low
            axes.annotate(
                f"◂{away:.0f}" if left else f"{away:.0f}▸", (low if left else high, at), (2 if left else -2, 0),
                textcoords="offset points", ha="left" if left else "right", va="center", fontsize=6, color=color,
            )  # fmt: skip
        lost = int((~_usable(part, column)).sum())
        axes.plot(np.full(lost, low + 0.7 * room), at + _jitter(lost), "x", color="#D55E00", markersize=4, zorder=4)
        drawn.append(part[["method", "strengths", "seed", "status", column]])
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel(f"test {score_of(headline)} (%)")
    settle(figure)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _usable(part: pd.DataFrame, column: str) -> Flags:
    values = part[column].to_numpy(dtype=np.float64)
    flags: Flags = np.isfinite(values) & (part["status"] == "ok").to_numpy(dtype=bool)
    return flags
