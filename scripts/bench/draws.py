"""How fast are keyed draws, beside torch's own?

    python scripts/bench/draws.py                               some seconds
    python scripts/bench/draws.py --write docs/benchmarks.md

A million numbers at a time on one thread, contenders in turns: uniform numbers beside `torch.rand`, normal ones beside
`torch.randn`, and masks of dropout beside `bernoulli_`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from turns import machine, of, put, row, store, table, turns

from runner.engine.machine import prepare
from runner.keys import Key

COUNT, TIMES, TURNS = 1_000_000, 10, 15
KEY = Key.of(0)
CONTENDERS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "uniform": (lambda: KEY.uniform(COUNT), lambda: torch.rand(COUNT)),
    "normal": (lambda: KEY.normal(COUNT), lambda: torch.randn(COUNT)),
    "mask": (lambda: KEY.kept(0.3, COUNT), lambda: torch.empty(COUNT).bernoulli_(0.7)),
}


def several(draw: Callable[[], object]) -> Callable[[int], object]:
    """So many draws, one after another."""
    return lambda count: [draw() for _ in range(count)] and None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args()
    about = machine()
    prepare()  # as regrun does before it trains
    torch.set_num_threads(1)
    rows = []
    for what, (keyed, torchs) in CONTENDERS.items():
        seen = turns({"torch's": several(torchs), "keyed": several(keyed)}, TURNS, TIMES)
        rows += [row(f"{what}: {name}", seen[name], seen["torch's"]) for name in seen]
    page = "\n".join([of(about), table("torch's", rows)])
    print(page)
    store(Path("outputs/bench/draws.json"), {"machine": about, "rows": [asdict(one) for one in rows]})
    if asked.write:
        put(asked.write, "draws", page)


if __name__ == "__main__":
    main()
