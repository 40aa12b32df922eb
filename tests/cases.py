"""Every method at an ordinary strength, one file for each family of methods beside this one."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import augment, dropping, normalization, penalties, placebo, stopping

BRIEF: Mapping[str, Case] = {
    "placebo": Case(placebo.Placebo(1.0), trains=False),
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

CASES: Mapping[str, Case] = {**BRIEF}
