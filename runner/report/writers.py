"""The headline for people: Markdown, LaTeX, the terminal, and the caption that says what the numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table
from rich.text import Text

from runner.report.tables import ALONE, BASELINE, HIGHER, WITH_GAP, groups, sampled, split_strengths, strengths_of

BLANK = "–"  # an en dash reads as "nothing here"; a hyphen reads as a minus
MINUS = "−"  # the width of a plus, so that signed columns line up
TIED = "†"
OTHER_LANES = "‡"
MORE_PLACES = 4  # decimals beyond the usual ones, at most, that keep a number from hiding on which side it is

Row = Mapping[Hashable, object]


@dataclass(frozen=True)
class Unit:
    """How a metric is shown: `scale` times the stored value, at most `places` decimals, under these headings."""

    scale: float
    places: int
    metric: str
    short: str
    difference: str


UNITS = {
    "test_acc": Unit(100.0, 2, "Test accuracy (%)", "Test acc", "percentage points"),
    "test_loss": Unit(1.0, 4, "Test loss (cross-entropy, nats)", "Test loss", "nats"),
    "test_r2": Unit(100.0, 2, "Test R² (%, the share of the variance explained)", "Test R²", "percentage points"),
    "test_mse": Unit(
        1.0, 4, "Test loss (mean squared error, in variances of the training targets)", "Test loss",
        "variances of the training targets",
    ),
    "test_nll_t": Unit(
        1.0, 4, "Test loss after temperature scaling on validation (cross-entropy, nats)", "Loss at T", "nats"
    ),
    "test_brier": Unit(
        1.0, 4, "Brier score on test (squared error of the probabilities, summed over classes; 0 to 2)", "Brier",
        "units of the score",
    ),
    "test_ece": Unit(
        100.0, 2, "Expected calibration error on test (%, top label, 15 bins of equal width)", "ECE",
        "percentage points",
    ),
    "corrupted_acc": Unit(
        100.0, 2, "Test accuracy under corruptions (%, mean over kinds and five severities)", "Corrupted acc",
        "percentage points",
    ),
    "fgsm_acc": Unit(
        100.0, 2, "Test accuracy under a one-step attack on the inputs (%, FGSM)", "FGSM acc", "percentage points"
    ),
    "pgd_acc": Unit(
        100.0, 2, "Test accuracy under an iterated attack on the inputs (%, PGD)", "PGD acc", "percentage points"
    ),
}  # fmt: skip


TEMPERATURE = Unit(1.0, 2, "Temperature", "T", "")


def score_of(frame: pd.DataFrame) -> str:
    """What the score of a headline is called: "accuracy", "R²" where a number is predicted, or both."""
    numbers = frame["metric"].isin(["test_r2", "test_mse"])
    return " or ".join(word for word, there in (("accuracy", ~numbers), ("R²", numbers)) if there.any())


def number(row: Row, name: str) -> float:
    """A numeric cell of a row; nan for a missing one."""
    value = row[name]
    return float(value) if isinstance(value, int | float) else math.nan


def _bounds(row: Row, name: str) -> tuple[float, float, float]:
    """A difference in a row with the ends of its interval."""
    return number(row, name), number(row, f"{name}_lo"), number(row, f"{name}_hi")


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as mappings from column to value."""
    return [dict(row) for row in frame.to_dict("records")]


def decimals(half: float, at_most: int) -> int:
    """The decimals that show `half` with two significant digits, `at_most` as a limit and for a half that is blank."""
    if not math.isfinite(half) or half <= 0:
        return at_most
    return min(at_most, max(0, 1 - math.floor(math.log10(half))))


