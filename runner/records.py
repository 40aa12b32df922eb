"""What is written of a job, and read back to go on with it.

    <job>/config.yaml   the settings that determine the numbers
    <job>/runs.csv      one row per run
    <job>/curves.csv    one row per run, evaluation, split and metric
    <job>/status.json   whether the job is complete, and what it ran on
    <job>/corruptions.csv   one row per run, kind and severity of corruption, where evaluate.corruptions asks for it
    <job>/measures.csv      one row per run: measures of generalization, where evaluate.measures asks for them
    <job>/predictions/  <run_id>.npz: what the last checkpoint of a run says about each test example
    <job>/ended.jsonl   while a stage of the job runs: its runs that have ended, one a line, and their curves
    <job>/share-<k>/    of a job that lanes_per_job splits, while it runs: ended.jsonl and checkpoints of each share

Every file but the last is written beside and renamed, so that a reader finds the old one or the new one and nothing
between; of the last a line counts once it is whole.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runner import __version__
from runner.files import append_line, read_csv, read_object, write_atomic

# Also read by runner.report, which must not import this module (it imports torch).
CHECKPOINT = tuple(
    f"{split}_{metric}" for split in ("train", "val", "test") for metric in ("loss", "acc")
)  # fmt: skip
REGRESSION = ("train_r2", "val_r2", "test_r2", "gap_r2", "test_rmse")  # in the place of the accuracies
CALIBRATION = ("test_brier", "test_ece", "test_ece_null", "test_nll_t", "temperature")
COLUMNS = (
    "run_id", "study", "job", "dataset", "model", "setting", "method", "family", "strength", "strength_name",
    "strength_idx", "strengths", "seed", "role", "protocol", "select", "selected", "split_mode", "split_hash",
    "status", "error", "epochs", "steps", "batch_size", "lr", "optimizer", "schedule", "penalize_biases", "n_train",
    "n_train_eval", "n_val", "n_test", "n_classes", "n_params",
    *(f"{c}_{name}" for c in ("last", "best") for name in ("epoch", *CHECKPOINT, "gap_loss", "gap_acc", *CALIBRATION)),
    "label_noise", "last_train_acc_clean", "best_train_acc_clean",
    "bayes_acc", "teacher_acc", "last_corrupted_acc", "last_fgsm_acc", "last_pgd_acc",
    "task", *(f"{c}_{name}" for c in ("last", "best") for name in REGRESSION), "bayes_r2", "teacher_r2",
    "w_l2", "w_l1", "w_dist_init", "w_near_zero", "w_zero", "w_dead_inputs", "clipped_share",
    "train_s", "s_per_step", "lanes", "mapped", "channels_last", "onednn", "compiled", "threads", "peak_mem_mb",
    "device", "dtype", "deterministic", "torch", "regrun", "git_sha", "started_at",
)  # fmt: skip
CURVE_COLUMNS = ("run_id", "epoch", "step", "split", "metric", "value")
# The tables that a job has only where they are asked for, by the name of their file.
ASKED = {
    "corruptions": ("run_id", "kind", "severity", "acc"),
    "measures": (
        "run_id", "param_norm", "dist_init", "dist_init_spec", "log_prod_frob", "log_prod_spec", "margin",
        "log_prod_spec_margin", "path_norm", "sharpness", "pac_bayes_sigma", "pac_bayes_mag_sigma", "hessian_top",
    ),
}  # fmt: skip

Row = dict[str, Any]


def to_stderr(line: str) -> None:
    """Say a line where nothing else listens."""
    print(line, file=sys.stderr, flush=True)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Put a CSV file at `path`: UTF-8, one header, full precision, blank where a value is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_atomic(path, text.getvalue())


def read_table(path: Path, say: Callable[[str], None] = to_stderr) -> list[Row]:
    """The rows of a CSV file as text; none if there is no file, and those that are whole if it is torn."""
    return list(read_csv(path, say)[1])


def as_text(columns: Sequence[str], row: Row) -> Row:
    """A row as it will be read back; one that has other columns is a mistake here, not the user's."""
    assert row.keys() <= set(columns), row.keys() - set(columns)
    return {column: _cell(row.get(column)) for column in columns}


class Ended(NamedTuple):
    """What a run that has ended leaves in the tables, all of it as text."""

    row: Row
    curve: list[Row]
    asked: dict[str, list[Row]]  # what was asked for and has several rows, by table of ASKED


def write_ended(folder: Path, ended: Ended) -> None:
    """Add a run that has ended to `<folder>/ended.jsonl`."""
    append_line(folder / "ended.jsonl", json.dumps(ended))


def read_ended(folder: Path, say: Callable[[str], None] | None) -> list[Ended]:
    """The runs in `<folder>/ended.jsonl`; lines that are torn are left out, there too, and said.

    With None for `say` the file is left as it is: another process may be writing its next line.
    """
    path = folder / "ended.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    found, sound = [], []
    for line in lines[:-1]:
        try:
            row, curve, asked = json.loads(line)
            points = [dict(point) for point in curve]
            found.append(
                Ended(dict(row), points, {name: [dict(more) for more in rows] for name, rows in asked.items()})
            )
        except (ValueError, TypeError, AttributeError):
            continue
        sound.append(line + b"\n")
    if say and (len(sound) < len(lines) - 1 or lines[-1]):
        say(f"{path}: a line is torn and left out, {len(found)} kept; its run begins again, or where it was kept")
        write_atomic(path, b"".join(sound))
    return found


def write_predictions(folder: Path, run_id: str, hits: Tensor, confidence: Tensor) -> None:
    """Put what a run says about its test rows, in their order, at `<folder>/predictions/<run_id>.npz`.

    `correct` holds hits [n] as packed bits, `confidence` the probability of the predicted class as float16 [n]: two
    bytes and a bit for each example.
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, correct=np.packbits(hits.numpy()), confidence=confidence.numpy())
    write_atomic(folder / "predictions" / f"{run_id}.npz", content.getvalue())


def read_status(folder: Path) -> Mapping[str, Any]:
    """A job's status; empty if it has none yet, or one that is torn."""
    return read_object(folder / "status.json")


def write_status(folder: Path, state: str, **more: object) -> None:
    """Say that a job is "running", "complete" or "failed", on what machine and with what versions."""
    said = {"state": state, **more, **machine(), "written_at": now()}
    write_atomic(folder / "status.json", json.dumps(said, indent=1) + "\n")


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """What the numbers were computed with."""
    return versions() | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def versions() -> dict[str, Any]:
    """regrun's version and commit, and torch's version."""
    return {"regrun": __version__, "git_sha": _commit(), "torch": torch.__version__}


def _commit() -> str:
    """The commit of the checkout that regrun runs from; blank for an installed package."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return ""
    told = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.stdout.strip()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)
