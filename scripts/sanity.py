"""Do plain training runs reach the published accuracies of MNIST-1D? (Greydanus and Kobak 2024)

    python scripts/sanity.py            about four minutes on one core, through regrun's own command line
    python scripts/sanity.py --seeds 3  faster, less sure

The package's own data (4,000 and 1,000 examples), Adam at 0.01, batches of 100, 6,000 steps, no regularizer. Prints a
Markdown table; the exit code is 1 if a mean misses its published figure. docs/results.md has the table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from runner.report.stats import t_interval

# model -> published train and test accuracy in percent, and how far from it the mean of several seeds may lie
PUBLISHED = {
    "linear": ((37.0, 31.0), (1.5, 3.0)),
    "mlp": ((100.0, 65.0), (1.5, 2.0)),
    "conv1d": ((100.0, 93.0), (0.5, 1.0)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    asked = parser.parse_args()
    command = [
        "regrun", "-m", "data=mnist1d_paper", f"model={','.join(PUBLISHED)}", "method=none", "optimizer=adam",
        "optimizer.lr=0.01", "batch_size=100", "epochs=150", "evaluate.every=150", f"seeds={asked.seeds}",
        "onednn=off", "study=sanity", f"out={asked.out}",
    ]  # fmt: skip
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-m", "runner.cli", *command[1:]], env=quiet, check=False)
    if ended.returncode:
        return ended.returncode
    runs = pd.read_csv(asked.out / "sanity" / "runs.csv")

    print(f"\n`{' '.join(command)}`: {runs['train_s'].sum() / 60:.1f} minutes of training\n")
    print("| model | n | train % | published | test % | published | reached |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    missed = 0
    for model, (published, margin) in PUBLISHED.items():
        mine = runs[runs["model"] == model]
        accuracies = [100 * mine[f"last_{split}_acc"].to_numpy(dtype=np.float64) for split in ("train", "test")]
        reached = all(abs(a.mean() - p) <= m for a, p, m in zip(accuracies, published, margin, strict=True))
        missed += not reached
        cells = [text for a, p in zip(accuracies, published, strict=True) for text in (_interval(a), f"{p:g}")]
        print(f"| {model} | {len(mine)} | {' | '.join(cells)} | {'yes' if reached else 'no'} |")
    return int(missed > 0)


def _interval(percent: NDArray[np.float64]) -> str:
    """The mean and half its 95 % t-interval."""
    told = t_interval(percent)
    return f"{told.mean:.1f} ± {told.high - told.mean:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
