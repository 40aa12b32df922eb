"""Several data sets: differences pooled over them, the heat strip, and ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from runner.report.sheet import Drawing, settle, sheet, shortened, styled
from runner.report.stats import (
    RESAMPLES,
    SAME,
    Seeds,
    Values,
    holm,
    improvement,
    interquartile_mean,
    paired_difference,
    percentiles,
    pooled,
    resampled,
    sign_flip,
)
from runner.report.style import mark_of
from runner.report.tables import BASELINE, groups, in_order, pairs_of
from runner.report.writers import BLANK, UNITS, Row, number, p_text, records, score_of, signed, span, with_bounds

FEW = 8
ENOUGH_FOR_TESTS = 6
MOST_EXACT, FLIPS = 40, 100_000  # data sets whose flips of signs are all counted, and flips by lot for more
POOLED = [
    "model", "setting", "checkpoint", "metric", "method", "strengths", "n_datasets", "datasets", "pairs",
    "n_failed", "diff", "diff_lo", "diff_hi", "freedom", "se_test", "p", "p_holm", "family_size", "p_datasets",
    "heterogeneous", "iqm", "iqm_lo", "iqm_hi", "p_improve", "p_improve_lo", "p_improve_hi", "level",
    "interval_covers", "extended",
]  # fmt: skip


def _title(row: Row) -> str:
    return " · ".join(str(row[name]) for name in ("dataset", "model", "setting") if row[name])


def shared_rows(headline: pd.DataFrame) -> dict[tuple[str, str], list[Row]]:
    """The compared rows of each method that was reported on more than one data set, in the order of the data sets.

    The key is (method, strengths) with blank strengths where every data set has one row of the method, whatever the
    strength that was chosen there.
    """
    rows = [row for row in records(headline) if row["method"] != BASELINE and math.isfinite(number(row, "diff"))]
    found: dict[tuple[str, str], list[Row]] = {}
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        single = len({str(row["dataset"]) for row in own}) == len(own)
        for row in own:
            found.setdefault((method, "" if single else str(row["strengths"])), []).append(row)
    return {
        key: sorted(own, key=lambda row: str(row["dataset"]))
        for key, own in found.items()
        if len({str(row["dataset"]) for row in own}) > 1
    }


class Runs(NamedTuple):
    """What the runs of a method and those of none reach on one data set, at the seeds that both have: [..., n] each."""

    ours: Values  # minus infinity for a run that failed
    none: Values  # likewise

    @property
    def scores(self) -> Values:
        """The share of none's mean test error that each run of the method takes away: 0 for that mean, 1 for no error.

        nan where none has no run or no error.
        """
        sound = np.isfinite(self.none)
        count = sound.sum(axis=-1, keepdims=True)
        mean = np.where(sound, self.none, 0.0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
        known = (count > 0) & (mean < 1)
        return np.where(known, (self.ours - mean) / np.where(known, 1 - mean, 1.0), math.nan)

    def again(self, places: Seeds) -> Runs:
        """These at seeds drawn anew [B, n], of both sides alike: none's mean, by which scores go, is drawn, too."""
        return Runs(self.ours[places], self.none[places])


def paired_runs(ours: pd.DataFrame, base: pd.DataFrame, column: str) -> Runs:
    """The runs of a method and of none on one data set by seed."""
    seeds = sorted(set(ours["seed"]) & set(base["seed"]))

    def values(part: pd.DataFrame) -> Values:
        at = part.set_index("seed").loc[seeds]
        known = at[column].to_numpy(dtype=np.float64)
        return np.where((at["status"] == "ok").to_numpy(dtype=bool) & np.isfinite(known), known, -math.inf)

    return Runs(values(ours), values(base))


