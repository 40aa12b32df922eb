"""What benchmarks share: contenders that take turns, ratios within each turn, and the machine they ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from runner.engine.machine import prepare

Train = Callable[[int], object]  # for so many steps, at most an epoch's
Clock = Callable[[], float]  # seconds
STEPS = 40  # of a turn, unless said otherwise


@dataclass(frozen=True)
class Row:
    """One line of a table: milliseconds per step and run, and its ratio to the line it is compared with."""

    what: str
    ms: float  # median over turns
    ratio: float  # median over turns
    low: float
    high: float
    turns: int


def turns(
    contenders: Mapping[str, Train], count: int, steps: int = STEPS, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """Milliseconds per step of each contender, who take turns `count` times after one that does not count."""
    seen: dict[str, list[float]] = {what: [] for what in contenders}
    for turn in range(count + 1):
        for what, train in contenders.items():
            began = clock()
            train(steps)
            if turn:
                seen[what].append((clock() - began) / steps * 1e3)
    return seen


def row(what: str, mine: list[float], theirs: list[float]) -> Row:
    """The row of a contender, given its milliseconds and those of what it is compared with, turn by turn."""
    ratios = [m / t for m, t in zip(mine, theirs, strict=True)]
    return Row(what, median(mine), median(ratios), min(ratios), max(ratios), len(ratios))


def small(
    name: str,
    about: str | None,
    head: str,
    kinds: Mapping[str, Mapping[str, Callable[[], object]]],
    count: int,
    times: int,
) -> None:
    """The script of a benchmark of small operations: contenders of each kind beside the first one, on one thread."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args()
    where = machine()
    prepare()  # as regrun does before it trains
    torch.set_num_threads(1)
    rows = []
    for kind, contenders in kinds.items():
        seen = turns({what: _several(once) for what, once in contenders.items()}, count, times)
        first = next(iter(seen.values()))
        rows += [row(f"{kind}: {what}", each, first) for what, each in seen.items()]
    page = "\n".join([of(where), table(head, rows)])
    print(page)
    store(Path(f"outputs/bench/{name}.json"), {"machine": where, "rows": [asdict(one) for one in rows]})
    if asked.write:
        put(asked.write, name, page)


def _several(once: Callable[[], object]) -> Train:
    """So many times, one after another."""
    return lambda times: [once() for _ in range(times)] and None


def table(head: str, rows: Sequence[Row]) -> str:
    """A Markdown table of the rows, `head` saying what their ratios are to."""
    lines = [f"| | ms per step and run | times {head} | least to most | turns |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {r.what} | {r.ms:.2f} | {r.ratio:.2f} | {r.low:.2f} to {r.high:.2f} | {r.turns} |" for r in rows]
    return "\n".join(lines)


def lined(lines: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of lines that name their columns themselves."""
    names = list(lines[0])
    head = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    return "\n".join([*head, *("| " + " | ".join(str(line[name]) for name in names) + " |" for line in lines)])


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": f"{model}, {cores} cores",
        "load at the start": load,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def of(about: Mapping[str, str]) -> str:
    """The machine, above a table, in lines as long as a page's."""
    return textwrap.fill("; ".join(f"{key}: {value}" for key, value in about.items()), 120) + "\n"


def put(page: Path, name: str, text: str) -> None:
    """Put a text between the markers `name` of a page; ends the program if the page lacks them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{page} lacks the markers {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def store(path: Path, content: object) -> None:
    """Write figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
