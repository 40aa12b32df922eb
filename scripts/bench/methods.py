"""What a step of every method costs, in steps of the baseline on the same net, data and lanes.

    python scripts/bench/methods.py                     about ten minutes; writes docs/step_times.json
    python scripts/bench/methods.py --only l2,sam       these alone; the others stay as they are in the file

Then `python scripts/methods_table.py` puts the ratios into docs/methods.md. Method and baseline take turns on one
thread, a ratio is taken within each turn, and the table has the median; the clock counts processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from turns import Row, Train, machine, row, turns

from runner.config import read
from runner.engine.pack import begin, few_steps
from runner.engine.packing import multiplied
from runner.errors import Refusal
from runner.grid import Run
from runner.job import Job
from runner.paths import conf_dir, options, stacked

PAGE = Path(__file__).resolve().parents[2] / "docs" / "step_times.json"


@dataclass(frozen=True)
class Setting:
    """A net on its data, trained in so many lanes."""

    name: str
    overrides: tuple[str, ...]
    lanes: int
    steps: int  # of a turn


MNIST1D = ("data=mnist1d", "batch_size=100")
SETTINGS = (
    Setting("mlp, 16 lanes", ("model=mlp", *MNIST1D), 16, 20),
    Setting("resnet_mlp, 16 lanes", ("model=resnet_mlp", *MNIST1D), 16, 10),
    Setting("convnet, a run alone", ("model=convnet", "data=fashion_mnist", "batch_size=100"), 1, 6),
)


def trainer(setting: Setting, method: str) -> Train:
    """regrun's own steps of a method; Refusal if the net or the data do not suit it."""
    overrides = [f"method={method}", *setting.overrides, "out=nowhere"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job: Job = read(compose("config", overrides), overrides)
    experiment = multiplied(replace(job.experiment, lanes=setting.lanes))
    return partial(few_steps, *begin(experiment, [Run(seed, "report", {}, 0) for seed in range(setting.lanes)]))


def measured(setting: Setting, method: str, count: int) -> Row | None:
    """The row of a method in a setting; None if the setting does not suit it."""
    try:
        contenders = {"method": trainer(setting, method), "none": trainer(setting, "none")}
    except Refusal:
        return None
    seen = turns(contenders, count, setting.steps)
    return row(method, seen["method"], seen["none"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="methods, with commas between")
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    clock, about = time.monotonic(), machine()
    methods = asked.only.split(",") if asked.only else [n for n in options("method") if stacked(n) == [n] != ["none"]]
    ratios: dict[str, dict[str, float]] = {}
    for method in methods:
        for setting in SETTINGS:
            if setting.name.startswith("resnet") and "mlp, 16 lanes" in ratios.get(method, {}):
                continue  # for what the plain net does not suit
            told = measured(setting, method, asked.turns)
            if told:
                ratios.setdefault(method, {})[setting.name] = round(told.ratio, 2)
                print(f"{method}, {setting.name}: {told.ratio:.2f} ({told.low:.2f} to {told.high:.2f})", flush=True)
    about["seconds"] = f"{time.monotonic() - clock:.0f}"
    if asked.only:
        known = json.loads(PAGE.read_text(encoding="utf-8"))
        about, ratios = known["machine"], dict(sorted({**known["ratios"], **ratios}.items()))
    PAGE.write_text(json.dumps({"machine": about, "ratios": ratios}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
