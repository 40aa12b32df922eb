"""What is said of runs that have ended: of the weights at the end, and of those with the least validation loss.

Test rows reach `runner.engine.evaluate` from here only, once for each of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from runner.engine import measures
from runner.engine.checkpoint import Point
from runner.engine.evaluate import Examined, Examiner, Measured, evaluate, evaluating, examine, measure_norms
from runner.engine.machine import differentiable
from runner.engine.pack import Lanes, Pack
from runner.engine.robustness import adversarial_accuracy, corrupted_accuracy, mean_of
from runner.engine.weights import built_net, initial, size, summary
from runner.grid import Run
from runner.keys import Key
from runner.methods.base import Params


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    run: Run
    status: str  # "ok" or "diverged"
    epochs: int  # trained
    steps: int
    curve: Sequence[Point]
    figures: Mapping[str, float]  # last_* and best_* of train, val and test, and what the weights are like
    hits: Tensor  # bool [n_test], on the CPU: which test rows the last checkpoint predicts correctly
    confidence: Tensor  # float16 [n_test], on the CPU: the probability of the class that it predicts
    counts: Mapping[str, int]  # n_train, n_val, n_test, n_params
    split_hash: str  # the same for two runs if and only if their three sets are the same
    train_s: float  # this run's share of its pack's training time; evaluation is not in it
    lanes: int  # how many runs its pack began with
    tables: Mapping[str, Sequence[Mapping[str, object]]]  # what was asked for and has several rows, by table
    compiled: bool = False  # whether torch's compiler made its step


def finish(
    pack: Pack, lanes: Lanes, runs: Sequence[Run], epoch: int, curves: Sequence[list[Point]], seconds: Sequence[float]
) -> Iterator[Outcome]:
    """The outcomes of lanes that end after `epoch` epochs: here, and only here, test rows are evaluated."""
    stack, best_epoch = pack.experiment.stack, lanes.best_epoch
    last = lanes.best if stack.ends_at_best else pack.kept(lanes, epoch)
    last_epoch = best_epoch if stack.ends_at_best else torch.full_like(best_epoch, epoch)
    seeds = [runs[run].seed for run in lanes.run.tolist()]
    # of a net on the CPU, where a seed's weights were drawn: a GPU's generator gives others
    drawn = initial(built_net(pack.experiment).to(pack.source.one_hot.dtype), seeds)
    start = pack.effective(lanes, {name: w.to(pack.source.x.device) for name, w in drawn.items()})
    single = last if pack.members == 1 else pack.newest(lanes, epoch)  # whose weights are described
    examined = examine(pack.examiner, last, pack.pool(lanes), lanes.rows, _looked_at(pack, lanes, curves, last_epoch))
    best = _examined_best(pack, lanes, curves, last_epoch, examined)
    columns: dict[str, Tensor] = {
        **summary(single, start),
        **_checkpoint(pack, lanes, "last", last, last_epoch, examined),
        **_checkpoint(pack, lanes, "best", lanes.best, best_epoch, best),
        **_known(pack, lanes, epoch),
    }
    more, rows_of = _asked(pack, lanes, last, single, start, torch.tensor(seeds))
    columns |= more
    counts = {f"n_{split}": part.shape[1] for split, part in lanes.rows.items()}
    counts["n_params"] = size(lanes.state.params)
    table = {name: column.tolist() for name, column in columns.items()}
    hits, confidence = examined.hits.cpu(), examined.confidence.half().cpu()
    for row, run in enumerate(lanes.run.tolist()):
        figures = {name: column[row] for name, column in table.items()}
        if not counts["n_val"]:  # without validation there is no best
            figures |= {name: torch.nan for name in figures if name.startswith("best_")}
        yield Outcome(
            run=runs[run],
            status="ok" if lanes.finite[row] else "diverged",
            epochs=epoch,
            steps=epoch * pack.steps_per_epoch,
            curve=curves[run],
            figures=figures,
            hits=hits[row],
            confidence=confidence[row],
            counts=counts,
            split_hash=_hash(part[row] for part in lanes.rows.values()),
            train_s=seconds[run],
            lanes=len(runs),
            tables={name: rows[row] for name, rows in rows_of.items()},
        )


def _checkpoint(
    pack: Pack, lanes: Lanes, name: str, weights: Params, epochs: Tensor, examined: Examined
) -> dict[str, Tensor]:
    """The figures of a stored checkpoint, of epochs [K], each led by its name: [K]."""
    data, seen = pack.experiment.data, examined.measured
    columns = {"epoch": epochs, **pack.named(seen)}
    if pack.experiment.splitter.noise.present:
        right = pack.pool(lanes)._replace(y=pack.y)
        clean = evaluate(pack.examiner, weights, right, {"train": lanes.rows["train"]})
        columns["train_acc_clean"] = clean["train"].acc
    columns["gap_loss"] = seen["test"].loss - seen["train"].loss
    columns[f"gap_{data.score}"] = seen["train"].acc - seen["test"].acc
    if data.regression:
        columns["test_rmse"] = seen["test"].loss.sqrt() * lanes.unit
    if examined.calibrated is not None:
        columns |= examined.calibrated._asdict()
    return {f"{name}_{figure}": value for figure, value in columns.items()}


def _known(pack: Pack, lanes: Lanes, epoch: int) -> dict[str, Tensor]:
    """What is known of the training after `epoch` epochs, and of the data, without a look at the net: columns [K]."""
    experiment, columns = pack.experiment, {}
    if name := experiment.stack.clips:
        counted = lanes.state.memory[f"{name}/clipped"]  # [K] or, of copies, [K, M]
        columns["clipped_share"] = counted.double().reshape(len(counted), -1).mean(1) / (epoch * pack.steps_per_epoch)
    if experiment.splitter.noise.present:
        trained = lanes.rows["train"]
        columns["label_noise"] = (pack.pool(lanes).labels(trained) != pack.y[trained]).double().mean(1)
    if experiment.data.truth is not None and experiment.data.bayes_error is not None:
        tested, score = lanes.rows["test"], experiment.data.score
        says, is_so = experiment.data.truth.to(pack.y)[tested], pack.y[tested].double()
        columns[f"bayes_{score}"] = torch.full((len(tested),), 1 - experiment.data.bayes_error, dtype=torch.float64)
        explained = 1 - ((says - is_so) ** 2).mean(1) / is_so.var(1, unbiased=False)
        columns[f"teacher_{score}"] = explained if experiment.data.regression else (says == is_so).double().mean(1)
    return columns


def _asked(
    pack: Pack, lanes: Lanes, weights: Params, single: Params, start: Params, seeds: Tensor
) -> tuple[dict[str, Tensor], dict[str, list[list[dict[str, object]]]]]:
    """What was asked for of the last checkpoint: columns [K], and by table each lane's rows.

    Of several members `single` is the one whose weights are described, and `start` where it began.
    """
    asked, pool = pack.experiment.asked, pack.pool(lanes)
    columns: dict[str, Tensor] = {}
    tables: dict[str, list[list[dict[str, object]]]] = {}
    if asked.corruptions:
        data = pack.experiment.data
        found = corrupted_accuracy(pack.examiner, weights, pool, lanes.rows, data, seeds)
        columns["last_corrupted_acc"] = mean_of(found)
        tables["corruptions"] = [
            [{"kind": kind, "severity": severity, "acc": float(acc[row])} for (kind, severity), acc in found.items()]
            for row in range(len(seeds))
        ]
    if asked.attack:
        found_by = adversarial_accuracy(pack.examiner, weights, pool, lanes.rows, asked.attack, seeds)
        columns |= {f"last_{name}": value for name, value in found_by.items()}
    if asked.measures:
        tables["measures"] = list(_measures(pack, lanes, single, start, seeds))
    return columns, tables


def _measures(
    pack: Pack, lanes: Lanes, weights: Params, start: Params, seeds: Tensor
) -> Iterator[list[dict[str, object]]]:
    """The measures of generalization of each lane, one row each; lane by lane, as if each were alone."""
    net, pool, train = pack.net, pack.pool(lanes), lanes.rows["train"]
    with evaluating(net), differentiable(net):
        buffers, _ = measure_norms(Examiner(net, pack.mapped, onednn=pack.examiner.onednn), weights, pool, train)
        for row, seed in enumerate(seeds.tolist()):
            at, first, own = ({n: w[row] for n, w in tree.items()} for tree in (weights, start, buffers))
            few = train[:, : measures.ROWS]
            x, y = pool.inputs(few)[row], pool.labels(few)[row]
            key = Key.of(seed, train.device).fold("measures")
            yield [{n: float(v) for n, v in measures.measured(net, at, first, own, x, y, key).items()}]


def _looked_at(pack: Pack, lanes: Lanes, curves: Sequence[Sequence[Point]], epochs: Tensor) -> Measured | None:
    """What the looks after these epochs [K] said of the lanes' training rows; None if one was not looked at then."""
    points = [
        next((point.figures for point in reversed(curves[run]) if point.epoch == epoch), None)
        for run, epoch in zip(lanes.run.tolist(), epochs.tolist(), strict=True)
    ]
    if None in points:  # a run that has diverged at once: its best weights are the initial ones
        return None
    loss, score = (
        torch.tensor([figures[name] for figures in points if figures], dtype=torch.float64, device=epochs.device)
        for name in ("train_loss", f"train_{pack.experiment.data.score}")
    )
    return Measured(loss, score)


def _examined_best(
    pack: Pack, lanes: Lanes, curves: Sequence[Sequence[Point]], last_epoch: Tensor, last: Examined
) -> Examined:
    """The best weights of the lanes examined, given the last ones, of epochs `last_epoch` [K]: often they are these."""
    others = (lanes.best_epoch != last_epoch).nonzero()[:, 0]
    if not len(others):
        return last
    if len(others) == 1 < len(lanes.run):
        others = others.repeat(2)  # a convolution of images that is mapped over one lane takes another path
    some = lanes.of(others)
    train = _looked_at(pack, some, curves, some.best_epoch)
    best = examine(pack.examiner, some.best, pack.pool(some), some.rows, train)

    def put(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
        return whole if whole is None or part is None else whole.index_copy(0, others, part)

    merged: Examined = tree_map(put, last, best)
    return merged


def _hash(parts: Iterator[Tensor]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
