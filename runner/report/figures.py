"""The figures of one comparison group. Each function gives a `Drawing`: the figure and the numbers that it shows.

Figures are made on the Agg canvas as plain `Figure` objects: a caller's pyplot state and backend stay as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from runner.report.sheet import (
    Drawing,
    ink,
    interval_note,
    key_of,
    limits_of,
    named,
    percent,
    settle,
    sheet,
    shortened,
    styled,
)
from runner.report.stats import Flags, Values
from runner.report.style import (
    NONE_COLOR,
    UNDERFIT_COLOR,
    Label,
    darker,
    mark_of,
    place_labels,
    thin_boxes,
)
from runner.report.tables import BASELINE, groups, split_strengths, strengths_of
from runner.report.writers import number, records, score_of, shared_names, span, strength_values

LEADING = 5
ENOUGH_FOR_A_BAND = 3  # seeds; of two, a t-interval is thirteen times the standard error and hides the panel
MOST_PANELS = 48  # of learning curves; a sheet with more takes longer to draw than all other figures
MOST_OF_A_PATH = 8  # strengths; a search draws more, and the lines between them cross
SEED_LINES = 10
COLUMNS = 4
FLOOR = 1e-3


def gap_vs_test(headline: pd.DataFrame, strengths: pd.DataFrame) -> Drawing | None:
    """Test accuracy against the gap: left the reported configurations, right the leading methods' strength paths.

    `headline` and `strengths` (of `by_strength`) are those of one group. None if no run was reported.
    """
    return styled(lambda: _gap_vs_test(headline, strengths))


def _gap_vs_test(headline: pd.DataFrame, strengths: pd.DataFrame) -> Drawing | None:
    shown = headline[headline["mean"].notna() & headline["gap_mean"].notna()]
    if shown.empty:
        return None
    leading = list(dict.fromkeys(shown.loc[shown["method"] != BASELINE, "method"]))
    checkpoint = str(shown["checkpoint"].iloc[0])
    paths = [(name, path) for name in leading if len(path := _path(strengths, name, checkpoint)) > 1][:LEADING]
    if any(len(path) > MOST_OF_A_PATH for _, path in paths):
        paths = []
    names, crowd = named(records(shown)), len(shown)
    off = _outside(shown)
    note = interval_note(headline) + " By point estimates: dashed the frontier, shaded a smaller gap but worse test."
    if paths:
        role = (
            "tune seeds, not used for the numbers on the left"
            if paths[0][1]["role"].iloc[0] == "tune"
            else "report seeds"
        )
        note += f" Right: means over {role}; small = weak, large = strong; what is far below none leaves the axes."
        note += _chosen_rates(headline, "path")
    if off.any():
        listed = [
            f"{name} (gap {gap:.1f}, test {test:.1f})"
            for name, gap, test, away in zip(
                names, percent(shown, "gap_mean"), percent(shown, "mean"), off, strict=True
            )
            if away
        ]
        note += f" Outside the axes: {', '.join(listed)}."
    title = f"{groups(headline)[0][0]}: generalization gap and test {score_of(headline)}"
    body = 3.2 if crowd <= 12 else 4.6
    families = list(dict.fromkeys(shown.loc[~off, "family"]))
    handles = [key_of(*mark_of(family), family) for family in families]
    figure = sheet(7.0 if paths or crowd > 8 else 4.8, body, title, note, handles)
    if paths:
        axes, right = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
        right.set_title(f"strength paths of the {len(paths)} leading" if len(paths) > 1 else "strength path")
        axes.set_title("chosen strengths" if shown["n_tune"].max() > 0 else "reported strengths")
    else:
        axes, right = figure.subplots(1, 1), None
    _points(axes, shown, off)
    if right is not None:
        _paths(right, shown, paths)
    settle(figure)
    inside = shown[~off]
    rows = records(inside)
    labels = [
        Label(100 * number(row, "gap_mean"), 100 * number(row, "mean"), shortened(name, 18), ink(str(row["family"])))
        for row, name in zip(rows, (name for name, away in zip(names, off, strict=True) if not away), strict=True)
    ]
    crosses = []
    for row in rows:
        x, y = 100 * number(row, "gap_mean"), 100 * number(row, "mean")
        if math.isfinite(number(row, "lo")):
            crosses.append((x, 100 * number(row, "lo"), x, 100 * number(row, "hi")))
            crosses.append((100 * number(row, "gap_lo"), y, 100 * number(row, "gap_hi"), y))
    _underfit_words(axes, inside, crosses)
    place_labels(axes, labels, [*crosses, *_stairs(axes, inside)], crossing=0.0125)
    if right is not None:
        _path_labels(right, shown, paths)
    return Drawing(figure, _points_drawn(shown, paths))


def _chosen_rates(headline: pd.DataFrame, line: str) -> str:
    """What of the optimizer a curve over strengths holds fixed where that was tuned too; "" where it was not."""
    shared = shared_names(headline)
    return f" Each {line} at the {' and '.join(shared)} that was chosen for its method." if shared else ""


def _points_drawn(shown: pd.DataFrame, paths: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """What `gap_vs_test` shows: the reported points, then those of each path, in the columns of the headline."""
    same = ["method", "family", "strengths"]
    values = ["n_report", "mean", "lo", "hi", "gap_mean", "gap_lo", "gap_hi"]
    path_values = ["n_ok", *(f"{name}_acc_{end}" for name in ("test", "gap") for end in ("mean", "lo", "hi"))]
    parts = [shown[same + values].assign(panel="reported")]
    for _, path in paths:
        part = path[same + path_values].rename(columns=dict(zip(path_values, values, strict=True)))
        parts.append(part.assign(panel="path"))
    return pd.concat(parts, ignore_index=True).rename(columns={"n_report": "n"})


def _path(strengths: pd.DataFrame, method: str, checkpoint: str) -> pd.DataFrame:
    """The strengths of a method from weak to strong: its tune rows, its report rows where it was not tuned."""
    rows = strengths[(strengths["method"] == method) & (strengths["checkpoint"] == checkpoint)]
    tune = rows[rows["role"] == "tune"]
    part = tune if len(tune) else rows
    shared = part["strengths"].map(lambda text: split_strengths(text)[1])
    if shared.nunique() > 1:  # a curve is over the strengths, with the learning rate, say, as it was chosen
        known = part["selected"] if part["selected"].any() else part["val_acc_rank"] == part["val_acc_rank"].min()
        part = part[shared == shared[known].iloc[0]]
    part = part[part["test_acc_mean"].notna() & part["gap_acc_mean"].notna()]
    if part["strength"].isna().any():  # points of several strengths drawn at random have no order
        part = part.iloc[:0]
    return part.sort_values("strength_place", kind="stable").reset_index(drop=True)


def _outside(shown: pd.DataFrame) -> Flags:
    """Which reported configurations are so bad that axes with them in would show nothing of the others.

    Only what is further below `none` than the better ones span, and 5 points, may go: never what is level with it or
    above, since a figure without the best method misleads.
    """
    values, baseline = percent(shown, "mean"), percent(shown[shown["method"] == BASELINE], "mean")
    far = np.zeros(len(shown), dtype=np.bool_)
    if not len(baseline):
        return far
    lowest = min(float(baseline[0]), float(values.max()))
    for at in np.argsort(-values, kind="stable"):
        far[at] = baseline[0] - values[at] > max(float(values.max()) - lowest, 5.0)
        if not far[at]:
            lowest = min(lowest, float(values[at]))
    return far


def _points(axes: Axes, shown: pd.DataFrame, off: Flags) -> None:
    """The crosses and marks of the reported configurations, the frontier and the underfit quadrant."""
    inside, baseline = shown[~off], shown[shown["method"] == BASELINE]
    for axis, column, low, high in (("x", "gap_mean", "gap_lo", "gap_hi"), ("y", "mean", "lo", "hi")):
        center = percent(inside, column)
        limits = limits_of(center, percent(inside, low), percent(inside, high), keep=list(center))
        axes.set(**{f"{axis}lim": limits})
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    for row in records(inside):
        color, marker = mark_of(str(row["family"]))
        x, y = 100 * number(row, "gap_mean"), 100 * number(row, "mean")
        if math.isfinite(number(row, "lo")):
            axes.plot([x, x], [100 * number(row, "lo"), 100 * number(row, "hi")], color=color, alpha=0.35, zorder=2)
        if math.isfinite(number(row, "gap_lo")):
            axes.plot(
                [100 * number(row, "gap_lo"), 100 * number(row, "gap_hi")], [y, y], color=color, alpha=0.35, zorder=2
            )
        none = row["method"] == BASELINE
        axes.plot(
            x, y, marker, color=color, markersize=9 if none else 5.5, zorder=5 if none else 4,
            markeredgecolor=color if marker == "x" else "white", markeredgewidth=1.2 if marker == "x" else 0.5,
        )  # fmt: skip
    if len(baseline) and baseline["mean"].notna().all():
        x, y = float(percent(baseline, "gap_mean")[0]), float(percent(baseline, "mean")[0])
        axes.axvline(x, color="black", linewidth=0.5, linestyle=":", zorder=1)
        axes.axhline(y, color="black", linewidth=0.5, linestyle=":", zorder=1)
        axes.add_patch(
            Rectangle((left, bottom), x - left, y - bottom, color=UNDERFIT_COLOR, alpha=0.06, zorder=0, linewidth=0)
        )
    for x0, y0, x1, y1 in _stairs(axes, inside):
        axes.plot([x0, x1], [y0, y1], color="#555555", linewidth=0.9, linestyle="--", zorder=1)
    axes.set_xlabel(f"generalization gap, train − test {score_of(shown)} (pp)   ← smaller")  # a minus sign
    axes.set_ylabel(f"test {score_of(shown)} (%)   higher →")


def _frontier(gaps: Values, tests: Values) -> list[tuple[float, float]]:
    """The points that no other beats in both, from the smallest gap on."""
    steps: list[tuple[float, float]] = []
    for at in np.lexsort((-tests, gaps)):
        if not steps or tests[at] > steps[-1][1]:
            steps.append((float(gaps[at]), float(tests[at])))
    return steps


def _stairs(axes: Axes, inside: pd.DataFrame) -> list[tuple[float, float, float, float]]:
    """The frontier as segments x0, y0, x1, y1, from the foot of the axes to their right edge."""
    if len(inside) < 2:
        return []
    steps = _frontier(percent(inside, "gap_mean"), percent(inside, "mean"))
    corners = [(steps[0][0], axes.get_ylim()[0]), steps[0]]
    for before, after in itertools.pairwise(steps):
        corners += [(after[0], before[1]), after]
    corners.append((axes.get_xlim()[1], steps[-1][1]))
    return [(*start, *end) for start, end in itertools.pairwise(corners)]


def _underfit_words(axes: Axes, inside: pd.DataFrame, lines: Sequence[tuple[float, float, float, float]]) -> None:
    """Name the underfit quadrant in one of its corners, if one is free of marks and of `lines` (x0, y0, x1, y1)."""
    baseline = inside[inside["method"] == BASELINE]
    if baseline.empty:
        return
    pixel = axes.transData.transform
    marks = pixel(np.column_stack([percent(inside, "gap_mean"), percent(inside, "mean")]))
    corner = pixel((float(percent(baseline, "gap_mean")[0]), float(percent(baseline, "mean")[0])))
    window = axes.get_window_extent()
    text = axes.text(
        0, 0, "smaller gap but worse test:\nunderfit", transform=None, fontsize=6.5, color="#9a4500", va="bottom",
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
    across, up = ("right", corner[0] - 6), ("bottom", window.y0 + 4)
    for (side, x), (foot, y) in itertools.product((across, ("left", window.x0 + 6)), (up, ("top", corner[1] - 4))):
        text.set(x=x, y=y, horizontalalignment=side, multialignment=side, verticalalignment=foot)
        box = text.get_window_extent()
        free = Bbox.from_extents(box.x0 - 9, box.y0 - 9, box.x1 + 9, box.y1 + 9)
        met = any(free.contains(*mark) for mark in marks)
        met |= any(box.overlaps(thin) for thin in thin_boxes(axes, lines))
        if box.x0 > window.x0 and box.x1 < corner[0] and window.y0 < box.y0 and box.y1 < corner[1] and not met:
            place = axes.transAxes.inverted().transform((x, y))
            text.set(x=place[0], y=place[1], transform=axes.transAxes)
            return
    text.remove()


def _shades(paths: Sequence[tuple[str, pd.DataFrame]]) -> list[tuple[str, str]]:
    """Colour and line style per path: a second method of one colour is darker and dashed, a third dotted."""
    seen: list[str] = []
    found = []
    for _, path in paths:
        color = mark_of(str(path["family"].iloc[0]))[0]
        again = seen.count(color)
        seen.append(color)
        found.append((darker(color, min(0.3 * again, 0.8)), ("-", "--", ":", "-.", "-")[min(again, 4)]))
    return found


def _level(path: pd.DataFrame, baseline: pd.DataFrame) -> Flags:
    """Which strengths have a mean test accuracy at or above that of `none`: those no axis may leave out."""
    level = float(baseline["mean"].iloc[0]) if len(baseline) else math.inf
    return path["test_acc_mean"].to_numpy(dtype=np.float64) >= level


def _paths(axes: Axes, shown: pd.DataFrame, paths: Sequence[tuple[str, pd.DataFrame]]) -> None:
    """Test against gap over the strengths of each method, the mark growing with the strength."""
    baseline = shown[shown["method"] == BASELINE]
    every = pd.concat([path for _, path in paths])
    for axis, column, base in (("x", "gap_acc_mean", "gap_mean"), ("y", "test_acc_mean", "mean")):
        values = percent(every, column)
        keep = [*percent(baseline, base), *values[_level(every, baseline)]]
        axes.set(**{f"{axis}lim": limits_of(values, values, values, keep)})
    for (_, path), (color, dash) in zip(paths, _shades(paths), strict=True):
        marker = mark_of(str(path["family"].iloc[0]))[1]
        x, y = percent(path, "gap_acc_mean"), percent(path, "test_acc_mean")
        axes.plot(x, y, dash, color=color, alpha=0.85, zorder=2)
        for rank, (gap, test) in enumerate(zip(x, y, strict=True)):
            size = 2.5 + 5.0 * rank / (len(path) - 1)
            axes.plot(
                gap, test, marker, markersize=size, color=color, markeredgecolor=color, zorder=3,
                markerfacecolor=color if rank == len(path) - 1 else "white",
            )  # fmt: skip
    if len(baseline):
        x0, y0 = float(percent(baseline, "gap_mean")[0]), float(percent(baseline, "mean")[0])
        axes.plot(x0, y0, "*", color=NONE_COLOR, markersize=9, markeredgecolor="white", markeredgewidth=0.5, zorder=4)
        axes.axvline(x0, color="black", linewidth=0.5, linestyle=":", zorder=1)
        axes.axhline(y0, color="black", linewidth=0.5, linestyle=":", zorder=1)
    axes.set_xlabel("generalization gap (pp)")


def _path_labels(axes: Axes, shown: pd.DataFrame, paths: Sequence[tuple[str, pd.DataFrame]]) -> None:
    """Name each path at the strongest of its points that lies inside the axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    labels, obstacles = [], []
    baseline = shown[shown["method"] == BASELINE]
    if len(baseline):
        at = (float(percent(baseline, "gap_mean")[0]), float(percent(baseline, "mean")[0]))
        labels.append(Label(*at, BASELINE, NONE_COLOR))
    for (name, path), (color, _) in zip(paths, _shades(paths), strict=True):
        points = list(zip(percent(path, "gap_acc_mean"), percent(path, "test_acc_mean"), strict=True))
        # A slanted line is no box: along it, points close enough that no label slips between two.
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            along = np.linspace(0, 1, 100)
            obstacles += [(x, y, x, y) for x, y in zip(x0 + along * (x1 - x0), y0 + along * (y1 - y0), strict=True)]
        visible = [(x, y) for x, y in points if left <= x <= right and bottom <= y <= top]
        if visible:
            labels.append(Label(float(visible[-1][0]), float(visible[-1][1]), shortened(name, 14), darker(color, 0.3)))
    place_labels(axes, labels, obstacles, crossing=0.1)


