"""Every method at an ordinary strength, one file for each family of methods beside this one."""

from __future__ import annotations

from collections.abc import Mapping

from cases_averaging import CASES as AVERAGING
from cases_constraints import CASES as CONSTRAINTS
from cases_dropping import CASES as DROPPING
from cases_ensembles import CASES as ENSEMBLES
from cases_gradients import CASES as GRADIENTS
from cases_mixing import CASES as MIXING
from cases_policies import CASES as POLICIES
from cases_smoothness import CASES as SMOOTHNESS
from cases_weight_penalties import CASES as WEIGHT_PENALTIES
from settings import Case

from runner.methods import augment, dropping, normalization, penalties, placebo, stopping

BRIEF: Mapping[str, Case] = {
    "placebo": Case(placebo.Placebo(1.0), trains=False),
    "placebo_seeded": Case(placebo.SeededPlacebo(1), ("image", "signal", "table")),
    "l1": Case(penalties.L1(0.05, "proximal", False)),
    "l1_subgradient": Case(penalties.L1(1e-3, "subgradient", False)),
    "l1_biases": Case(penalties.L1(0.05, "proximal", True)),
    "l2": Case(penalties.L2(1e-2, False)),
    "l2_biases": Case(penalties.L2(1e-2, True)),
    "weight_decay": Case(penalties.WeightDecay(1e-2, False)),
    "dropout": Case(dropping.Dropout(0.3, 0.1), ("image", "signal", "table")),
    "early_stopping": Case(stopping.EarlyStopping(3, 0.0), trains=False),
    "batch_norm": Case(normalization.BatchNorm(1e-5), ("image", "signal", "table")),
    "augment_signal": Case(augment.Augment(1.0, {"shift": 0.2, "scale": 0.1, "noise": 0.1}), ("signal",)),
    "augment_image": Case(augment.Augment(1.0, {"rotate": 15.0, "shift": 0.2, "flip": 0.5, "noise": 0.1})),
    "augment_table": Case(augment.Augment(1.0, {"noise": 0.1, "swap": 0.2}), ("table",)),
}

CASES: Mapping[str, Case] = {
    **BRIEF, **AVERAGING, **CONSTRAINTS, **DROPPING, **ENSEMBLES, **GRADIENTS, **MIXING, **POLICIES, **SMOOTHNESS,
    **WEIGHT_PENALTIES,
}  # fmt: skip
