"""Ensembles at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import ensembles

ALL = ("image", "signal", "table")

CASES: Mapping[str, Case] = {
    "snapshot_ensemble": Case(ensembles.SnapshotEnsemble(2, 3), trains=True, cocktail=False),
    "ensemble": Case(ensembles.Ensemble(2), ALL, cocktail=False),  # copies of a run: the hooks of others see one
    "mc_dropout": Case(ensembles.MCDropout(0.3, 4), ALL),
}