def panels_of(figure: Figure, count: int, columns: int, across: str, up: str) -> list[Axes]:
    """`count` panels in rows of `columns` with a common y; `across` and `up` name the axes at the foot and the left."""
    rows = math.ceil(count / columns)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for axes in panels[count:]:
        axes.remove()
    kept: list[Axes] = panels[:count]
    for axes in kept[-columns:]:
        axes.set_xlabel(across)
    for axes in kept[::columns]:
        axes.set_ylabel(up)
    return kept


def width_of(columns: int) -> float:
    """The width in inches of a figure with so many panels side by side."""
    return max(4.2, min(7.0, 0.6 + 1.65 * columns))


def strength_curves(
    runs: pd.DataFrame, headline: pd.DataFrame, strengths: pd.DataFrame, quantity: str = "test"
) -> Drawing | None:
    """Accuracy on test (or the gap: `quantity` "gap") over the strengths, one panel per method with more than one.

    Frames of one group. None if no method has two strengths with results.
    """
    return styled(lambda: _strength_curves(runs, headline, strengths, quantity))


def _strength_curves(
    runs: pd.DataFrame, headline: pd.DataFrame, strengths: pd.DataFrame, quantity: str
) -> Drawing | None:
    checkpoint = str(headline["checkpoint"].iloc[0])
    methods = list(dict.fromkeys(headline.loc[headline["method"] != BASELINE, "method"]))
    paths = [(name, path) for name in methods if len(path := _path(strengths, name, checkpoint)) > 1]
    if not paths:
        return None
    column = f"{quantity}_acc"
    baseline = headline[headline["method"] == BASELINE]
    base = [100 * float(baseline[f"{'gap_' * (quantity == 'gap')}{name}"].iloc[0]) for name in ("mean", "lo", "hi")]
    tuned = paths[0][1]["role"].iloc[0] == "tune"
    level = f"{100 * float(headline['level'].iloc[0]):g}%"
    every = pd.concat([path for _, path in paths])
    many = sorted({int(value) for value in every["n_ok"]})
    banded = many[-1] >= ENOUGH_FOR_A_BAND
    n = f"n = {many[0]}" if many[0] == many[-1] else f"n = {many[0]} to {many[-1]}"
    handles: list[Artist] = [
        Line2D([], [], color="#444444", marker="o", label=f"mean over {'tune' if tuned else 'report'} seeds ({n})"),
        Line2D([], [], color="#444444", marker=".", markersize=4, linestyle="none", alpha=0.6, label="single runs"),
        *([Patch(color="#444444", alpha=0.2, linewidth=0, label=f"{level} t-interval")] if banded else []),
        Line2D(
            [],
            [],
            color="black",
            linewidth=0.9,
            label=f"none, {level} t-interval (n = {int(baseline['n_report'].iloc[0])})",
        ),
    ]
    if tuned:
        chosen = Line2D([], [], color="#444444", linestyle=":", label="chosen on mean validation")
        diamond = Line2D(
            [], [], color="black", marker="D", markerfacecolor="white", linestyle="none",
            label=f"report seeds of the chosen, {level} t-interval",
        )  # fmt: skip
        handles += [chosen, diamond]
    what = f"test {score_of(headline)}" if quantity == "test" else "generalization gap"
    note = interval_note(headline)
    if tuned:
        note += (
            " Curves: tune seeds; their test values chose nothing." if quantity == "test" else " Curves: tune seeds."
        )
    note += _chosen_rates(headline, "curve")
    means = percent(every, f"{column}_mean")
    low, high = percent(every, f"{column}_min"), percent(every, f"{column}_max")
    keep = [base[0], *means[_level(every, baseline)]]
    if tuned:
        diamonds = percent(headline, "gap_mean" if quantity == "gap" else "mean")
        means, low, high = (np.concatenate([values, diamonds]) for values in (means, low, high))
    limits = limits_of(means, low, high, keep)
    if ((percent(every, f"{column}_mean") < limits[0]) | (percent(every, f"{column}_mean") > limits[1])).any():
        note += " ▾ ▴ and a number: a mean outside the axes."
    columns = min(COLUMNS, len(paths))
    rows = math.ceil(len(paths) / columns)
    title = f"{groups(headline)[0][0]}: {what} over the strength, at the {checkpoint} checkpoint"
    figure = sheet(width_of(columns), 0.35 + 1.5 * rows + 0.5 * (rows == 1), title, note, handles)
    short = score_of(headline).replace("accuracy", "acc.")
    up = f"test {score_of(headline)} (%)" if quantity == "test" else f"train − test {short} (pp)"  # a minus sign
    panels = panels_of(figure, len(paths), columns, "strength", up)
    role = "tune" if tuned else "report"
    dots = runs[(runs["role"] == role) & (runs["status"] == "ok")]
    drawn = []
    for (name, path), axes in zip(paths, panels, strict=True):
        own = dots[dots["method"] == name]
        reported = headline[headline["method"] == name] if tuned else headline.iloc[:0]
        _strength_panel(axes, path, own, f"{checkpoint}_{column}", column, reported, base, limits)
        axes.set_title(shortened(f"{name}: {_strength_name(path, own)}", 26 if columns > 2 else 40))
        drawn.append(
            path[
                [
                    "method",
                    "strengths",
                    "strength",
                    "role",
                    "n_ok",
                    *(f"{column}_{end}" for end in ("mean", "lo", "hi")),
                ]
            ]
        )
    settle(figure)
    for axes in panels:
        thin_ticks(axes)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _strength_name(path: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What the axis of a path counts: "patience"; with its method, "dropout.rate", where several could be meant."""
    points = [strengths_of(split_strengths(text)[0]) for text in path["strengths"]]
    varied = [name for name in points[0] if len({point.get(name) for point in points}) > 1]
    if len(varied) > 1:
        return ", ".join(varied)
    name = next((text for text in runs.get("strength_name", []) if text), "strength")
    return name.partition(".")[2] or name if len(points[0]) < 2 else name


def thin_ticks(axes: Axes) -> None:
    """Take off the tick labels that would touch another: the first and last stay, then as many as fit from the left."""
    labels = sorted(
        (label for label in axes.get_xticklabels() if label.get_text()), key=lambda text: text.get_position()
    )
    boxes = [label.get_window_extent() for label in labels]
    kept: list[Bbox] = []
    for at in dict.fromkeys([0, len(labels) - 1, *range(len(labels))]):
        box = boxes[at]
        if any(box.x0 < other.x1 + 4 and other.x0 < box.x1 + 4 for other in kept):
            labels[at].set_visible(False)
        else:
            kept.append(box)


def _two_digits(text: str) -> str:
    """ "0.051, 2": the values of strengths with two digits each."""
    return ", ".join(f"{value:.2g}" for value in strengths_of(split_strengths(text)[0]).values())


def _positions(path: pd.DataFrame) -> tuple[Values, str, list[str]]:
    """Where the strengths of a path stand: positions [rows], the scale "log", "linear" or "rank", and rank's labels."""
    values = path["strength"].to_numpy(dtype=np.float64)
    ranks = np.arange(len(path), dtype=np.float64)
    brief = len(path) > MOST_OF_A_PATH  # drawn strengths have six digits, and there is room for two
    labels = [(_two_digits(text) if brief else strength_values(text)).replace(", ", "\n") for text in path["strengths"]]
    if not np.all(np.isfinite(values)) or len(np.unique(values)) < len(values):
        return ranks, "rank", labels
    wide = values.max() > 10 * max(float(values[values > 0].min(initial=math.inf)), 0.0)
    if not wide:
        return values, "linear", labels
    # A strength of 0 has no place on a log axis, and a linear one would press the others onto it.
    return (values, "log", labels) if values.min() > 0 else (ranks, "rank", labels)


def _strength_panel(
    axes: Axes, path: pd.DataFrame, dots: pd.DataFrame, run_column: str, column: str, reported: pd.DataFrame,
    base: Sequence[float], limits: tuple[float, float],
) -> None:  # fmt: skip
    """One method: band, mean and runs over its strengths, `none` behind, the chosen one marked; in percent."""
    color, marker = mark_of(str(path["family"].iloc[0]))
    x, scale, names = _positions(path)
    mean, low, high = (percent(path, f"{column}_{end}") for end in ("mean", "lo", "hi"))
    if math.isfinite(base[1]):
        axes.axhspan(base[1], base[2], color="black", alpha=0.12, linewidth=0, zorder=0)
    axes.axhline(base[0], color="black", linewidth=0.9, zorder=1)
    if path["n_ok"].min() >= ENOUGH_FOR_A_BAND:
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, zorder=1)
    axes.plot(x, mean, marker=marker, color=color, zorder=3)
    where = dict(zip(path["strengths"], x, strict=True))
    at = np.array([where.get(text, math.nan) for text in dots["strengths"]])
    axes.plot(at, percent(dots, run_column), ".", color=color, markersize=3, alpha=0.6, zorder=2)
    for row in records(reported):
        place = where.get(str(row["strengths"]), math.nan)
        start = "gap_" if column == "gap_acc" else ""
        center, bounds = 100 * number(row, f"{start}mean"), [100 * number(row, f"{start}{end}") for end in ("lo", "hi")]
        if math.isfinite(place):
            axes.axvline(place, color=color, linestyle=":", linewidth=1.0, zorder=1)
        if math.isfinite(bounds[0]):
            axes.plot([place, place], bounds, color="black", linewidth=1.0, zorder=4)
        axes.plot(place, center, "D", color="black", markerfacecolor="white", markersize=4.2, zorder=5)
    axes.set_ylim(*limits)
    for place, value in zip(x, mean, strict=True):
        _off_axis(axes, place, value, limits, color)
    if scale == "log":
        axes.set_xscale("log")
    # Over less than two decades a log axis would label one power of ten: the strengths that were run label themselves.
    axes.set_xticks(x, names, fontsize=6)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _off_axis(axes: Axes, place: float, value: float, limits: tuple[float, float], color: str) -> None:
    """A caret with the number at the edge, for a mean that the common axis leaves out."""
    if limits[0] <= value <= limits[1]:
        return
    low = value < limits[0]
    axes.annotate(
        f"{'▾' if low else '▴'}{value:.0f}", (place, limits[0] if low else limits[1]), (0, 2 if low else -2),
        textcoords="offset points", ha="center", va="bottom" if low else "top", fontsize=6, color=darker(color, 0.3),
        zorder=6,
    )  # fmt: skip


