"""A synthetic study with known effects, written as the engine writes one."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FAMILIES = {
    "l2": "penalty", "l1": "penalty", "dropout": "dropping", "batchnorm": "normalization", "label_smoothing": "target",
    "mixup": "input", "early_stop": "stopping", "noise": "noise", "spectral": "constraint", "placebo": "placebo",
    "sam": "gradient", "ema": "averaging", "r_drop": "consistency", "narrow": "capacity", "cutmix": "input",
    "cutout": "input", "swa": "averaging", "asam": "gradient", "weight_noise": "noise", "max_norm": "constraint",
    "stochastic_depth": "dropping", "confidence_penalty": "target", "none": "baseline",
}  # fmt: skip
METHODS = tuple(name for name in FAMILIES if name != "none")


@dataclass(frozen=True)
class Plan:
    """What to write: methods, seeds per role, strengths per method, groups and the runs that fail."""

    methods: Sequence[str] = ("l2", "dropout", "mixup")
    tune: int = 3
    report: int = 10
    strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    protocol: str = "tuned"
    groups: Sequence[tuple[str, str, str]] = (("digits", "mlp", ""),)
    diverged: Sequence[tuple[str, str, int]] = ()  # (method, role, seed)
    baseline: bool = True
    split_mode: str = "train_val"
    epochs: int = 20
    rates: Sequence[float] = ()  # learning rates that every method tunes too; the best depends on the method
    predictions: bool = False  # whether runs have the figures of calibration, and files of predictions


def _run(
    plan: Plan, group: tuple[str, str, str], method: str, strength: float, seed: int, role: str, rate: float = 0.01
) -> dict[str, object]:
    """One row; test accuracy = 72 + effect + split effect of the seed + noise, in percent, then as a fraction."""
    dataset, model, setting = group
    names = method.split("+")
    index = METHODS.index(names[0]) if names[0] in METHODS else -1
    shared = np.random.default_rng([7, seed]).normal(0, 0.8)
    level = 0.0 if math.isnan(strength) else strength
    random = np.random.default_rng([11, seed, index + 1, round(1e6 * level) % 10007, len(dataset)])
    position = math.log10(level) + 2 if level > 0 else 0.0
    effect = 0.0 if index < 0 or "placebo" in method else 1.6 * math.cos(index) + 0.5 - 0.4 * position**2
    shrink = 0.0 if index < 0 or "placebo" in method else 2.0 + 1.5 * (index % 5) + 1.2 * position
    effect -= 1.5 * abs(math.log10(rate) + (2.5 if index < 0 else 1.5)) * bool(plan.rates)
    test = (72.0 + effect + shared + random.normal(0, 0.35)) / 100
    gap = (27.5 - shrink + 0.3 * shared + random.normal(0, 0.3)) / 100
    val = test + random.normal(0, 0.004)
    failed = (method, role, seed) in plan.diverged
    known = method != "none" and not math.isnan(strength)
    strengths = " ".join(f"{name}.rate={strength:g}" for name in names) if known else ""
    if plan.rates:
        strengths = f"{strengths} optimizer.lr={rate:g}".strip()
    row: dict[str, object] = {
        "run_id": f"{dataset}-{setting}-{method}-{strength:g}-{rate:g}-{role}-{seed}", "study": "synthetic",
        "job": method, "dataset": dataset, "model": model, "setting": setting, "method": method,
        "family": FAMILIES.get(names[0], "penalty"), "strength": strength if known else "",
        "strength_name": f"{names[0]}.rate" if known else "", "strength_idx": "", "strengths": strengths,
        "seed": seed, "role": role, "protocol": plan.protocol, "selected": False, "split_mode": plan.split_mode,
        "split_hash": "h" if plan.split_mode == "none" else f"h{seed}",
        "status": "diverged" if failed else "ok", "error": "loss is nan" if failed else "",
        "epochs": plan.epochs, "steps": 100, "batch_size": 64, "lr": rate, "optimizer": "sgd", "n_train": 1000,
        "n_train_eval": 1000,
        "n_val": 200, "n_test": 1000, "n_classes": 10, "n_params": 5000,
        "train_s": 2.0 * (1.1 if method != "none" else 1.0) * (1 + 0.02 * random.random()),
        "started_at": "2025-01-01T00:00:00",
    }  # fmt: skip
    for checkpoint, epoch in (("last", plan.epochs - 1), ("best", plan.epochs // 2 + seed % 4)):
        values = {"train_acc": test + gap, "val_acc": val, "test_acc": test, "gap_acc": gap}
        values |= {"train_loss": 1.2 - test - gap + 0.05, "val_loss": 1.9 - val, "test_loss": 1.9 - test}
        values["gap_loss"] = values["test_loss"] - values["train_loss"]
        if plan.predictions:
            values["test_acc"] = test = round(1000 * test) / 1000  # of 1,000 examples
            values |= {"test_brier": 1.2 * (1 - test), "test_ece": 0.2 - 0.1 * test, "test_ece_null": 0.03}
            values |= {"test_nll_t": 1.8 - test, "temperature": 1.4 - effect / 10}
        row[f"{checkpoint}_epoch"] = "" if failed else epoch
        for name, value in values.items():
            row[f"{checkpoint}_{name}"] = "" if failed else float(value)
    return row


def _curves(plan: Plan, row: dict[str, object]) -> list[dict[str, object]]:
    """Train falls without end, validation turns up: the shape of overfitting."""
    random = np.random.default_rng([13, int(str(row["seed"])), len(str(row["method"]))])
    shrink = 0.02 if row["method"] == "none" else 0.01
    rows: list[dict[str, object]] = []
    for epoch in range(plan.epochs):
        train = 2.2 * math.exp(-epoch / 6) + 0.03 + 0.01 * random.random()
        val = 2.2 * math.exp(-epoch / 5) + 0.55 + shrink * epoch + 0.03 * random.random()
        if row["status"] == "diverged" and epoch > 5:
            train = val = math.nan
        for split, loss in (("train", train), ("val", val)):
            common = {"run_id": row["run_id"], "epoch": epoch, "step": 5 * epoch, "split": split}
            rows.append({**common, "metric": "loss", "value": loss})
            rows.append({**common, "metric": "acc", "value": math.exp(-loss)})
    return rows


def _rows_of_two_axes(
    plan: Plan, group: tuple[str, str, str], method: str, grid: Sequence[float]
) -> list[dict[str, object]]:
    """As `job_rows` in protocol tuned, over strengths and learning rates."""
    points = [(strength, rate) for strength in grid for rate in plan.rates]
    tune = {
        point: [_run(plan, group, method, point[0], seed, "tune", point[1]) for seed in range(plan.tune)]
        for point in points
    }
    best = max(points, key=lambda point: float(np.mean([float(str(row["last_val_acc"])) for row in tune[point]])))
    seeds = range(plan.tune, plan.tune + plan.report)
    fresh = [_run(plan, group, method, best[0], seed, "report", best[1]) for seed in seeds]
    rows = [row for point in points for row in tune[point]] + fresh
    for row in rows:
        row["selected"] = row["strengths"] == fresh[0]["strengths"]
    return rows


def example_predictions(row: dict[str, object]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
    """What a run says about its 1,000 examples: the hard ones are hard for all runs, with noise of the run's own."""
    random = np.random.default_rng([17, int(str(row["seed"])), len(str(row["run_id"]))])
    ease = np.random.default_rng(19).normal(size=1000) + 0.5 * random.normal(size=1000)
    correct = np.zeros(1000, dtype=np.bool_)
    correct[np.argsort(-ease)[: round(1000 * float(str(row["last_test_acc"])))]] = True
    confidence = 1 / (1 + np.exp(-1.5 * ease - 1.5))
    return {"correct": np.packbits(correct), "confidence": confidence.clip(0.1).astype(np.float16)}


