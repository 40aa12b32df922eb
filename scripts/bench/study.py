"""How long does a whole study take, beside the scripts that one would write by hand?

    python scripts/bench/study.py                      a quarter of an hour; --quick: fewer epochs and turns
    python scripts/bench/study.py --write docs/benchmarks.md

The work: MNIST-1D (4,000 training examples, 1,000 for validation, 10,000 for testing), five dropout rates times
thirteen seeds, Adam, batches of 100, training and validation accuracy after every epoch and the test accuracy at the
end: mlp for 60 epochs, which is regrun's default, and conv1d for twelve. regrun trains all of it; a rival trains a few
of the runs, one after another as it would train all, and its time is multiplied. Contenders take turns and a ratio is
taken within each turn, set-up excluded, by the clock on the wall, where regrun has all cores and its rivals one.
Processor seconds, which a neighbour on the machine changes less, are told too. regrun takes part as it is
(`compile=off`) and with compiled steps (`compile=on`); to compile is set-up, and is told beside the table. How long the
matrix products alone take is what no way of training can be faster than. The last columns show that all train as well:
the mean test accuracy at the middle rate over the seeds that a rival trains, which are others in each turn, and how far
it is from that of regrun on the same seeds, with a 95 % t-interval over them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset
from turns import lined, machine, of, put, store

from runner.config import read
from runner.data.base import Split
from runner.engine.pack import begin, few_steps, noted
from runner.engine.packing import packed, threads
from runner.engine.tape import tensors_of, written_down
from runner.engine.workers import train_across, worth
from runner.job import Job
from runner.nets.sites import Mark
from runner.paths import conf_dir
from runner.report.stats import paired_difference

RATES, SEEDS = (0.1, 0.2, 0.3, 0.4, 0.5), 13
Rival = Callable[["Work", float, int], float]  # (work, dropout rate, seed) -> test accuracy


@dataclass(frozen=True)
class Work:
    """One study: a model, and for how long its runs train."""

    model: str
    epochs: int
    rivals_train: int  # runs that a rival trains in a turn

    def job(self) -> Job:
        """What regrun makes of it."""
        overrides = [
            "method=dropout", f"method.dropout.rate=[{','.join(map(str, RATES))}]", f"model={self.model}",
            f"seeds={SEEDS}", f"epochs={self.epochs}", "out=nowhere",
        ]  # fmt: skip
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return read(compose("config", overrides), overrides)


class Dropped(nn.Module):
    """The same net with torch's own dropout after each activation."""

    def __init__(self, net: nn.Module, rate: float) -> None:
        super().__init__()
        assert isinstance(net, nn.Sequential)
        hidden = [isinstance(layer, Mark) and layer.kind == "hidden" for layer in net]
        layers = [nn.Dropout(rate) if here else layer for here, layer in zip(hidden, net, strict=True)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def rate_of(job: Job) -> float:
    """regrun's learning rate, which its rivals take too."""
    return float(job.settings["optimizer"]["lr"])


def sets(job: Job, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Standardized examples and labels of a seed's three sets, as regrun draws them."""
    data = job.experiment.data
    split: Split = job.experiment.splitter.split(data, seed)
    rows = {"train": split.train, "val": split.val, "test": split.test}
    return {name: ((data.x[part] - split.mean) / split.std, data.y[part]) for name, part in rows.items()}


def plain(work: Work, job: Job, rate: float, seed: int) -> float:
    """The script a good user writes: datasets, loaders, one run."""
    torch.manual_seed(seed)
    net = Dropped(job.experiment.model(), rate)
    optimizer = torch.optim.Adam(net.parameters(), rate_of(job))
    parts = {name: TensorDataset(x, y) for name, (x, y) in sets(job, seed).items()}
    loader = DataLoader(parts["train"], 100, shuffle=True, drop_last=True)
    clean = {name: DataLoader(part, 500) for name, part in parts.items()}

    def accuracy(name: str) -> float:
        net.eval()
        with torch.no_grad():
            hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in clean[name])
        net.train()
        return hits / len(parts[name])

    for _ in range(work.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        accuracy("train"), accuracy("val")
    return accuracy("test")


def tight(work: Work, job: Job, rate: float, seed: int) -> float:
    """A tight loop: data in memory, no loader, a fused optimizer."""
    torch.manual_seed(seed)
    net = Dropped(job.experiment.model(), rate)
    optimizer = torch.optim.Adam(net.parameters(), rate_of(job), fused=True)
    parts = sets(job, seed)
    x, y = parts["train"]

    def accuracy(name: str) -> float:
        net.eval()
        with torch.inference_mode():
            of, labels = parts[name]
            hits = sum(
                int((net(some).argmax(1) == right).sum())
                for some, right in zip(of.split(500), labels.split(500), strict=True)
            )
        net.train()
        return hits / len(labels)

    for _ in range(work.epochs):
        order = torch.randperm(len(x))
        xs, ys = x[order], y[order]
        for i in range(0, len(x) - 99, 100):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(xs[i : i + 100]), ys[i : i + 100]).backward()
            optimizer.step()
        accuracy("train"), accuracy("val")
    return accuracy("test")


def lightning(work: Work, job: Job, rate: float, seed: int) -> float:
    """PyTorch Lightning as it is used: a module, a trainer, metrics logged after every epoch."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Dropped(job.experiment.model(), rate)

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            x, y = batch
            logits = self.net(x)
            self.log("train_acc", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
            return F.cross_entropy(logits, y)

        def _shared(self, batch: tuple[Tensor, Tensor], name: str) -> None:
            x, y = batch
            self.log(f"{name}_acc", (self.net(x).argmax(1) == y).float().mean())

        def validation_step(self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int = 0) -> None:
            self._shared(batch, "val")

        def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            self._shared(batch, "test")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), rate_of(job))

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(seed)
    parts = {name: TensorDataset(x, y) for name, (x, y) in sets(job, seed).items()}
    loader = DataLoader(parts["train"], 100, shuffle=True, drop_last=True)
    clean = {name: DataLoader(part, 500) for name, part in parts.items()}
    module = Module()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it advises more workers, which are slower here
        trainer = lightning.Trainer(
            max_epochs=work.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, loader, [clean["train"], clean["val"]])
        told = trainer.test(module, clean["test"], verbose=False)
    return float(told[0]["test_acc"])


class Cost(NamedTuple):
    """What something took."""

    wall: float  # seconds by the clock on the wall
    processor: float  # seconds of a core, those of child processes that have ended among them


def since(before: Cost = Cost(0.0, 0.0)) -> Cost:  # noqa: B008  # a constant
    """What the process has taken, less what it had before."""
    return Cost(time.perf_counter() - before.wall, sum(os.times()[:4]) - before.processor)


def ours(job: Job) -> tuple[Cost, list[float]]:
    """regrun on all of the work: its cost, and the test accuracy of every run, rate after rate."""
    runs = job.reporting(None)
    began = since()
    torch.set_num_threads(threads(job.experiment))
    workers = worth(len(runs))
    experiment = packed(job.experiment, runs, workers)
    outcomes = list(train_across(experiment, runs, lambda progress: None, workers))
    cost = since(began)
    torch.set_num_threads(1)
    outcomes.sort(key=lambda outcome: runs.index(outcome.run))  # they come as they end
    return cost, [outcome.figures["last_test_acc"] for outcome in outcomes]


def measure(work: Work, rivals: Sequence[str], turns: int) -> tuple[float, list[dict[str, object]]]:
    """Seconds to compile, and a line for regrun and each rival: its cost for the study, and how well it trains."""
    job = work.job()
    ours_are = {"regrun": compiling(job, False), "regrun, compiled": compiling(job, True)}
    whole = len(job.reporting(None))
    contenders: dict[str, Callable[..., float]] = {"plain": plain, "tight": tight, "lightning": lightning}
    costs: dict[str, list[Cost]] = {name: [] for name in (*ours_are, *rivals)}
    accuracy: dict[str, dict[int, float]] = {name: {} for name in costs}  # by seed, at the middle rate
    short = replace(job.experiment.budget, epochs=1)
    first = [ours(replace(one, experiment=replace(one.experiment, budget=short)))[0].wall for one in ours_are.values()]
    for turn in range(turns):
        seeds = [(turn * work.rivals_train + run) % SEEDS for run in range(work.rivals_train)]
        for name, one in ours_are.items():
            cost, accuracies = ours(one)
            costs[name].append(cost)
            accuracy[name] |= {seed: accuracies[2 * SEEDS + seed] for seed in seeds}
        for name in rivals:
            began = since()
            accuracy[name] |= {seed: contenders[name](work, job, RATES[2], seed) for seed in seeds}
            costs[name].append(Cost(*(seconds / len(seeds) * whole for seconds in since(began))))
    floor = products(job)
    costs["matrix products alone"] = [floor] * turns
    return first[1] - first[0], [
        {
            "what": f"{work.model}, {work.epochs} epochs: {name}",
            "seconds": round(statistics.median(cost.wall for cost in mine), 1),
            **{f"times {one}": advantage(mine, costs[one]) for one in ours_are},
            "processor seconds": round(statistics.median(cost.processor for cost in mine), 1),
            "test accuracy": f"{statistics.mean(accuracy[name].values()):.3f}" if name in accuracy else "–",
            "points from regrun's": apart(accuracy[name], accuracy["regrun"]) if name in rivals else "–",
        }
        for name, mine in costs.items()
    ]


def products(job: Job) -> Cost:
    """What of the study are the matrix products of training and of the looks after each epoch, at the rate they have.

    No training of these nets on these cores can take less: an aim above the ratio to this is out of reach.
    """
    runs, budget = job.reporting(None), job.experiment.budget
    workers = worth(len(runs))
    experiment = packed(compiling(job, False).experiment, runs, workers)
    pack, lanes = begin(experiment, runs[: experiment.lanes])
    lanes = few_steps(pack, lanes, 1)
    written, [(arguments, _)] = noted(pack, lanes, 1)
    _, operations = written_down(written, arguments)
    tensors = tensors_of(tree_leaves(arguments))
    step = min(operations.seconds(tensors)[1] for _ in range(20)) / len(lanes.run)
    examples = {name: rows.shape[1] for name, rows in lanes.rows.items()}
    trained = 3 * pack.steps_per_epoch * budget.batch_size  # in forward passes of an example, to be looked at later
    looked = examples["train"] + examples["val"]
    seconds = len(runs) * budget.epochs * pack.steps_per_epoch * step * (1 + looked / trained)
    return Cost(seconds / workers, seconds)


def compiling(job: Job, compiled: bool) -> Job:
    """The job with its steps compiled, or not."""
    return replace(job, experiment=replace(job.experiment, compiled=compiled))


def advantage(theirs: Sequence[Cost], regruns: Sequence[Cost]) -> str:
    """The ratio of seconds on the wall, taken within each turn: the median, and the least and the largest."""
    ratios = [one.wall / other.wall for one, other in zip(theirs, regruns, strict=True)]
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def apart(theirs: Mapping[int, float], regruns: Mapping[int, float]) -> str:
    """By how many points accuracies differ at the same seeds: the mean with its 95 % t-interval, and n."""
    mine, others = (100 * np.array([one[seed] for seed in sorted(theirs)]) for one in (regruns, theirs))
    found = paired_difference(others, mine)
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], n = {len(theirs)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rivals", default="plain,tight,lightning")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    asked = parser.parse_args()
    about, clock = machine(), time.monotonic()
    works = [Work("mlp", 3 if asked.quick else 60, 3), Work("conv1d", 2 if asked.quick else 12, 3)]
    torch.set_num_threads(1)
    rows, set_up = [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nothing is compiled yet
        for work in works:
            set_up[work.model], more = measure(work, asked.rivals.split(","), 1 if asked.quick else asked.turns)
            rows += more
    about["seconds"] = f"{time.monotonic() - clock:.0f}"
    told = ", ".join(f"{seconds:.0f} s for {model}" for model, seconds in set_up.items())
    page = "\n".join([of(about), lined(rows), "", f"To compile took {told}; the second finds some of it done."])
    print(page)
    store(Path("outputs/bench/study.json"), {"machine": about, "to_compile_s": set_up, "rows": rows})
    if asked.write:
        put(asked.write, "study", page)


if __name__ == "__main__":
    main()
