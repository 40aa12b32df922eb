"""Penalties on logits, hidden values and slopes, at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import smoothness

ALL = ("image", "signal", "table")

CASES: Mapping[str, Case] = {
    "logit_penalty": Case(smoothness.LogitPenalty(0.1)),
    "confidence_penalty": Case(smoothness.ConfidencePenalty(0.1)),
    "focal": Case(smoothness.Focal(2.0), cocktail=False),  # FGSM is in it, and has a loss of its own too
    "flooding": Case(smoothness.Flooding(3.0), cocktail=False),  # so has this; losses of these tests are about 1.5
    "activity_l1": Case(smoothness.ActivityL1(1e-2), ALL),
    "kl_sparsity": Case(smoothness.KLSparsity(0.1, 0.05), ALL),
    "jacobian": Case(smoothness.Jacobian(0.1), ALL),
    "input_gradient": Case(smoothness.InputGradient(0.1), ALL),
    "r_drop": Case(smoothness.RDrop(1.0, 0.3), ALL, cocktail=False),  # FGSM is in it, and each has a loss of its own
    "fgsm": Case(smoothness.FGSM(0.1, 0.5), ALL),
    "virtual_adversarial": Case(smoothness.VirtualAdversarial(1.0, 1.0), ALL),
}
