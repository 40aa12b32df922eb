"""Made-up classes, or numbers, whose true function is known, and so every error above the best possible one."""

from __future__ import annotations

from functools import lru_cache

import torch

from runner.data.base import Data, tasked
from runner.errors import Refusal
from runner.keys import Key


@lru_cache(maxsize=2)
def teacher(
    pool: int, test: int, inputs: int, relevant: int, hidden: int, classes: int, noise: float, seed: int, task: str
) -> Data:
    """Standard normal inputs [N, inputs], labelled by a random network of one hidden layer, a share of labels wrong.

    The teacher sees the first `relevant` inputs: logits V tanh(W x), where W is normal with variance 4 / relevant, so
    that its units bend, and V with variance 1 / hidden; each logit less an offset with which the classes are about as
    frequent as each other. The label is the largest logit's class with probability 1 - noise, else any other class, all
    alike. For noise below (classes - 1) / classes no classifier errs less than the teacher: its risk, the Bayes error,
    is `noise` exactly, and the excess risk of a model is its test error less `noise` (less the teacher's own error on
    the test set, which Data.truth gives, for a smaller sampling error).

    With `task` regression the teacher has one output, which normal noise is added to; `noise` is its share of the
    variance of what is to be predicted, and the best R2 is 1 - noise.
    """
    regression = tasked(task) == "regression"
    if classes < 2:
        raise Refusal(f"data.classes is {classes}; there must be two at least (data.classes=...)")
    for name, value, most in (
        ("relevant", relevant, inputs),
        ("noise", noise, 0.99 if regression else (classes - 1) / classes),
    ):
        if not 0 <= value <= most:
            raise Refusal(f"data.{name} is {value:g}; it must be from 0 to {most:g} (data.{name}=...)")
    root = Key.of(seed).fold("teacher")
    weights = 2 * root.fold("hidden").normal(relevant, hidden) / relevant**0.5
    out = root.fold("out").normal(hidden, 1 if regression else classes) / hidden**0.5

    def logits(x: torch.Tensor) -> torch.Tensor:
        guess: torch.Tensor = torch.tanh(x[:, :relevant] @ weights) @ out
        return guess

    x = root.fold("x").normal(pool + test, inputs)
    sample = logits(root.fold("sample").normal(10_000, relevant))
    official = torch.arange(pool, pool + test)
    if regression:
        right = logits(x)[:, 0]
        spread = sample.std() * (noise / (1 - noise)) ** 0.5
        y = right + spread * root.fold("which").normal(len(x))
        return Data("teacher", "table", x, y, 1, official, truth=right, bayes_error=noise, task=task)
    offset = _offset(sample)
    truth = (logits(x) - offset).argmax(1)
    other = (truth + 1 + (root.fold("class").uniform(len(x)) * (classes - 1)).long()) % classes
    y = torch.where(root.fold("which").uniform(len(x)) < noise, other, truth)
    return Data("teacher", "table", x, y, classes, official, truth=truth, bayes_error=noise)


def _offset(logits: torch.Tensor) -> torch.Tensor:
    """What to take from logits [N, K] so that each class is the largest about as often: [K].

    A class that is too frequent loses a little, fifty times.
    """
    classes = logits.shape[1]
    offset = logits.mean(0)
    for _ in range(50):
        share = torch.bincount((logits - offset).argmax(1), minlength=classes) / len(logits)
        offset = offset + logits.std() * (share - 1 / classes) / 2
    return offset