def learning_curves(runs: pd.DataFrame, headline: pd.DataFrame, curves: pd.DataFrame) -> Drawing | None:
    """Loss over the epochs, one panel per reported configuration, train dashed and validation solid, `none` in grey.

    Frames of one group, `curves` of the whole study. None if no reported run has a curve.
    """
    return styled(lambda: _learning_curves(runs, headline, curves))


def _learning_curves(runs: pd.DataFrame, headline: pd.DataFrame, curves: pd.DataFrame) -> Drawing | None:
    key = ["run_id", "method", "strengths", "seed", "status", "best_epoch"]
    report = runs[runs["role"] == "report"].assign(best_epoch=runs.get("best_epoch", math.nan))
    loss = curves[curves["metric"] == "loss"].merge(report[key], on="run_id", validate="many_to_one")
    loss = loss[np.isfinite(loss["value"].to_numpy(dtype=np.float64)) & (loss["value"] > 0)]
    if loss.empty:
        return None
    rows = [row for row in records(headline) if row["method"] != BASELINE]
    rows = [row for row in rows if number(row, "n_report") + number(row, "n_failed") > 0] or records(headline)[:1]
    count, rows = len(rows), rows[:MOST_PANELS]
    names = named(rows)
    handles: list[Artist] = [
        Line2D([], [], color="#444444", label="validation, median of seeds"),
        Line2D([], [], color="#444444", linestyle="--", label="train, median of seeds"),
        Line2D([], [], color="#444444", linewidth=0.5, alpha=0.5, label=f"single seeds (at most {SEED_LINES})"),
        Line2D([], [], color="#999999", label="none"),
        Line2D(
            [], [], color="#444444", marker="|", markersize=6, linestyle="none", label="epoch of lowest validation loss"
        ),
    ]
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    reported = headline["n_report"] + headline["n_failed"]
    seeds = f"n = {span(reported[reported > 0], 'report seed')}"
    title = (
        f"{groups(headline)[0][0]}: learning curves of the {'chosen strengths' if headline['n_tune'].max() else 'runs'}"
    )
    note = (
        f"{seeds}, medians without intervals, as far as all runs go that did not fail. Clean data, evaluation mode; "
        "loss on a log axis. "
        "There is no test curve: test is read once per stored checkpoint."
    )
    if count > len(rows):
        note += f" The first {len(rows)} of {count} configurations, in the order of the table."
    medians = _medians(loss)
    drawn = headline[["method", "strengths"]].drop_duplicates()
    inside = {(row["method"], row["strengths"]) for row in rows}
    mine = [method == BASELINE or (method, s) in inside for method, s in drawn.itertuples(index=False)]
    shown = medians.merge(drawn[mine], on=["method", "strengths"])
    seen = shown if len(shown) else loss  # where all runs of all methods failed there is no median
    low, high = _log_limits(*(seen.loc[seen["split"] == name, "value"].to_numpy(float) for name in ("train", "val")))
    if (shown["value"] < low).any():
        note += f" Below {low:.1g} curves leave the axes."
    figure = sheet(width_of(columns), 0.35 + 1.5 * lines + 0.5 * (lines == 1), title, note, handles)
    unit = "nats" if score_of(headline) == "accuracy" else "variances"
    panels = panels_of(figure, len(rows), columns, "epoch", f"loss ({unit})")
    for row, name, axes in zip(rows, names, panels, strict=True):
        grey = loss[loss["method"] == BASELINE]
        own = loss[(loss["method"] == row["method"]) & (loss["strengths"] == row["strengths"])]
        if row["method"] != BASELINE:
            _curve(axes, grey, "#999999", 0)
        _curve(axes, own, mark_of(str(row["family"]))[0], SEED_LINES)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        failed = int(number(row, "n_failed"))
        short = shortened(name, 24 if columns > 2 else 40, 2)
        axes.set_title(f"{short} ({failed} failed)" if failed else short)
    settle(figure)
    return Drawing(figure, shown)