def _signed(value: float, places: int) -> str:
    """A difference with its sign; exactly 0, or what rounds to it, has none."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def plus_minus(mean: float, low: float, high: float, unit: Unit) -> str:
    """ "73.91 ± 0.49": a mean and half the width of its interval, in the unit; the mean alone below two runs.

    Where both would round to 0 there are more decimals.
    """
    if not math.isfinite(mean):
        return BLANK
    half = (high - low) / 2 * unit.scale
    largest = max(abs(mean * unit.scale), half if math.isfinite(half) else 0.0)
    places = _showing(decimals(half, unit.places), lambda places: _onto(largest, 0.0, places))
    text = f"{mean * unit.scale:.{places}f}".replace("-", MINUS)
    return text if not math.isfinite(half) else f"{text} ± {half:.{places}f}"


def _onto(value: float, edge: float, places: int) -> bool:
    """Whether a value that is not at an edge would round onto it, and hide its side."""
    return not math.isclose(value, edge, abs_tol=1e-9) and math.isclose(round(value, places), edge, abs_tol=1e-9)


def _showing(places: int, hidden: Callable[[int], bool]) -> int:
    """The decimals, `places` or at most MORE_PLACES more, at which nothing is hidden; `places` where it always is."""
    return next((more for more in range(places, places + MORE_PLACES + 1) if not hidden(more)), places)


def _places(low: float, high: float, at_most: int, rope: float) -> int:
    """The decimals of an interval: one more where a bound would round onto 0 or -+`rope`, and more if still onto 0."""
    places = decimals((high - low) / 2, at_most)
    edges = [edge for edge in (0.0, rope, -rope) if math.isfinite(edge)]
    places += any(_onto(bound, edge, places) for bound in (low, high) for edge in edges)
    return _showing(places, lambda places: any(_onto(bound, 0.0, places) for bound in (low, high)))


def with_bounds(mean: float, low: float, high: float, unit: Unit, rope: float = math.nan) -> str:
    """ "+1.67 [+1.03, +2.31]" in the unit; more decimals where a bound would round onto 0 or the margin `rope`."""
    if not math.isfinite(mean):
        return BLANK
    mean, low, high = mean * unit.scale, low * unit.scale, high * unit.scale
    if not math.isfinite(low) or not math.isfinite(high):
        return _signed(mean, unit.places)
    places = _places(low, high, unit.places, rope * unit.scale)
    return f"{_signed(mean, places)} [{_signed(low, places)}, {_signed(high, places)}]"


def with_half(mean: float, low: float, high: float, unit: Unit, rope: float = math.nan) -> str:
    """ "+1.67 ± 0.64": what `with_bounds` says in half the width, for an interval that is symmetric.

    More decimals where mean and half-width would round to one number and hide on which side of 0 the interval ends.
    """
    if not math.isfinite(mean) or not math.isfinite(low) or not math.isfinite(high):
        return with_bounds(mean, low, high, unit)
    mean, low, high = mean * unit.scale, low * unit.scale, high * unit.scale
    size, half = abs(mean), (high - low) / 2
    apart = not math.isclose(size, half, abs_tol=1e-9)
    places = _places(low, high, unit.places, rope * unit.scale)
    places = _showing(places, lambda places: apart and round(size, places) == round(half, places))
    return f"{_signed(mean, places)} ± {half:.{places}f}"


def p_text(p: float, level: float) -> str:
    """A p-value to three decimals, "<0.001" below that; more decimals where it would round onto 1 - `level`."""
    if not math.isfinite(p):
        return BLANK
    return "<0.001" if p < 0.001 else f"{p:.{_showing(3, lambda places: _onto(p, 1 - level, places))}f}"


def signed(value: float) -> str:
    """A difference to one decimal, with its sign, and without one if it rounds to zero.

    >>> signed(1.25), signed(-0.04), signed(-3.0)
    ('+1.2', '0.0', '−3.0')
    """
    return f"{value:+.1f}".replace("-", MINUS) if abs(value) >= 0.05 else "0.0"


def strength_values(strengths: str) -> str:
    """The values of "dropout.rate=0.3 l2.rate=0.001" as "0.3, 0.001"; a dash for a method without strengths.

    What was tuned of the optimizer is left out.
    """
    return ", ".join(f"{value:g}" for value in strengths_of(split_strengths(strengths)[0]).values()) or BLANK


def strength_text(strengths: str) -> str:
    """The value of a single strength; "dropout.rate=0.3, l2.rate=0.001" where several must be told apart.

    What was tuned of the optimizer follows.

    >>> strength_text("dropout.rate=0.3 optimizer.lr=0.01")
    '0.3, lr=0.01'
    """
    own, shared = split_strengths(strengths)
    found = strengths_of(own)
    parts = [f"{name}={value:g}" for name, value in found.items()] if len(found) > 1 else [strength_values(own)]
    more = [f"{name.partition('.')[2]}={value:g}" for name, value in strengths_of(shared).items()]
    return ", ".join([*(part for part in parts if part != BLANK or not more), *more])


def strength_brief(strengths: str) -> str:
    """As `strength_text`, but a stack's strengths without their names, in the order of its methods; "" without any.

    >>> strength_brief("dropout.rate=0.3 l2.rate=0.001 optimizer.lr=0.01")
    '0.3, 0.001, lr=0.01'
    """
    own, shared = split_strengths(strengths)
    more = [f"{name.partition('.')[2]}={value:g}" for name, value in strengths_of(shared).items()]
    return ", ".join([strength_values(own)] * bool(strengths_of(own)) + more)


def _method_text(row: Row) -> str:
    failed, total = int(number(row, "n_failed")), int(number(row, "n_failed") + number(row, "n_report"))
    return f"{row['method']} ({failed} of {total} failed)" if failed else str(row["method"])


def _verdict_text(row: Row) -> str:
    more, worst = number(row, "more_seeds"), number(row, "diff_worst")
    text = f"{row['verdict']} (+{more:.0f})" if math.isfinite(more) else str(row["verdict"]) or BLANK
    return f"{text}, worst case {_signed(100 * worst, 1)}" if math.isfinite(worst) else text


def worst_cases(frame: pd.DataFrame) -> str:
    """What the differences would be if each failed run of a method had scored the worst value; "" without any."""
    failed = [row for row in records(frame) if math.isfinite(number(row, "diff_worst"))]
    values = [100 * number(row, "worst_value") for row in failed]
    if not failed:
        return ""
    level = " or ".join(dict.fromkeys(f"{value:.3g} %" for value in sorted(values))).replace("-", MINUS)
    least = "R² 0, what the mean gets" if "r2" in str(frame["metric"].iloc[0]) else "chance"
    items = ", ".join(
        f"{row['method']} {with_bounds(*_bounds(row, 'diff_worst'), UNITS['test_acc'], number(row, 'rope'))}"
        for row in failed
    )
    alone = " (intervals of the seeds alone)" if sampled(frame) else ""
    return (
        f"Worst case, every failed run of a method counted as {level} ({least}, or the lowest run of the two if "
        f"lower), at the seeds where none did not fail: Δ test {items}{alone}."
    )


def _unit(frame: pd.DataFrame) -> Unit:
    return UNITS[str(frame["metric"].iloc[0])]


def difference_names(frame: pd.DataFrame) -> tuple[str, str]:
    """The headings of the two columns of differences."""
    return f"Δ test [{_percent(frame)} CI]", f"Δ gap [{_percent(frame)} CI]"


def human(frame: pd.DataFrame) -> pd.DataFrame:
    """A headline as text, at most ten columns; without p-values and verdicts (a secondary metric) eight at most.

    A metric that is not measured on training data has no gap, and one that is not compared only what stands beside it.
    """
    rows = []
    tests, gaps = difference_names(frame)
    for row in records(frame):
        unit, baseline = UNITS[str(row["metric"])], row["method"] == BASELINE
        pairs, ties = number(row, "n_pairs"), number(row, "ties")
        wins = BLANK if baseline or pairs == 0 else f"{number(row, 'wins'):.0f}/{pairs:.0f}"
        ratio, lanes = number(row, "time_ratio"), OTHER_LANES * bool(row["other_lanes"])
        rows.append(
            {
                "Method": _method_text(row),
                "Strength": str(row["chosen"]) or BLANK if "chosen" in row else strength_text(str(row["strengths"])),
                unit.short: plus_minus(number(row, "mean"), number(row, "lo"), number(row, "hi"), unit),
                "Gap": plus_minus(number(row, "gap_mean"), number(row, "gap_lo"), number(row, "gap_hi"), unit),
                tests: with_bounds(*_bounds(row, "diff"), unit, number(row, "rope")),
                gaps: with_bounds(*_bounds(row, "gap_diff"), unit, number(row, "gap_rope")),
                "Calibrated ≤": plus_minus(number(row, "null_mean"), math.nan, math.nan, unit),
                "T": plus_minus(number(row, "temperature_mean"), math.nan, math.nan, TEMPERATURE),
                "p (Holm)": p_text(number(row, "p_holm"), number(row, "level")),
                "Wins": f"{wins} (={ties:.0f})" if ties > 0 else wins,
                "Time ×": f"{ratio:.2f}{lanes}" if math.isfinite(ratio) else BLANK,  # times, not x
                "Verdict": _verdict_text(row),
            }
        )
    metric = str(frame["metric"].iloc[0])
    without = [] if int(frame["family_size"].max()) > 0 else ["p (Holm)", "Verdict"]
    without += [] if metric in WITH_GAP else ["Gap", gaps]
    without += [tests, "Wins", "Time ×"] if metric in ALONE else ["Calibrated ≤"]
    without += [] if metric == "test_nll_t" else ["T"]
    return pd.DataFrame(rows).drop(columns=without)


def _percent(frame: pd.DataFrame) -> str:
    return f"{100 * float(frame['level'].iloc[0]):g}%"


def span(values: pd.Series, what: str) -> str:
    """ "10 seeds", "1 seed", or "8 to 10 seeds" where the values differ."""
    low, high = int(values.min()), int(values.max())
    return f"{low} {what}{'' if low == 1 else 's'}" if low == high else f"{low} to {high} {what}s"


def protocol_text(frame: pd.DataFrame) -> str:
    """How the strengths of a headline came about, and on which seeds the numbers stand."""
    reported = frame[frame["n_report"] + frame["n_failed"] > 0]
    shown = f"n = {span(reported['n_report'], 'report seed')}" if len(reported) else "no report seeds"
    if steps := str(frame["extended"].iloc[0]):
        shown += f" (seeds were added after the study was begun: {steps})"
    tuned = frame[frame["n_tune"] > 0]
    if "loso" in set(frame["protocol"]):
        return f"{shown}; the strength at each seed chosen on the mean validation {score_of(frame)} of the other seeds"
    if tuned.empty:
        note = "nothing was chosen: every configuration that was run is a row of its own"
        smoke = " (smoke study: too small to conclude from)" if "smoke" in set(frame["protocol"]) else ""
        return f"{shown}; {note}{smoke}"
    shared = int(frame["shared_seeds"].max()) > 0
    chosen = f"on the mean validation metric of {span(tuned['n_tune'], 'tune seed' if shared else 'other seed')}"
    others, base = tuned[tuned["method"] != BASELINE], tuned[tuned["method"] == BASELINE]
    if others.empty:
        return f"{shown}; {_and(shared_names(frame))} chosen {chosen} ({span(base['tuning_runs'], 'tuning run')})"
    runs = f"{span(others['tuning_runs'], 'tuning run')} per method"
    if len(base):
        runs += f", {span(base['tuning_runs'], 'run')} for none"
    what = _and(["strengths", *(f"the {name} of each method" for name in shared_names(frame))])
    return f"{shown}; {what} chosen {chosen} ({runs})"


def shared_names(frame: pd.DataFrame) -> list[str]:
    """The numbers of the optimizer that were tuned for every method, none included: "learning rate"."""
    names = dict.fromkeys(name for text in frame["strengths"] for name in strengths_of(split_strengths(str(text))[1]))
    return ["learning rate" if name == "optimizer.lr" else name.partition(".")[2] for name in names]


def _and(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _remarks(frame: pd.DataFrame) -> Iterator[str]:
    """The sentences that only some studies need."""

    def named(rows: pd.DataFrame) -> str:
        return ", ".join(dict.fromkeys(rows["method"]))

    others = frame[frame["method"] != BASELINE]
    if len(others) and "learning rate" not in shared_names(frame):
        yield "Learning rate not re-tuned per method."
    if int(frame["shared_seeds"].max()):
        yield f"Selection and report share seeds, which flatters: {named(frame[frame['shared_seeds'] > 0])}."
    if len(lost := frame[frame["n_failed"] > 0]):
        yield f"Failed or diverged report runs are counted with the method ({named(lost)}) and are not in its means."
    if text := worst_cases(frame):
        yield text
    if frame["label_noise"].max() > 0:
        share = 100 * float(frame["label_noise"].mean())
        yield f"{share:.1f}% of the training labels are wrong: train and the gap are against the labels trained on."
    if len(lost := frame[frame["n_tune_failed"] > 0]):
        yield f"Some tuning runs failed or diverged: {named(lost)}."
    if len(absent := frame[frame["n_report"] + frame["n_failed"] == 0]):
        yield f"Tuned, but without report runs: {named(absent)}."
    compared = others[~others["metric"].isin(ALONE)]
    if len(short := compared[(compared["n_pairs"] < compared["n_report"])]):
        yield f"Fewer pairs than runs, for lack of the same seeds in none: {named(short)}."
    if len(few := others[(others["pairs"] == "few") & (others["n_report"] > 0)]):
        yield f"Below two pairs there is no interval and no test: {named(few)}."
    constant = others[others["pairs"] == "constant"]
    if len(even := constant[constant["ties"] == constant["n_pairs"]]):
        yield f"As many test examples right as none in every pair, but other losses, hence no test: {named(even)}."
    if len(constant := constant[constant["ties"] < constant["n_pairs"]]):
        yield f"No seed variance in the differences, hence no test; are seeds applied? {named(constant)}."
    if len(same := others[others["pairs"] == "identical"]):
        yield f"Identical to none in every pair: {named(same)}."
    if len(edge := frame[frame["edge_of_grid"].astype(bool) & (frame["family"] != "placebo")]):
        yield f"Chosen at the edge of the grid, a wider one may serve better: {named(edge)}."
    close = others[(others["gap_diff_lo"] >= -others["gap_rope"]) & (others["gap_diff_hi"] <= others["gap_rope"])]
    if len(close := close[close["pairs"] != "identical"]):
        yield f"Gap equivalent to that of none, within {_margin(frame, 'gap_rope')}: {named(close)}."
    yield from dict.fromkeys(_placebo(others))  # of several strengths that do nothing the same is said
    if len(under := frame[frame["underfit"].astype(bool)]):
        yield f"Smaller gap by underfitting, test worse: {named(under)}."


def _placebo(others: pd.DataFrame) -> Iterator[str]:
    """The study's own checks: what became of the methods that have no effect."""
    for row in records(others[(others["family"] == "placebo") & (others["n_pairs"] > 0)]):
        word, unit = str(row["verdict"]), UNITS[str(row["metric"])]
        difference = with_bounds(*_bounds(row, "diff"), unit, number(row, "rope"))
        if word == "identical" or row["pairs"] == "identical":
            yield (
                f"Pairing check: {row['method']}, which does nothing, gave the runs of none again, as it must; how "
                "often a study finds what is not there is what placebo_seeded can tell."
            )
        elif word.startswith(("better", "worse")):
            yield (
                f"False-positive check failed: {row['method']}, which has no effect, came out {word} (Δ {difference}); "
                "other verdicts of about that size deserve the same doubt."
            )
        elif word:
            yield f"False-positive check: {row['method']}, which has no effect, came out {word} (Δ {difference})."


