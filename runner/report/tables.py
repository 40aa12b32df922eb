"""The frames of a report: runs read back, one row per strength, and the headline paired against `none`."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from runner.files import read_csv
from runner.grid import TIE_DIGITS
from runner.report.predictions import Predictions
from runner.report.stats import (
    Paired,
    Values,
    correlation,
    example_error,
    holm,
    pair_by_seed,
    paired_difference,
    paired_ratio,
    seeds_needed,
    share_within,
    sign_flip,
    simultaneous,
    standardized,
    t_interval,
    with_test_error,
)

GROUP = ["dataset", "model", "setting"]
CONFIGURATION = ["method", "strengths"]
BASELINE = "none"
METRICS = (
    "test_acc", "test_loss", "test_nll_t", "test_brier", "test_ece", "corrupted_acc", "fgsm_acc", "pgd_acc",
)  # fmt: skip
# What the score and the loss are called where a number is predicted.
OF_REGRESSION = {"test_acc": "test_r2", "test_loss": "test_mse"}
HIGHER = ("test_acc", "test_r2", "corrupted_acc", "fgsm_acc", "pgd_acc")  # those of which more is better
WITH_GAP = ("test_acc", "test_loss", "test_r2", "test_mse")  # those that are measured on training data, too
# Not compared with none: an error that even a calibrated model has, and the more of it the less confident it is.
ALONE = ("test_ece",)


def _names(text: str) -> list[str]:
    return text.split()


TEXT = _names(
    "run_id study job dataset model setting method family strength_name strengths role protocol select split_mode "
    "split_hash status error optimizer schedule device dtype torch regrun git_sha started_at task"
)
FLAGS = _names("selected deterministic mapped channels_last onednn compiled penalize_biases")
NEEDED = _names(
    "run_id dataset model setting method family strength strengths seed role protocol selected split_mode status "
    "train_s epochs last_epoch last_train_acc last_val_acc last_test_acc last_gap_acc"
)
HEADLINE = _names(
    "dataset model setting checkpoint metric method family protocol strengths strength n_tune n_report n_failed "
    "n_pairs n_tune_failed tuning_runs shared_seeds mean sd lo hi gap_mean gap_lo gap_hi base_mean diff diff_lo "
    "diff_hi diff_lo_sim diff_hi_sim sd_diff rho_paired gap_diff gap_diff_lo gap_diff_hi gap_diff_lo_sim "
    "gap_diff_hi_sim se_test diff_lo_seeds diff_hi_seeds gap_diff_lo_seeds gap_diff_hi_seeds p p_holm family_size "
    "p_signflip dz wins ties rope gap_rope rope_stored gap_rope_stored p_in_rope verdict more_seeds more_seeds_max "
    "diff_worst diff_worst_lo diff_worst_hi worst_value d_train d_train_lo d_train_hi d_test gap_share_from_test "
    "time_ratio time_ratio_lo time_ratio_hi n_timed other_lanes best tied_best underfit edge_of_grid null_mean "
    "temperature_mean pairs level interval_covers label_noise extended"
)

ONE_SET = "one fixed training set: the interval does not cover the choice of training data"
FIXED_SPLIT = f"seeds only; {ONE_SET}"
REDRAWN_SPLIT = "seeds and training sets drawn from the examples there are"
REDRAWN_TEST = "seeds, training sets and test sets drawn from the examples there are"


@dataclass(frozen=True)
class Margins:
    """The largest differences that still count as none, as fractions (`acc`, `gap`) and in nats (`loss`).

    Of a regression R2 has those of accuracy, and the squared error, in variances of the training targets, that of loss.

    Fix them before the runs: a margin chosen afterwards can make any verdict.
    """

    acc: float = 0.005
    gap: float = 0.01
    loss: float = 0.02

    def __post_init__(self) -> None:
        for name in ("acc", "gap", "loss"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"margin {name} is {getattr(self, name)}; it must be above 0")

    def of(self, metric: str) -> tuple[float, float]:
        """The margins of a metric and of its gap; nan for one on another scale than accuracy and nats."""
        if metric == "test_acc":
            return self.acc, self.gap
        if metric in HIGHER:
            return self.acc, math.nan
        return (self.loss, self.loss) if metric in ("test_loss", "test_nll_t") else (math.nan, math.nan)


class NoBaseline(ValueError):
    """A comparison group has no report run of `none` to compare with."""


def read_runs(path: Path) -> pd.DataFrame:
    """The rows of a `runs.csv`: text columns as str, flags as bool, `seed` as int, all others as float (blank: nan).

    Of a regression the columns of accuracy, which are blank in the file, hold R2: the score that is reported.

    Raises ValueError naming the columns a report needs and the file lacks.
    """
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [name for name in NEEDED if name not in raw.columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; is it a runs.csv of regrun?")

    def typed(name: str) -> pd.Series:
        column = raw[name]
        if name in TEXT:
            return column.str.replace(r"[\x00-\x1f\x7f-\x9f]", " ", regex=True)  # what would move a terminal's cursor
        if name in FLAGS:
            return column.str.lower().isin(["true", "1", "1.0"])
        if name == "seed":
            return column.astype(int)
        return column.where(column != "", "nan").astype(float)

    runs = pd.DataFrame({name: typed(name) for name in raw.columns})
    if "task" in runs.columns:
        numbers = runs["task"] == "regression"
        for name in [name for name in runs.columns if name.endswith("_r2")]:
            score = name.replace("_r2", "_acc")
            runs[score] = runs[score].where(~numbers, runs[name])
    return runs


def read_curves(study_dir: Path) -> pd.DataFrame:
    """All `<job>/curves.csv` of a study, long: run_id, epoch, step, split, metric, value."""
    columns = ["run_id", "epoch", "step", "split", "metric", "value"]
    frames = []
    for path in sorted(study_dir.glob("*/curves.csv")):
        _, rows = read_csv(path, lambda line: print(line, file=sys.stderr))
        if rows:
            frames.append(pd.DataFrame(rows)[columns])
    if not frames:
        return pd.DataFrame({name: [] for name in columns})
    frames = [frame.assign(metric=frame["metric"].replace("r2", "acc")) for frame in frames]  # as in `read_runs`
    # A run made again in another job keeps its run_id: one curve of it is enough.
    curves = pd.concat(frames, ignore_index=True).drop_duplicates(["run_id", "epoch", "split", "metric"], keep="last")
    for name in ("epoch", "step", "value"):
        curves[name] = pd.to_numeric(curves[name].where(~curves[name].isin(("", "nan"))))
    return curves


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows in one fixed order, whatever the order they came in; of a run made twice, the one started last."""
    same = [*GROUP, *CONFIGURATION, "role", "seed"]
    when = ["started_at"] if "started_at" in runs.columns else []
    ordered = runs.sort_values([*same, *when, "run_id"], kind="stable")
    return ordered.drop_duplicates(same, keep="last").reset_index(drop=True)


