"""What all figures share: the drawing and its files, the sheet with title, legend and note, axis limits, names."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from runner.report.collect import write_atomic
from runner.report.stats import Values
from runner.report.style import NOTE_COLOR, darker, mark_of, own_settings
from runner.report.tables import sampled, to_csv
from runner.report.writers import Row, protocol_text, strength_values, wrapped


@dataclass(frozen=True)
class Drawing:
    """A figure and the frame of what is drawn in it."""

    figure: Figure
    data: pd.DataFrame


def save(drawing: Drawing, folder: Path, name: str) -> tuple[Path, ...]:
    """Write `<name>.pdf`, `.svg`, `.png` (200 dpi) and `.csv`; the same drawing always gives the same bytes."""
    paths = []
    metadata: dict[str, dict[str, str | None]] = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
        "png": {"Software": None},
    }
    with own_settings():
        for kind, without in metadata.items():
            buffer = io.BytesIO()
            drawing.figure.savefig(buffer, format=kind, metadata=without)
            paths.append(write_atomic(folder / f"{name}.{kind}", buffer.getvalue()))
    return (*paths, write_atomic(folder / f"{name}.csv", to_csv(drawing.data)))


def sheet(width: float, body: float, title: str, note: str, handles: Sequence[Artist]) -> Figure:
    """A figure `width` x about `body` inches for its axes, title above, legend and note below, none over another."""

    def lines(text: str, points: float) -> list[str]:
        # The mean width of a DejaVu Sans character is 0.55 of its size in running text.
        return textwrap.wrap(text, int((width - 0.15) * 72 / (0.55 * points)))

    titles, notes = lines(title, 8.5), lines(note, 6.5)
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int(width / (longest * 0.056 + 0.45))))
    legend_height = 0.05 + 0.15 * math.ceil(len(handles) / columns) if handles else 0.0
    note_height = 0.06 + 0.125 * len(notes)
    top, bottom = 0.1 + 0.15 * len(titles), note_height + legend_height + 0.04
    height = top + body + bottom
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.06 / width, bottom / height, 1 - 0.1 / width, body / height))  # type: ignore[call-arg]  # of ConstrainedLayoutEngine
    left = 0.07 / width
    figure.text(left, 1 - 0.06 / height, "\n".join(titles), va="top", ha="left", fontsize=8.5)
    figure.text(left, 0.05 / height, "\n".join(notes), va="bottom", ha="left", fontsize=6.5, color=NOTE_COLOR)
    if handles:
        figure.legend(
            handles=list(handles), loc="lower left", bbox_to_anchor=(left, note_height / height), ncols=columns,
            borderaxespad=0.0, borderpad=0.0, labelspacing=0.25, handlelength=1.8, columnspacing=1.2,
        )  # fmt: skip
    return figure


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all.

    The solver's last bits differ from one call to the next, and an SVG names its clips by all bits: places are rounded.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(tuple(round(float(value), 5) for value in axes.get_position().bounds))  # type: ignore[arg-type]  # 4 floats


def styled(draw: Callable[[], Drawing | None]) -> Drawing | None:
    """Run `draw` under the settings of these figures and put those of the caller back."""
    with own_settings():
        return draw()


def fence(values: Values, keep: Sequence[float] = ()) -> tuple[float, float]:
    """The range of `values` (percent) and `keep`, but for outliers: beyond 3 interquartile ranges and 5 points."""
    finite = values[np.isfinite(values)]
    if len(finite) < 5:
        inside = finite
    else:
        low, high = np.quantile(finite, [0.25, 0.75])
        reach = max(3 * (high - low), 5.0)
        inside = finite[(finite >= low - reach) & (finite <= high + reach)]
    both = np.array([*inside, *(value for value in keep if math.isfinite(value))])
    return (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)


def limits_of(center: Values, low: Values, high: Values, keep: Sequence[float] = ()) -> tuple[float, float]:
    """Axis limits round the means in `center`, with their intervals as far as those are not wider than the spread."""
    start, stop = fence(center, keep)
    spread = max(stop - start, 0.2)
    inside = (center >= start) & (center <= stop)
    lows, highs = low[inside & np.isfinite(low)], high[inside & np.isfinite(high)]
    # Two or three seeds have intervals many times wider than the methods are apart; those leave the axes.
    start = min(start, max(start - 0.6 * spread, float(lows.min()))) if len(lows) else start
    stop = max(stop, min(stop + 0.6 * spread, float(highs.max()))) if len(highs) else stop
    room = 0.08 * max(stop - start, 0.2)
    return start - room, stop + room


def in_view(values: Values) -> Values:
    """The values (differences in points) that axes through 0 must hold: all, but for losses beyond any comparison.

    Such a loss is 4 times as far from 0 as everything nearer to it, and more than 5 points; a gain is always in view.
    """
    kept: list[float] = []
    for value in sorted(values[np.isfinite(values)], key=abs):
        reach = max((abs(other) for other in kept), default=math.inf)
        if value > 0 or abs(value) <= max(4 * reach, 5.0):
            kept.append(float(value))
    return np.array(kept)


def percent(frame: pd.DataFrame, column: str) -> Values:
    """A column of fractions [rows] in percent."""
    return 100 * frame[column].to_numpy(dtype=np.float64)


def named(rows: Sequence[Row]) -> list[str]:
    """A short label per row: the method, with its strength where the method occurs more than once."""
    methods = [str(row["method"]) for row in rows]
    labels = []
    for row, method in zip(rows, methods, strict=True):
        strength = strength_values(str(row["strengths"]))
        labels.append(f"{method} {strength}" if methods.count(method) > 1 else method)
    return labels


def shortened(name: str, width: int, at_most: int = 3) -> str:
    """A name in at most `at_most` lines of `width` characters, the rest an ellipsis."""
    lines = wrapped(name, width)
    return "\n".join(lines if len(lines) <= at_most else [*lines[: at_most - 1], lines[at_most - 1][: width - 1] + "…"])


def interval_note(frame: pd.DataFrame) -> str:
    """Seeds, choice of strengths and what the intervals cover, for the note below a figure."""
    covers = " / ".join(sorted(set(frame["interval_covers"])))
    if not frame["lo"].notna().any():
        return f"{protocol_text(frame)}. One seed has no interval."
    kind = "intervals" if sampled(frame) else "t-intervals"
    return f"{protocol_text(frame)}. {100 * float(frame['level'].iloc[0]):g}% {kind} cover {covers}."


def ink(family: str) -> str:
    """The colour of a family for text: darker, since the light ones are hard to read on white."""
    return darker(mark_of(family)[0], 0.3)


def key_of(color: str, marker: str, label: str) -> Line2D:
    """A legend entry of one marker."""
    return Line2D([], [], color=color, marker=marker, linestyle="none", label=label)
