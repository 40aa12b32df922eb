"""Constraints, reparametrizations and norms at ordinary strengths."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import constraints, normalization, reparametrization

ALL = ("image", "signal", "table")
CASES: Mapping[str, Case] = {
    "max_norm": Case(constraints.MaxNorm(0.5), ALL),
    "unit_norm": Case(constraints.UnitNorm(0.7), ALL),
    "non_negative": Case(constraints.NonNegative(0.6, False), ALL),
    "non_negative_biases": Case(constraints.NonNegative(0.6, True), cocktail=False),
    "prune": Case(constraints.Prune(0.7, 0.1, 0.8, 2), ALL),
    "weight_norm": Case(reparametrization.WeightNorm(1.5), ALL),
    "spectral_norm": Case(reparametrization.SpectralNorm(1.5, "equal"), ALL, cocktail=False),  # no other beside it
    "spectral_norm_at_most": Case(reparametrization.SpectralNorm(0.5, "at_most"), cocktail=False),
    # weight_norm stands for it in the cocktail
    "weight_standardization": Case(reparametrization.WeightStandardization(1e-3, True), ALL, cocktail=False),
    "weight_standardization_plain": Case(reparametrization.WeightStandardization(1e-3, False), cocktail=False),
    # one norm in a stack: batch_norm stands for them in the cocktail
    "layer_norm": Case(normalization.LayerNorm(1e-5), ALL, cocktail=False),
    "group_norm": Case(normalization.GroupNorm(2, 1e-5), ALL, cocktail=False),
    "rms_norm": Case(normalization.RMSNorm(1e-5), ALL, cocktail=False),
    "ghost_batch_norm": Case(normalization.GhostBatchNorm(3, 1e-5), ALL, cocktail=False),
}
