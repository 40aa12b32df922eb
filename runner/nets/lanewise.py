"""Layers as the matrix products that a CPU computes fastest where a net is mapped over lanes.

Mapped over lanes, torch's convolutions become grouped ones, which a CPU computes several times slower than the same
arithmetic in batched matrix products (docs/benchmarks.md). Those give a lane the same bits however many there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from runner.nets.norms import NormLayer
from runner.nets.residual import Residual
from runner.nets.sites import Mark, Slot

FEW = 16  # outputs: as many as a core multiplies at once


class Window(NamedTuple):
    """The taps of a convolution along a signal, and how many patches it weighs."""

    kernel: int
    stride: int
    padding: int
    out: int

    def tap(self, number: int) -> slice:
        """Where in a padded signal a tap of every patch lies."""
        return slice(number, number + (self.out - 1) * self.stride + 1, self.stride)


class Patches(Function):
    """The patches of signals x [C, T, B] that a convolution weighs: [C, kernel, out, B].

    Autograd's derivative of the slices would fill a whole signal with zeros for each tap (docs/benchmarks.md).

    >>> Patches.apply(Tensor([[[0], [1], [2], [3]]]), Window(kernel=3, stride=2, padding=1, out=2))[0, :, :, 0].mT
    tensor([[0., 0., 1.],
            [1., 2., 3.]])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, window: Window) -> Tensor:
        """The taps of all patches, one after another."""
        beyond = (window.out - 1) * window.stride + window.kernel - window.padding - x.shape[1]
        x = F.pad(x, (0, 0, window.padding, max(beyond, 0)))
        seen = x.unfold(1, window.kernel, window.stride)[:, : window.out]  # [C, out, B, kernel]
        return seen.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Window], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.length, ctx.window = inputs[0].shape[1], inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Every patch of a gradient back to where it was taken from."""
        return Signals.apply(gradient, ctx.length, ctx.window), None


class Signals(Function):
    """The transpose of Patches: signals [C, T, B] with every patch [C, kernel, out, B] added where it lies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(patches: Tensor, length: int, window: Window) -> Tensor:
        """The sum of the patches."""
        channels, kernel, out, batch = patches.shape
        reached = (out - 1) * window.stride + kernel
        x = patches.new_zeros(channels, max(window.padding + length, reached), batch)
        for number in range(kernel):
            if number < window.stride:  # where nothing lies yet
                x[:, window.tap(number)] = patches[:, number]
            else:
                x[:, window.tap(number)] += patches[:, number]
        return x[:, window.padding : window.padding + length]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, Window], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.window = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient's own patches."""
        return Patches.apply(gradient, ctx.window), None, None


class LanewiseConv1d(nn.Conv1d):
    """nn.Conv1d as a matrix product of filters and patches, examples being last in memory.

    So a row of the product is as long as the examples and their patches are many, which a core computes faster than
    one that is as long as the filters are (docs/benchmarks.md).
    """

    examples_last = False  # whether its output may stay so in memory, as the product gives it

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, O, out]."""
        (kernel,), (stride,), padding = self.kernel_size, self.stride, self.padding[0]
        assert isinstance(padding, int)
        window = Window(kernel, stride, padding, (x.shape[2] + 2 * padding - kernel) // stride + 1)
        seen: Tensor = Patches.apply(x.permute(1, 2, 0), window)
        y = self.weight.flatten(1) @ seen.flatten(2).flatten(0, 1)
        y = y if self.bias is None else y.add_(self.bias[:, None])
        out: Tensor = y.unflatten(1, (window.out, len(x))).permute(2, 0, 1)
        return out if self.examples_last else out.contiguous()


class LanewiseLinear(nn.Linear):
    """nn.Linear as the products that are fastest where a net is mapped.

    Where no gradient is asked for, they are weights times examples, and what they give has its examples last in memory:
    a row of the product is then as long as the examples are many, and log-probabilities over few classes are faster.
    With a gradient, which such products would leave in that order, so are those of few outputs where examples come last
    already (docs/benchmarks.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]."""
        if x.ndim != 2:
            return super().forward(x)
        training = torch.is_grad_enabled()
        last = x.stride(0) < x.stride(1)  # examples in memory, which no number of lanes changes
        if training and not (last and self.out_features <= FEW):
            return super().forward(x)
        y: Tensor = (self.weight @ x.mT).mT
        y = y.contiguous() if training else y
        return y if self.bias is None else y + self.bias


def lanewise(net: nn.Module) -> None:
    """Make the net's convolutions of signals, and its linear layers, such products, in place.

    Convolutions with groups, dilation or a padding other than zeros stay torch's, and so do those of images, which lose
    little where they are mapped (docs/benchmarks.md).
    """
    for module in net.modules():
        if type(module) is nn.Conv1d and _plain(module):
            module.__class__ = LanewiseConv1d
        elif type(module) is nn.Linear:
            module.__class__ = LanewiseLinear
    indifferent = all(isinstance(module, INDIFFERENT) for module in net.modules())
    for module in net.modules():
        if isinstance(module, LanewiseConv1d):
            module.examples_last = indifferent


def _plain(module: nn.Conv1d) -> bool:
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return zeros and module.groups == 1 and module.dilation == (1,)


LANEWISE = (LanewiseConv1d, LanewiseLinear)
# Layers as fast in either layout; torch's pools, for one, are mapped by a loop where memory is in another order.
INDIFFERENT = (LanewiseConv1d, nn.Linear, nn.ReLU, nn.Flatten, nn.Sequential, Mark, Slot, NormLayer, Residual)
