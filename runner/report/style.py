"""How the figures look: settings, the colour and marker of a family, and a placer for labels at points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from runner.report.stats import Values

SETTINGS: dict[str, object] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so a figure has the same bytes on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 7.0,
    "figure.dpi": 100.0,
    "savefig.dpi": 200.0,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "regrun",  # else every SVG draws new element ids
}

NONE_COLOR = "#000000"
NOTE_COLOR = "#555555"
UNDERFIT_COLOR = "#D55E00"

# Okabe and Ito (2008) without yellow, which is too light on white; twelve families share six colours in pairs of
# markers that are easy to tell apart.
FAMILIES: dict[str, tuple[str, str]] = {
    "baseline": (NONE_COLOR, "*"),
    "placebo": ("#888888", "x"),
    "penalty": ("#0072B2", "o"),
    "constraint": ("#0072B2", "D"),
    "dropping": ("#E69F00", "s"),
    "noise": ("#E69F00", ">"),
    "input": ("#009E73", "^"),
    "consistency": ("#009E73", "X"),
    "gradient": ("#D55E00", "v"),
    "stopping": ("#D55E00", "<"),
    "target": ("#CC79A7", "D"),
    "capacity": ("#CC79A7", "p"),
    "normalization": ("#56B4E9", "P"),
    "averaging": ("#56B4E9", "h"),
}


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw under matplotlib's defaults with `SETTINGS` on top, whatever the caller set; put the caller's back."""
    with matplotlib.rc_context():
        # The backend stays out: setting it would start or switch the caller's.
        for settings in (matplotlib.rcParamsDefault, SETTINGS):
            for name, value in settings.items():
                if not name.startswith("backend"):
                    matplotlib.rcParams[name] = value  # type: ignore[index]  # typed by a list of every setting's name
        yield


def mark_of(family: str) -> tuple[str, str]:
    """The colour and marker of a family; dark grey and a dot for one that is not listed."""
    return FAMILIES.get(family, ("#444444", "o"))


def darker(color: str, share: float) -> str:
    """`color` ("#rrggbb") moved towards black by `share`: for text, and for a second line of one family."""
    parts = (round(int(color[at : at + 2], 16) * (1 - share)) for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)


@dataclass(frozen=True)
class Label:
    """Text to set beside the point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def _corners(boxes: Sequence[Bbox]) -> Values:
    """The boxes as rows x0, y0, x1, y1: [n, 4]."""
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], dtype=np.float64).reshape(-1, 4)


def _areas(box: Bbox, others: Values) -> Values:
    """The area in square pixels that a box shares with each of `others` [n, 4]: [n]."""
    width = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    height = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    shared: Values = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def _clash(box: Bbox, others: Values) -> float:
    """The cost of a label at `box` beside the texts at `others`; a pixel between them is needed."""
    areas = _areas(box.padded(1), others)
    return float(20 * np.count_nonzero(areas) + areas.sum() / 5)


def thin_boxes(axes: Axes, lines: Sequence[tuple[float, float, float, float]]) -> list[Bbox]:
    """The pixels that upright and level `lines` (x0, y0, x1, y1 in data coordinates) take."""
    boxes = []
    for x0, y0, x1, y1 in lines:
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        boxes.append(Bbox.from_extents(left - 1, bottom - 1, right + 1, top + 1))
    return boxes


@dataclass(frozen=True)
class _Place:
    """Where a label could stand: its offset from the point in pixels, its box, and what it covers but for labels."""

    dx: float
    dy: float
    reach: float
    box: Bbox
    cost: float


def place_labels(
    axes: Axes, labels: Sequence[Label], lines: Sequence[tuple[float, float, float, float]], crossing: float
) -> None:
    """Set every label near its point, where it covers least: other labels, markers, `lines` (x0, y0, x1, y1), edges.

    `crossing` is the cost of a square pixel of a line that is covered; a pixel away from the point costs 0.06. Longest
    first, then again a few times now that the others stand. The layout of the figure must be final:
    positions are compared in pixels.
    """
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib leaves it without types
    window = axes.get_window_extent(renderer)
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    markers = _corners([Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in points])
    thin, edges = _corners(thin_boxes(axes, lines)), _corners([window])
    standing = [text.get_window_extent(renderer) for text in axes.texts]
    texts = [
        axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=7,
            color=label.color, zorder=6, linespacing=0.95, path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        for label in labels
    ]  # fmt: skip

    def places(at: int) -> Iterator[_Place]:
        (x, y), size = points[at], texts[at].get_window_extent(renderer)
        for reach in (7.0, 11.0, 16.0, 24.0, 34.0, 46.0, 60.0, 78.0, 100.0):
            for angle in (0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202, 68, 112, 292, 248, 56, 124, 80, 100):
                along, across = math.cos(math.radians(angle)), math.sin(math.radians(angle))
                # 1.5: on a diagonal the nearest corner of the box, not its middle, stands at the point.
                dx = along * reach + size.width / 2 * max(-1.0, min(1.0, 1.5 * along))
                dy = across * reach + size.height / 2 * max(-1.0, min(1.0, 1.5 * across))
                box = Bbox.from_bounds(x + dx - size.width / 2, y + dy - size.height / 2, size.width, size.height)
                cost = 0.06 * reach + 80 * (1 - float(_areas(box, edges)[0]) / (size.width * size.height))
                cost += float(_areas(box, markers).sum()) / 15 + crossing * float(_areas(box, thin).sum())
                yield _Place(dx, dy, reach, box, cost)

    choices = [list(places(at)) for at in range(len(labels))]
    chosen: dict[int, _Place] = {}
    for _ in range(5):
        for at in sorted(range(len(labels)), key=lambda at: -len(labels[at].text)):  # the longest is the hardest
            taken = _corners([*standing, *(place.box for other, place in chosen.items() if other != at)])
            # Text over text is worse than anything else: neither can be read.
            costs = [place.cost + _clash(place.box, taken) for place in choices[at]]
            chosen[at] = choices[at][int(np.argmin(costs))]
    points_per_pixel = 72 / axes.figure.dpi
    for at, place in chosen.items():
        texts[at].set_position((place.dx * points_per_pixel, place.dy * points_per_pixel))
        if place.reach > 16:
            # Far from its point a label needs a leader, to the nearest point of its own box.
            (x, y), box = points[at], place.box
            end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
            ends = axes.transData.inverted().transform([(x, y), end])
            axes.plot(
                ends[:, 0], ends[:, 1], color=labels[at].color, linewidth=0.5, alpha=0.7, zorder=2,
                scalex=False, scaley=False,
            )  # fmt: skip
