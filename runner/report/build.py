"""The report of a study folder: `runs.csv` of all jobs, tables and figures, each file written at once or not at all."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from runner.report import figures
from runner.report.collect import collect, write_atomic
from runner.report.figures import Drawing
from runner.report.tables import (
    GROUP,
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

SECONDARY = (("best", "test_acc"), ("last", "test_loss"))
HEADINGS = {
    ("best", "test_acc"): "At the epoch of lowest validation loss (secondary)",
    ("last", "test_loss"): "Test loss (secondary)",
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
    """What `build` made: the primary headline, the secondary ones, jobs that did not end, and the files written."""

    study: str
    headline: pd.DataFrame
    secondary: tuple[pd.DataFrame, ...]
    by_strength: pd.DataFrame
    failures: tuple[Failure, ...]
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]

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
) -> str:
    """The text of headline.md: per group the primary table, then the secondary ones, then what failed."""
    parts = [f"# {study}\n"]
    for title, frame in groups(primary):
        parts.append(f"## {title}\n\n{to_markdown(frame)}")
        for other in secondary:
            part = dict(groups(other))[title]
            heading = HEADINGS[str(part["checkpoint"].iloc[0]), str(part["metric"].iloc[0])]
            parts.append(f"### {heading}\n\n{to_markdown(part)}")
    if failures or lost:
        lines = [*(f"job {describe(failure)}" for failure in failures), *lost]
        parts.append("## Failures\n\n" + "".join(f"- {line}\n" for line in lines))
    return "\n".join(parts)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9=.+-]+", "_", text).strip("_")


def _draw(
    runs: pd.DataFrame, primary: pd.DataFrame, strengths: pd.DataFrame, curves: pd.DataFrame, folder: Path
) -> tuple[Path, ...]:
    """The figures of every group; with more than one group each file name ends with its group."""
    paths: list[Path] = []
    parts = groups(primary)
    runs_of, strengths_of = dict(groups(runs)), dict(groups(strengths))
    for title, frame in parts:
        own, grid = runs_of[title], strengths_of[title]
        drawings: dict[str, Drawing | None] = {
            "gap_vs_test": figures.gap_vs_test(frame, grid),
            "strength_curves": figures.strength_curves(own, frame, grid, "test"),
            "strength_gap": figures.strength_curves(own, frame, grid, "gap"),
            "learning_curves": figures.learning_curves(own, frame, curves),
        }
        for name, drawing in drawings.items():
            if drawing is not None:
                ending = f"-{_slug(title)}" if len(parts) > 1 else ""
                paths += figures.save(drawing, folder, f"{name}{ending}")
    return tuple(paths)


def build(study_dir: Path, margins: Margins = Margins()) -> Report:  # noqa: B008  # frozen
    """Make `<study_dir>/report/` anew from the jobs in `study_dir` and give what was made.

    `margins` are the differences below which the verdicts call a method equivalent to `none`.

    Raises NotAStudy for a folder without jobs and runs, NoRuns when no job left a run, NoBaseline (of tables) for a
    comparison group without `none`, ValueError for a `runs.csv` that is not one.
    """
    study_dir = study_dir.resolve()
    failures = unfinished_jobs(study_dir)
    runs_path = collect(study_dir)
    if not runs_path.is_file():
        if not any(study_dir.glob("*/status.json")):
            raise NotAStudy(f"{study_dir} is not a study: no <job>/runs.csv (studies are the folders in outputs/)")
        raise NoRuns("; ".join(["no job of this study has runs yet", *map(describe, failures)]))
    runs = in_order(read_runs(runs_path))
    if runs.empty:
        raise NoRuns("; ".join(["the jobs of this study have no runs", *map(describe, failures)]))
    folder = study_dir / "report"
    strengths = by_strength(runs)
    tables = [write_atomic(folder / "by_strength.csv", to_csv(strengths))]
    primary = headline(runs, margins=margins)
    secondary = tuple(
        without_tests(headline(runs, checkpoint, metric, margins=margins))
        for checkpoint, metric in SECONDARY
        if f"{checkpoint}_{metric}" in runs.columns
    )
    tables += [
        write_atomic(folder / "headline.csv", to_csv(pd.concat([primary, *secondary], ignore_index=True))),
        write_atomic(
            folder / "headline.md", _markdown(study_dir.name, primary, secondary, failures, _failed_runs(runs))
        ),
        write_atomic(folder / "headline.tex", to_latex(primary)),
    ]
    drawn = _draw(runs, primary, strengths, read_curves(study_dir), folder / "figures")
    return Report(study_dir.name, primary, secondary, strengths, failures, tuple(tables), drawn)
