"""Methods on the gradient and noise on the weights, at ordinary strengths."""

from __future__ import annotations

from collections.abc import Mapping

from settings import Case

from runner.methods import gradients, weight_noise

ALL = ("image", "signal", "table")
CASES: Mapping[str, Case] = {
    "clip_norm": Case(gradients.ClipNorm(0.1), ALL),
    "clip_value": Case(gradients.ClipValue(0.01), ALL),
    "agc": Case(gradients.AGC(0.05, 1e-3), ALL),
    "gradient_noise": Case(gradients.GradientNoise(1e-3, 0.55), ALL),
    "weight_noise": Case(weight_noise.WeightNoise(0.1, False), ALL),
    "weight_noise_biases": Case(weight_noise.WeightNoise(0.1, True), cocktail=False),
    "drop_connect": Case(weight_noise.DropConnect(0.3), ALL),
}
