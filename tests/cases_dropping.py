"""The methods that drop or disturb hidden values, at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import structured_dropping as dropping

EVERY = ("image", "signal", "table")
CASES: Mapping[str, Case] = {
    "gaussian_dropout": Case(dropping.GaussianDropout(0.3), EVERY),
    "alpha_dropout": Case(dropping.AlphaDropout(0.1), EVERY),
    "channel_dropout": Case(dropping.ChannelDropout(0.3), EVERY),
    "dropblock": Case(dropping.DropBlock(0.2, 3), ("image", "signal")),
    "dropblock_even": Case(dropping.DropBlock(0.2, 4), ("image", "signal"), cocktail=False),
    "stochastic_depth": Case(dropping.StochasticDepth(0.3), EVERY),
    "shake_drop": Case(dropping.ShakeDrop(0.3), EVERY),
    "shake_shake": Case(dropping.ShakeShake(0.8), EVERY),
    "skip_connection": Case(dropping.SkipConnection(0.5), EVERY),
    "hidden_noise": Case(dropping.HiddenNoise(0.2), EVERY),
}
