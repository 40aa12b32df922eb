"""Augmentation policies, at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import policies

BOTH = ("image", "signal")

CASES: Mapping[str, Case] = {
    "rand_augment": Case(policies.RandAugment(9.0, 2), BOTH),
    "trivial_augment": Case(policies.TrivialAugment(0.5), BOTH),
    "aug_mix": Case(policies.AugMix(3.0, 3), BOTH),
    "aug_mix_jsd": Case(policies.AugMixJSD(3.0, 2, 12.0), BOTH, cocktail=False),  # no mixing beside it
}
