"""Recurrent nets, for signals and for images read row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.errors import Refusal
from runner.nets.sites import Mark, Slot


class GRULayer(nn.Module):
    """A gated recurrent layer, in the form of torch's GRU (Cho et al. 2014), as a loop of plain operations.

    r = sigmoid(W_r x + b_r + U_r h + c_r), z likewise, n = tanh(W_n x + b_n + r * (U_n h + c_n)),
    h <- (1 - z) * n + z * h. torch's own layer cannot be mapped over lanes.
    """

    def __init__(self, inputs: int, width: int) -> None:
        """`width` units that see `inputs` numbers a step."""
        super().__init__()
        self.width = width
        self.weight_ih = nn.Parameter(torch.empty(3 * width, inputs))  # r, z, n
        self.weight_hh = nn.Parameter(torch.empty(3 * width, width))
        self.bias_ih = nn.Parameter(torch.empty(3 * width))
        self.bias_hh = nn.Parameter(torch.empty(3 * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(width), as torch has it."""
        bound = self.width**-0.5
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> the states [B, width, T]."""
        seen = F.linear(x.transpose(1, 2), self.weight_ih, self.bias_ih)  # [B, T, 3 width], all steps at once
        state = seen.new_zeros(len(x), self.width)
        states = []
        for step in seen.unbind(1):
            known = F.linear(state, self.weight_hh, self.bias_hh)
            (seen_rz, seen_n), (known_rz, known_n) = (
                part.split([2 * self.width, self.width], 1) for part in (step, known)
            )
            reset, keep = (seen_rz + known_rz).sigmoid().chunk(2, 1)
            new = (seen_n + reset * known_n).tanh()
            state = new + keep * (state - new)
            states.append(state)
        return torch.stack(states, 2)


class Rows(nn.Module):
    """An image as a signal: its rows, from the top, with the pixels of all channels as what is seen at each."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C * W, H]; a signal [B, C, T] stays as it is."""
        return x.transpose(2, 3).flatten(1, 2) if x.ndim == 4 else x


class LastState(nn.Module):
    """What a recurrent layer says at the end."""

    def forward(self, h: Tensor) -> Tensor:
        """h [B, C, T] -> [B, C]."""
        return h[:, :, -1]


def gru(shape: Sequence[int], classes: int, width: int, depth: int) -> nn.Module:
    """`depth` GRU layers of `width` units, and a linear layer on the last state: x -> logits [B, classes].

    x is a signal [B, C, T], or an image [B, C, H, W] whose rows are the steps. A slot and a mark stand after each
    layer, on its states. Refuses tables.
    """
    if len(shape) not in (2, 3):
        raise Refusal(
            f"model=gru reads signals and images step by step; the data's shape is {tuple(shape)} (model=...)"
        )
    layers: list[nn.Module] = [Mark("input"), Rows()]
    inputs = shape[0] * (shape[2] if len(shape) == 3 else 1)
    for _ in range(depth):
        layers += [GRULayer(inputs, width), Slot(width), Mark("hidden")]
        inputs = width
    return nn.Sequential(*layers, LastState(), nn.Linear(width, classes))