def _robust(pairs: Sequence[Runs], level: float) -> dict[Hashable, object]:
    """Interquartile mean and probability of improvement over none (Agarwal et al. 2021), with bootstrap intervals
    stratified by data set."""
    if any(len(pair.ours) < 2 or np.isnan(pair.scores).any() for pair in pairs):
        return dict.fromkeys(("iqm", "iqm_lo", "iqm_hi", "p_improve", "p_improve_lo", "p_improve_hi"), math.nan)
    drawn = resampled([len(side) for pair in pairs for side in pair])
    again = np.concatenate([pair.again(places).scores for pair, places in zip(pairs, drawn[::2], strict=True)], axis=1)
    # Here both sides are drawn on their own: drawn together, pairs of one seed would count too often.
    ours = [pair.ours[places] for pair, places in zip(pairs, drawn[::2], strict=True)]
    theirs = [pair.none[places] for pair, places in zip(pairs, drawn[1::2], strict=True)]
    better = np.mean([improvement(*pair) for pair in zip(ours, theirs, strict=True)], axis=0)
    found: dict[Hashable, object] = {
        "iqm": float(interquartile_mean(np.concatenate([pair.scores for pair in pairs]))),
        "p_improve": float(np.mean([improvement(*pair) for pair in pairs])),
    }
    for name, values in (("iqm", interquartile_mean(again)), ("p_improve", better)):
        found[f"{name}_lo"], found[f"{name}_hi"] = (float(end) for end in percentiles(values, level))
    return found


def pool(runs: pd.DataFrame, headline: pd.DataFrame) -> pd.DataFrame | None:
    """One row per method over the data sets of one model and setting: the mean of the differences, stratified.

    Data sets of classes and those of numbers to predict are pooled apart.

    Holm is over the methods of one model and setting. `pairs` are those of each data set, `n_failed` the runs of the
    method that failed on all of them. `p_datasets` is a paired t-test on the means of the data sets, from 6 of them;
    `heterogeneous` where it is better on one data set and worse on another by their verdicts. None below two data sets.
    """
    runs = in_order(runs)
    rows: list[dict[Hashable, object]] = []
    for (model, setting, _), part in headline.groupby(["model", "setting", "metric"], sort=True):
        sets = sorted(set(part["dataset"]))
        if len(sets) < 2:
            continue
        column = f"{part['checkpoint'].iloc[0]}_{part['metric'].iloc[0]}"
        level = float(part["level"].iloc[0])
        report = runs[(runs["role"] == "report") & (runs["model"] == model) & (runs["setting"] == setting)]
        steps = part.loc[part["extended"] != "", ["dataset", "extended"]].drop_duplicates()
        family: list[dict[Hashable, object]] = []
        for (method, strengths), own in shared_rows(part).items():
            apart: list[Values] = []
            scores: list[Runs] = []
            reach = {str(row["interval_covers"]) for row in own}
            for row in own:
                here = report[report["dataset"] == row["dataset"]]
                ours = here[(here["method"] == method) & (here["strengths"] == row["strengths"])]
                none = here[here["method"] == BASELINE]
                values, base = pairs_of(ours, none, column)
                apart.append(values - base)
                scores.append(paired_runs(ours, none, column))
            sampled = [number(row, "se_test") for row in own]
            result = pooled(apart, level, sampled)
            if not math.isfinite(result.freedom) and any(row["pairs"] == "constant" for row in own):
                result = replace(result, low=math.nan, high=math.nan, p=math.nan)  # equal by chance, as in its table
            over = paired_difference(np.array([d.mean() for d in apart]), np.zeros(len(apart)), level)
            told = {str(row["verdict"]) for row in own}
            family.append(
                {
                    "model": model, "setting": setting, "checkpoint": part["checkpoint"].iloc[0],
                    "metric": part["metric"].iloc[0], "method": method, "strengths": strengths,
                    "n_datasets": len(own), "datasets": " ".join(str(row["dataset"]) for row in own),
                    "pairs": " ".join(str(len(values)) for values in apart),
                    "n_failed": sum(int(number(row, "n_failed")) for row in own),
                    "diff": result.mean, "diff_lo": result.low, "diff_hi": result.high, "freedom": result.freedom,
                    "se_test": math.sqrt(np.nansum(np.square(sampled))) / len(own) if any(e > 0 for e in sampled)
                    else math.nan,
                    "p": result.p, "p_datasets": over.p if len(own) >= ENOUGH_FOR_TESTS else math.nan,
                    "heterogeneous": {"better", "worse"} <= told, "level": level, **_robust(scores, level),
                    "interval_covers": " / ".join(sorted(reach)),
                    "extended": "; ".join(f"{row['dataset']} {row['extended']}" for row in records(steps)),
                }
            )  # fmt: skip
        adjusted = holm(np.array([float(str(row["p"])) for row in family]))
        for row, p in zip(family, adjusted, strict=True):
            rows.append(row | {"p_holm": float(p), "family_size": int(np.isfinite(adjusted).sum())})
    if not rows:
        return None
    frame = pd.DataFrame(rows)[POOLED]
    return frame.sort_values(["model", "setting", "diff"], ascending=[True, True, False], kind="stable").reset_index(
        drop=True
    )


