"""Test accuracy and gap over a numeric axis of a study: training size, label noise, input size, learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from runner.labels import items_of
from runner.report.figures import thin_ticks
from runner.report.sheet import Drawing, interval_note, limits_of, percent, settle, sheet, shortened, styled
from runner.report.style import darker, mark_of
from runner.report.tables import BASELINE
from runner.report.writers import number, records, score_of, strength_brief

MOST = 8  # methods in one figure
Dash = Literal["-", "--", ":", "-."]
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")
DODGE = 0.012  # of the width between two methods, so that their intervals stand side by side
DRAWN = [
    "dataset", "model", "axis", "value", "method", "family", "strengths", "n_report", "mean", "lo", "hi", "gap_mean",
    "gap_lo", "gap_hi",
]  # fmt: skip


def axis_curves(headline: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """A name and a drawing for each axis with two numbers or more, at each value of the other axes.

    The headline is that of all groups. Left test accuracy, right the gap, a line for each method; where the best
    possible accuracy is known it is a dotted line.
    """
    rows = headline[headline["mean"].notna()].reset_index(drop=True)
    best = _best(runs)
    settings = [items_of(text) for text in rows["setting"]]
    for axis in dict.fromkeys(name for setting in settings for name in setting):
        values = np.array([_value(setting.get(axis, "")) for setting in settings])
        rest = [" ".join(f"{k}={v}" for k, v in setting.items() if k != axis) for setting in settings]
        part = rows.assign(axis=axis, value=values, rest=rest)[np.isfinite(values)]
        for (dataset, model, others), own in part.groupby(["dataset", "model", "rest"], sort=True):
            if own["value"].nunique() > 1:
                title = " · ".join(str(text) for text in (dataset, model, others) if text)
                drawing = styled(partial(_axis_curves, own, title, best))
                assert drawing is not None  # there are rows
                yield f"{title} {axis}", drawing


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _best(runs: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """The best possible accuracy of each group where it is known."""
    if "bayes_acc" not in runs:
        return {}
    known = runs[runs["bayes_acc"].notna()].drop_duplicates(["dataset", "model", "setting"])
    return {
        (str(row["dataset"]), str(row["model"]), str(row["setting"])): number(row, "bayes_acc")
        for row in records(known)
    }


def _axis_curves(rows: pd.DataFrame, title: str, best: dict[tuple[str, str, str], float]) -> Drawing:
    single = not rows.duplicated(["method", "value"]).any()
    # the baseline keeps its name, by which it is found
    strength = rows["strengths"].map(strength_brief).where(rows["method"] != BASELINE, "")
    rows = rows.assign(line=rows["method"] if single else (rows["method"] + " " + strength).str.strip())
    order = rows.groupby("line")["mean"].mean().sort_values(ascending=False)
    others = [name for name in order.index if name != BASELINE]
    kept = [*([BASELINE] if BASELINE in order.index else []), *others[:MOST]]
    shown = rows[rows["line"].isin(kept)]
    axis = str(rows["axis"].iloc[0])
    note = interval_note(shown)
    if not single:
        note += " A strength is a line of its own."
    if len(others) > MOST:
        note += f" Shown: the {MOST} of {len(others)} with the highest mean test {score_of(rows)}."
    if axis == "data.label_noise" or shown["label_noise"].max() > 0:
        note += " Training labels are noisy: the gap is against the labels trained on, test labels are as they are."
    looks = _looks([(name, str(shown.loc[shown["line"] == name, "family"].iloc[0])) for name in kept])
    bound = [(value, best[key]) for value, key in _keys(shown) if key in best]
    handles: list[Artist] = [
        Line2D([], [], color=color, marker=marker, linestyle=dash, label=shortened(name, 28, 1))
        for name, (color, marker, dash) in looks.items()
    ]
    if bound:
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=0.9, label="best possible"))
    figure = sheet(7.0, 2.7, f"{title}: test {score_of(rows)} and gap over {axis}", note, handles)
    left, right = figure.subplots(1, 2)
    score = score_of(rows)
    for axes, start, up in ((left, "", f"test {score} (%)"), (right, "gap_", f"gap, train − test {score} (pp)")):
        _lines(axes, shown, looks, start)
        axes.set_xlabel(axis)
        axes.set_ylabel(up)
    if bound:
        x, y = zip(*sorted(bound), strict=True)
        left.plot(x, 100 * np.array(y), ":", color="black", linewidth=0.9, zorder=1)
        low, high = left.get_ylim()
        left.set_ylim(low, max(high, 100 * max(y) + 0.03 * (high - low)))
    settle(figure)
    for axes in (left, right):
        thin_ticks(axes)
    return Drawing(figure, shown.sort_values(["line", "value"], kind="stable")[DRAWN].reset_index(drop=True))


def _keys(rows: pd.DataFrame) -> list[tuple[float, tuple[str, str, str]]]:
    """The axis' values and the groups that they stand for."""
    groups = rows.drop_duplicates("value")
    return [
        (float(value), (str(dataset), str(model), str(setting)))
        for value, dataset, model, setting in zip(
            groups["value"], groups["dataset"], groups["model"], groups["setting"], strict=True
        )
    ]


def _looks(lines: list[tuple[str, str]]) -> dict[str, tuple[str, str, Dash]]:
    """Colour, marker and dash of each line; a second one of a colour is darker and dashed, a third dotted."""
    found: dict[str, tuple[str, str, Dash]] = {}
    seen: list[str] = []
    for name, family in lines:
        color, marker = mark_of(family)
        again = seen.count(color)
        seen.append(color)
        found[name] = (darker(color, min(0.3 * again, 0.8)), marker, DASHES[min(again, len(DASHES) - 1)])
    return found


def _lines(axes: Axes, shown: pd.DataFrame, looks: dict[str, tuple[str, str, Dash]], start: str) -> None:
    """A line with intervals for each method, in percent."""
    values = np.unique(shown["value"].to_numpy(dtype=np.float64))
    logarithmic = values[0] > 0 and values[-1] >= 8 * values[0]
    span = math.log(values[-1] / values[0]) if logarithmic else values[-1] - values[0]
    for at, (name, (color, marker, dash)) in enumerate(looks.items()):
        own = shown[shown["line"] == name].sort_values("value")
        x = own["value"].to_numpy(dtype=np.float64)
        shift = (at - (len(looks) - 1) / 2) * DODGE * span
        x = x * math.exp(shift) if logarithmic else x + shift
        mean, low, high = (percent(own, f"{start}{end}") for end in ("mean", "lo", "hi"))
        axes.vlines(x, low, high, color=color, alpha=0.6, linewidth=1.0, zorder=2)
        axes.plot(x, mean, dash, marker=marker, color=color, zorder=4 if name == BASELINE else 3)
    center = percent(shown, f"{start}mean")
    axes.set_ylim(*limits_of(center, percent(shown, f"{start}lo"), percent(shown, f"{start}hi"), keep=list(center)))
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6))
