"""How fast are the few operations that regrun does in another way than torch's first one, beside that one?

    python scripts/bench/kernels.py                               some seconds
    python scripts/bench/kernels.py --write docs/benchmarks.md

On one thread, contenders in turns, sizes being those of MNIST-1D in a pack of eleven runs of `mlp`: the order of an
epoch's 4,000 examples for each run; and what an evaluation says of 500 examples, log-probabilities and the most
probable of ten classes, where examples come first in memory and where they come last, the product of the last layer
that gives it ten numbers of a hundred, that of a hidden layer by either library, with its biases and in either order;
in a pack of 17 runs of `conv1d`, the masks of its first layer for 100 examples, whose values lie with examples last in
memory; and for one run the level that its calibration error stays below by chance, on 10,000 test examples.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor
from torch.func import vmap
from turns import small

from runner.engine.calibration import null_draws, null_level
from runner.engine.products import exact, onednn
from runner.keys import Key

RUNS, EXAMPLES, CLASSES, WIDTH, ROWS = 11, 500, 10, 100, 4000
TIMES, TURNS = 20, 15
SEEDS = torch.arange(RUNS)
LOGITS = 3 * Key.of(0).normal(RUNS, EXAMPLES, CLASSES)
LAST = LOGITS.mT.contiguous()  # the same with examples last
HIDDEN, WEIGHTS = Key.of(1).normal(RUNS, EXAMPLES, WIDTH), Key.of(2).normal(RUNS, CLASSES, WIDTH)
SQUARE, BIASES = Key.of(3).normal(RUNS, WIDTH, WIDTH), Key.of(4).normal(RUNS, 1, WIDTH)
HIDDEN_LAST, BIASES_LAST = HIDDEN.mT.contiguous(), BIASES.mT.contiguous()

CONFIDENCE, DRAWS = Key.of(5).uniform(10_000).double(), null_draws(10_000, torch.device("cpu"))
SIGNALS, RATES = torch.empty(17, 25, 19, 100).permute(0, 3, 1, 2), torch.linspace(0.1, 0.5, 17)


def masks(draw: Callable[[Key, Tensor, Tensor], Tensor]) -> Callable[[], object]:
    """A draw of the masks of all runs."""
    lanes = vmap(lambda state, rate, x: draw(Key(state), rate, x))
    return lambda: lanes(Key.of(torch.arange(len(RATES))).state, RATES, SIGNALS)


def moved(key: Key, rate: Tensor, x: Tensor) -> Tensor:
    """A mask that is drawn in the order of its dimensions, and then laid out like x."""
    return key.kept(rate, *x.shape).permute(1, 2, 0).contiguous().permute(2, 0, 1)


def orders(draw: Callable[[Key], object]) -> Callable[[], object]:
    """A draw of the orders of all runs in another epoch each time: a processor learns what it sorts again and again."""
    epochs = count()
    return lambda: draw(Key.of(SEEDS).fold(next(epochs)))


def one_by_one(key: Key) -> object:
    """The orders of the runs, each by torch's sort."""
    return torch.stack([Key(state, key.path).permutation(ROWS) for state in key.state])


def by_onednn(kernel: Callable[[], object]) -> Callable[[], object]:
    """A kernel whose products oneDNN is asked for."""

    def asking() -> object:
        with onednn(exact()):
            return kernel()

    return asking


CONTENDERS: dict[str, dict[str, Callable[[], object]]] = {
    "orders": {"torch's": orders(one_by_one), "numpy's": orders(lambda key: key.permutations(ROWS))},
    "log-probabilities": {
        "log_softmax": lambda: LOGITS.log_softmax(2),
        "logsumexp": lambda: LOGITS - LOGITS.logsumexp(2, keepdim=True),
        "laid out and log_softmax, examples last": lambda: LOGITS.mT.contiguous().log_softmax(1),
        "log_softmax, examples last": lambda: LAST.log_softmax(1),
    },
    "most probable": {
        "argmax": lambda: LOGITS.argmax(2),
        "argmax, examples last": lambda: LAST.argmax(1),
        "max, examples last": lambda: LAST.max(1),
    },
    "last layer": {
        "examples times weights": lambda: HIDDEN @ WEIGHTS.mT,
        "weights times examples": lambda: WEIGHTS @ HIDDEN.mT,
    },
    "masks, examples last": {
        "laid out when they are drawn": masks(moved),
        "drawn where they lie": masks(lambda key, rate, x: key.kept_like(rate, x)),
    },
    "products": {
        "MKL's": lambda: HIDDEN @ SQUARE.mT,
        "oneDNN's": by_onednn(lambda: HIDDEN @ SQUARE.mT),
    },
    "hidden layer": {
        "biases added to the product": by_onednn(lambda: (HIDDEN @ SQUARE.mT).add_(BIASES)),
        "biases in the product": by_onednn(lambda: torch.baddbmm(BIASES, HIDDEN, SQUARE.mT)),
        "weights times examples, examples last": by_onednn(lambda: (SQUARE @ HIDDEN_LAST).add_(BIASES_LAST)),
    },
    "level by chance": {
        "MKL's product": lambda: null_level(CONFIDENCE, DRAWS),
        "oneDNN's product": by_onednn(lambda: null_level(CONFIDENCE, DRAWS)),
    },
}


if __name__ == "__main__":
    small("kernels", __doc__, "the first of its kind", CONTENDERS, TURNS, TIMES)