def _parts(frame: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The groups of `frame` by text columns, sorted, with their keys."""
    for key, part in frame.groupby(by, sort=True):
        yield tuple(str(value) for value in (key if isinstance(key, tuple) else (key,))), part


def groups(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each comparison group (dataset, model, setting) as its title and its rows, in the order of the rows."""
    return [
        (" · ".join(value for value in key if value), part.reset_index(drop=True)) for key, part in _parts(frame, GROUP)
    ]


def _numbers(frame: pd.DataFrame, column: str) -> Values:
    """A column as float64 [rows]; nan where the frame lacks it, where it is not finite and where the run failed."""
    if column not in frame.columns:
        return np.full(len(frame), math.nan)
    values = frame[column].to_numpy(dtype=np.float64)
    usable = np.isfinite(values) & (frame["status"].to_numpy() == "ok")  # pandas takes ten times as long to compare
    return np.where(usable, values, math.nan)


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)]


def _failed(rows: pd.DataFrame, column: str) -> int:
    """How many of these runs failed, by their status or by an infinite figure; a blank one was not measured."""
    beyond = np.isinf(rows[column]) if column in rows.columns else False
    return int(((rows["status"] != "ok") | beyond).sum())


def strengths_of(text: str) -> dict[str, float]:
    """The strengths in "dropout.rate=0.3 l2.rate=0.001" by name; what is not a number is left out."""
    found = {}
    for item in text.split():
        name, _, value = item.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found