def changed_margins(frame: pd.DataFrame) -> str:
    """What to say where the margins are not those on record from before the runs; "" where they are."""
    unit, changed = _unit(frame), []
    for name, column in (("test", "rope"), ("gap", "gap_rope")):
        now, before = float(frame[column].iloc[0]), float(frame[f"{column}_stored"].iloc[0])
        if math.isfinite(before) and not math.isclose(now, before):
            changed.append(f"{name} ±{before * unit.scale:g} to ±{now * unit.scale:g} {unit.difference}")
    return f"Margin changed after the runs: {'; '.join(changed)}." if changed else ""


def _margin(frame: pd.DataFrame, column: str) -> str:
    """The margin in `column` as "±0.5 percentage points"."""
    unit = _unit(frame)
    return f"±{float(frame[column].iloc[0]) * unit.scale:g} {unit.difference}"


def _marks(frame: pd.DataFrame) -> Iterator[str]:
    """What bold and the dagger mean, if they occur."""
    if len(frame) > 1 and frame["best"].any():
        highest = "highest" if frame["metric"].iloc[0] in HIGHER else "lowest"
        sound = ", of those without failed runs" if (frame["n_failed"] > 0).any() else ""
        yield f"Bold: {highest} mean test by Δ, none at 0{sound}."
    if frame["tied_best"].any():
        test = "tested as Δ is" if sampled(frame) else "paired t against it"
        yield f"{TIED}: cannot be told from the bold one ({test}, Holm over the other rows)."


