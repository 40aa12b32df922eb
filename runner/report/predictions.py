"""What the reported runs say about each test example, read back from the files beside their records."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from runner.report.stats import Flags


@dataclass(frozen=True)
class Predictions:
    """The last checkpoint of one run on its test examples, in their order."""

    correct: Flags  # [n]
    confidence: NDArray[np.float16]  # [n]: the probability of the predicted class


def read_predictions(study_dir: Path, runs: pd.DataFrame) -> dict[str, Predictions]:
    """The predictions of the report runs that have them, by run_id; a file that is missing is left out.

    Raises ValueError for a file that cannot be read, and for one that does not agree with the run's record.
    """
    if "job" not in runs.columns:
        return {}
    found = {}
    done = runs[(runs["role"] == "report") & (runs["status"] == "ok")]
    for run, job, accuracy in zip(done["run_id"], done["job"], done["last_test_acc"], strict=True):
        path = study_dir / str(job) / "predictions" / f"{run}.npz"
        if path.is_file():
            read = _read(path)
            # A record has nine digits.
            if abs(float(read.correct.mean()) - float(accuracy)) > 1e-6:
                raise ValueError(
                    f"{path} has a test accuracy of {read.correct.mean():.6g} and the run's record one of "
                    f"{float(accuracy):.6g}; remove the file to do without it"
                )
            found[str(run)] = read
    return found


def _read(path: Path) -> Predictions:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            confidence = stored["confidence"]
            correct = np.unpackbits(stored["correct"], count=len(confidence)).astype(np.bool_)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove the file to do without it") from error
    return Predictions(correct, confidence)