def split_strengths(text: str) -> tuple[str, str]:
    """The strengths of the methods, and the numbers of the optimizer that were tuned for each method alike.

    >>> split_strengths("dropout.rate=0.3 optimizer.lr=0.01")
    ('dropout.rate=0.3', 'optimizer.lr=0.01')
    """
    items = text.split()
    own = [item for item in items if not item.startswith("optimizer.")]
    return " ".join(own), " ".join(item for item in items if item not in own)


def validation(rows: pd.DataFrame, checkpoint: str = "last") -> pd.Series:
    """What each of these runs counts in a choice by validation, the more the better.

    The accuracy, or where all were made with `protocol.select=val_loss` minus the loss; older runs do not say.
    """
    by_loss = "select" in rows.columns and bool((rows["select"] == "val_loss").all())
    return -rows[f"{checkpoint}_val_loss"] if by_loss else rows[f"{checkpoint}_val_acc"]


def at_edge(strengths: str, grid: list[str]) -> bool:
    """Whether a strength that varies over `grid` stands at its smallest or largest value in `strengths`."""
    points = [strengths_of(text) for text in grid]
    for name, value in strengths_of(strengths).items():
        values = {point[name] for point in points if name in point}
        if len(values) > 1 and value in (min(values), max(values)):
            return True
    return False


def chosen_at_edge(strengths: str, tuning: pd.DataFrame) -> bool:
    """Whether a strength chosen by these tune runs stands at the edge of the grid, where a wider one may serve better.

    Not where its mean validation figure, the best, is that of a point inside as well, or of all points.
    """
    grid = sorted(set(tuning["strengths"]))
    if not at_edge(strengths, grid):
        return False
    means = {
        text: -math.inf if (part["status"] != "ok").any() else float(np.round(part["value"].mean(), TIE_DIGITS))
        for text, part in tuning.assign(value=validation(tuning)).groupby("strengths", sort=True)
    }
    level = [str(text) for text, mean in means.items() if mean == means.get(strengths) == max(means.values())]
    return len(level) < len(grid) and all(at_edge(text, grid) for text in level)


def weakest_first(rows: pd.DataFrame) -> list[str]:
    """The strengths of one method from weak to strong: as its grid lists them, by size where that is not known.

    Of many methods the smaller number is the stronger one (patience, the limit of a norm). Jobs of one number each have
    no grid in common.
    """
    unique = rows.drop_duplicates("strengths").sort_values(["strength", "strengths"], kind="stable")
    if "strength_idx" in rows.columns:
        places = rows[["strengths", "strength_idx"]].drop_duplicates()
        if len(unique) == len(places) == places["strength_idx"].nunique():
            unique = unique.sort_values("strength_idx", kind="stable")
    return [str(text) for text in unique["strengths"]]