def _write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def job_rows(plan: Plan, group: tuple[str, str, str], method: str) -> list[dict[str, object]]:
    """The rows of one job; in protocol tuned the strength with the best mean validation is the chosen one."""
    grid = [math.nan] if method == "none" or not plan.strengths else list(plan.strengths)
    if plan.rates:
        return _rows_of_two_axes(plan, group, method, grid)
    if plan.protocol != "tuned" or method == "none":
        first = plan.tune if plan.protocol == "tuned" else 0
        seeds = range(first, first + plan.report)
        return [_run(plan, group, method, strength, seed, "report") for strength in grid for seed in seeds]
    rows = [_run(plan, group, method, strength, seed, "tune") for strength in grid for seed in range(plan.tune)]

    def mean_validation(strength: float) -> float:
        values = [row["last_val_acc"] for row in rows if row["strength"] == strength and row["status"] == "ok"]
        return float(np.mean([value for value in values if isinstance(value, float)]))

    best = max(grid, key=mean_validation) if not math.isnan(grid[0]) else grid[0]
    fresh = [_run(plan, group, method, best, seed, "report") for seed in range(plan.tune, plan.tune + plan.report)]
    for row in [*rows, *fresh]:
        row["selected"] = row["strength"] == fresh[0]["strength"]
    return [*rows, *fresh]


def write_study(folder: Path, plan: Plan | None = None) -> Path:
    """Write the job folders of a study below `folder` and give it; the `runs.csv` of all jobs is the report's."""
    plan = plan or Plan()
    for group in plan.groups:
        for method in (*(("none",) if plan.baseline else ()), *plan.methods):
            job = folder / "-".join([group[0], group[2], method])
            job.mkdir(parents=True)
            rows = job_rows(plan, group, method)
            if plan.predictions:
                (job / "predictions").mkdir()
            for row in rows:
                row["job"] = job.name
                if plan.predictions and row["status"] == "ok":
                    np.savez(
                        job / "predictions" / f"{row['run_id']}.npz", allow_pickle=False, **example_predictions(row)
                    )
            _write(job / "runs.csv", rows)
            reported = [row for row in rows if row["role"] == "report"]
            _write(job / "curves.csv", [line for row in reported for line in _curves(plan, row)])
            state = {"state": "complete", "error": None, "method": method, "overrides": [f"method={method}"]}
            (job / "status.json").write_text(json.dumps(state))
    return folder