def _medians(loss: pd.DataFrame) -> pd.DataFrame:
    """The median over the runs of each configuration at each epoch that all of them reach, failed ones aside, and `n`.

    Runs that stop early would leave a median to those that go on, which is a curve of no configuration.
    """
    sound = loss[loss["status"] == "ok"]
    same = ["method", "strengths"]
    found = sound.groupby([*same, "split", "epoch"], sort=True)["value"].agg(value="median", n="count").reset_index()
    runs = sound.groupby(same, sort=True)["seed"].nunique().rename("runs").reset_index()
    whole = found.merge(runs, on=same)
    return whole[whole["n"] == whole["runs"]].drop(columns="runs").reset_index(drop=True)


def _log_limits(train: Values, val: Values) -> tuple[float, float]:
    """Limits on a log axis for medians of the loss: the whole of validation, of train what is above 1e-3."""
    every = np.concatenate([train, val])
    low, high = max(float(every.min()), min(FLOOR, float(val.min(initial=math.inf)))), float(every.max())
    room = max((high / low) ** 0.08, 1.05)
    return low / room, high * room


def _curve(axes: Axes, loss: pd.DataFrame, color: str, seed_lines: int) -> None:
    """Medians over seeds, up to `seed_lines` single seeds, and a tick at the foot for the best epoch of each seed."""
    medians = _medians(loss)
    for split, dash in (("val", "-"), ("train", "--")):
        part = loss[loss["split"] == split]
        for seed in sorted(part["seed"].unique())[:seed_lines]:
            line = part[part["seed"] == seed].sort_values("epoch")
            axes.plot(line["epoch"], line["value"], dash, color=color, linewidth=0.4, alpha=0.4, zorder=2)
        median = medians[medians["split"] == split]
        axes.plot(median["epoch"], median["value"], dash, color=color, linewidth=1.3, zorder=3)
    if seed_lines:
        best = loss.drop_duplicates("seed")["best_epoch"].dropna().to_numpy(dtype=np.float64)
        foot = np.full(len(best), 0.02)
        axes.plot(best, foot, "|", color=color, markersize=5, alpha=0.7, transform=axes.get_xaxis_transform(), zorder=4)
