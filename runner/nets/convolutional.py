"""Convolutional nets for signals and small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from runner.nets.sites import Mark, Slot


def conv1d(shape: Sequence[int], classes: int, width: int) -> nn.Module:
    """The convolutional net of MNIST-1D (Greydanus and Kobak 2024): x [B, C, T] -> logits [B, classes].

    Three strided convolutions of `width` channels (kernels 5, 3, 3; stride 2; padding 1) and a linear layer.
    """
    channels, length = shape
    layers: list[nn.Module] = [Mark("input")]
    for kernel in (5, 3, 3):
        layers += [nn.Conv1d(channels, width, kernel, stride=2, padding=1), Slot(width), nn.ReLU(), Mark("hidden")]
        channels, length = width, (length + 2 - kernel) // 2 + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * length, classes))


def convnet(shape: Sequence[int], classes: int, width: int, hidden: int) -> nn.Module:
    """Two blocks of convolution, ReLU and pooling, then a hidden layer: x [B, C, H, W] -> logits [B, classes].

    The blocks have `width` and 2 `width` channels (3x3 kernels), the hidden layer `hidden` units.
    """
    channels, height, breadth = shape
    layers: list[nn.Module] = [Mark("input")]
    for out in (width, 2 * width):
        layers += [nn.Conv2d(channels, out, 3, padding=1), Slot(out), nn.ReLU(), Mark("hidden"), nn.MaxPool2d(2)]
        channels, height, breadth = out, height // 2, breadth // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * breadth, hidden), Slot(hidden), nn.ReLU(), Mark("hidden")]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))
