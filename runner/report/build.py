"""The report of a study folder: `runs.csv` of all jobs, tables and figures, each file written at once or not at all."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import pandas as pd

from runner.files import clear_parts, held
from runner.report import axes, comparisons, datasets, figures, measures, page, profile, reliability, robustness, spread
from runner.report.answers import answers
from runner.report.collect import WHICH, collect, refuse_alike, write_atomic
from runner.report.extensions import Extension, extension_lines, marked, read_extensions, study_file
from runner.report.leftovers import clear_leftovers
from runner.report.loso import leave_one_seed_out, loso_caption
from runner.report.parquet import write_parquet
from runner.report.predictions import Predictions, read_predictions
from runner.report.sheet import Drawing, save
from runner.report.tables import (
    GROUP,
    METRICS,
    Margins,
    by_strength,
    groups,
    headline,
    in_order,
    read_curves,
    read_runs,
    to_csv,
    without_tests,
)
from runner.report.writers import strength_text, to_latex, to_markdown

PRIMARY = ("last", "test_acc")
SECONDARY = tuple(
    (checkpoint, metric) for metric in METRICS for checkpoint in ("last", "best") if (checkpoint, metric) != PRIMARY
)
MOST_DRAWN = 12  # comparisons that have figures of their own; a page with more could not be opened
MOST_POINTED = 200  # configurations that these may have together, the first comparison's aside
# The tables of headline.md, with their headings; the others are in headline.csv and on the page.
HEADINGS = {
    ("best", "test_acc"): "At the epoch of lowest validation loss (secondary)",
    ("last", "test_loss"): "Test loss (secondary)",
    ("best", "test_r2"): "At the epoch of lowest validation loss (secondary)",
    ("last", "test_mse"): "Test loss (secondary)",
    ("best", "test_mse"): "Test loss at the epoch of lowest validation loss (secondary)",
    ("best", "test_loss"): "Test loss at the epoch of lowest validation loss (secondary)",
    ("last", "test_nll_t"): "Test loss after temperature scaling (secondary)",
    ("last", "test_brier"): "Brier score (secondary)",
    ("last", "test_ece"): "Calibration error (not compared)",
    ("last", "corrupted_acc"): "Test accuracy under corruptions (secondary)",
    ("last", "fgsm_acc"): "Test accuracy under a one-step attack (secondary)",
    ("last", "pgd_acc"): "Test accuracy under an iterated attack (secondary)",
}


class NotAStudy(ValueError):
    """The folder has neither jobs nor a `runs.csv`."""


class NoRuns(ValueError):
    """The study has jobs, but none with a run that could be shown."""


@dataclass(frozen=True)
class Failure:
    """A job that did not come to its end: `state` "failed", or "running" when the report was made."""

    job: str
    method: str
    state: str
    error: str


@dataclass(frozen=True)
class Report:
    """What `build` made: the primary headline, the secondary ones, jobs that did not end, and the files written.

    `answers` has one paragraph for each comparison group, in words.
    """

    study: str
    headline: pd.DataFrame
    secondary: tuple[pd.DataFrame, ...]
    by_strength: pd.DataFrame
    failures: tuple[Failure, ...]
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    answers: tuple[tuple[str, str], ...] = ()

    @property
    def failed(self) -> tuple[Failure, ...]:
        """The failures without the jobs that still run."""
        return tuple(failure for failure in self.failures if failure.state == "failed")


def unfinished_jobs(study_dir: Path) -> tuple[Failure, ...]:
    """The jobs whose `status.json` does not say "complete", by name; a file that cannot be read counts as failed."""
    found = []
    for path in sorted(study_dir.glob("*/status.json")):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found.append(Failure(path.parent.name, "unknown", "failed", "status.json is not JSON"))
            continue
        state = str(status.get("state"))
        if state != "complete":
            method, error = str(status.get("method") or "unknown"), str(status.get("error") or "")
            found.append(Failure(path.parent.name, method, "running" if state == "running" else "failed", error))
    return tuple(found)


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "no message"


def describe(failure: Failure) -> str:
    """A failure as one line."""
    return f"{failure.job} ({failure.method}): {failure.state}" + (
        f": {_one_line(failure.error)}" if failure.state == "failed" else ", not all its runs are in this report"
    )


def _failed_runs(runs: pd.DataFrame) -> list[str]:
    """One line per configuration and role that lost runs: how many, which seeds, why."""
    lines = []
    for key, part in runs.groupby([*GROUP, "method", "strengths", "role"], sort=True):
        assert isinstance(key, tuple)
        bad = part[part["status"] != "ok"]
        if bad.empty:
            continue
        dataset, model, setting, method, strengths, role = map(str, key)
        where = " · ".join(text for text in (dataset, model, setting) if text)
        seeds = ", ".join(str(seed) for seed in bad["seed"])
        errors = part["error"] if "error" in part.columns else part["status"]
        texts = zip(bad["status"], errors[bad.index], strict=True)
        why = "; ".join(sorted({f"{status}: {_one_line(str(error))}" for status, error in texts}))
        what = f"{method} {strength_text(strengths)}: {len(bad)} of {len(part)} {role} runs (seeds {seeds})"
        lines.append(f"{where}: {what}: {why}")
    return lines


def _markdown(
    study: str,
    primary: pd.DataFrame,
    secondary: tuple[pd.DataFrame, ...],
    failures: tuple[Failure, ...],
    lost: list[str],
    further: list[str],
    extensions: tuple[Extension, ...],
) -> str:
    """The text of headline.md: per group the primary table, then the secondary ones, extensions, what failed."""
    parts = [f"# {study}\n"]
    told = dict(answers(primary))
    for title, frame in groups(primary):
        parts.append(f"## {title}\n\n{told[title]}\n\n{to_markdown(frame)}")
        for other in secondary:
            part = dict(groups(other)).get(title)
            if part is not None and (heading := HEADINGS.get(_kind(part))):
                parts.append(f"### {heading}\n\n{to_markdown(part)}")
    parts += further
    if extensions:
        parts.append(
            "## Seeds added after the study was begun\n\n" + "".join(f"- {e}\n" for e in extension_lines(extensions))
        )
    if failures or lost:
        lines = [*(f"job {describe(failure)}" for failure in failures), *lost]
        parts.append("## Failures\n\n" + "".join(f"- {line}\n" for line in lines))
    return "\n".join(parts)


def _kind(frame: pd.DataFrame) -> tuple[str, str]:
    """The checkpoint and the metric of a headline."""
    return str(frame["checkpoint"].iloc[0]), str(frame["metric"].iloc[0])


def secondary(
    runs: pd.DataFrame,
    margins: Margins = Margins(),  # noqa: B008  # frozen
    stored: Margins | None = None,
) -> Iterator[pd.DataFrame]:
    """The headlines of the other metrics and checkpoint, of the groups that have them, without tests."""
    for checkpoint, metric in SECONDARY:
        column = f"{checkpoint}_{metric}"
        if column not in runs.columns:
            continue
        # Runs from before a metric was recorded lack it, and without validation data there is no best checkpoint.
        known = runs.groupby(GROUP)[column].transform("count") > 0
        if known.any():
            yield without_tests(headline(runs[known], checkpoint, metric, margins=margins, stored=stored))


def _undrawn(primary: pd.DataFrame) -> str:
    """A sentence on the comparisons that have no figures of their own; nothing where all have."""
    parts = groups(primary)
    count, drawn = len(parts), len(_drawn(parts))
    if drawn == count:
        return ""
    first = "first" if drawn == 1 else f"first {drawn}"
    return f"Figures are drawn for the {first} of {count} comparisons; the tables have all."


def _drawn(parts: Sequence[tuple[str, pd.DataFrame]]) -> Sequence[tuple[str, pd.DataFrame]]:
    """The comparisons that have figures of their own: the first ones, as many as a page can carry."""
    reached = list(accumulate(len(frame) for _, frame in parts))
    return parts[: max(1, min(MOST_DRAWN, sum(count <= MOST_POINTED for count in reached)))]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9=.+-]+", "_", text).strip("_")


def _draw(
    runs: pd.DataFrame,
    headlines: Sequence[pd.DataFrame],
    strengths: pd.DataFrame,
    curves: pd.DataFrame,
    pooled: pd.DataFrame | None,
    said: Mapping[str, Predictions],
    corruptions: pd.DataFrame,
    measured: pd.DataFrame,
) -> Iterator[tuple[str, str, Drawing]]:
    """Name, title of the group and drawing of every figure, group by group in the order of the report, one at a time.

    With more than one group each name ends with its group. `headlines` are those of test accuracy, the primary first.
    """
    primary = headlines[0]
    parts = groups(primary)
    runs_of, strengths_of = dict(groups(runs)), dict(groups(strengths))
    headlines_of = [dict(groups(other)) for other in headlines]
    for title, frame in _drawn(parts):
        own, grid = runs_of[title], strengths_of[title]
        both = [frames[title] for frames in headlines_of if title in frames]
        makers: dict[str, Callable[[], Drawing | None]] = {
            "forest": partial(comparisons.forest, own, frame),
            "gap_vs_test": partial(figures.gap_vs_test, frame, grid),
            "gap_decomposition": partial(comparisons.gap_decomposition, both),
            "strength_curves": partial(figures.strength_curves, own, frame, grid, "test"),
            "strength_gap": partial(figures.strength_curves, own, frame, grid, "gap"),
            "learning_curves": partial(figures.learning_curves, own, frame, curves),
            "cost_benefit": partial(comparisons.cost_benefit, own, frame),
            "reliability": partial(reliability.reliability, own, frame, said),
            "corruptions": partial(robustness.corruptions, own, frame, corruptions),
            "measures": partial(measures.measures_figure, dict(groups(measured)).get(title, measured.iloc[:0])),
            "weights": partial(spread.weights, own, frame),
            "seed_spread": partial(spread.seed_spread, own, frame),
        }
        for name, make in makers.items():
            if (drawing := make()) is not None:
                yield f"{name}-{_slug(title)}" if len(parts) > 1 else name, title, drawing
    for name, drawing in _over_all(runs, primary, pooled):
        yield name, "All data sets", drawing


def _over_all(runs: pd.DataFrame, primary: pd.DataFrame, pooled: pd.DataFrame | None) -> Iterator[tuple[str, Drawing]]:
    """Name and drawing of every figure over several data sets, for each model, setting and metric."""
    if (drawing := datasets.heat_strip(primary, pooled)) is not None:
        yield "datasets", drawing
    by = ["model", "setting", *(["metric"] if primary["metric"].nunique() > 1 else [])]
    kinds = [(_slug(" ".join(map(str, kind))), frame) for kind, frame in primary.groupby(by, sort=True)]
    for kind, frame in kinds:
        for name, drawing in (("ranks", datasets.ranks(frame)), ("profile", profile.profile(runs, frame))):
            if drawing is not None:
                yield f"{name}-{kind}" if len(kinds) > 1 else name, drawing
    for name, drawing in axes.axis_curves(primary, runs):
        yield f"axis_curves-{_slug(name)}", drawing


def stored_margins(study_dir: Path) -> Margins | None:
    """The margins that `study.json` has from before the runs, under "margins"; None if it has none.

    Raises ValueError for margins that are not numbers above 0.
    """
    found = study_file(study_dir).get("margins")
    if not isinstance(found, dict):
        return None
    try:
        return Margins(**{name: float(value) for name, value in found.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{study_dir / 'study.json'}: margins {found}: {error}") from error


def _table(folder: Path, name: str, frame: pd.DataFrame) -> list[Path]:
    """Write a table as CSV, and as Parquet where that can be written."""
    return [write_atomic(folder / f"{name}.csv", to_csv(frame)), *write_parquet(folder / f"{name}.parquet", frame)]


def _check_study(study_dir: Path) -> None:
    """Raise NotAStudy for a folder without jobs and runs, before anything is written there."""
    if any(study_dir.glob("*/status.json")):
        return
    if studies := sorted(study_dir.glob("*/study.json")):
        one = study_dir.name + "/" + studies[0].parent.name
        raise NotAStudy(f"{study_dir} is a folder of studies, which may not compare; name those to report ({one} ...)")
    if not (study_dir / "runs.csv").is_file() and not any(study_dir.glob("*/runs.csv")):
        raise NotAStudy(f"{study_dir} is not a study: no <job>/runs.csv (studies are the folders in outputs/)")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build_alone(study_dir: Path, margins: Margins | None = None) -> Report:
    """As `build`, once no other process makes the report; what one that was killed has left there is removed."""
    _check_study(study_dir.resolve())
    with held(study_dir, f"{study_dir}: another process makes the report; waits for that", _say):
        for written in (study_dir, study_dir / "report", study_dir / "report" / "figures"):
            clear_parts(written)
        return build(study_dir, margins)


def build(study_dir: Path, margins: Margins | None = None) -> Report:
    """Make `<study_dir>/report/` anew from the jobs in `study_dir` and give what was made; old files of it go.

    `margins` are the differences below which the verdicts call a method equivalent to `none`; without them those in
    `study.json` hold, else the defaults. Tables made with other margins than those in `study.json` say so.

    Raises NotAStudy for a folder without jobs and runs, NoRuns when no job left a run, NoBaseline (of tables) for a
    comparison group without `none`, ValueError for a `runs.csv` that is not one, or with runs that look alike.
    """
    study_dir = study_dir.resolve()
    _check_study(study_dir)
    failures = unfinished_jobs(study_dir)
    runs_path = collect(study_dir)
    if not runs_path.is_file():
        raise NoRuns("; ".join(["no job of this study has runs yet", *map(describe, failures)]))
    every = read_runs(runs_path)
    twice = every.duplicated(list(WHICH), keep=False)
    refuse_alike(study_dir, every[twice].to_dict("records"))
    runs = in_order(every)
    if runs.empty:
        raise NoRuns("; ".join(["the jobs of this study have no runs", *map(describe, failures)]))
    folder = study_dir / "report"
    strengths = by_strength(runs)
    tables = [*write_parquet(folder / "runs.parquet", runs), *_table(folder, "by_strength", strengths)]
    stored = stored_margins(study_dir)
    margins = margins or stored or Margins()
    extensions = read_extensions(study_dir)
    said = read_predictions(study_dir, runs)
    primary = marked(headline(runs, *PRIMARY, margins=margins, stored=stored, said=said), extensions)
    others = tuple(marked(frame, extensions) for frame in secondary(runs, margins, stored))
    further = []
    if (over := datasets.pool(runs, primary)) is not None:
        tables += _table(folder, "pooled", over)
        further.append(f"## All data sets\n\n{datasets.pooled_markdown(over)}")
    if (left_out := leave_one_seed_out(runs, margins=margins, stored=stored, said=said)) is not None:
        left_out = marked(left_out, extensions)
        tables += _table(folder, "loso", left_out)
        for title, part in groups(left_out):
            table = to_markdown(part, loso_caption(part))
            further.append(f"## {title}: strengths chosen by leaving one seed out\n\n{table}")
    measured = measures.correlations(runs, measures.read_measures(study_dir))
    if len(measured):
        tables.append(write_atomic(folder / "measures.csv", to_csv(measured)))
        for title, part in groups(measured):
            further.append(f"## {title}: measures of generalization\n\n{measures.measures_markdown(part)}")
    if undrawn := _undrawn(primary):
        further.append(undrawn)
    lost = _failed_runs(runs)
    tables += [
        *_table(folder, "headline", pd.concat([primary, *others], ignore_index=True)),
        write_atomic(
            folder / "headline.md", _markdown(study_dir.name, primary, others, failures, lost, further, extensions)
        ),
        write_atomic(folder / "headline.tex", to_latex(primary)),
    ]
    paths: list[Path] = []
    shown: list[page.Shown] = []
    accuracies = [primary, *(frame for frame in others if frame["metric"].iloc[0] in ("test_acc", "test_r2"))]
    curves, corrupted = read_curves(study_dir), robustness.read_corruptions(study_dir)
    for name, title, drawing in _draw(runs, accuracies, strengths, curves, over, said, corrupted, measured):
        made = save(drawing, folder / "figures", name)
        paths += made
        shown.append(page.Shown(name, title, {path.suffix: path for path in made}))
    found = page.Study(
        study_dir,
        runs,
        primary,
        others,
        over,
        left_out,
        tuple(describe(failure) for failure in failures),
        tuple(lost),
        tuple(extension_lines(extensions)),
        _undrawn(primary),
    )
    tables.append(write_atomic(folder / "report.html", page.render(found, shown)))
    clear_leftovers(folder, [*tables, *paths])
    return Report(
        study_dir.name, primary, others, strengths, failures, tuple(tables), tuple(paths), tuple(answers(primary))
    )