def _verdicts(frame: pd.DataFrame) -> str:
    """How the words of the last column come about; those that do not occur are left out."""
    words = " ".join(frame["verdict"])
    parts = [f"better or worse at Holm p ≤ {1 - float(frame['level'].iloc[0]):g}"]
    inside = f"the {_percent(frame)} interval lies within {_margin(frame, 'rope')}"
    parts.append(f"equivalent where {inside}" + ("; negligible: better or worse, and inside" * ("negligible" in words)))
    tests = int(frame["family_size"].max())
    narrowed = f"the interval that holds for all {tests} tests at once" if tests > 1 else "it"
    parts.append(f"else inconclusive (+k: about k more seeds would narrow {narrowed} to the margin, or to half of it)")
    open_rows = frame[frame["verdict"] == "inconclusive"]
    if open_rows["more_seeds"].isna().any():
        parts[-1] += ", without +k where the test set is too small for that"
    return f"Verdict against none: {'; '.join(parts)}."


def caption(frame: pd.DataFrame) -> str:
    """What the numbers of one group's headline are: metric, seeds, checkpoint, interval, baseline, tests, reach."""
    unit, level, metric = _unit(frame), _percent(frame), str(frame["metric"].iloc[0])
    last = frame["checkpoint"].iloc[0] == "last"
    when = "after the last epoch" if last else "at the epoch of lowest validation loss"
    kind = f"{score_of(frame)}, train − test" if unit.scale == 100 else "loss, test − train"  # a minus sign
    clean = "" if metric in ("corrupted_acc", "fgsm_acc", "pgd_acc") else ", evaluated on clean data"
    tests = int(frame["family_size"].max())
    parts = [*filter(None, [changed_margins(frame)])]
    parts += [f"{unit.metric} {when}{clean}. {protocol_text(frame)}."]
    parts += [f"Gap: {kind}."] if metric in WITH_GAP else []
    bounded = bool(frame["lo"].notna().any())
    if bounded:
        parts.append(f"± is half the {level} t-interval.")
    compared, widened = len(frame) > 1 and metric not in ALONE, sampled(frame)
    if metric == "test_nll_t":
        parts.append("T: mean of the fitted temperatures; above 1 the net is too sure of itself.")
    if metric in ALONE:
        parts.append(
            "Calibrated ≤: what the error of a single run of a perfectly calibrated net stays below in 95 of 100 "
            "cases, with as many examples and the same confidences. The error is no measure to compare methods by: the "
            "Brier score and the losses are."
        )
    if compared:
        reach = f", with its {level} t-interval" if bounded else ""
        if widened:
            reach = (
                f", with its {level} interval: half-widths of the seeds (t) and of the choice of test examples "
                "(normal), added in squares"
            )
        parts.append(f"Δ: mean paired difference to none on the same seeds, in {unit.difference}{reach}.")
    if tests:
        test = "from the level at which that interval ends at 0" if widened else "paired t-test, two-sided"
        parts.append(f"p: {test}, Holm over the {tests} comparison{'s'[: tests > 1]} of this table.")
        parts.append(_verdicts(frame))
    elif compared and bounded:
        parts.append("Intervals only: no test was made for this table.")
    parts += _marks(frame)
    if compared:
        time = "Time ×: training time over none's, paired"
        if (frame["n_timed"] < frame["n_pairs"]).any():
            time += ", not across studies, which may be of several machines"
        if frame["other_lanes"].any():
            time += f"; {OTHER_LANES}: in packs of another width than none's, and a run in a wider one costs less"
        parts.append(f"Wins: pairs better than none (= ties). {time}.")
    if bounded:
        parts.append(f"The intervals cover {' / '.join(sorted(set(frame['interval_covers'])))}.")
    return " ".join([*parts, *_remarks(frame)])


