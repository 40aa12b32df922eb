"""The performance profile: how many of a method's runs, over data sets and seeds, score above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from runner.report.datasets import Runs, paired_runs, shared_rows
from runner.report.sheet import Drawing, settle, sheet, shortened, styled
from runner.report.stats import RESAMPLES, Values, interquartile_mean, percentiles, resampled
from runner.report.style import NONE_COLOR, darker, mark_of
from runner.report.tables import BASELINE, in_order

LEADING = 5
BANDS = 3  # more would hide each other
POINTS = 201
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def above(scores: Sequence[Values], thresholds: Values) -> Values:
    """The share of runs with a score above each threshold [T], the mean over the data sets (arrays [n] or [B, n]).

    Gives [T], or [B, T]. A run that failed is minus infinity and above none (Agarwal et al. 2021).
    """
    shares = [(values[..., None] > thresholds).mean(axis=-2) for values in scores]
    return np.asarray(np.mean(shares, axis=0), dtype=np.float64)


def collected(runs: pd.DataFrame, headline: pd.DataFrame) -> dict[str, list[Runs]]:
    """The runs of each method that has one configuration on every data set, and of none, a pair for each data set.

    `headline` is that of one model, setting and metric.
    """
    checked = in_order(runs)
    column = f"{headline['checkpoint'].iloc[0]}_{headline['metric'].iloc[0]}"
    sets = sorted(set(headline["dataset"]))
    same = (checked["model"] == headline["model"].iloc[0]) & (checked["setting"] == headline["setting"].iloc[0])
    report = checked[(checked["role"] == "report") & same]
    base = {name: report[(report["dataset"] == name) & (report["method"] == BASELINE)] for name in sets}
    found = {BASELINE: [paired_runs(base[name], base[name], column) for name in sets]}
    for (method, strengths), rows in shared_rows(headline).items():
        if len(rows) == len(sets):
            parts = []
            for row in rows:
                here = report[(report["dataset"] == row["dataset"]) & (report["method"] == method)]
                part = here[here["strengths"] == row["strengths"]]
                parts.append(paired_runs(part, base[str(row["dataset"])], column))
            found[f"{method} {strengths}".strip()] = parts
    sound = {name: all(len(p.ours) and not np.isnan(p.scores).any() for p in parts) for name, parts in found.items()}
    return {name: parts for name, parts in found.items() if sound[name]}


def profile(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    """The share of runs whose normalized score exceeds tau, a line per method, bands for the leading ones and none.

    `headline` is that of the primary metric for one model and setting. None below two data sets.
    """
    return styled(lambda: _profile(runs, headline))


def _profile(runs: pd.DataFrame, headline: pd.DataFrame) -> Drawing | None:
    pairs = collected(runs, headline)
    scores = {name: [pair.scores for pair in parts] for name, parts in pairs.items()}
    sets = headline["dataset"].nunique()
    if sets < 2 or len(scores) < 2:
        return None
    level = float(headline["level"].iloc[0])

    def rank(name: str) -> float:
        value = float(interquartile_mean(np.concatenate(scores[name])))
        return -value if np.isfinite(value) else np.inf

    order = sorted((name for name in scores if name != BASELINE), key=rank)
    leading = [*order[:LEADING], BASELINE]
    finite = np.concatenate([part[np.isfinite(part)] for name in leading for part in scores[name]])
    low, high = float(finite.min()), float(finite.max())
    room = 0.04 * max(high - low, 0.01)
    thresholds = np.linspace(low - room, high + room, POINTS)
    families = dict(zip(headline["method"], headline["family"], strict=True))
    seeds = [len(part) for parts in scores.values() for part in parts]
    many = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    note = (
        f"Over {sets} data sets, which weigh the same, and {many} seeds on each. Score of a run: the share of none's "
        f"mean test error on its data set that it takes away; a failed run is above no threshold. Bands, for the best "
        f"{BANDS} and none: pointwise "
        f"{100 * level:g}% percentile intervals from {RESAMPLES} resamples of the seeds within each data set, of both "
        f"sides (too narrow below 10 seeds). Higher is better; where lines cross, neither method is better everywhere."
    )
    if len(order) > LEADING:
        note += f" Coloured: the {LEADING} with the highest interquartile mean; grey: the others."
    model = " · ".join(str(headline[name].iloc[0]) for name in ("model", "setting") if headline[name].iloc[0])
    styles: dict[str, tuple[str, Literal["-", "--", ":", "-."]]] = {}
    handles: list[Artist] = []
    colors: list[str] = []
    for name in leading:
        color = NONE_COLOR if name == BASELINE else mark_of(str(families[name.split(" ")[0]]))[0]
        again = colors.count(color)
        colors.append(color)
        styles[name] = (darker(color, min(0.3 * again, 0.8)), DASHES[min(again, len(DASHES) - 1)])
        handles.append(Line2D([], [], color=styles[name][0], linestyle=styles[name][1], label=shortened(name, 28, 1)))
    figure = sheet(5.6, 3.1, f"{model}: performance profile over data sets", note, handles)
    axes = figure.subplots()
    drawn = []
    for name in [*order[LEADING:], *leading]:
        line = above(scores[name], thresholds)
        places = resampled([len(part) for part in scores[name]])
        drawn_anew = [pair.again(at).scores for pair, at in zip(pairs[name], places, strict=True)]
        ends = percentiles(above(drawn_anew, thresholds), level)
        color, dash = styles.get(name, ("#c8c8c8", "-"))
        front = name in styles
        axes.plot(
            100 * thresholds, 100 * line, dash, color=color, linewidth=1.4 if front else 0.8, zorder=3 if front else 1
        )
        if name in (*order[:BANDS], BASELINE):
            axes.fill_between(100 * thresholds, 100 * ends[0], 100 * ends[1], color=color, alpha=0.12, linewidth=0)
        drawn.append(pd.DataFrame({"method": name, "tau": thresholds, "share": line, "lo": ends[0], "hi": ends[1]}))
    axes.axvline(0, color="black", linewidth=0.6, linestyle=":", zorder=1)
    axes.set_xlim(100 * thresholds[0], 100 * thresholds[-1])
    axes.set_ylim(-2, 102)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel("threshold τ on the score (% of none's error taken away)")
    axes.set_ylabel("runs with a score above τ (%)")
    settle(figure)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))
