"""Convolutions of signals as matrix products, for nets that are mapped over lanes on a CPU.

Mapped over lanes, torch's convolutions become grouped ones, which a CPU computes several times slower than the same
arithmetic in batched matrix products (docs/benchmarks.md). Those give a lane the same bits however many there are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.nets.norms import NormLayer
from runner.nets.residual import Residual
from runner.nets.sites import Mark, Slot


def patches(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The patches of signals x [B, C, T] that a convolution weighs: [B, out, kernel * C], tap after tap.

    >>> patches(torch.arange(4.0).view(1, 1, 4), kernel=3, stride=2, padding=1)
    tensor([[[0., 0., 1.],
             [1., 2., 3.]]])
    """
    batch, channels, length = x.shape
    out = (length + 2 * padding - kernel) // stride + 1
    pieces = -(-kernel // stride)  # a patch is so many steps of `stride` taps, the last of them cut short
    steps = out + pieces - 1
    x = F.pad(x.mT, (0, 0, padding, steps * stride - padding - length))  # channels last; cuts off what no patch reaches
    x = x.reshape(batch, steps, stride * channels)
    taps = [min(stride, kernel - i * stride) for i in range(pieces)]
    return torch.cat([x[:, i : i + out, : n * channels] for i, n in enumerate(taps)], 2)


class LanewiseConv1d(nn.Conv1d):
    """nn.Conv1d as a matrix product of patches and filters."""

    channels_last = False  # whether its output may have its channels last in memory, as the product gives it

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, O, out]."""
        (kernel,), (stride,), padding = self.kernel_size, self.stride, self.padding[0]
        assert isinstance(padding, int)
        seen = patches(x, kernel, stride, padding)
        y = seen.flatten(0, 1) @ self.weight.mT.flatten(1).mT
        out: Tensor = (y if self.bias is None else y + self.bias).unflatten(0, seen.shape[:2]).mT
        return out if self.channels_last else out.contiguous()


def lanewise(net: nn.Module) -> None:
    """Make the net's convolutions of signals such products, in place.

    Those with groups, dilation or a padding other than zeros stay torch's, and so do those of images, which lose little
    where they are mapped (docs/benchmarks.md).
    """
    for module in net.modules():
        if type(module) is nn.Conv1d and _plain(module):
            module.__class__ = LanewiseConv1d
    indifferent = all(isinstance(module, INDIFFERENT) for module in net.modules())
    for module in net.modules():
        if isinstance(module, LanewiseConv1d):
            module.channels_last = indifferent


def _plain(module: nn.Conv1d) -> bool:
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return zeros and module.groups == 1 and module.dilation == (1,)


# Layers as fast in either layout; torch's pools, for one, are mapped by a loop where channels come last.
INDIFFERENT = (LanewiseConv1d, nn.Linear, nn.ReLU, nn.Flatten, nn.Sequential, Mark, Slot, NormLayer, Residual)
