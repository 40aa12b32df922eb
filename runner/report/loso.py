"""Leave-one-seed-out choice of the strength, for a grid that was run without seeds of its own for tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from runner.grid import best_point
from runner.report.predictions import Predictions
from runner.report.stats import Flags, Values
from runner.report.tables import (
    BASELINE,
    GROUP,
    Margins,
    headline,
    in_order,
    strengths_of,
    weakest_first,
    without_tests,
)
from runner.report.writers import caption

FEWEST = 3
SHARED = (
    "Selection and report share seeds: the strength at each seed was chosen on the other seeds, so no seed chooses for "
    "itself, but the choices are not independent of the runs they are reported on; intervals are a little too narrow, "
    "hence no tests. Fresh seeds (protocol=tuned) are the better way."
)


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """Of one method's report rows over several strengths, one row per seed: that of the strength with the highest mean
    last validation accuracy over the other seeds, ties as in a study: to the one that trained for the fewest epochs,
    and then to the weaker.

    Of the strengths that were run at the seed, over the other seeds that all of them have; one that has no other seed
    is chosen only if none has. Runs that failed count against no strength.
    """
    strengths, seeds = weakest_first(rows), sorted(set(rows["seed"]))
    shape = len(strengths), len(seeds)
    values: Values = np.full(shape, math.nan)
    epochs: Values = np.full(shape, math.nan)
    ran: Flags = np.zeros(shape, dtype=np.bool_)
    for strength, seed, value, trained, status in zip(
        rows["strengths"], rows["seed"], rows["last_val_acc"], rows["epochs"], rows["status"], strict=True
    ):
        place = strengths.index(strength), seeds.index(seed)
        ran[place], epochs[place] = True, trained
        values[place] = value if status == "ok" else math.nan
    kept: list[pd.DataFrame] = []
    for at, seed in enumerate(seeds):
        here = np.flatnonzero(ran[:, at])
        repeated = here[ran[here].sum(axis=1) > 1]
        compared = repeated if len(repeated) else here
        others: Flags = np.all(ran[compared], axis=0)
        others[at] = False
        known = values[compared][:, others]
        count = np.isfinite(known).sum(axis=1)
        means = np.where(count > 0, np.nansum(known, axis=1) / np.maximum(count, 1), -math.inf)
        spent = epochs[compared][:, others].sum(axis=1)
        best = compared[best_point(dict(enumerate(means.tolist())), dict(enumerate(spent.tolist())))]
        kept.append(rows[(rows["seed"] == seed) & (rows["strengths"] == strengths[best])])
    return pd.concat(kept)


def leave_one_seed_out(
    runs: pd.DataFrame,
    checkpoint: str = "last",
    metric: str = "test_acc",
    margins: Margins = Margins(),  # noqa: B008  # frozen
    stored: Margins | None = None,
    said: Mapping[str, Predictions] = MappingProxyType({}),
) -> pd.DataFrame | None:
    """A headline in which every method of a `fixed` study with a grid has one row, without tests; None without such.

    Data whose test sets the seeds draw are left out: what one seed validates on, another one tests on. So are methods
    without validation data.
    `chosen` tells which strengths were chosen at how many seeds; `stored` and `said` are as in `headline`.
    """
    fixed = in_order(runs)
    fixed = fixed[(fixed["role"] == "report") & (fixed["protocol"] == "fixed") & (fixed["split_mode"] != "all")]
    parts, told = [], {}
    for key, rows in fixed.groupby([*GROUP, "method"], sort=True):
        assert isinstance(key, tuple)
        strengths = rows["strengths"].nunique()
        validated = bool(rows.loc[rows["status"] == "ok", "last_val_acc"].notna().all())
        if rows["method"].iloc[0] == BASELINE:
            parts.append(rows)
        elif validated and strengths > 1 and rows["seed"].nunique() >= FEWEST:
            picked = choices(rows)
            order, texts = weakest_first(rows), picked["strengths"].astype(str).tolist()
            told[key] = ", ".join(
                f"{' '.join(f'{value:g}' for value in strengths_of(text).values())} at {texts.count(text)}"
                for text in order
                if text in texts
            )
            parts.append(picked.assign(strengths="", strength=math.nan))
    if not told:
        return None
    wanted = {key[:3] for key in told}
    kept = pd.concat(parts).assign(protocol="loso")
    kept = kept[[key in wanted for key in zip(*(kept[name] for name in GROUP), strict=True)]]
    frame = without_tests(headline(kept, checkpoint, metric, margins=margins, stored=stored, said=said))
    keys = zip(*(frame[name] for name in [*GROUP, "method"]), strict=True)
    return frame.assign(chosen=[told.get(key, "") for key in keys])


def loso_caption(frame: pd.DataFrame) -> str:
    """The caption of one group, with the warning that selection and report share seeds."""
    return f"{SHARED} {caption(frame)}"
