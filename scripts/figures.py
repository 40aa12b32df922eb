"""Make what README and docs show of studies again: run them, copy their figures, put their tables into the pages.

    python scripts/figures.py            trains what outputs/ lacks of `experiment=brief` and `experiment=results`
    python scripts/figures.py --check    trains nothing and writes nothing; exit 1 if a page shows something else

A table stands between `<!-- brief: NAME -->` and `<!-- end -->`, where NAME is the title of a group in the study's
headline.md; README.md has the one that the command prints. What the pages say about all this is written by hand, so
read it again afterwards.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
# What docs/figures has, and which figure of which study it is.
FIGURES: Mapping[str, tuple[str, str]] = {
    "gap_vs_test.png": ("brief", "gap_vs_test.png"),
    "forest.png": ("brief", "forest.png"),
    "strength_curves.png": ("brief", "strength_curves.png"),
    "results_datasets.png": ("results", "datasets.png"),
    "results_forest_fashion_mnist.png": ("results", "forest-fashion_mnist_mlp.png"),
    "results_gap_vs_test_fashion_mnist.png": ("results", "gap_vs_test-fashion_mnist_mlp.png"),
    "results_forest_mnist1d.png": ("results", "forest-mnist1d_mlp.png"),
    "results_gap_decomposition_mnist1d.png": ("results", "gap_decomposition-mnist1d_mlp.png"),
}
TABLE = re.compile(r"<!-- (?P<study>\w+): (?P<title>[^\n]+) -->\n(?P<text>.*?)<!-- end -->\n", re.DOTALL)
PRINTED = "as printed"


def trained(study: str, outputs: Path) -> str:
    """Run an experiment, or what is left of it; gives what it prints."""
    command = [sys.executable, "-m", "runner.cli", f"experiment={study}", f"out={outputs}", "progress=false"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def reported(study: str, outputs: Path) -> str:
    """What is printed for a study that is there, from its runs alone."""
    command = [sys.executable, "-m", "runner.report.cli", str(outputs / study)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(study: str, title: str, printed: Mapping[str, str], outputs: Path) -> str:
    """The table of one group with its caption as Markdown, or, for "as printed", the study's first as it is printed."""
    if title == PRINTED:
        first = printed[study].partition("\nTest ")[0]
        return "".join(f"    {line}".rstrip() + "\n" for line in first.strip("\n").splitlines())
    page = (outputs / study / "report" / "headline.md").read_text(encoding="utf-8")
    for part in re.split(r"^## ", page, flags=re.MULTILINE):
        heading, _, rest = part.partition("\n")
        if heading == title:
            return rest.partition("\n### ")[0].strip("\n") + "\n"
    sys.exit(f"{study} has no group {title!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs", help="where the studies are")
    asked = parser.parse_args()
    run = reported if asked.check else trained
    printed = {study: run(study, asked.out) for study in ("brief", "results")}
    wanted: dict[Path, bytes] = {
        ROOT / "docs" / "figures" / name: (asked.out / study / "report" / "figures" / figure).read_bytes()
        for name, (study, figure) in FIGURES.items()
    }
    for page in PAGES:
        text = TABLE.sub(
            lambda found: (
                f"<!-- {found['study']}: {found['title']} -->\n"
                f"{table(found['study'], found['title'], printed, asked.out)}<!-- end -->\n"
            ),
            (ROOT / page).read_text(encoding="utf-8"),
        )
        wanted[ROOT / page] = text.encode()
    stale = [path for path, content in wanted.items() if not path.is_file() or path.read_bytes() != content]
    for path in stale:
        print(f"{'differs' if asked.check else 'written'}: {path.relative_to(ROOT)}")
        if not asked.check:
            path.write_bytes(wanted[path])
    if asked.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
