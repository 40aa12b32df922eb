"""How far a net's probabilities can be taken at their word: the figures of one run on one set of examples.

They are made from log-probabilities, so that nets and averages of nets are treated alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from runner.keys import Key

BINS = 15  # of equal width: Guo et al. 2017
RESAMPLES = 200  # that the null level is a quantile of; it is then sure to about 2 % of itself
FINEST = 2**24  # uniform numbers are multiples of 1 / FINEST
NULL_SHARE = 0.95
COLDEST, HOTTEST = 0.01, 100.0  # temperatures between which the best is looked for
ROUNDS = 60  # of the search at most: 10 are the rule, and 45 halvings lead to an end of the range
CLOSE = 1e-12  # of itself: when the search has found its root


class Marks(NamedTuple):
    """What each example of a set says, and what remains of it when the set is done."""

    hits: Tensor  # bool [n]: whether the most probable class is the right one
    confidence: Tensor  # float64 [n]: the probability of the most probable class
    brier: Tensor  # float64 [n]: sum over classes of (probability - one-hot)^2, in [0, 2]
    scaled: Tensor  # float64 [n]: cross-entropy in nats after temperature scaling


def marks(logp: Tensor, y: Tensor, temperature: Tensor) -> Marks:
    """The marks of examples with log-probabilities logp [n, C] and labels y [n], at a temperature [].

    The Brier score is that of several classes  (Brier 1950). Softmax is taken of classes first, which for few of them
    is faster where examples are last in memory, as those of an evaluation are (docs/benchmarks.md).
    """
    logp = logp.double()
    p, own = logp.exp(), y[:, None]
    confidence, predicted = p.max(1)
    brier = (p**2).sum(1) - 2 * p.gather(1, own)[:, 0] + 1
    scaled = -(logp / temperature).mT.log_softmax(0).mT.gather(1, own)[:, 0]
    return Marks(predicted == y, confidence, brier, scaled)


def best_temperature(logp: Tensor, y: Tensor) -> Tensor:
    """The temperature in [COLDEST, HOTTEST] at which p^(1/T), normalized, has the least cross-entropy: []  (Guo 2017).

    logp [n, C] are log-probabilities and y [n] labels, of validation examples. The cross-entropy is convex in 1/T: the
    root of its slope is found by Newton's steps, and by halving where one would leave the bracket. NaN where n is 0.
    """
    logp = logp.double()
    right = logp.gather(1, y[:, None])[:, 0].mean()
    low, high = torch.full_like(right, 1 / HOTTEST), torch.full_like(right, 1 / COLDEST)
    at, before = torch.ones_like(right), torch.zeros_like(right)
    for _ in range(ROUNDS):
        if not (at - before).abs() > CLOSE * at:  # also where they are NaN
            break
        p = (logp * at).mT.softmax(0).mT
        mean = (p * logp).sum(1)
        slope = mean.mean() - right
        curvature = ((p * logp**2).sum(1) - mean**2).mean()
        low, high = torch.where(slope < 0, at, low), torch.where(slope < 0, high, at)
        step, before = at - slope / curvature, at
        at = torch.where((step > low) & (step < high), step, (low * high).sqrt())
    return torch.where(right.isfinite(), 1 / at, torch.nan)


def bins(confidence: Tensor) -> Tensor:
    """Which of BINS equal parts of (0, 1] each confidence [n] falls into: int64 [n]; NaN goes with the least."""
    return ((confidence.nan_to_num(0) * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def calibration_error(hits: Tensor, confidence: Tensor) -> Tensor:
    """Expected calibration error, sum over bins of n_b / n |accuracy_b - mean confidence_b|: []  (Guo et al. 2017).

    hits [n] are bool; the error is a fraction.
    """
    apart = torch.zeros(BINS, dtype=torch.float64, device=hits.device)
    apart = apart.index_add(0, bins(confidence), hits.double() - confidence)
    return apart.abs().sum() / len(hits)


@lru_cache(maxsize=1)
def null_draws(n: int, device: torch.device) -> Tensor:
    """Uniform numbers [RESAMPLES, n] for `null_level`, the same for all runs, so that they are drawn once.

    They are whole numbers in [0, FINEST).
    """
    return Key.of(0, device).fold("calibration").uniform(RESAMPLES, n) * FINEST


def null_level(confidence: Tensor, draws: Tensor) -> Tensor:
    """The calibration error that a perfectly calibrated net with these confidences [n] stays below in 95 of 100 cases.

    Its hits are drawn with the confidences as their probabilities, by `draws` [R, n] of `null_draws`: [].
    """
    places = F.one_hot(bins(confidence), BINS)
    # 1 where a draw is below its confidence, else 0; a comparison and its conversion would take ten times as long
    hits = ((confidence * FINEST).ceil().float() - draws).clamp_(0, 1)
    counts = hits @ places.float()  # whole numbers, hence exact: [R, BINS]
    expected = (confidence[:, None] * places).sum(0)
    errors = (counts.double() - expected).abs().sum(1) / len(confidence)
    return errors.nan_to_num(0).quantile(NULL_SHARE)
