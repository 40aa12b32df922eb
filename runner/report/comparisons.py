"""Figures of the differences to `none`: the forest, what closed the gap, and what a method costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from runner.grid import TIE_DIGITS
from runner.report.sheet import (
    Drawing,
    in_view,
    ink,
    interval_note,
    limits_of,
    named,
    percent,
    settle,
    sheet,
    shortened,
    styled,
)
from runner.report.stats import Values, budget_curve, pair_by_seed
from runner.report.style import NONE_COLOR, NOTE_COLOR, Label, mark_of, place_labels
from runner.report.tables import BASELINE, groups, sampled, validation, worst_plausible
from runner.report.writers import (
    MINUS,
    UNITS,
    Row,
    changed_margins,
    number,
    records,
    score_of,
    signed,
    strength_brief,
    with_bounds,
    worst_cases,
)

BETTER, WORSE, UNDECIDED, LEVEL = "#0072B2", "#D55E00", "#8a8a8a", "#333333"
BAND = "#ececec"
TRAIN = "#b3b3b3"
LEADING = 5
MOST_TO_THE_END = 10  # strengths whose curve of what tuning brings goes to the last of them
NAMED = 14  # names beside the points of the times
NAME_WIDTH = 24
# The first letters of a verdict decide its mark: shape and colour say the same thing twice.
MARKS = {
    "better": (BETTER, "^", True),
    "worse": (WORSE, "v", True),
    "equivalent": (LEVEL, "s", True),
    "identical": (LEVEL, "D", True),
    "inconclusive": (UNDECIDED, "o", False),
    "": (UNDECIDED, "o", False),
}
GAP_MARKS = {
    "smaller": (LEVEL, "<", True, "gap smaller"),
    "larger": (LEVEL, ">", True, "gap larger"),
    "equivalent": (LEVEL, "s", True, "gap within the margin"),
    "": (UNDECIDED, "o", False, "gap undecided"),
}


def _mark(verdict: str) -> tuple[str, str, bool]:
    return MARKS[verdict.partition(",")[0]]


def _gap_word(row: Row) -> str:
    """What the interval of the gap's difference says: a gap is smaller or larger, never better."""
    low, high, rope = (number(row, name) for name in ("gap_diff_lo", "gap_diff_hi", "gap_rope"))
    if -rope <= low and high <= rope:
        return "equivalent"
    return "smaller" if high < 0 else "larger" if low > 0 else ""


def _row_names(rows: Sequence[Row]) -> list[str]:
    """Method and strength in at most two lines, with a word on failed runs."""
    names = []
    for row in rows:
        strength = strength_brief(str(row["strengths"]))
        failed = number(row, "n_failed")
        text = str(row["method"]) + f"  ({strength})" * bool(strength) + f", {failed:.0f} failed" * (failed > 0)
        names.append(shortened(text, NAME_WIDTH, 2))
    return names


def seed_differences(runs: pd.DataFrame, rows: Sequence[Row], column: str) -> list[Values]:
    """The differences to `none` of each configuration at the seeds that both have, in percent."""
    done = runs[(runs["role"] == "report") & (runs["status"] == "ok")]
    base = done[done["method"] == BASELINE]
    found = []
    for row in rows:
        own = done[(done["method"] == row["method"]) & (done["strengths"] == row["strengths"])]
        ours, theirs = pair_by_seed(*(part[name].to_numpy() for part in (own, base) for name in ("seed", column)))
        found.append(100 * (ours - theirs))
    return found


def _spread(count: int, reach: float) -> Values:
    """Heights for `count` dots, low and high in turn, so that neighbours do not hide each other."""
    return np.array([((at * 0.618) % 1 - 0.5) * 2 * reach for at in range(count)])


def _lanes(axes: Axes, count: int) -> None:
    """Rows 0 to `count` - 1 from the top, no ticks on the left."""
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _beyond(axes: Axes, at: float, value: float, color: str) -> bool:
    """Whether `value` lies outside the axes; if so a caret with the number stands at that edge."""
    low, high = axes.get_xlim()
    if low <= value <= high:
        return False
    left = value < low
    text = f"{value:+.1f}".replace("-", MINUS)
    axes.text(
        0.01 if left else 0.99, at, f"◂ {text}" if left else f"{text} ▸", ha="left" if left else "right", va="center",
        fontsize=6.5, color=color, transform=blended_transform_factory(axes.transAxes, axes.transData), zorder=6,
    )  # fmt: skip
    return True


