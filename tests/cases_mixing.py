"""The methods that change targets or mix examples, at an ordinary strength."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import mixing, targets

EVERY = ("image", "signal", "table")
CASES: Mapping[str, Case] = {
    "label_smoothing": Case(targets.LabelSmoothing(0.1), EVERY),
    "disturb_label": Case(targets.DisturbLabel(0.5), EVERY),
    "bootstrap": Case(targets.Bootstrap(0.2, "soft"), EVERY, cocktail=False),  # FGSM is, and has a loss of its own too
    "bootstrap_hard": Case(targets.Bootstrap(0.2, "hard"), EVERY, cocktail=False),
    "input_noise": Case(mixing.InputNoise(0.2), EVERY),
    "cutout": Case(mixing.Cutout(0.5), EVERY),
    "random_erasing": Case(mixing.RandomErasing(0.7, 0.1, 0.4, 0.3, "mean"), EVERY),
    "random_erasing_noise": Case(mixing.RandomErasing(0.7, 0.1, 0.4, 0.3, "noise"), EVERY, cocktail=False),
    "mixup": Case(mixing.Mixup(0.4), EVERY),
    "manifold_mixup": Case(mixing.ManifoldMixup(1.0), EVERY),
    "cutmix": Case(mixing.CutMix(1.0), EVERY),
}
