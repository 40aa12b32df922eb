"""`regrun-report STUDY_DIR`: make the tables and figures of a study and print the headline."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runner.errors import Refusal

if TYPE_CHECKING:
    from runner.report.build import Report

OK, FAILED_JOBS, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
DIFFERENT = 1  # a run that was verified


def show(report: Report) -> None:
    """Print each group's headline with its caption, where tables and figures are, and what did not end."""
    from runner.console import plain
    from runner.report.build import describe
    from runner.report.tables import groups
    from runner.report.writers import caption, terminal_table

    console = plain(width=None if sys.stdout.isatty() else 100, highlight=False)
    for _, frame in groups(report.headline):
        console.print(terminal_table(frame, max(100, console.width)))
        console.print(caption(frame), style="dim")
        console.print()
    for line in _places(report):
        console.print(line, soft_wrap=True)
    for failure in report.failures:
        print(f"job {describe(failure)}", file=sys.stderr)


def _places(report: Report) -> Iterator[str]:
    """Where the report is: its page, and by folder the names of its tables and figures, and the kinds of files."""
    page = [path for path in report.tables if path.suffix == ".html"]
    yield from map(str, page)
    others = [path for path in (*report.tables, *report.figures) if path not in page]
    for folder in dict.fromkeys(path.parent for path in others):
        inside = [path for path in others if path.parent == folder]
        names, kinds = (dict.fromkeys(parts) for parts in zip(*((p.stem, p.suffix) for p in inside), strict=True))
        yield f"{folder}: {', '.join(names)} ({' '.join(kinds)})"


def _margin(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in ("acc", "gap", "loss"):
        raise ValueError(f"--margin {text}: it must be acc=..., gap=... or loss=...")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--margin {text}: {value!r} is not a number") from None


class OneLine(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(UNUSABLE, f"{self.prog}: {' '.join(message.split())} ({self.prog} --help)\n")


def _merged(studies: Sequence[Path], into: Path | None) -> Path:
    from runner.report.merge import merge

    return merge(studies, into or studies[0].resolve().parent / "+".join(study.resolve().name for study in studies))


def _verify(study_dir: Path, seed: int | None, allow: Sequence[str]) -> int:
    from runner.verify import verify

    try:
        same, line = verify(study_dir, seed, allow)
    except Refusal as error:
        print(f"regrun-report: {error}", file=sys.stderr)
        return UNUSABLE
    print(line)
    return OK if same else DIFFERENT


def main(argv: Sequence[str] | None = None) -> int:
    """`regrun-report`, with a line for what can be foreseen: what cannot be written, a terminal without Δ, Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no Δ shows something else
    try:
        return _main(argv)
    except OSError as error:
        told = f"cannot write: {error}" if error.filename or error.errno == errno.ENOSPC else str(error)
    except KeyboardInterrupt:
        print("regrun-report: interrupted; the same command makes the report again", file=sys.stderr)
        return INTERRUPTED
    print(f"regrun-report: {told}", file=sys.stderr)
    return UNUSABLE


def _main(argv: Sequence[str] | None) -> int:
    """Build the report of a study; 0 when all is well, 1 when jobs failed, 2 for a folder that cannot be reported.

    With --verify: 0 if the run gave the same figures again, 1 if not, 2 if it could not be run.
    """
    parser = OneLine(
        prog="regrun-report",
        description="Tables and figures of a study: runs.csv and report/ in its folder. Several studies are merged.",
    )
    parser.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY_DIR", help="a folder of runs, as outputs/NAME; or several"
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="where several studies are merged (default: their names, joined)"
    )
    parser.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="acc=0.01",
        help="another margin for the verdicts (acc, gap, loss)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="run one run again from what is stored, and compare all figures"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="which run to verify (default: any; it is printed)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE", help="a package of yours that --verify may import"
    )
    arguments = parser.parse_args(argv)
    study_dir: Path = arguments.studies[0]
    if arguments.verify and len(arguments.studies) > 1:
        print("regrun-report: --verify takes one study", file=sys.stderr)
        return UNUSABLE
    if not study_dir.is_dir():
        print(f"regrun-report: no folder {study_dir} (studies are the folders in outputs/)", file=sys.stderr)
        return UNUSABLE

    if arguments.verify:
        return _verify(study_dir, arguments.seed, arguments.allow)

    if len(arguments.studies) > 1:
        try:
            study_dir = _merged(arguments.studies, arguments.into)
        except Refusal as error:
            print(f"regrun-report: {error}", file=sys.stderr)
            return UNUSABLE

    # Here, so that --help and a wrong path answer at once.
    from runner.report.build import NoRuns, build_alone, stored_margins
    from runner.report.tables import Margins

    try:
        margins = None
        if arguments.margin:
            changed = dict(_margin(text) for text in arguments.margin)
            margins = replace(stored_margins(study_dir) or Margins(), **changed)
        report = build_alone(study_dir, margins)
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
