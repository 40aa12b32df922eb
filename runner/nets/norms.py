"""Normalization layers, which stand in a net's slots: put there by a method, or by the net itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runner.errors import Refusal
from runner.nets.sites import Slot

EPSILON = 1e-5  # of the batch norms that nets bring themselves, as in torch


def slot(width: int, norm: str) -> nn.Module:
    """What normalizes `width` channels in a net that may bring its own norm: a batch norm, or an open slot."""
    if norm not in ("batch", "none"):
        raise Refusal(f"model.norm is {norm!r}; it must be batch or none (model.norm=...)")
    return BatchNormLayer(width, EPSILON) if norm == "batch" else Slot(width)


class NormLayer(nn.Module):
    """What stands in a filled slot."""


class BatchNormLayer(NormLayer):
    """Batch statistics in training; in evaluation those that `runner.engine.evaluate` measured."""

    measuring = False
    alone = False  # whether no other lanes are beside: torch's kernel is faster, and rounds a lane by their number
    mean: Tensor
    var: Tensor

    def __init__(self, width: int, epsilon: float) -> None:
        """Normalize `width` channels."""
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        """h [B, width, ...], each channel at mean 0 and variance 1 over the batch, then scaled and shifted."""
        if self.training:
            return self.by_batch(h, self.scale, self.shift)
        shape = [1, -1] + [1] * (h.ndim - 2)
        if self.measuring:
            across = [d for d in range(h.ndim) if d != 1]
            self.mean = h.mean(across)
            h = h - self.mean.view(shape)
            self.var = (h * h).mean(across)
            return torch.addcmul(self.shift.view(shape), h, self._factor().view(shape))
        factor = self._factor()
        return torch.addcmul((self.shift - self.mean * factor).view(shape), h, factor.view(shape))

    def _factor(self) -> Tensor:
        return self.scale * (self.var + self.epsilon).rsqrt()

    def by_batch(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """h [B, channels, ...] by its own statistics."""
        if h[:, 0].numel() == 1:
            raise Refusal(
                "a batch norm of one number for each unit would give 0 whatever the input; it needs more examples at "
                "once (batch_size=...)"
            )
        if self.alone:
            return torch.batch_norm(h, scale, shift, None, None, True, 0.0, self.epsilon, False)
        shape = [1, -1] + [1] * (h.ndim - 2)
        across = [d for d in range(h.ndim) if d != 1]
        centred = h - h.mean(across, keepdim=True)
        var = (centred * centred).mean(across, keepdim=True)
        normal: Tensor = centred * (scale.view(shape) * (var + self.epsilon).rsqrt()) + shift.view(shape)
        return normal


class GhostBatchNormLayer(BatchNormLayer):
    """Batch norm whose statistics, in training, are those of parts of the batch."""

    def __init__(self, width: int, size: int, epsilon: float) -> None:
        """Normalize `width` channels over parts of at least `size` examples."""
        super().__init__(width, epsilon)
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """h [B, width, ...], normalized part by part in training."""
        parts = max(1, len(h) // self.size)
        if not self.training or parts == 1:
            return super().forward(h)
        if len(h) % parts:
            pieces = h.tensor_split(parts)
            return torch.cat([super(GhostBatchNormLayer, self).forward(piece) for piece in pieces])
        # equal parts at once: the channels of each part as channels of their own
        folded = h.unflatten(0, (parts, -1)).transpose(0, 1).flatten(1, 2)
        normal = self.by_batch(folded, self.scale.repeat(parts), self.shift.repeat(parts))
        whole: Tensor = normal.unflatten(1, (parts, -1)).transpose(0, 1).flatten(0, 1)
        return whole


class GroupNormLayer(NormLayer):
    """Every example's groups of channels at mean 0 and variance 1, then a scale and a shift for each channel."""

    def __init__(self, width: int, groups: int, epsilon: float) -> None:
        """Normalize `width` channels in `groups` groups."""
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.groups, self.epsilon = groups, epsilon

    def forward(self, h: Tensor) -> Tensor:
        """h [B, width, ...], normalized."""
        shape = [1, -1] + [1] * (h.ndim - 2)
        grouped = h.reshape(len(h), self.groups, -1)
        if grouped.shape[2] == 1:
            fewer, groups = ("fewer groups or ", "method.group_norm.groups=... or ") if self.groups > 1 else ("", "")
            raise Refusal(
                f"groups of one number, in a layer of {h.shape[1]} units, would all be normalized to 0; "
                f"a norm needs {fewer}a wider layer ({groups}model.width=...)"
            )
        grouped = grouped - grouped.mean(2, keepdim=True)
        grouped = grouped * ((grouped**2).mean(2, keepdim=True) + self.epsilon).rsqrt()
        return grouped.view_as(h) * self.scale.view(shape) + self.shift.view(shape)


class RMSNormLayer(NormLayer):
    """Every example at root mean square 1, then a scale for each channel."""

    def __init__(self, width: int, epsilon: float) -> None:
        """Normalize `width` channels."""
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, h: Tensor) -> Tensor:
        """h [B, width, ...], normalized."""
        shape = [1, -1] + [1] * (h.ndim - 2)
        square = (h**2).mean(list(range(1, h.ndim)), keepdim=True)
        return h * (square + self.epsilon).rsqrt() * self.scale.view(shape)
