"""Flat minima and averages of the weights, at an ordinary strength; one of the averages stands in the cocktail."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import averaging, flatness

ALL = ("image", "signal", "table")

CASES: Mapping[str, Case] = {
    "sam": Case(flatness.SAM(0.05), ALL),
    "asam": Case(flatness.ASAM(0.5, 0.01), ALL, cocktail=False),  # SAM is in it, and passes multiply
    "swa": Case(averaging.SWA(0.2, 1), cocktail=False),
    "swa_every": Case(averaging.SWA(0.0, 2), cocktail=False),
    "ema": Case(averaging.EMA(0.9), cocktail=False),
    "lookahead": Case(averaging.Lookahead(0.5, 2), ALL, cocktail=False),
    "mean_teacher": Case(averaging.MeanTeacher(10.0, 0.9, 0.5), ALL),
}
