"""Measure a net as it would be used: clean data, evaluation mode, plain cross-entropy, the weights that are kept.

No method acts here except through the net itself and the choice of its weights. This file is the only one that reads
test rows, but for `robustness`, which changes them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from runner.engine.calibration import Marks, best_temperature, calibration_error, marks, null_draws, null_level
from runner.engine.lanes import over_lanes
from runner.engine.products import large_by_onednn
from runner.engine.tape import Taped
from runner.methods.base import Params, mean_prediction
from runner.nets.norms import BatchNormLayer

EXAMPLES = 500  # examples in one forward pass: what fits a cache well (15 lanes of a small MLP, measured)
NORM_EXAMPLES = 5000  # at most so many training examples measure the statistics of batch norm
WHOLE = 2**22  # they do in one pass where a layer has at most so many numbers for all of them: 16 MiB
LANES = 12  # in one forward pass on a CPU, at most; likewise (docs/benchmarks.md)
FORMS = 16  # of passes that are remembered: by lanes, examples, and what is asked


class Measured(NamedTuple):
    """The clean metrics of a pack on one split."""

    loss: Tensor  # mean cross-entropy in nats, or squared error in variances of the training targets [L]
    acc: Tensor  # share of correct predictions, or R2, the share explained of the split's own variance [L]


class Pool(NamedTuple):
    """All examples on the device, and for each lane the statistics that standardize them."""

    x: Tensor  # [N, ...]
    y: Tensor  # int64 [N], or [L, N] where each lane has labels of its own; of a regression float [L, N]
    mean: Tensor  # [L, ...]
    std: Tensor  # [L, ...]
    fill: Tensor | None = None  # [L, ...]: what stands for a missing number; None: none is missing
    change: Callable[[Tensor], Tensor] | None = None  # what is done to inputs [L, B, ...] before they are standardized

    def inputs(self, rows: Tensor) -> Tensor:
        """Standardized inputs of rows [L, B]: [L, B, ...]."""
        raw = self.x.index_select(0, rows.flatten()).unflatten(0, rows.shape)  # by whole rows, unlike x[rows]
        raw = raw.to(self.mean.dtype)
        raw = self.change(raw) if self.change else raw
        picked = raw.sub_(self.mean[:, None]).div_(self.std[:, None])  # in memory that is at hand: it is nobody else's
        return picked if self.fill is None else torch.where(picked.isnan(), self.fill[:, None], picked)

    def of(self, lanes: slice) -> Pool:
        """The examples as some of the lanes have them."""
        y = self.y if self.y.ndim == 1 else self.y[lanes]
        fill = None if self.fill is None else self.fill[lanes]
        return self._replace(y=y, mean=self.mean[lanes], std=self.std[lanes], fill=fill)

    @property
    def regression(self) -> bool:
        """Whether the labels are numbers to predict."""
        return self.y.is_floating_point()

    def labels(self, rows: Tensor) -> Tensor:
        """Labels of rows [..., L, B], or standardized numbers to predict: [..., L, B]."""
        if self.y.ndim > 1:
            return self.y.expand(*rows.shape[:-1], -1).gather(-1, rows)
        return self.y.index_select(0, rows.flatten()).view(rows.shape)


Said: TypeAlias = tuple[Tensor, Tensor, Tensor]
# summed loss [L], correct predictions [L] and log-probabilities [L, B, C] of B examples; of a regression summed squared
# errors, 0 and predictions [L, B, 1]


class Examiner:
    """A net that lanes are looked at with again and again, in passes over some of their examples.

    A pass is written down as operations and gone through again (`runner.engine.tape`), to the same bits.
    """

    def __init__(self, net: nn.Module, mapped: bool, members: int = 1, onednn: bool = False) -> None:
        """Of a net; with several members the weights are [L, M, ...], and what they say is their mean probability."""
        self.net, self.mapped, self.members, self.onednn = net, mapped, members, onednn
        self._passes: dict[tuple[object, ...], Taped] = {}
        self._most = 0  # numbers of one example in a layer that has statistics, or in the example; 0: not counted yet

    def predictions(self, params: Params, buffers: Params, x: Tensor, y: Tensor) -> Said:
        """What the lanes say of standardized inputs [L, B, ...] with labels [L, B]."""
        said: Said = self._passed(self._predictions, params, buffers, x, y)
        return said

    def statistics(self, params: Params, buffers: Params, x: Tensor, y: Tensor) -> tuple[Params, Said]:
        """The buffers [L, ...] with the statistics that the layers find in these very inputs, and what is said by them.

        Without members: the weights are [L, ...].
        """
        for layer in self.norms:
            layer.measuring = True
        try:
            found: tuple[Params, Said] = self._passed(self._statistics, params, buffers, x, y)
        finally:
            for layer in self.norms:
                layer.measuring = False
        return found

    @cached_property
    def norms(self) -> list[BatchNormLayer]:
        """The net's layers that have statistics."""
        return [m for m in self.net.modules() if isinstance(m, BatchNormLayer)]

    def at_once(self, pool: Pool, rows: Tensor) -> bool:
        """Whether one pass measures the statistics of rows [L, n]: if no layer has too many numbers of them."""
        self._most = self._most or self._counted(pool.of(slice(1)).inputs(rows[:1, :2])[0])
        return rows.shape[1] * self._most <= WHOLE

    def _counted(self, x: Tensor) -> int:
        numbers = [x[0].numel()]
        hooks = [m.register_forward_pre_hook(lambda _, given: numbers.append(given[0][0].numel())) for m in self.norms]
        self.net(x)
        for hook in hooks:
            hook.remove()
        return max(numbers)

    def groups(self, rows: Tensor) -> list[slice]:
        """Which lanes share a pass over their examples [L, B, ...]; none alone, where convolutions would round else."""
        lanes, examples = rows.shape[:2]
        most = max(2, (LANES if rows.device.type == "cpu" else lanes) * EXAMPLES // examples)
        count = max(1, min(-(-lanes // most), lanes // 2))
        ends = [lanes * group // count for group in range(count + 1)]
        return [slice(*ends[at : at + 2]) for at in range(count)]

    def _predictions(self, params: Params, buffers: Params, x: Tensor, y: Tensor) -> Said:
        return _scored(predicted(self.net, params, buffers, x, self.members), y)

    def _statistics(self, params: Params, buffers: Params, x: Tensor, y: Tensor) -> tuple[Params, Said]:
        used = params | buffers
        logits = functional_call(self.net, used, (x,))  # where a layer assigns to a buffer, `used` has the new one
        return {name: used[name] for name in buffers}, _scored(_spoken(logits.float()), y)

    def _passed(self, one: Callable[..., Any], *arguments: Any) -> Any:
        """`one` over lanes, of weights, buffers, inputs and labels: a few lanes at a time, for the cache."""
        groups = self.groups(arguments[2])
        if len(groups) == 1:
            return self._pass(one, *arguments)
        parts = [self._pass(one, *tree_map(itemgetter(group), arguments)) for group in groups]
        return tree_map(lambda *leaves: torch.cat(leaves), *parts)

    def _pass(self, one: Callable[..., Any], *arguments: Any) -> Any:
        form = one.__name__, arguments[2].shape
        if form not in self._passes:
            if len(self._passes) == FORMS:
                del self._passes[next(iter(self._passes))]  # the oldest
            over = over_lanes(one, self.mapped)
            self._passes[form] = Taped(large_by_onednn(over, self.mapped) if self.onednn else over)
        return self._passes[form](*arguments)


def measure_norms(examiner: Examiner, params: Params, pool: Pool, train: Tensor) -> tuple[Params, Measured | None]:
    """The net's buffers [L, ...] with the batch-norm statistics that these weights have on training rows [L, n].

    Where one pass over all of these rows measures them, and says what the net will say, it gives the lanes' metrics on
    the rows, too. Where there are too many for that, chunks are pooled by the law of total variance, which is exact for
    the first layer and, for later ones, exact but for the earlier layers being normalized by their chunk's statistics.
    """
    buffers = {name: b.expand(len(train), *b.shape).clone() for name, b in examiner.net.named_buffers()}
    if not examiner.norms:
        return buffers, None
    rows = train[:, :NORM_EXAMPLES]
    if examiner.at_once(pool, rows):
        each = []
        for lanes in examiner.groups(rows):
            own, left, some = tree_map(itemgetter(lanes), (params, buffers, rows))
            each.append(_measured_by(examiner, own, left, pool.of(lanes), some))
        buffers, seen = tree_map(lambda *leaves: torch.cat(leaves), *each)
        # what a hook makes of a prediction, as MC dropout does, it may leave out where statistics are measured
        return buffers, seen if rows.shape == train.shape and not examiner.net._forward_hooks else None
    chunks = rows.split(EXAMPLES, dim=1)
    full = [chunk for chunk in chunks if chunk.shape[1] == chunks[0].shape[1]]  # equal weights
    found = [examiner.statistics(params, buffers, pool.inputs(chunk), pool.labels(chunk))[0] for chunk in full]
    for name in buffers:
        if name.endswith("mean") and f"{name.removesuffix('mean')}var" in buffers:
            means = torch.stack([chunk[name] for chunk in found])
            spread = f"{name.removesuffix('mean')}var"
            buffers[spread] = torch.stack([chunk[spread] for chunk in found]).mean(0) + means.var(0, unbiased=False)
            buffers[name] = means.mean(0)
    return buffers, None


def _measured_by(
    examiner: Examiner, params: Params, buffers: Params, pool: Pool, rows: Tensor
) -> tuple[Params, Measured]:
    """The buffers that these rows [L, n] give, all at once, and the metrics on them."""
    y = pool.labels(rows)
    found, said = examiner.statistics(params, buffers, pool.inputs(rows), y)
    return found, measure([Chunk(*said, y)], rows)


class Chunk(NamedTuple):
    """What the lanes say about some of their rows."""

    loss: Tensor  # summed [L]
    hits: Tensor  # correct predictions [L]; of a regression 0
    logp: Tensor  # log-probabilities [L, B, C]; of a regression predictions [L, B, 1]
    y: Tensor  # labels [L, B]


class Calibrated(NamedTuple):
    """How far the probabilities of a pack can be taken at their word, on test rows."""

    test_brier: Tensor  # mean over examples of the sum over classes of (probability - one-hot)^2 [L]
    test_ece: Tensor  # expected calibration error, a fraction [L]
    test_ece_null: Tensor  # what it stays below in 95 of 100 cases where the net is calibrated [L]
    test_nll_t: Tensor  # cross-entropy in nats after temperature scaling [L]
    temperature: Tensor  # the one with the least cross-entropy on validation rows [L]


class Examined(NamedTuple):
    """A stored checkpoint of a pack, in all its figures."""

    measured: dict[str, Measured]  # by split
    calibrated: Calibrated | None  # None of a regression, which gives no probabilities
    hits: Tensor  # bool [L, n]: which test rows are predicted correctly; [L, 0] of a regression
    confidence: Tensor  # float64 [L, n]: the probability of the predicted class; likewise


def chunks(examiner: Examiner, params: Params, buffers: Params, pool: Pool, rows: Tensor) -> Iterator[Chunk]:
    """The predictions of each lane on its rows [L, n], some rows at a time."""
    for some in rows.split(EXAMPLES, dim=1) if rows.shape[1] else ():
        y = pool.labels(some)
        yield Chunk(*examiner.predictions(params, buffers, pool.inputs(some), y), y)


def predicted(net: nn.Module, params: Params, buffers: Params, x: Tensor, members: int) -> Tensor:
    """The log-probabilities [B, C] that one lane gives standardized inputs [B, ...]: those of its members' mean.

    Of a single output, which predicts a number, that number: [B, 1].
    """
    each = [(params, buffers)]
    if members > 1:
        each = [tree_map(lambda leaf, m=m: leaf[m], (params, buffers)) for m in range(members)]
    logits: list[Tensor] = [functional_call(net, own, (x,)).float() for own in each]
    if members > 1:
        return mean_prediction(torch.stack(logits))
    return _spoken(logits[0])


def _spoken(logits: Tensor) -> Tensor:
    """The log-probabilities [B, C] of logits; a single output, which predicts a number, as it is: [B, 1].

    Examples are last in memory, which for few classes takes a seventh of the time on a CPU (docs/benchmarks.md).
    """
    return logits if logits.shape[1] == 1 else logits.mT.log_softmax(0).mT


def _scored(said: Tensor, y: Tensor) -> Said:
    """What one lane says of examples with labels [B], and how it scores."""
    if y.is_floating_point():
        return ((said[:, 0] - y) ** 2).sum(), torch.zeros_like(y[0]), said
    return -said.gather(1, y[:, None]).sum(), (said.max(1).indices == y).sum(), said


def measure(seen: Iterable[Chunk], rows: Tensor) -> Measured:
    """Loss and accuracy of each lane, given its predictions on all of its rows [L, n]; NaN where n is 0.

    Of a regression R2 in the place of accuracy: 1 less the squared errors over those of the rows' own mean.
    """
    losses = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    hits, targets = torch.zeros_like(losses), []
    for chunk in seen:
        losses, hits = losses + chunk.loss, hits + chunk.hits
        targets += [chunk.y.double()] * chunk.y.is_floating_point()
    if not targets:
        return Measured(losses / rows.shape[1], hits / rows.shape[1])
    spread = torch.cat(targets, 1).var(1, unbiased=False)
    return Measured(losses / rows.shape[1], 1 - losses / rows.shape[1] / spread)


def evaluate(examiner: Examiner, params: Params, pool: Pool, rows: Mapping[str, Tensor]) -> dict[str, Measured]:
    """The metrics of the lanes' weights on each named set of rows; "train" must be among them.

    The net is in evaluation mode while this runs, and in training mode after.
    """
    with evaluating(examiner.net):
        buffers, train = settled(examiner, params, pool, rows["train"])
        return {
            split: train if train and split == "train" else measure(chunks(examiner, params, buffers, pool, part), part)
            for split, part in rows.items()
        }


def examine(
    examiner: Examiner, params: Params, pool: Pool, rows: Mapping[str, Tensor], train: Measured | None = None
) -> Examined:
    """All that is recorded of weights that are stored, on their rows "train", "val" and "test".

    The temperature is fitted to validation rows (NaN where there are none), and test rows are only read. `train` is
    what is known already of the training rows with these very weights.
    """
    with evaluating(examiner.net):
        buffers, told = settled(examiner, params, pool, rows["train"])
        seen = {split: chunks(examiner, params, buffers, pool, part) for split, part in rows.items()}
        train = train or told or measure(seen["train"], rows["train"])
        if pool.regression:
            none = rows["test"].new_zeros(len(rows["test"]), 0)
            measured = {"train": train} | {split: measure(seen[split], rows[split]) for split in ("val", "test")}
            return Examined(measured, None, none.bool(), none.double())
        known = list(seen["val"])
        temperature = _temperatures(known, rows["val"])
        marked: list[list[Marks]] = []  # by chunk and lane: what is left of it, so that no test set of logits is kept

        def noted() -> Iterator[Chunk]:
            for chunk in seen["test"]:
                marked.append([marks(*one) for one in zip(chunk.logp, chunk.y, temperature, strict=True)])
                yield chunk

        measured = {
            "train": train,
            "val": measure(known, rows["val"]),
            "test": measure(noted(), rows["test"]),
        }
        each = [Marks(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*marked, strict=True)]
        draws = null_draws(rows["test"].shape[1], rows["test"].device)
        level = large_by_onednn(null_level, mapped=False) if examiner.onednn else null_level  # of whole numbers: exact
        calibrated = Calibrated(
            test_brier=torch.stack([lane.brier.mean() for lane in each]),
            test_ece=torch.stack([calibration_error(lane.hits, lane.confidence) for lane in each]),
            test_ece_null=torch.stack([level(lane.confidence, draws) for lane in each]),
            test_nll_t=torch.stack([lane.scaled.mean() for lane in each]),
            temperature=temperature,
        )
        hits, confidence = (torch.stack([getattr(lane, name) for lane in each]) for name in ("hits", "confidence"))
        return Examined(measured, calibrated, hits, confidence)


def _temperatures(known: Sequence[Chunk], rows: Tensor) -> Tensor:
    """The best temperature of each lane, given its predictions on validation rows [L, n]: float64 [L].

    Lane by lane, so that the search of one ends when its own root is found: a run's is the same in any pack.
    """
    if not known:
        return torch.full((len(rows),), torch.nan, dtype=torch.float64, device=rows.device)
    logp, y = (torch.cat(parts, 1) for parts in ([c.logp for c in known], [c.y for c in known]))
    return torch.stack([best_temperature(*one) for one in zip(logp, y, strict=True)])


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The net in evaluation mode, without gradients, and in training mode after."""
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train()


def settled(examiner: Examiner, params: Params, pool: Pool, train: Tensor) -> tuple[Params, Measured | None]:
    """The net's buffers [L, ...] for these weights, [L, M, ...] if there are several members.

    And the metrics on the training rows [L, n], where to settle the buffers has told them.
    """
    if examiner.members == 1:
        return measure_norms(examiner, params, pool, train)
    each = [{n: w[:, m] for n, w in params.items()} for m in range(examiner.members)]
    measured = [measure_norms(examiner, own, pool, train)[0] for own in each]
    return {n: torch.stack([own[n] for own in measured], 1) for n in measured[0]}, None
