"""Simulated studies: where nothing works nothing is claimed, known effects are found, intervals cover."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from runner.grid import best_point
from runner.report.stats import paired_difference, paired_ratio, pooled, seeds_needed, simultaneous
from runner.report.tables import headline

TUNE, REPORT, STRENGTHS, METHODS = 3, 10, (0.01, 0.1, 1.0), 6


def study(random: np.random.Generator, name: str, effects: dict[str, float], methods: int = METHODS) -> pd.DataFrame:
    """A tuned study on one data set; `effects` are added to the test and validation accuracy of a method.

    Seeds share 1 sd of difficulty (0.01) across methods; every run has 0.005 of its own, of which validation reads
    another 0.005 too much or too little. The strength is chosen by the rule of the engine, over the tune seeds.
    """
    seeds = np.arange(TUNE + REPORT)
    hard = random.normal(0, 0.01, len(seeds))
    rows: list[dict[str, object]] = []

    def runs(method: str, strength: float, role: str, at: NDArray[np.int64]) -> list[dict[str, object]]:
        true = 0.7 + effects.get(method, 0.0) + hard[at] + random.normal(0, 0.005, len(at))
        val = true + random.normal(0, 0.005, len(at))
        text = "" if method == "none" else f"{method}.rate={strength:g}"
        return [
            {
                "run_id": f"{name}{method}{strength}{role}{seed}", "study": "s", "dataset": name, "model": "mlp",
                "setting": "", "method": method, "family": "penalty", "strengths": text, "strength": strength,
                "seed": int(seed), "role": role, "protocol": "tuned", "selected": False, "split_mode": "train_val",
                "train_s": 1.0, "status": "ok", "last_epoch": 9.0, "last_train_acc": 0.9, "last_val_acc": v,
                "last_test_acc": t, "last_gap_acc": 0.9 - t,
            }
            for seed, t, v in zip(at, true, val, strict=True)
        ]  # fmt: skip

    rows += runs("none", math.nan, "report", seeds[TUNE:])
    for method in (f"m{at}" for at in range(methods)):
        tried = {strength: runs(method, strength, "tune", seeds[:TUNE]) for strength in STRENGTHS}
        rows += [row for part in tried.values() for row in part]
        means = {at: float(np.mean([row["last_val_acc"] for row in tried[s]])) for at, s in enumerate(STRENGTHS)}
        best = STRENGTHS[best_point(means, dict.fromkeys(means, 10))]
        rows += runs(method, best, "report", seeds[TUNE:])
    return pd.DataFrame(rows)


def verdicts(studies: list[pd.DataFrame]) -> pd.DataFrame:
    frame = headline(pd.concat(studies, ignore_index=True))
    return frame[frame["method"] != "none"]


@pytest.mark.slow
def test_where_nothing_works_nothing_is_claimed() -> None:
    random = np.random.default_rng(1)
    frame = verdicts([study(random, f"null{at:03d}", {}) for at in range(200)])
    claimed = frame.assign(claim=frame["verdict"].str.match("better|worse")).groupby("dataset")["claim"].any()
    assert len(claimed) == 200
    # 0.05, and 3 standard errors of a share of 200: 3 * sqrt(0.05 * 0.95 / 200) = 0.046
    assert claimed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    # and the choice of the strength does not move the differences: s.e. 0.0071 / sqrt(10 * 1200)
    assert abs(frame["diff"].mean()) < 4 * 0.0071 / math.sqrt(10 * 200)


@pytest.mark.slow
def test_known_effects_are_found() -> None:
    # Differences have sd 0.005 * sqrt(2) = 0.00707. An effect of 1 sd has power 0.80 with 10 pairs and one test, and
    # one of 2 sd 0.99 with the correction for six; an effect is not there for the other five.
    random = np.random.default_rng(2)
    one = verdicts([study(random, f"one{at:03d}", {"m0": 0.00707}, methods=1) for at in range(300)])
    power = one["verdict"].str.startswith("better").mean()
    assert abs(power - 0.803) < 4 * math.sqrt(0.8 * 0.2 / 300)
    six = verdicts([study(random, f"six{at:03d}", {"m0": 0.01414}) for at in range(60)])
    found = six[six["method"] == "m0"]["verdict"].str.startswith("better").mean()
    assert found > 0.93
    assert (six["verdict"].str.startswith("worse")).sum() <= 3


def test_intervals_cover() -> None:
    # 4,000 draws of 5 seeds: the share that covers has a standard error of 0.0034; z-intervals would cover 0.88
    random = np.random.default_rng(3)
    hits = {"paired": 0, "ratio": 0, "pooled": 0, "simultaneous": 0}
    draws = 4000
    for _ in range(draws):
        base = random.normal(0.7, 0.02, (2, 5))
        ours = base + random.normal(0.01, [[0.01], [0.02]], (2, 5))
        one = paired_difference(ours[0], base[0])
        hits["paired"] += one.low <= 0.01 <= one.high
        # a log ratio is normal about log 2
        clock = np.exp(random.normal(math.log(2), 0.1, 5))
        ratio = paired_ratio(clock, np.ones(5))
        hits["ratio"] += ratio.low <= 2.0 <= ratio.high
        both = pooled([ours[0] - base[0], ours[1] - base[1]])
        hits["pooled"] += both.low <= 0.01 <= both.high
        two = [paired_difference(ours[at], base[at]) for at in (0, 1)]
        bounds = [simultaneous(pair.mean, pair.high, 5, 2) for pair in two]
        hits["simultaneous"] += all(low <= 0.01 <= high for low, high in bounds)
    for name, count in hits.items():
        assert abs(count / draws - 0.95) < 0.015, (name, count / draws)


@pytest.mark.parametrize(("steps", "least", "most"), [(1, 0.07, 0.13), (5, 0.11, 0.17)])
def test_more_seeds_where_the_first_were_inconclusive_cost_what_the_docs_say(
    steps: int, least: float, most: float
) -> None:
    # nothing is there, differences have sd 1 point, the margin is half of one: nominal 5 %, 10 to 11 % from 5 seeds
    # with one step and 14 % with steps until something is decided
    random, margin, claims, studies = np.random.default_rng(4), 0.5, 0, 1500
    for _ in range(studies):
        apart = random.normal(0, 1.0, 5)
        for _ in range(steps):
            found = paired_difference(apart, np.zeros(len(apart)))
            if found.p <= 0.05 or (-margin <= found.low and found.high <= margin):
                break
            needed = [seeds_needed(found.sd, target) for target in (margin, margin / 2)]
            assert needed[0] is not None
            assert needed[1] is not None
            more = (needed[0] if needed[0] > len(apart) else needed[1]) - len(apart)
            apart = np.concatenate([apart, random.normal(0, 1.0, more)])
        claims += paired_difference(apart, np.zeros(len(apart))).p <= 0.05
    # standard errors 0.008 and 0.009
    assert least < claims / studies < most
