"""Measure a net as it would be used: clean data, evaluation mode, plain cross-entropy, the weights that are kept.

No method acts here except through the net itself and the choice of its weights. This file is the only one that reads
test rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from runner.engine.lanes import over_lanes
from runner.methods.base import Params
from runner.methods.normalization import BatchNormLayer

EXAMPLES = 500  # examples in one forward pass: what fits a cache well (15 lanes of a small MLP, measured)
NORM_EXAMPLES = 5000  # at most so many training examples measure the statistics of batch norm


class Measured(NamedTuple):
    """The clean metrics of a pack on one split."""

    loss: Tensor  # mean cross-entropy in nats [L]
    acc: Tensor  # share of correct predictions [L]


class Pool(NamedTuple):
    """All examples on the device, and for each lane the statistics that standardize them."""

    x: Tensor  # [N, ...]
    y: Tensor  # int64 [N], or [L, N] where each lane has labels of its own
    mean: Tensor  # [L, ...]
    std: Tensor  # [L, ...]
    fill: Tensor | None = None  # [L, ...]: what stands for a missing number; None: none is missing

    def inputs(self, rows: Tensor) -> Tensor:
        """Standardized inputs of rows [L, B]: [L, B, ...]."""
        picked = (self.x[rows].to(self.mean.dtype) - self.mean[:, None]) / self.std[:, None]
        return picked if self.fill is None else torch.where(picked.isnan(), self.fill[:, None], picked)

    def labels(self, rows: Tensor) -> Tensor:
        """Labels of rows [L, B]: int64 [L, B]."""
        return self.y[rows] if self.y.ndim == 1 else self.y.gather(1, rows)


def measure_norms(net: nn.Module, params: Params, pool: Pool, train: Tensor, mapped: bool) -> Params:
    """The net's buffers [L, ...], with the batch-norm statistics that these weights have on training rows [L, n].

    Chunks of examples are pooled by the law of total variance, which is exact for the first layer and, for later
    ones, exact but for the earlier layers being normalized by their chunk's statistics.
    """
    lanes = len(train)
    buffers = {name: b.expand(lanes, *b.shape).clone() for name, b in net.named_buffers()}
    layers = [m for m in net.modules() if isinstance(m, BatchNormLayer)]
    if not layers:
        return buffers
    rows = train[:, :NORM_EXAMPLES]
    chunks = rows.split(EXAMPLES, dim=1)
    full = [chunk for chunk in chunks if chunk.shape[1] == chunks[0].shape[1]]  # equal weights

    def one(params: Params, buffers: Params, x: Tensor) -> Params:
        used = params | buffers
        functional_call(net, used, (x,))  # each layer's assignment to its buffers replaces the entry in `used`
        return {name: used[name] for name in buffers}

    for layer in layers:
        layer.measuring = True
    try:
        seen = [over_lanes(one, mapped)(params, buffers, pool.inputs(chunk)) for chunk in full]
    finally:
        for layer in layers:
            layer.measuring = False
    for name in buffers:
        if name.endswith("mean") and f"{name.removesuffix('mean')}var" in buffers:
            means = torch.stack([chunk[name] for chunk in seen])
            spread = f"{name.removesuffix('mean')}var"
            buffers[spread] = torch.stack([chunk[spread] for chunk in seen]).mean(0) + means.var(0, unbiased=False)
            buffers[name] = means.mean(0)
    return buffers


def measure(
    net: nn.Module, params: Params, buffers: Params, pool: Pool, rows: Tensor, mapped: bool, members: int = 1
) -> Measured:
    """Loss and accuracy of each lane on its rows [L, n]; NaN where n is 0.

    With several members the weights are [L, M, ...], and a lane's prediction is the mean of its members' probabilities.
    """

    def one(params: Params, buffers: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        each = [(params, buffers)]
        if members > 1:
            each = [tree_map(lambda leaf, m=m: leaf[m], (params, buffers)) for m in range(members)]
        logp = torch.stack([functional_call(net, own, (x,)).float().log_softmax(1) for own in each])
        together = logp.logsumexp(0) - math.log(members) if members > 1 else logp[0]
        return F.nll_loss(together, y, reduction="sum"), (together.argmax(1) == y).sum()

    losses = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    hits = torch.zeros_like(losses)
    for chunk in rows.split(EXAMPLES, dim=1) if rows.shape[1] else ():
        loss, hit = over_lanes(one, mapped)(params, buffers, pool.inputs(chunk), pool.labels(chunk))
        losses, hits = losses + loss, hits + hit
    return Measured(losses / rows.shape[1], hits / rows.shape[1])


def evaluate(
    net: nn.Module, params: Params, pool: Pool, rows: Mapping[str, Tensor], mapped: bool, members: int = 1
) -> dict[str, Measured]:
    """The metrics of the lanes' weights on each named set of rows; "train" must be among them.

    The net is in evaluation mode while this runs, and in training mode after.
    """
    net.eval()
    try:
        with torch.no_grad():
            if members == 1:
                buffers = measure_norms(net, params, pool, rows["train"], mapped)
            else:
                each = [{n: w[:, m] for n, w in params.items()} for m in range(members)]
                measured = [measure_norms(net, own, pool, rows["train"], mapped) for own in each]
                buffers = {n: torch.stack([own[n] for own in measured], 1) for n in measured[0]}
            return {split: measure(net, params, buffers, pool, part, mapped, members) for split, part in rows.items()}
    finally:
        net.train()