def pooled_caption(frame: pd.DataFrame) -> str:
    """What the pooled numbers are, and what they speak about."""
    sets = int(frame["n_datasets"].max())
    level = f"{100 * float(frame['level'].iloc[0]):g}%"
    kind = f"{level} t-intervals with the stratified error of the seeds"
    if frame["se_test"].notna().any():
        kind = (
            f"{level} intervals with the stratified error of the seeds (t) and, where seeds share one split and "
            "predictions are there, of the choice of test examples (normal), added in squares"
        )
    text = (
        f"Mean over data sets of the mean paired difference to none; every data set weighs the same; {kind}. "
        f"n = {_counted(' '.join(frame['pairs']))} pairs on each data set; {_failures(frame)}"
        f"p: Holm over {span(frame['family_size'], 'comparison')}. "
        f"They speak about these {sets} data sets and no others, "
        f"and cover {' / '.join(sorted(set(frame['interval_covers'])))}."
    )
    if frame["p_improve"].notna().any():
        text += (
            " Score: the share of none's mean test error on a data set that a run takes away, 0 for none, 1 for no "
            "error. IQM: mean of the middle half of the scores of all runs; P(better): probability that a run of the "
            "method beats a run of none on the same data set (Agarwal et al. 2021). A failed run counts as the lowest, "
            "and where a quarter may fail there is no interval. "
            f"Both with {level} percentile intervals from {RESAMPLES} resamples of "
            "the seeds within each data set, of both sides; too narrow below 10 seeds, they decide nothing here."
        )
    if frame["p_datasets"].notna().any():
        text += (
            " p over data sets: paired t-test on the means of the data sets, for data sets like these, not corrected "
            "for the number of methods."
        )
    if frame["heterogeneous"].any():
        names = ", ".join(frame.loc[frame["heterogeneous"], "method"])
        text += f" Heterogeneous, better on one data set and worse on another: {names}."
    if steps := ". ".join(dict.fromkeys(text for text in frame["extended"] if text)):
        text += f" Seeds were added after the study was begun: {steps}."
    return text


def _counted(pairs: str) -> str:
    """Numbers of pairs as one number, or as the least and the most.

    >>> _counted("10 10 8"), _counted("5 5")
    ('8 to 10', '5')
    """
    numbers = sorted({int(number) for number in pairs.split()})
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def _failures(frame: pd.DataFrame) -> str:
    """Which methods have runs that failed, which are in no difference; "" if none has."""
    lost = [f"{row['n_failed']} of {row['method']}" for row in records(frame) if row["n_failed"]]
    return f"runs that failed are in no difference: {', '.join(lost)}; " if lost else ""