def _intervals(
    axes: Axes,
    rows: Sequence[Row],
    dots: Sequence[Values],
    name: str,
    marks: Sequence[tuple[str, str, bool]],
    rope: float,
) -> None:
    """Seeds, simultaneous and single interval, and the mean of every row, over the band of the margin."""
    frame = pd.DataFrame(rows)
    center, low, high = (percent(frame, f"{name}{end}") for end in ("", "_lo", "_hi"))
    axes.set_xlim(*limits_of(center, low, high, keep=[0.0, -100 * rope, 100 * rope, *in_view(center)]))
    axes.axvspan(-100 * rope, 100 * rope, color=BAND, linewidth=0, zorder=0)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    for at, (row, seeds, (color, marker, filled)) in enumerate(zip(rows, dots, marks, strict=True)):
        if _beyond(axes, at, center[at], color):
            continue
        axes.plot(seeds, at + _spread(len(seeds), 0.22), ".", color=color, alpha=0.45, markersize=3, zorder=2)
        thin = [100 * number(row, f"{name}_{end}_sim") for end in ("lo", "hi")]
        if math.isfinite(thin[0]):
            axes.plot(thin, [at, at], color=color, linewidth=0.9, zorder=3, solid_capstyle="butt")
        if math.isfinite(low[at]):
            axes.plot([low[at], high[at]], [at, at], color=color, linewidth=2.8, zorder=3, solid_capstyle="butt")
        axes.plot(
            center[at], at, marker, color=color, markersize=6, markerfacecolor=color if filled else "white", zorder=4
        )
        _cut_ends(axes, at, [low[at], high[at], *thin, *seeds], color)
    axes.xaxis.set_major_locator(MaxNLocator(6 if name == "diff" else 4))  # the panel of the gap is narrower


def _cut_ends(axes: Axes, at: float, ends: Sequence[float], color: str) -> None:
    """A caret at each edge of the axes that an interval, or a seed, lies beyond."""
    left, right = axes.get_xlim()
    finite = [end for end in ends if math.isfinite(end)]
    for cut, edge, caret in ((min(finite, default=left) < left, 0.0, 4), (max(finite, default=right) > right, 1.0, 5)):
        if cut:  # 4 and 5 are matplotlib's carets that point left and right
            axes.plot(
                edge, at, marker=caret, color=color, markersize=4.5, markeredgewidth=0, clip_on=False, zorder=6,
                transform=blended_transform_factory(axes.transAxes, axes.transData),
            )  # fmt: skip


