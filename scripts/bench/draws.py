"""How fast are keyed draws, beside torch's own?

    python scripts/bench/draws.py                               some seconds
    python scripts/bench/draws.py --write docs/benchmarks.md

A million numbers at a time on one thread, contenders in turns: uniform numbers beside `torch.rand`, normal ones beside
`torch.randn`, and masks of dropout beside `bernoulli_`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from turns import small

from runner.keys import Key

COUNT, TIMES, TURNS = 1_000_000, 10, 15
KEY = Key.of(0)
CONTENDERS: dict[str, dict[str, Callable[[], object]]] = {
    "uniform": {"torch's": lambda: torch.rand(COUNT), "keyed": lambda: KEY.uniform(COUNT)},
    "normal": {"torch's": lambda: torch.randn(COUNT), "keyed": lambda: KEY.normal(COUNT)},
    "mask": {"torch's": lambda: torch.empty(COUNT).bernoulli_(0.7), "keyed": lambda: KEY.kept(0.3, COUNT)},
}


if __name__ == "__main__":
    small("draws", __doc__, "torch's", CONTENDERS, TURNS, TIMES)