def pooled_rows(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The pooled differences as text: headings and rows."""
    level = f"{100 * float(frame['level'].iloc[0]):g}%"
    several = len(frame[["model", "setting", "metric"]].drop_duplicates()) > 1
    mixed, over = frame["metric"].nunique() > 1, bool(frame["p_datasets"].notna().any())
    heads = [
        *(["Model"] if several else []),
        "Method",
        "Data sets",
        "Pairs",
        f"Δ test [{level} CI]",
        "p (Holm)",
        *(["p over data sets"] if over else []),
        f"IQM of the score, % [{level} CI]",
        f"P(better), % [{level} CI]",
        "Heterogeneous",
    ]
    rows = []
    for row in records(frame):
        name = f"{row['method']} {row['strengths']}".strip()
        difference = with_bounds(
            number(row, "diff"), number(row, "diff_lo"), number(row, "diff_hi"), UNITS[str(row["metric"])]
        )
        lost = f" ({row['n_failed']} failed)" if row["n_failed"] else ""
        pairs = _counted(str(row["pairs"])) + lost
        tests = ["p_holm", *(["p_datasets"] if over else [])]
        cells = [name, f"{number(row, 'n_datasets'):.0f}", pairs, difference]
        cells += [p_text(number(row, p), number(row, "level")) for p in tests]
        cells.append(with_bounds(number(row, "iqm"), number(row, "iqm_lo"), number(row, "iqm_hi"), UNITS["test_acc"]))
        cells.append(_chances(row))
        kind = f", {UNITS[str(row['metric'])].short}" if mixed else ""
        model = [f"{row['model']} {row['setting']}".strip() + kind] if several else []
        rows.append([*model, *cells, "yes" if row["heterogeneous"] else "no"])
    return heads, rows


def _chances(row: Row) -> str:
    """ "84 [71, 93]": a probability in percent with its interval."""
    value, low, high = (100 * number(row, f"p_improve{end}") for end in ("", "_lo", "_hi"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]" if math.isfinite(value) else BLANK


def pooled_markdown(frame: pd.DataFrame) -> str:
    """The pooled differences as a Markdown table with its caption."""
    heads, rows = pooled_rows(frame)
    lines = [heads, [":--" if at == 0 else "--:" for at in range(len(heads))], *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{table}\n\n{pooled_caption(frame)}\n"


def heat_strip(headline: pd.DataFrame, over: pd.DataFrame | None = None) -> Drawing | None:
    """Methods by data sets, each cell the difference in test accuracy, hatched where inconclusive.

    None below two comparison groups. `over` (of `pool`), if it is of one model and setting, add a column.
    """
    return styled(lambda: _heat_strip(headline, over))


def _cells(headline: pd.DataFrame) -> tuple[list[str], list[tuple[str, str]], dict[tuple[tuple[str, str], str], Row]]:
    titles = [title for title, _ in groups(headline)]
    rows = [row for row in records(headline) if row["method"] != BASELINE and math.isfinite(number(row, "diff"))]
    single = {
        str(row["method"])
        for row in rows
        if all(
            len({r["strengths"] for r in rows if r["method"] == row["method"] and _title(r) == title}) < 2
            for title in titles
        )
    }
    cells = {
        ((str(row["method"]), "" if row["method"] in single else str(row["strengths"])), _title(row)): row
        for row in rows
    }
    keys = list(dict.fromkeys(key for key, _ in cells))
    keys.sort(key=lambda key: -float(np.mean([number(row, "diff") for (k, _), row in cells.items() if k == key])))
    return titles, keys, cells


def _heat_strip(headline: pd.DataFrame, over: pd.DataFrame | None) -> Drawing | None:
    titles, keys, cells = _cells(headline)
    if len(titles) < 2 or not keys:
        return None
    means: dict[tuple[str, str], float] = {}
    undecided: set[tuple[str, str]] = set()  # of the means
    if over is not None and len(over[["model", "setting", "metric"]].drop_duplicates()) == 1:
        for one in records(over):
            key = (str(one["method"]), str(one["strengths"]))
            means[key] = number(one, "diff")
            if not number(one, "p_holm") <= 1 - number(one, "level"):
                undecided.add(key)

    def difference(key: tuple[str, str], title: str) -> float:
        if title == "mean":
            return 100 * means.get(key, math.nan)
        return 100 * number(cells[key, title], "diff") if (key, title) in cells else math.nan

    columns = [*titles, *(["mean"] if means else [])]
    table = np.array([[difference(key, title) for title in columns] for key in keys])
    reach = max(float(np.nanquantile(np.abs(table), 0.95)), 0.5)
    note = (
        f"Cells: mean paired difference to none in test {score_of(headline)} (pp), last checkpoint; orange below 0, "
        "purple above. "
        "Hatched: inconclusive. ▲ better, ▼ worse, = equivalent by the verdict of that data set; blank: not run."
    )
    if any(number(row, "n_failed") > 0 for row in cells.values()):
        note += " *: of the runs that did not fail."
    if means:
        note += (
            " Mean: pooled over the data sets, which weigh the same; it speaks about these data sets only; hatched "
            f"where its p (Holm) is above {1 - float(headline['level'].iloc[0]):g}."
        )
    single = headline["dataset"].nunique() == len(titles)
    title_of_all = f"Difference to none by {'data set' if single else 'data set, model and setting'}"
    wide = max(0.62, min(1.1, 5.4 / len(columns)))
    figure = sheet(
        max(4.2, min(1.75 + wide * len(columns), 14.0)), 0.55 + 0.24 * len(keys), title_of_all,
        note,
        [Patch(facecolor="white", edgecolor="#777777", hatch="////", label="inconclusive")],
    )  # fmt: skip
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.set_xlim(-0.5, len(columns) - 0.5 + 0.12 * bool(means))
    axes.set_ylim(len(keys) - 0.5, -0.5)
    colors = matplotlib.colormaps["PuOr"]
    for (at, key), (across, title) in itertools.product(enumerate(keys), enumerate(columns)):
        shift = 0.12 if title == "mean" else 0.0
        row = cells.get((key, title))
        value = difference(key, title)
        if not math.isfinite(value):
            continue
        level = 0.5 + 0.42 * float(np.clip(value / reach, -1, 1))
        verdict = str(row["verdict"]) if row else "inconclusive" if title == "mean" and key in undecided else ""
        axes.fill(
            np.array([-0.48, 0.48, 0.48, -0.48]) + across + shift, np.array([-0.46, -0.46, 0.46, 0.46]) + at,
            facecolor=colors(level), edgecolor="#777777" if verdict == "inconclusive" else "white",
            hatch="////" if verdict == "inconclusive" else None, linewidth=0.0,
        )  # fmt: skip
        sign = {"better": " ▲", "worse": " ▼", "equivalent": " ="}.get(verdict.partition(",")[0], "")
        lost = "*" * bool(row and number(row, "n_failed") > 0)
        red, green, blue, _ = colors(level)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # as bright as the eye takes it
        text = axes.text(
            across + shift, at, f"{signed(value)}{sign}{lost}", ha="center", va="center", fontsize=7,
            color="white" if dark else "black",
        )  # fmt: skip
        if verdict == "inconclusive":
            text.set_bbox({"facecolor": colors(level), "edgecolor": "none", "pad": 1.0})
    names = [shortened(f"{method} {strengths}".strip(), 26, 2) for method, strengths in keys]
    axes.set_yticks(range(len(keys)), names)
    width = max(8, int(wide / 0.062))
    ticks = [across + (0.12 if title == "mean" else 0.0) for across, title in enumerate(columns)]
    axes.set_xticks(ticks, [shortened(title, width, 3) for title in columns], fontsize=6.5)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    settle(figure)
    frame = pd.DataFrame(table / 100, columns=columns)
    frame.insert(0, "method", [method for method, _ in keys])
    frame.insert(1, "strengths", [strengths for _, strengths in keys])
    return Drawing(figure, frame)


def rank_table(headline: pd.DataFrame) -> pd.DataFrame | None:
    """Test accuracy of every method, `none` included, on every data set, for those that all of them have.

    It is none's mean plus the paired difference, so that a method with fewer seeds is not ranked by theirs.

    `headline` is that of one model, setting and metric, since one data set twice would count as two. Index the methods,
    columns the data sets; only methods with one configuration on each and no failed run. None below two data sets.
    """
    rows = [row for row in records(headline) if math.isfinite(_level(row)) and not number(row, "n_failed") > 0]
    sets = sorted(set(headline["dataset"]))
    means: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        if sorted(str(row["dataset"]) for row in own) == sets:
            means[method] = {str(row["dataset"]): _level(row) for row in own}
    if len(sets) < 2 or len(means) < 3:
        return None
    return pd.DataFrame(means).T[sets]


def _level(row: Row) -> float:
    """None's mean, and for a method its paired difference more."""
    return number(row, "mean") if row["method"] == BASELINE else number(row, "base_mean") + number(row, "diff")


def ranks(headline: pd.DataFrame) -> Drawing | None:
    """Ranks of the methods over data sets: a strip below 8 data sets, from 8 with the bars of a CD diagram.

    The bars join methods that sign-flip tests on the means of the data sets, corrected by Holm over all pairs, cannot
    tell apart: unlike Nemenyi's distance they do not depend on which other methods are in the study.
    """
    return styled(lambda: _ranks(headline))


def cliques(order: Sequence[str], apart: set[frozenset[str]]) -> list[tuple[int, int]]:
    """The longest runs of `order` in which no two are in `apart`, as first and last position; single ones left out."""
    found: list[tuple[int, int]] = []
    for start in range(len(order)):
        stop = start
        while stop + 1 < len(order) and not any(
            frozenset((order[stop + 1], other)) in apart for other in order[start : stop + 1]
        ):
            stop += 1
        if stop > start and not any(first <= start and stop <= last for first, last in found):
            found.append((start, stop))
    return found


def told_apart(table: pd.DataFrame, level: float = 0.95) -> set[frozenset[str]]:
    """The pairs of methods (rows) that differ over the data sets (columns) by sign flips, Holm over all pairs."""
    pairs = list(itertools.combinations([str(name) for name in table.index], 2))
    values = {str(name): table.loc[name].to_numpy(dtype=np.float64) for name in table.index}
    p_values = []
    for one, other in pairs:
        p_values.append(_flipped(values[one] - values[other]))
    adjusted = holm(np.array(p_values))
    return {frozenset(pair) for pair, p in zip(pairs, adjusted, strict=True) if p <= 1 - level}


def _flipped(apart: Values) -> float:
    """The sign-flip p-value: exact, below 9 values by listing all flips, and above 40 from FLIPS of them by lot."""
    if len(apart) > MOST_EXACT:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(apart)))
        reached = np.abs(signs @ apart) >= abs(float(apart.sum())) - SAME * len(apart)
        return (1 + int(reached.sum())) / (1 + FLIPS)
    if len(apart) >= 9:
        return sign_flip(apart)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(apart))))
    return float(np.mean(np.abs(signs @ apart) >= abs(float(apart.sum())) - SAME * len(apart)))