def by_strength(runs: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """One row per group, method, strengths, role and checkpoint: counts and, per metric, _mean, _sd (ddof=1), the
    t-interval _lo and _hi (nan below two runs), _min and _max.

    `val_acc_rank` and `val_loss_rank` order the strengths of one method and role by mean validation, 1 the best;
    `strength_place` is their place from weak (0) to strong.
    """
    runs = in_order(runs)
    rows: list[dict[Hashable, object]] = []
    for key, group in _parts(runs, [*GROUP, "method"]):
        tuning, places = group[group["role"] == "tune"], weakest_first(group)
        drawn = "search" in set(group["protocol"])  # at random, so that an outermost point means little
        for (role, strengths), part in _parts(group, ["role", "strengths"]):
            chosen = bool(group.loc[group["strengths"] == strengths, "selected"].any())
            for checkpoint in ("last", "best"):
                if f"{checkpoint}_test_acc" not in runs.columns:
                    continue
                row: dict[Hashable, object] = dict(zip([*GROUP, "method"], key, strict=True))
                row |= {
                    "family": part["family"].iloc[0],
                    "strengths": strengths,
                    "strength": float(part["strength"].iloc[0]),
                    "strength_place": places.index(strengths),
                    "role": role,
                    "checkpoint": checkpoint,
                    "n_ok": len(_finite(_numbers(part, f"{checkpoint}_test_acc"))),
                    "n_failed": _failed(part, f"{checkpoint}_test_acc"),
                    "selected": chosen,
                    "edge_of_grid": chosen and not drawn and chosen_at_edge(strengths, tuning),
                }
                names = [f"{split}_{kind}" for split in ("train", "val", "test", "gap") for kind in ("loss", "acc")]
                names += ["test_brier", "test_ece", "test_ece_null", "test_nll_t", "temperature"]
                for name in [*names, "train_s"]:
                    values = _finite(_numbers(part, name if name == "train_s" else f"{checkpoint}_{name}"))
                    interval = t_interval(values, level)
                    row |= {
                        f"{name}_mean": interval.mean,
                        f"{name}_sd": interval.sd,
                        f"{name}_lo": interval.low,
                        f"{name}_hi": interval.high,
                        f"{name}_min": float(values.min()) if len(values) else math.nan,
                        f"{name}_max": float(values.max()) if len(values) else math.nan,
                    }
                rows.append(row)
    frame = pd.DataFrame(rows)
    within = frame.groupby([*GROUP, "method", "role", "checkpoint"])
    frame["val_acc_rank"] = within["val_acc_mean"].rank(ascending=False, method="min")
    frame["val_loss_rank"] = within["val_loss_mean"].rank(method="min")
    return frame.sort_values(
        [*GROUP, "method", "role", "checkpoint", "strength", "strengths"], kind="stable"
    ).reset_index(drop=True)


def covers(part: pd.DataFrame) -> str:
    """What an interval over the seeds of these rows speaks about."""
    modes = set(part["split_mode"])
    if modes & {"none", "fixed"}:
        return FIXED_SPLIT
    if modes == {"all"}:
        return REDRAWN_TEST
    return REDRAWN_SPLIT if modes - {""} else "seeds; how the data were split is not on record"


def pairs_of(part: pd.DataFrame, baseline: pd.DataFrame, column: str) -> tuple[Values, Values]:
    """`column` of report rows of a configuration and of the baseline at the seeds that both have."""
    seeds, base_seeds = (frame["seed"].to_numpy(dtype=np.int64) for frame in (part, baseline))
    return pair_by_seed(seeds, _numbers(part, column), base_seeds, _numbers(baseline, column))


def _within_studies(part: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """The report rows of a configuration that are of the same study as their pair: another's machine may be another."""
    if "study" not in part.columns:
        return part
    return part[part["seed"].map(dict(zip(baseline["seed"], baseline["study"], strict=True))) == part["study"]]


def _compare(part: pd.DataFrame, baseline: pd.DataFrame, column: str, level: float) -> Paired:
    """The paired difference of `column` between report rows of a configuration and of the baseline."""
    return paired_difference(*pairs_of(part, baseline, column), level)


def _told(part: pd.DataFrame, baseline: pd.DataFrame, column: str, level: float) -> Paired:
    """As `_compare`, but "identical" only where the losses are equal in every pair, too.

    Two nets that are right on as many of a few test examples are not one net: that is "constant", without interval.
    """
    paired = _compare(part, baseline, column, level)
    checkpoint, _, what = column.partition("_")
    split = what.partition("_")[0]
    loss = f"{checkpoint}_{split if split in ('train', 'gap') else 'test'}_loss"
    if paired.kind == "identical" and _compare(part, baseline, loss, level).kind in ("normal", "constant"):
        return replace(paired, low=math.nan, high=math.nan, p=math.nan, kind="constant")
    return paired


def worst_plausible(parts: Sequence[pd.DataFrame], column: str) -> float:
    """The accuracy that a failed run is given in the worst case: chance, or the lowest of any run in `parts` if lower.

    Chance is one in `n_classes`, and 0 where that is not on record; of a regression, which has one, the R2 of the mean.
    """
    classes = min((float(part["n_classes"].min()) for part in parts if "n_classes" in part.columns), default=math.nan)
    chance = 1 / classes if classes > 1 else 0.0
    return min(chance, *(float(_finite(_numbers(part, column)).min(initial=chance)) for part in parts))


def _worst_case(part: pd.DataFrame, baseline: pd.DataFrame, column: str, level: float) -> dict[str, float]:
    """The paired difference in accuracy if every failed run of the method had scored the worst plausible value.

    Of the baseline only runs that did not fail count: one that is taken for the worst would speak for the method. Empty
    where no run of the method failed at those seeds.
    """
    sound = baseline[np.isfinite(_numbers(baseline, column))]
    seeds = set(part["seed"]) & set(sound["seed"])
    sides = [side[side["seed"].isin(seeds)].sort_values("seed") for side in (part, sound)]
    ours, theirs = (_numbers(side, column) for side in sides)
    if np.isfinite(ours).all():
        return {}
    worst = worst_plausible(sides, column)
    found = paired_difference(np.where(np.isfinite(ours), ours, worst), theirs, level)
    return {
        "diff_worst": found.mean, "diff_worst_lo": found.low, "diff_worst_hi": found.high, "worst_value": worst
    }  # fmt: skip


def _test_error(part: pd.DataFrame, baseline: pd.DataFrame, said: Mapping[str, Predictions]) -> float:
    """The standard error of the accuracy difference of two configurations from the choice of test examples.

    For one split that all seeds share; nan with other splits, and where a pair's predictions are missing in `said`.
    """
    done = [frame[frame["status"] == "ok"] for frame in (part, baseline)]
    both = pd.concat(done)
    if both.empty or covers(both) != FIXED_SPLIT or ("split_hash" in both and both["split_hash"].nunique() > 1):
        return math.nan
    ours, theirs = (dict(zip(frame["seed"], frame["run_id"], strict=True)) for frame in done)
    seeds = sorted(set(ours) & set(theirs))
    known = [said[run].correct for runs in (ours, theirs) for seed in seeds if (run := str(runs[seed])) in said]
    if not seeds or len(known) < 2 * len(seeds):
        return math.nan
    table = np.stack(known)
    return example_error(table[: len(seeds)], table[len(seeds) :])


def _numeric(runs: pd.DataFrame) -> bool:
    """Whether these runs are of a regression."""
    return "task" in runs.columns and bool((runs["task"] == "regression").any())


def _reach(rows: pd.DataFrame, metric: str, checkpoint: str) -> str:
    """What the intervals of a group cover whose seeds share one split."""
    compared = rows[rows["pairs"] == "normal"]
    if metric != "test_acc" or compared.empty:
        return FIXED_SPLIT
    without = compared[compared["se_test"].isna()]
    if without.empty:
        return f"seeds and, for differences to none, test examples; {ONE_SET}"
    if checkpoint != "last":
        return f"seeds only, not test examples, whose predictions are kept at the last epoch; {ONE_SET}"
    missing = "predictions are missing, which evaluate.predictions=true keeps"
    if len(without) == len(compared):
        return f"seeds only, not test examples ({missing}); {ONE_SET}"
    names = ", ".join(dict.fromkeys(without["method"]))
    return f"seeds and, for differences to none, test examples, but not for {names} ({missing}); {ONE_SET}"


def _row(
    part: pd.DataFrame, tuning: pd.DataFrame, baseline: pd.DataFrame, checkpoint: str, metric: str, level: float,
    rope: float, said: Mapping[str, Predictions],
) -> dict[Hashable, object]:  # fmt: skip
    """The headline row of one configuration: `part` its report rows (maybe none), `tuning` its method's tune rows."""
    known = part if len(part) else tuning
    kind, less = metric.removeprefix("test_"), metric not in HIGHER  # whether less is better
    column, gap = f"{checkpoint}_{metric}", f"{checkpoint}_gap_{kind}"
    strengths = str(part["strengths"].iloc[0]) if len(part) else ""
    values = _finite(_numbers(part, column))
    noise = _finite(_numbers(known, "label_noise"))
    mean, gap_mean = t_interval(values, level), t_interval(_finite(_numbers(part, gap)), level)
    row: dict[Hashable, object] = {name: str(known[name].iloc[0]) for name in [*GROUP, "method", "family", "protocol"]}
    row |= {
        "checkpoint": checkpoint,
        "metric": metric,
        "level": level,
        "strengths": strengths,
        "strength": float(part["strength"].iloc[0]) if len(part) else math.nan,
        "n_tune": tuning["seed"].nunique(),
        "n_report": len(values),
        "n_failed": _failed(part, column),
        "n_tune_failed": int((tuning["status"] != "ok").sum()),
        "tuning_runs": len(tuning),
        "shared_seeds": len(set(part["seed"]) & set(tuning["seed"])),
        "mean": mean.mean,
        "sd": mean.sd,
        "lo": mean.low,
        "hi": mean.high,
        "gap_mean": gap_mean.mean,
        "gap_lo": gap_mean.low,
        "gap_hi": gap_mean.high,
        "base_mean": t_interval(_finite(_numbers(baseline, column)), level).mean,
        "edge_of_grid": row["protocol"] != "search" and chosen_at_edge(strengths, tuning),
        "null_mean": t_interval(_finite(_numbers(part, f"{column}_null")), level).mean,
        "temperature_mean": t_interval(_finite(_numbers(part, f"{checkpoint}_temperature")), level).mean,
        "interval_covers": covers(known),
        "extended": "",
        "label_noise": float(noise.mean()) if len(noise) else 0.0,
        "underfit": False,
        "pairs": "",
        "n_pairs": 0,
        "n_timed": 0,
        "other_lanes": False,
        "verdict": "",
    }
    if row["method"] == BASELINE or metric in ALONE:
        return row
    seeds_test, seeds_gap = _told(part, baseline, column, level), _told(part, baseline, gap, level)
    error = _test_error(part, baseline, said) if (checkpoint, metric) == ("last", "test_acc") else math.nan
    # Train is measured on the one training set: the choice of test examples moves the gap as it moves test.
    test, gaps = (with_test_error(paired, error, level) for paired in (seeds_test, seeds_gap))
    train = _told(part, baseline, f"{checkpoint}_train_{kind}", level)
    timed = _within_studies(part, baseline)
    clock = paired_ratio(*pairs_of(timed, baseline, "train_s"), level)
    lanes, base_lanes = pairs_of(timed, baseline, "lanes")
    ours, theirs = pairs_of(part, baseline, column)
    return row | {
        "n_pairs": test.n,
        "pairs": test.kind,
        "diff": test.mean,
        "diff_lo": test.low,
        "diff_hi": test.high,
        "sd_diff": test.sd,
        "rho_paired": correlation(ours, theirs),
        "gap_diff": gaps.mean,
        "gap_diff_lo": gaps.low,
        "gap_diff_hi": gaps.high,
        "se_test": error,
        "diff_lo_seeds": seeds_test.low,
        "diff_hi_seeds": seeds_test.high,
        "gap_diff_lo_seeds": seeds_gap.low,
        "gap_diff_hi_seeds": seeds_gap.high,
        "p": test.p,
        "p_signflip": sign_flip(ours - theirs) if test.kind == "normal" else math.nan,
        "dz": standardized(ours - theirs) if test.kind == "normal" else math.nan,
        "p_in_rope": share_within(test, rope),
        "wins": test.n - test.above - test.equal if less else test.above,
        "ties": test.equal,
        "d_train": train.mean,
        "d_train_lo": train.low,
        "d_train_hi": train.high,
        "d_test": test.mean,
        # Of a gap that surely shrank, and of no other: a share of about nothing is noise.
        "gap_share_from_test": (test.mean if less else -test.mean) / gaps.mean if gaps.high < 0 else math.nan,
        "time_ratio": clock.mean,
        "time_ratio_lo": clock.low,
        "time_ratio_hi": clock.high,
        "n_timed": clock.n,
        "other_lanes": bool((lanes != base_lanes).any()),
        **(_worst_case(part, baseline, column, level) if kind == "acc" else {}),
    }


def _judge(row: pd.Series, rope: float) -> tuple[str, float, float]:
    """The verdict on a row against `none`; about how many more pairs would decide an inconclusive one, and at most.

    "better" and "worse" by the corrected test, "equivalent" where the interval lies within `rope` to either side,
    else "inconclusive"; "" where nothing could be tested. nan pairs where no number of seeds would decide.
    """
    diff, low, high, level = (float(row[name]) for name in ("diff", "diff_lo", "diff_hi", "level"))
    if row["pairs"] == "identical":
        return "identical", math.nan, math.nan
    if row["pairs"] != "normal" or not math.isfinite(rope):
        return "", math.nan, math.nan
    within = -rope <= low and high <= rope
    if float(row["p_holm"]) <= 1 - level:
        word = "better" if (diff < 0) == (row["metric"] not in HIGHER) else "worse"
        return f"{word}, negligible" if within else word, math.nan, math.nan
    if within:
        return "equivalent", math.nan, math.nan
    sd, tests, pairs = float(row["sd_diff"]), int(row["family_size"]), int(row["n_pairs"])
    error = float(np.nan_to_num(row["se_test"]))
    needed = [seeds_needed(sd, target, level, tests, error) for target in (rope, rope / 2)]
    more, most = (math.nan if n is None else float(n - pairs) for n in needed)
    return "inconclusive", most if more <= 0 else more, most  # at rope / 2 every case is decided


def _tied(
    parts: list[pd.DataFrame], best: int, column: str, level: float, said: Mapping[str, Predictions]
) -> list[bool]:
    """Which configurations cannot be told from the one at `best`: tested against it in pairs, Holm over the others."""
    paired = [_compare(part, parts[best], column, level) for part in parts]
    if column == "last_test_acc":
        paired = [
            with_test_error(pair, _test_error(part, parts[best], said), level)
            for pair, part in zip(paired, parts, strict=True)
        ]
    p_values = np.array([math.nan if at == best else pair.p for at, pair in enumerate(paired)])
    return [bool(p > 1 - level) for p in holm(p_values)]


def _configurations(group: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Report rows and tune rows of each configuration that was reported, and of each method that never was."""
    for _, method in _parts(group, ["method"]):
        tuning, report = method[method["role"] == "tune"], method[method["role"] == "report"]
        if report.empty:
            yield report, tuning
        for _, part in _parts(report, ["strengths"]):
            yield part, tuning


def headline(
    runs: pd.DataFrame,
    checkpoint: str = "last",
    metric: str = "test_acc",
    level: float = 0.95,
    margins: Margins = Margins(),
    stored: Margins | None = None,
    said: Mapping[str, Predictions] = MappingProxyType({}),
) -> pd.DataFrame:
    """One row per group and reported configuration, paired by seed against `none`: first `none`, then by difference.

    Fractions and nats, as in `runs`. A method without report runs keeps a row of blanks; `p_holm` is within the group.
    `stored` are the margins on record from before the runs, if any; `said` the predictions of runs by run_id: with
    them, the intervals and p-values of the last accuracy contain the choice of test examples where seeds share one
    split. `best` marks the best of those without failed runs by the paired difference, `none` at 0, `tied_best` those
    that cannot be told from it.
    Raises NoBaseline for a group without report rows of `none`, ValueError for an unknown checkpoint or metric.
    """
    if checkpoint not in ("last", "best") or metric not in METRICS:
        raise ValueError(
            f"no headline of {metric!r} at {checkpoint!r}; metrics: {', '.join(METRICS)}; checkpoints: last, best"
        )
    frames = []
    rope, gap_rope = margins.of(metric)
    before = stored.of(metric) if stored else (math.nan, math.nan)
    for key, group in _parts(in_order(runs), GROUP):
        baseline = group[(group["method"] == BASELINE) & (group["role"] == "report")]
        if baseline.empty:
            study = str(group["study"].iloc[0]) if "study" in group.columns else "NAME"
            raise NoBaseline(
                f"no report runs of method 'none' for {', '.join(value for value in key if value)}; "
                f"add them: regrun {' '.join(['method=none', f'study={study}', key[2]]).strip()}"
            )
        parts = list(_configurations(group))
        rows = [_row(part, tuning, baseline, checkpoint, metric, level, rope, said) for part, tuning in parts]
        frame = pd.DataFrame(rows, columns=pd.Index(HEADLINE))
        fixed = frame["interval_covers"] == FIXED_SPLIT
        reach = FIXED_SPLIT if _numeric(group) else _reach(frame[fixed], metric, checkpoint)
        frame.loc[fixed, "interval_covers"] = reach
        frame["p_holm"] = holm(frame["p"].to_numpy(dtype=np.float64))
        frame["family_size"] = int(frame["p"].notna().sum())
        more = metric in HIGHER
        frame = frame.assign(rope=rope, gap_rope=gap_rope, rope_stored=before[0], gap_rope_stored=before[1])
        for name in ("diff", "gap_diff"):
            bounds = [
                simultaneous(
                    float(row[name]), float(row[f"{name}_hi_seeds"]), int(row["n_pairs"]), int(row["family_size"]),
                    level, float(np.nan_to_num(row["se_test"])),
                )
                for _, row in frame.iterrows()
            ]  # fmt: skip
            frame[[f"{name}_lo_sim", f"{name}_hi_sim"]] = np.array(bounds, dtype=np.float64).reshape(-1, 2)
        judged = [_judge(row, rope) for _, row in frame.iterrows()]
        for at, name in enumerate(("verdict", "more_seeds", "more_seeds_max")):
            frame[name] = [values[at] for values in judged]
        # by what holds for all methods at once: point estimates alone would call a quarter of all placebos underfit
        frame["underfit"] = frame["verdict"].str.startswith("worse") & (frame["gap_diff_hi_sim"] < 0)
        # By what is paired, none at 0: a mean over other seeds may be higher for their sake.
        gains = np.where(frame["method"] == BASELINE, 0.0, frame["diff"].to_numpy(dtype=np.float64))
        gains = np.where((frame["n_failed"] > 0) | frame["mean"].isna() | (metric in ALONE), math.nan, gains)
        gains = gains if more else -gains
        best = int(np.nanargmax(gains)) if np.isfinite(gains).any() else -1
        frame["best"] = np.arange(len(frame)) == best
        tied = _tied([part for part, _ in parts], best, f"{checkpoint}_{metric}", level, said) if best >= 0 else False
        frame["tied_best"] = tied
        if _numeric(group):
            frame["metric"] = OF_REGRESSION.get(metric, metric)
        better = frame["diff"].to_numpy(dtype=np.float64) * (-1 if more else 1)
        frame = frame.assign(first=frame["method"] != BASELINE, better=better)
        frames.append(frame.sort_values(["first", "better", "method", "strengths"], kind="stable")[HEADLINE])
    return pd.concat(frames, ignore_index=True)


def sampled(frame: pd.DataFrame) -> bool:
    """Whether an interval of a difference to `none` in these rows contains the choice of test examples.

    Its standard error is known of single pairs, too, and of differences that do not vary; those have no interval.
    """
    return bool(frame.loc[frame["pairs"] == "normal", "se_test"].notna().any())


def without_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of a secondary metric: intervals stay; p-values, verdicts, underfitting, worst cases and ties go."""
    blank = dict.fromkeys(
        _names(
            "p p_holm p_signflip more_seeds more_seeds_max diff_lo_sim diff_hi_sim gap_diff_lo_sim gap_diff_hi_sim "
            "diff_worst diff_worst_lo diff_worst_hi worst_value"
        ),
        math.nan,
    )
    return frame.assign(**blank, family_size=0, verdict="", tied_best=False, underfit=False)


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV: machine names, numbers as %.6g, blank where missing, `\\n` line ends."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