def to_markdown(frame: pd.DataFrame, below: str = "") -> str:
    """One group's headline as a Markdown table, its caption or the text `below` under it."""
    table = human(frame)
    left = {"Method", "Strength", "Verdict"}
    means = [
        (f"**{text}**" if best else text) + TIED * tied
        for text, best, tied in zip(table[_unit(frame).short], frame["best"], frame["tied_best"], strict=True)
    ]
    table = table.assign(**{_unit(frame).short: means})
    cells = [[str(value).replace("|", "\\|") for value in row] for row in table.to_numpy().tolist()]
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + "|".join(":--" if name in left else "--:" for name in table.columns) + "|",
        *("| " + " | ".join(row) + " |" for row in cells),
    ]
    return "\n".join(lines) + f"\n\n{below or caption(frame)}\n"


LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",  # the sign to replace
    "·": r"$\cdot$",
    "≤": r"$\le$",
    TIED: r"$^\dagger$",
    OTHER_LANES: r"$^\ddagger$",
    MINUS: "$-$",
    BLANK: "--",
}


def latex_escape(text: str) -> str:
    """Text for LaTeX: its own marks escaped, the signs of the tables in math mode."""
    return "".join(LATEX.get(mark, mark) for mark in text)


def to_latex(frame: pd.DataFrame) -> str:
    """All groups of a headline as one bare booktabs `tabular` to `\\input`; each group's caption as a comment above."""
    parts = groups(frame)
    # One set of columns for all groups: those of the tests stay if any group has tests.
    tested = int(frame["family_size"].max())
    shorts = {title: _unit(part).short for title, part in parts}
    score = next(iter(shorts.values())) if len(set(shorts.values())) == 1 else "Test"
    tables = [
        (title, part, human(part.assign(family_size=tested)).rename(columns={shorts[title]: score}))
        for title, part in parts
    ]
    names = list(tables[0][2].columns)
    lines = ["% \\usepackage{booktabs}; ten columns are for a landscape page: \\footnotesize \\input{headline.tex}"]
    lines += [f"% {title}: {caption(part)}" for title, part, _ in tables]
    alignment = "".join("l" if name in ("Method", "Strength", "Verdict") else "r" for name in names)
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines.append(" & ".join(map(latex_escape, names)) + " \\\\")
    for title, part, table in tables:
        lines.append("\\midrule")
        if len(tables) > 1:
            lines.append(f"\\multicolumn{{{len(names)}}}{{l}}{{\\emph{{{latex_escape(title)}}}}} \\\\")
        mean = names.index(score)
        for row, best, tied in zip(table.to_numpy().tolist(), part["best"], part["tied_best"], strict=True):
            # A row that starts with [ would be read as the optional length of \\, hence the empty group.
            cells = ["{}" * cell.startswith("[") + latex_escape(cell) for cell in map(str, row)]
            # \boldmath, since \textbf leaves what is in math mode as it is.
            cells[mean] = f"{{\\boldmath\\textbf{{{cells[mean]}}}}}" if best else cells[mean]
            cells[mean] += latex_escape(TIED * tied)
            lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def wrapped(name: str, width: int) -> list[str]:
    """`name` in lines of at most `width`, broken after "+", "_", "=" and spaces where it can be, else anywhere."""
    parts = re.findall(r"[^+_= ]+[+_= ]*", name)
    pieces = [part[at : at + width] for part in parts for at in range(0, len(part), width)]
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _terminal_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The text of a headline for a terminal: one number and its half-width per difference, marks after the means."""
    unit, shown = _unit(frame), human(frame)
    tests, gaps = difference_names(frame)
    # The half-widths of the means and the ties go: the intervals of the differences are what a reader compares.
    blank = " " if frame["tied_best"].any() else ""
    means = [text.split(" ±")[0] for text in shown[unit.short]]
    marks = [TIED if tied else blank for tied in frame["tied_best"]]
    cells = {
        unit.short: [f"{mean}{mark}" for mean, mark in zip(means, marks, strict=True)],
        "Gap": [text.split(" ±")[0] for text in shown["Gap"]],
        "Wins": [text.split(" ")[0] for text in shown["Wins"]],
    }
    for name, column, rope in ((tests, "diff", "rope"), (gaps, "gap_diff", "gap_rope")):
        cells[name] = [with_half(*_bounds(row, column), unit, number(row, rope)) for row in records(frame)]
    return shown.assign(**cells)


def terminal_table(frame: pd.DataFrame, width: int = 100) -> Table:
    """One group's headline for a terminal `width` wide: percent and percentage points, or nats for a loss.

    Numbers are never broken: where it is tight, the names of methods and strengths fold.
    """
    table = Table(title=groups(frame)[0][0], title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown = _terminal_cells(frame)
    heads = {str(name): str(name).replace(" ", "\n", 1) for name in shown.columns}
    heads |= {name: f"{name.split(' [')[0]}\n± {_percent(frame)}" for name in difference_names(frame)}
    folding = ["Method", "Strength"]

    def length(name: str) -> int:
        return max(len(line) for text in (heads[name], *shown[name]) for line in text.split("\n"))

    def room() -> int:
        return width - sum(length(name) for name in heads if name not in folding) - (len(heads) - 1)

    if "Verdict" in heads and room() < sum(map(length, folding)):
        shown["Verdict"] = [text.replace(" ", "\n", 1) for text in shown["Verdict"]]
    method = max(12, min(length("Method"), room() - min(length("Strength"), 15)))
    widths = {"Method": method, "Strength": max(8, min(length("Strength"), room() - method))}
    for name, head in heads.items():
        left = name in (*folding, "Verdict")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for row, best in zip(shown.to_dict("records"), frame["best"], strict=True):
        plain = {str(name): Text(str(value)) for name, value in row.items()}
        for name, wide in widths.items():
            items = re.split("(?<=,) ", str(row[name]))
            plain[name] = Text("\n".join(line for item in items for line in wrapped(item, wide)))
        if best:
            for name in ("Method", _unit(frame).short):
                plain[name].stylize("bold")
        table.add_row(*plain.values())
    return table
