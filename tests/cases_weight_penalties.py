"""Penalties on rows, matrices, paths and counts of weights, at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import weight_penalties as penalties

ALL = ("image", "signal", "table")

CASES: Mapping[str, Case] = {
    "elastic_net": Case(penalties.ElasticNet(0.05, 0.5, "proximal", False)),
    "elastic_net_subgradient": Case(penalties.ElasticNet(1e-2, 0.5, "subgradient", True), cocktail=False),
    "group_lasso": Case(penalties.GroupLasso(0.02, "proximal", False), ALL),
    "group_lasso_subgradient": Case(penalties.GroupLasso(1e-2, "subgradient", True), ALL, cocktail=False),
    "orthogonal": Case(penalties.Orthogonal(1e-2), ALL),
    "spectral_penalty": Case(penalties.SpectralPenalty(1e-2), ALL),
    "l2_sp": Case(penalties.L2SP(0.1, False)),
    "l2_sp_biases": Case(penalties.L2SP(0.1, True), cocktail=False),
    "path_norm": Case(penalties.PathNorm(0.1, False), ALL, cocktail=False),  # no norms beside it
    "path_norm_biases": Case(penalties.PathNorm(0.1, True), cocktail=False),
    "l0": Case(penalties.L0(1e-3, 0.3), ALL),
}