def _ranks(headline: pd.DataFrame) -> Drawing | None:
    table = rank_table(headline)
    if table is None:
        return None
    standing = table.rank(ascending=False)
    mean = standing.mean(axis=1).sort_values(kind="stable")
    order = [str(name) for name in mean.index]
    sets = table.shape[1]
    bars = cliques(order, told_apart(table)) if sets >= FEW else []
    families = dict(zip(headline["method"], headline["family"], strict=True))
    note = f"Ranks by the paired difference to none in test {score_of(headline)}, last checkpoint, 1 the best; "
    note += f"a dot for each of {sets} data sets, bar: mean. "
    if lost := sorted(set(headline.loc[headline["n_failed"] > 0, "method"])):
        note += f"Left out, since runs of them failed: {', '.join(lost)}. "
    if sets < FEW:
        note += f"Below {FEW} data sets ranks can be seen but not tested: there are no bars of significance."
    else:
        kind = "exact sign-flip tests" if sets <= MOST_EXACT else f"sign-flip tests ({FLIPS:,} by lot)"
        note += f"Joined on the right: not told apart by {kind} over the data sets, Holm over all pairs."
        pairs = len(order) * (len(order) - 1) // 2
        if pairs * 2 / 2.0**sets > 0.05:
            note += f" With {sets} data sets and {pairs} pairs no difference could pass: more data sets are needed."
    model = " · ".join(str(headline[name].iloc[0]) for name in ("model", "setting") if headline[name].iloc[0])
    figure = sheet(6.2, 0.55 + 0.23 * len(order), f"{model}: ranks over data sets", note, [])
    axes = figure.subplots()
    axes.set_ylim(len(order) - 0.4, -0.6)
    step = 0.035 * len(order) + 0.05
    axes.set_xlim(0.7, len(order) + 0.4 + step * len(bars))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for at, name in enumerate(order):
        color = mark_of(str(families[name]))[0]
        values = standing.loc[name].to_numpy(dtype=np.float64)
        shift = np.array([((k * 0.618) % 1 - 0.5) * 0.4 for k in range(len(values))])
        axes.plot(values, at + shift, "o", color=color, alpha=0.55, markersize=3.5, markeredgewidth=0)
        axes.plot([mean[name]] * 2, [at - 0.34, at + 0.34], color=color, linewidth=2.2)
    for place, (first, last) in enumerate(bars):
        x = len(order) + 0.4 + step * place
        axes.plot(
            [x, x], [first - 0.2, last + 0.2], color="#333333", linewidth=2.5, solid_capstyle="butt", clip_on=False
        )
    axes.set_yticks(range(len(order)), [shortened(f"{name}  {mean[name]:.1f}", 26, 2) for name in order])
    axes.set_xticks(range(1, len(order) + 1))
    axes.set_xlabel("rank   ← better")
    settle(figure)
    frame = standing.loc[order].reset_index(names="method")
    frame.insert(1, "mean_rank", mean.to_numpy())
    return Drawing(figure, frame)
