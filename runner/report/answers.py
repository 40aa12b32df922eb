"""The answer of a study in a few sentences, from the verdicts and intervals of its headline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from runner.report.tables import BASELINE, groups
from runner.report.writers import UNITS, Row, number, records, score_of, strength_text, with_bounds, worst_cases


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _name(row: Row, several: bool) -> str:
    return f"{row['method']} ({strength_text(str(row['strengths']))})" if several else str(row["method"])


def _amount(row: Row) -> str:
    """ "10.31 pp [9.65, 10.98]": the size of a difference that has a direction."""
    unit = UNITS[str(row["metric"])]
    low, high = number(row, "diff_lo"), number(row, "diff_hi")
    mean = number(row, "diff")
    # Without its sign: the verb says which way. The interval turns with it.
    bounds = (low, high) if mean >= 0 else (-high, -low)
    text = with_bounds(abs(mean), *bounds, unit, number(row, "rope")).replace("+", "")
    word = "pp" if unit.scale == 100 else unit.difference
    small = " (less than the margin)" if "negligible" in str(row["verdict"]) else ""
    return (text.replace(" [", f" {word} [") if "[" in text else f"{text} {word}") + small


def _interval(row: Row) -> str:
    """The difference with the interval that holds for all tests at once: where nothing is decided, 0 lies in it."""
    low, high = number(row, "diff_lo_sim"), number(row, "diff_hi_sim")
    return with_bounds(number(row, "diff"), low, high, UNITS[str(row["metric"])], number(row, "rope"))


def _more(row: Row) -> str:
    more = number(row, "more_seeds")
    return f", +{more:.0f} seeds" if math.isfinite(more) else ", which more seeds alone would not narrow to the margin"


def _sentences(title: str, frame: pd.DataFrame) -> Iterator[str]:
    rows = [row for row in records(frame) if row["method"] != BASELINE]
    several = len({row["method"] for row in rows}) < len(rows)
    unit = UNITS[str(frame["metric"].iloc[0])]
    metric = f"test {score_of(frame)}" if unit.scale == 100 else "test loss"
    dataset, model, setting = (str(frame[name].iloc[0]) for name in ("dataset", "model", "setting"))
    where = f"of {model} on {dataset}" + (f" ({setting})" if setting else "")
    if not rows:
        yield f"Only none was run {where.replace('of ', 'with ', 1)}: there is nothing to compare."
        return
    up = [row for row in rows if number(row, "diff") > 0]
    decided = [row for row in rows if str(row["verdict"]).startswith(("better", "worse"))]
    said = False
    for verb, part in (("raises", [r for r in decided if r in up]), ("lowers", [r for r in decided if r not in up])):
        if part:
            what = "it" if said else f"the {metric} {where}"
            head, *rest = [(_name(row, several), _amount(row)) for row in part]
            yield "; ".join([f"{head[0]} {verb} {what} by {head[1]}", *(f"{name} by {by}" for name, by in rest)]) + "."
            said = True
    equivalent = [_name(row, several) for row in rows if row["verdict"] in ("equivalent", "identical")]
    if equivalent:
        margin = f"{number(rows[0], 'rope') * unit.scale:g} {'pp' if unit.scale == 100 else unit.difference}"
        yield f"Equivalent to none within ±{margin}: {_listed(equivalent)}."
    open_rows = [row for row in rows if row["verdict"] == "inconclusive"]
    if open_rows:
        subject = "" if said else f" in the {metric} {where}"
        tests = int(number(rows[0], "family_size"))
        corrected = f" after correction for {tests} tests" if tests > 1 else ""
        brackets = "the intervals that hold for all tests at once" if tests > 1 else "what the data are compatible with"
        items = [f"{_name(row, several)} ({_interval(row)}{_more(row)})" for row in open_rows]
        yield (
            f"No evidence of a difference{subject}{corrected} for {_listed(items)}: in brackets {brackets}, and about "
            f"how many more seeds would narrow {'them' if tests > 1 else 'it'} to the margin."
        )
    untested = [_name(row, several) for row in rows if row["verdict"] == "" and math.isfinite(number(row, "diff"))]
    if untested:
        yield f"Too few seeds, or none that vary, to test {_listed(untested)}."
    missing = [_name(row, several) for row in rows if not math.isfinite(number(row, "diff"))]
    if missing:
        yield f"No pair of runs to compare for {_listed(missing)}."
    if text := worst_cases(frame):
        yield text
    underfit = [_name(row, several) for row in rows if row["underfit"]]
    if underfit:
        yield f"The smaller gap of {_listed(underfit)} is underfitting: test is worse, too."


def answers(headline: pd.DataFrame) -> list[tuple[str, str]]:
    """Each comparison group's title with the answer in words, the decided methods first."""
    return [(title, " ".join(_sentences(title, frame))) for title, frame in groups(headline)]
