"""Convolutional nets for signals and small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from runner.nets.sites import Mark, Slot

Towers: TypeAlias = tuple[int, int]  # channels of the 1x1 and of the 3x3 convolution of an inception module
# Zhang et al. (2017), figure 3: a number is a downsampling module and the channels of its convolution.
INCEPTION: tuple[Towers | int, ...] = (
    (32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160), (176, 160),
)  # fmt: skip


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


def alexnet_small(shape: Sequence[int], classes: int) -> nn.Module:
    """The small AlexNet of Zhang et al. (2017): x [B, C, H, W] -> logits [B, classes].

    Twice a 5x5 convolution of 64 channels, ReLU, 3x3 max pooling with stride 2 and local response normalization; then
    layers of 384 and 192 ReLU units. The paper leaves the numbers of channels out; these give its 1,387,786 parameters
    at 28 x 28 x 3 and 10 classes.
    """
    channels, height, breadth = shape
    layers: list[nn.Module] = [Mark("input")]
    for _ in range(2):
        layers += [nn.Conv2d(channels, 64, 5, padding=2), Slot(64), nn.ReLU(), Mark("hidden")]
        # Krizhevsky et al. (2012) divide by (2 + 1e-4 * sum of 5 squares)^0.75; torch takes the mean of the 5
        layers += [nn.MaxPool2d(3, stride=2, padding=1), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)]
        channels, height, breadth = 64, (height + 1) // 2, (breadth + 1) // 2
    layers.append(nn.Flatten())
    inputs = channels * height * breadth
    for units in (384, 192):
        layers += [nn.Linear(inputs, units), Slot(units), nn.ReLU(), Mark("hidden")]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Beside(nn.Module):
    """Several parts that see the same value, their channels put one after the other."""

    def __init__(self, *parts: nn.Module) -> None:
        """Put these parts side by side."""
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, C, ...] -> the parts' outputs [B, sum of their channels, ...]."""
        return torch.cat([part(h) for part in self.parts], 1)


def inception_small(shape: Sequence[int], classes: int) -> nn.Module:
    """The small Inception of Zhang et al. (2017): x [B, C, H, W] -> logits [B, classes].

    A 3x3 convolution of 96 channels; eight modules of a 1x1 and a 3x3 convolution side by side; between them two that
    halve the image by a 3x3 convolution and a max pooling side by side; the mean over the image and a linear layer.
    Every convolution has a bias and a slot, so that the net as it is is the paper's "Inception w/o BatchNorm", of
    1,649,402 parameters at 3 channels and 10 classes, and `method=batch_norm` makes its Inception.
    """

    def convolution(channels: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
        padding = kernel // 2
        return [nn.Conv2d(channels, out, kernel, stride, padding), Slot(out), nn.ReLU()]

    layers = [Mark("input"), *convolution(shape[0], 96, 3, 1), Mark("hidden")]
    channels = 96
    _, _height, _breadth = shape  # an image
    for part in INCEPTION:
        if isinstance(part, tuple):
            towers = [nn.Sequential(*convolution(channels, out, 2 * i + 1, 1)) for i, out in enumerate(part)]
            layers += [Beside(*towers), Mark("hidden")]
            channels = sum(part)
        else:
            halved = nn.Sequential(*convolution(channels, part, 3, 2))
            layers += [Beside(halved, nn.MaxPool2d(3, stride=2, padding=1)), Mark("hidden")]
            channels += part
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