def _text_column(
    axes: Axes, x: float, head: str, cells: Sequence[str], align: str, colors: Sequence[str], bold: bool
) -> None:
    """One column of text, its heading above the first row."""
    axes.text(x, -0.72, head, ha=align, va="bottom", fontsize=7, color=NOTE_COLOR, transform=axes.get_yaxis_transform())
    for at, (cell, color) in enumerate(zip(cells, colors, strict=True)):
        heavy = "bold" if bold and color != NOTE_COLOR else "normal"
        axes.text(
            x, at, cell, ha=align, va="center", fontsize=7, color=color, fontweight=heavy, linespacing=0.95,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def forest(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    """One row per method: the difference to `none` in test accuracy and in the gap, with the verdict in words.

    Frames of one group. None if nothing was compared.
    """
    return styled(lambda: _forest(runs, headline))


def _forest(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    shown = headline[(headline["method"] != BASELINE) & headline["diff"].notna()]
    if shown.empty:
        return None
    rows, checkpoint = records(shown), str(headline["checkpoint"].iloc[0])
    tests, level = int(headline["family_size"].max()), f"{100 * float(headline['level'].iloc[0]):g}%"
    rope, gap_rope = float(shown["rope"].iloc[0]), float(shown["gap_rope"].iloc[0])
    names, words = _row_names(rows), [str(row["verdict"]) for row in rows]
    gap_words = [_gap_word(row) for row in rows]
    handles: list[Artist] = []
    if shown["diff_lo"].notna().any():
        kind = "interval" if sampled(shown) else "t-interval"
        handles.append(Line2D([], [], color=LEVEL, linewidth=2.8, label=f"{level} {kind}"))
    if tests > 1:
        handles.append(Line2D([], [], color=LEVEL, linewidth=0.9, label=f"simultaneous ({tests} tests)"))
    handles += [
        Line2D([], [], color=LEVEL, marker=".", alpha=0.45, linestyle="none", label="seeds"),
        Patch(color=BAND, label=f"margin ±{100 * rope:g} / ±{100 * gap_rope:g} pp"),
    ]
    for word in dict.fromkeys(word.partition(",")[0] for word in words if word):
        handles.append(_handle(*_mark(word), word))
    handles += [_handle(*GAP_MARKS[word]) for word in dict.fromkeys(gap_words) if word]
    note = interval_note(headline)
    if tests:
        note += f" Verdict: Holm over {tests} test{'s'[: tests != 1]}; the gap has intervals only."
    if len(lost := [str(row["method"]) for row in rows if number(row, "n_failed") > 0]):
        note += f" Failed runs are not in the means: {', '.join(lost)}."
    if text := worst_cases(headline):
        note += f" {text}"
    if changed := changed_margins(headline):
        note = f"{changed} {note}"
    tall = max(name.count("\n") for name in names)
    body = 0.65 + (0.24 + 0.09 * tall) * len(rows)
    title = f"{groups(headline)[0][0]}: paired difference to none, at the {checkpoint} checkpoint"
    figure = sheet(7.2, body, title, note, handles)
    left, right, text = figure.subplots(1, 3, width_ratios=[1.2, 1.0, 1.6])
    for axes in (left, right, text):
        _lanes(axes, len(rows))
    _intervals(
        left, rows, seed_differences(runs, rows, f"{checkpoint}_test_acc"), "diff", [_mark(w) for w in words], rope
    )
    gap_marks = [GAP_MARKS[word][:3] for word in gap_words]
    _intervals(right, rows, seed_differences(runs, rows, f"{checkpoint}_gap_acc"), "gap_diff", gap_marks, gap_rope)
    left.set_yticks(range(len(rows)), names)
    right.set_yticks(range(len(rows)), [""] * len(rows))
    left.set_xlabel(f"Δ test {score_of(headline)} (pp)  better →", fontsize=7)
    right.set_xlabel("Δ gap (pp)  ← smaller", fontsize=7)
    text.set_axis_off()
    plain, grey = [LEVEL] * len(rows), [NOTE_COLOR] * len(rows)
    _text_column(
        text, 0.0, f"test {score_of(headline)}", [word.replace(", ", ",\n") or "not tested" for word in words], "left",
        [_mark(word)[0] if word not in ("", "inconclusive") else NOTE_COLOR for word in words], True,
    )  # fmt: skip
    unit = UNITS["test_acc"]
    cells = [
        with_bounds(number(row, "diff"), number(row, "diff_lo"), number(row, "diff_hi"), unit, rope) for row in rows
    ]
    _text_column(text, 0.8, f"Δ [{level} CI]", cells, "right", plain, False)
    more = [f"+{number(row, 'more_seeds'):.0f}" if math.isfinite(number(row, "more_seeds")) else "" for row in rows]
    if any(more):
        _text_column(text, 1.0, "+seeds", more, "right", grey, False)
    settle(figure)
    columns = ["method", "strengths", "n_pairs", *(f"{n}{e}" for n in ("diff", "gap_diff") for e in _ENDS)]
    return Drawing(figure, shown[[*columns, "rope", "gap_rope", "p_holm", "verdict", "more_seeds"]])


_ENDS = ("", "_lo", "_hi", "_lo_sim", "_hi_sim")


def _handle(color: str, marker: str, filled: bool, label: str) -> Line2D:
    return Line2D(
        [], [], color=color, marker=marker, linestyle="none", markerfacecolor=color if filled else "white", label=label
    )


def gap_decomposition(headlines: Sequence[pd.DataFrame]) -> Drawing | None:
    """What closed the gap: per method the change of train and of test accuracy, a panel per checkpoint.

    `headlines` are those of one group, the primary one first. None if nothing was compared.
    """
    return styled(lambda: _gap_decomposition(headlines))


def _gap_decomposition(headlines: Sequence[pd.DataFrame]) -> Drawing | None:
    first = headlines[0]
    shown = first[(first["method"] != BASELINE) & first["diff"].notna() & first["d_train"].notna()]
    if shown.empty:
        return None
    rows = records(shown)
    panels = [first, *(frame for frame in headlines[1:] if frame["d_train"].notna().any())]
    level = f"{100 * float(first['level'].iloc[0]):g}%"
    kind = "interval" if sampled(first) else "t-interval"
    handles: list[Artist] = [
        Patch(color=TRAIN, label=f"Δ train {score_of(first)}: negative is lost fit"),
        Patch(color=BETTER, label=f"Δ test {score_of(first)}: positive is real gain"),
        Line2D([], [], color="black", linewidth=0.8, label=f"{level} {kind}"),
    ]
    note = f"Δ gap = Δ train {MINUS} Δ test, as a number beside the bars. {interval_note(first)}"
    if sampled(first):
        best = ", and all at the checkpoint of lowest validation loss," * (len(panels) > 1)
        note += f" Those of Δ train{best} cover seeds only."
    title = f"{groups(first)[0][0]}: what closed the gap, change against none"
    names = _row_names(rows)
    tall = max(name.count("\n") for name in names)
    figure = sheet(7.2 if len(panels) > 1 else 4.6, 0.6 + (0.3 + 0.04 * tall) * len(rows), title, note, handles)
    ratios = [1.0, 0.17] * len(panels)
    grid = figure.subplots(1, 2 * len(panels), width_ratios=ratios, squeeze=False)[0]
    merged = [
        shown[["method", "strengths"]].merge(frame, on=["method", "strengths"], how="left").reset_index(drop=True)
        for frame in panels
    ]
    ends = np.concatenate([percent(part, name) for part in merged for name in ("d_train", "diff")])
    low, high = (
        np.concatenate([percent(part, f"{name}_{end}") for part in merged for name in ("d_train", "diff")])
        for end in ("lo", "hi")
    )
    limits = limits_of(ends, low, high, keep=[0.0, *in_view(ends)])
    for at, part in enumerate(merged):
        axes, words = grid[2 * at], grid[2 * at + 1]
        _bars(axes, part, limits)
        axes.set_yticks(range(len(rows)), names if at == 0 else [""] * len(rows))
        axes.set_xlabel("change against none (pp)")
        last = str(panels[at]["checkpoint"].iloc[0]) == "last"
        axes.set_title("last checkpoint" if last else "checkpoint of lowest validation loss")
        _lanes(words, len(rows))
        words.set_axis_off()
        gaps = [signed(value) if math.isfinite(value) else "" for value in percent(part, "gap_diff")]
        _text_column(words, 1.0, "Δ gap", gaps, "right", [LEVEL] * len(rows), False)
    settle(figure)
    columns = ["checkpoint", "method", "strengths", "d_train", "d_train_lo", "d_train_hi", "diff", "diff_lo", "diff_hi"]
    return Drawing(figure, pd.concat(merged)[[*columns, "gap_diff", "gap_share_from_test"]])


def _bars(axes: Axes, part: pd.DataFrame, limits: tuple[float, float]) -> None:
    """Two bars per row, train above test; a bar that leaves the axes ends in its number."""
    _lanes(axes, len(part))
    axes.set_xlim(*limits)
    axes.axvline(0, color="black", linewidth=0.8, zorder=3)
    for name, color, shift in (("d_train", TRAIN, -0.19), ("diff", BETTER, 0.19)):
        center, low, high = (percent(part, f"{name}{end}") for end in ("", "_lo", "_hi"))
        at = np.arange(len(part)) + shift
        axes.barh(at, center, 0.34, color=color, linewidth=0, zorder=2)
        for y, value, start, end in zip(at, center, low, high, strict=True):
            if math.isfinite(value) and not _beyond(axes, y, value, "black") and math.isfinite(start):
                axes.plot([start, end], [y, y], color="black", linewidth=0.8, zorder=4)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def cost_benefit(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    """Left what k strengths tried are expected to buy, right the test difference against the training time.

    Frames of one group. None if there is neither a method with two strengths nor a time to compare.
    """
    return styled(lambda: _cost_benefit(runs, headline))


def budget_curves(runs: pd.DataFrame, headline: pd.DataFrame) -> dict[str, Values]:
    """Per method the expected test accuracy (percent) of the strength that is chosen of k, from 1 to K.

    As in a study, the choice is by the mean validation of a strength over its tuning runs, and what it brings is its
    mean test over the same; of a method that was not tuned, over its reported runs. A strength that lost a run is the
    last to be chosen, and has the worst plausible test value where all that are drawn did. K is the number of
    strengths; of more than MOST_TO_THE_END two thirds of it, beyond which the curve rests on one or two of them.
    """
    found = {}
    checkpoint = str(headline["checkpoint"].iloc[0])
    for method in dict.fromkeys(headline.loc[headline["method"] != BASELINE, "method"]):
        own = runs[runs["method"] == method]
        tune = own[own["role"] == "tune"]
        part = tune if len(tune) else own
        columns = validation(part, checkpoint), part[f"{checkpoint}_test_acc"]
        val, test = (column.to_numpy(dtype=np.float64) for column in columns)
        done = (part["status"] == "ok").to_numpy(dtype=bool) & np.isfinite(val) & np.isfinite(test)
        known = part[["strengths"]].assign(val=np.where(done, val, -math.inf), test=test, sound=done)
        points = known.groupby("strengths", sort=True).agg({"val": "mean", "test": "mean", "sound": "all"})
        if len(points) > 1 and points["sound"].any():
            sound = points["sound"].to_numpy(dtype=bool)
            worst = worst_plausible([part], f"{checkpoint}_test_acc")
            curve = budget_curve(
                np.where(sound, points["val"].to_numpy(np.float64).round(TIE_DIGITS), -math.inf),
                np.where(sound, points["test"].to_numpy(np.float64), worst),
            )
            found[str(method)] = 100 * (curve if len(points) <= MOST_TO_THE_END else curve[: 2 * len(points) // 3])
    return found


def _cost_benefit(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    curves = budget_curves(runs, headline)
    timed = headline[(headline["method"] != BASELINE) & headline["time_ratio"].notna() & headline["diff"].notna()]
    if not curves and timed.empty:
        return None
    level = f"{100 * float(headline['level'].iloc[0]):g}%"
    note = f"{interval_note(headline)}"
    if curves:
        tuned = bool((runs["role"] == "tune").any())
        many = int(runs.groupby("method")["strengths"].nunique().max()) > MOST_TO_THE_END
        note += (
            f" Left: expected test {score_of(headline)} of the strength of best mean validation among k of a method's, "
            f"drawn without replacement (exact), both as means over the {'tune' if tuned else 'report'} seeds; "
            f"{f'of more than {MOST_TO_THE_END} up to two thirds, beyond which one or two decide; ' * many}"
            f"{f'the {LEADING} leading named; ' if len(curves) > LEADING else ''}"
            f"none: mean of its report seeds{', which are other seeds' * tuned}."
        )
        if (runs["status"] != "ok").any():
            note += (
                " A strength that lost a run is the last to be chosen, and then counts as chance, or as the lowest run "
                "if that is lower."
            )
    if len(timed):
        merged = "study" in runs.columns and runs["study"].nunique() > 1
        measured = "the runs of one study side by side" if merged else "the runs side by side on one machine"
        note += f" Right: grey band: margin; time measured with {measured}."
        if len(lanes := timed[timed["other_lanes"].astype(bool)]):
            names = ", ".join(dict.fromkeys(lanes["method"]))
            note += f" In packs of another width than none's, where a run in a wider one costs less: {names}."
        if len(timed) > NAMED:
            note += f" Named are {NAMED}: the best, the worst, the fastest and the slowest; the others are in the CSV."
    count = bool(curves) + bool(len(timed))
    title = f"{groups(headline)[0][0]}: what tuning and training cost, and what they bring"
    families = list(dict.fromkeys(timed["family"]))
    handles = [_handle(*mark_of(family), True, family) for family in families]
    figure = sheet(7.2 if count > 1 else 4.6, 2.9 if len(timed) <= 10 else 4.0, title, note, handles)
    panels = figure.subplots(1, count, squeeze=False)[0].tolist()
    if curves:
        _budget(panels[0], curves, headline)
    if len(timed):
        _times(panels[-1], timed, level)
    settle(figure)
    drawn = [
        pd.DataFrame({"panel": "budget", "method": name, "k": np.arange(1, len(curve) + 1), "test_acc": curve / 100})
        for name, curve in curves.items()
    ]
    if curves:
        _budget_labels(panels[0], curves, headline)
    if len(timed):
        rows = records(timed)
        worth = _worth_naming(timed)
        labels = [
            Label(number(row, "time_ratio"), 100 * number(row, "diff"), shortened(name, 16), ink(str(row["family"])))
            for at, (row, name) in enumerate(zip(rows, named(rows), strict=True))
            if at in worth and panels[-1].get_ylim()[0] <= 100 * number(row, "diff") <= panels[-1].get_ylim()[1]
        ]
        lines = []
        for row in rows:
            if math.isfinite(number(row, "diff_lo")):
                x = number(row, "time_ratio")
                lines.append((x, 100 * number(row, "diff_lo"), x, 100 * number(row, "diff_hi")))
        place_labels(panels[-1], labels, lines, crossing=0.03)
        columns = ["method", "strengths", "time_ratio", "time_ratio_lo", "time_ratio_hi", "diff", "diff_lo", "diff_hi"]
        drawn.append(timed[columns].assign(panel="time"))
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _worth_naming(timed: pd.DataFrame) -> set[int]:
    """The rows whose names the panel of times has room for: all, or the extremes of difference and of time."""
    if len(timed) <= NAMED:
        return set(range(len(timed)))
    best = np.argsort(-timed["diff"].to_numpy(dtype=np.float64), kind="stable").tolist()
    slow = np.argsort(timed["time_ratio"].to_numpy(dtype=np.float64), kind="stable").tolist()
    # in turn, the more telling end more often
    turns = itertools.chain.from_iterable(zip(best, slow[::-1], best[1:], best[::-1], slow, strict=False))
    return set(list(dict.fromkeys(turns))[:NAMED])


def _named_curves(curves: dict[str, Values]) -> list[str]:
    """The methods whose curves are coloured: the highest ends."""
    return sorted(curves, key=lambda name: -float(curves[name][-1]))[:LEADING]


def _budget(axes: Axes, curves: dict[str, Values], headline: pd.DataFrame) -> None:
    families = dict(zip(headline["method"], headline["family"], strict=True))
    leading = _named_curves(curves)
    base = 100 * float(headline.loc[headline["method"] == BASELINE, "mean"].iloc[0])
    longest = max(map(len, curves.values()))
    for name, curve in curves.items():
        steps = np.arange(1, len(curve) + 1)
        if name in leading:
            color, marker = mark_of(str(families[name]))
            dash = ("-", "--", ":", "-.", "-")[
                [mark_of(str(families[n]))[0] for n in leading[: leading.index(name)]].count(color)
            ]
            axes.plot(steps, curve, dash, color=color, marker=marker, markersize=3.5, markevery=max(1, len(curve) // 6))
        else:
            axes.plot(steps, curve, color="#c8c8c8", linewidth=0.9, zorder=1)
    if math.isfinite(base):
        axes.plot([0, longest], [base, base], color=NONE_COLOR, linewidth=0.9, zorder=1)
    # The first step of a curve is often a plunge; it may leave the axes, what comes after may not.
    values = np.concatenate([curves[name][1:] for name in leading])
    every = np.concatenate(list(curves.values()))
    low = min(float(values.min()), base) if math.isfinite(base) else float(values.min())
    high = float(np.nanmax([values.max(), base]))
    low = max(low - 0.4 * max(high - low, 0.5), min(float(every.min()), low))
    room = 0.06 * max(high - low, 0.5)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0.7, longest + 0.55 * longest)
    axes.set_xticks(sorted({1, max(1, longest // 3), max(1, 2 * longest // 3), longest}))
    axes.set_xlabel("strengths tried of a method (k)")
    axes.set_ylabel(f"expected test {score_of(headline)} (%)")


def _budget_labels(axes: Axes, curves: dict[str, Values], headline: pd.DataFrame) -> None:
    """Names at the right ends, moved apart until none touches another."""
    families = dict(zip(headline["method"], headline["family"], strict=True))
    ends = {name: float(curves[name][-1]) for name in _named_curves(curves)}
    base = 100 * float(headline.loc[headline["method"] == BASELINE, "mean"].iloc[0])
    if math.isfinite(base):
        ends[BASELINE] = base
    axes_height = axes.get_window_extent().height
    low, high = axes.get_ylim()
    need = 8.5 * axes.figure.dpi / 72 * (high - low) / axes_height
    order = sorted(ends, key=lambda name: ends[name])
    lines = {name: shortened(name, 14, 2) for name in order}
    places: list[float] = []
    for at, name in enumerate(order):
        own = need * (1 + lines[name].count("\n"))
        before = places[-1] + (own + need * (1 + lines[order[at - 1]].count("\n"))) / 2 if places else -math.inf
        places.append(max(ends[name], before))
    over = max(0.0, places[-1] + need / 2 - high)
    longest = max(map(len, curves.values()))
    for name, place in zip(order, (place - over for place in places), strict=True):
        color = ink(str(families[name]))
        x = longest + 0.08 * longest
        axes.annotate(
            lines[name], (len(curves.get(name, [0] * longest)), ends[name]), (x, place), fontsize=7, color=color,
            va="center", linespacing=0.95, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def _times(axes: Axes, timed: pd.DataFrame, level: str) -> None:
    rope = 100 * float(timed["rope"].iloc[0])
    center, low, high = (percent(timed, f"diff{end}") for end in ("", "_lo", "_hi"))
    ratios = timed["time_ratio"].to_numpy(dtype=np.float64)
    axes.set_ylim(*limits_of(center, low, high, keep=[0.0, *in_view(center)]))
    axes.axhspan(-rope, rope, color=BAND, linewidth=0, zorder=0)
    axes.axhline(0, color="black", linewidth=0.8, zorder=1)
    axes.axvline(1, color="black", linewidth=0.6, linestyle=":", zorder=1)
    bounds = axes.get_ylim()
    for row, ratio, value in zip(records(timed), ratios, center, strict=True):
        color, marker = mark_of(str(row["family"]))
        if not bounds[0] <= value <= bounds[1]:
            name = shortened(f"{row['method']} {value:+.1f}".replace("-", MINUS), 16)
            axes.annotate(
                f"▾ {name}", (ratio, bounds[0]), (0, 3), textcoords="offset points", fontsize=6.5, ha="center",
                va="bottom", color=ink(str(row["family"])),
            )  # fmt: skip
            continue
        ends = [100 * number(row, "diff_lo"), 100 * number(row, "diff_hi")]
        if math.isfinite(ends[0]):
            axes.plot([ratio, ratio], ends, color=color, alpha=0.6, zorder=2)
        axes.plot(
            ratio, value, marker, color=color, markersize=5.5, zorder=4,
            markeredgecolor=color if marker == "x" else "white", markeredgewidth=1.2 if marker == "x" else 0.5,
        )  # fmt: skip
    every = np.append(ratios, 1.0)
    if every.max() > 4 * every.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(every.min() / 1.5, every.max() * 1.5)
    else:
        room = 0.15 * max(float(np.ptp(every)), 0.1)
        axes.set_xlim(every.min() - room, every.max() + room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_xlabel("training time relative to none")
    kind = "interval" if sampled(timed) else "t-interval"
    bounds_said = f", {level} {kind}" if np.isfinite(low).any() else ""
    axes.set_ylabel(f"Δ test {score_of(timed)} (pp{bounds_said})")
