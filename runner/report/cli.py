"""`regrun-report STUDY_DIR`: make the tables and figures of a study and print the headline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.report.build import Report

OK, FAILED_JOBS, UNUSABLE = 0, 1, 2


def show(report: Report) -> None:
    """Print each group's headline with its caption, the paths of the tables and pictures, and what did not end."""
    from rich.console import Console

    from runner.report.build import describe
    from runner.report.tables import groups
    from runner.report.writers import caption, terminal_table

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    for _, frame in groups(report.headline):
        console.print(terminal_table(frame, max(100, console.width)))
        console.print(caption(frame), style="dim", markup=False)
        console.print()
    for path in (*report.tables, *(path for path in report.figures if path.suffix == ".png")):
        console.print(str(path), soft_wrap=True, markup=False)
    for failure in report.failures:
        print(f"job {describe(failure)}", file=sys.stderr)


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in ("acc", "gap", "loss"):
        raise ValueError(f"--margin {text}: it must be acc=..., gap=... or loss=...")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--margin {text}: {value!r} is not a number") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Build the report of a study; 0 when all is well, 1 when jobs failed, 2 for a folder that cannot be reported."""
    parser = argparse.ArgumentParser(
        prog="regrun-report", description="Tables and figures of a study: runs.csv and report/ in its folder."
    )
    parser.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="a folder of runs, as outputs/NAME")
    parser.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="acc=0.01",
        help="another margin for the verdicts (acc, gap, loss)",
    )
    arguments = parser.parse_args(argv)
    study_dir: Path = arguments.study_dir
    if not study_dir.is_dir():
        print(f"regrun-report: no folder {study_dir} (studies are the folders in outputs/)", file=sys.stderr)
        return UNUSABLE

    # Here, so that --help and a wrong path answer at once.
    from runner.report.build import NoRuns, build, stored_margins
    from runner.report.tables import Margins

    try:
        margins = None
        if arguments.margin:
            changed = dict(_margin(text) for text in arguments.margin)
            margins = replace(stored_margins(study_dir) or Margins(), **changed)
        report = build(study_dir, margins)
    except NoRuns as error:
        print(f"regrun-report: {error}", file=sys.stderr)
        return FAILED_JOBS
    except ValueError as error:
        print(f"regrun-report: {error}", file=sys.stderr)
        return UNUSABLE
    show(report)
    return FAILED_JOBS if report.failed else OK


if __name__ == "__main__":
    sys.exit(main())
