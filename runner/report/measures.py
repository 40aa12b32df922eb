"""Which measure of a trained net goes with its generalization gap, where runs have such measures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau  # type: ignore[import-untyped, unused-ignore]  # scipy ships no type information

from runner.report.sheet import Drawing, settle, sheet, styled
from runner.report.stats import Values
from runner.report.tables import groups
from runner.report.writers import BLANK, MINUS, number, records

FEWEST = 8  # runs, below which a rank correlation says nothing
RESAMPLES = 1000
LEVEL = 0.95
COLUMNS = ["dataset", "model", "setting", "measure", "n_runs", "tau", "lo", "hi", "level"]
LABELS = {
    "param_norm": "norm of the weights",
    "dist_init": "distance to the start",
    "dist_init_spec": "distance to the start (spectral)",
    "log_prod_frob": "log product of Frobenius norms",
    "log_prod_spec": "log product of spectral norms",
    "margin": "margin on train",
    "log_prod_spec_margin": "log product of spectral norms / margin",
    "path_norm": "path norm",
    "sharpness": "sharpness",
    "pac_bayes_sigma": "noise endured (PAC-Bayes σ)",
    "pac_bayes_mag_sigma": "relative noise endured (σ)",
    "hessian_top": "largest eigenvalue of the Hessian",
}


def read_measures(study_dir: Path) -> pd.DataFrame:
    """All `<job>/measures.csv` of a study by run_id; no rows where none was asked for."""
    paths = [path for path in sorted(study_dir.glob("*/measures.csv")) if path.stat().st_size]
    frames = [pd.read_csv(path, dtype={"run_id": str}) for path in paths]
    if not frames:
        return pd.DataFrame({"run_id": pd.Series([], dtype=str)})
    return pd.concat(frames, ignore_index=True).drop_duplicates("run_id", keep="last")


def tau_interval(values: Values, gaps: Values, level: float = LEVEL) -> tuple[float, float, float]:
    """Kendall's tau-b of two columns [n] and the ends of its interval, from a bootstrap over the n runs.

    The percentile interval of RESAMPLES resamples, drawn the same every time. nan for a column that is constant.
    """
    draw = np.random.default_rng(0)
    tau = float(kendalltau(values, gaps).statistic)
    picks = draw.integers(0, len(values), (RESAMPLES, len(values)))
    taus = np.array([kendalltau(values[pick], gaps[pick]).statistic for pick in picks])
    if not math.isfinite(tau):
        return math.nan, math.nan, math.nan
    low, high = np.nanquantile(taus, [0.5 - level / 2, 0.5 + level / 2])
    return tau, float(low), float(high)


def correlations(runs: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of each measure with the last gap over all runs of a group that came to their end, tuned ones too.

    A row for each group and measure with FEWEST runs or more; the strongest first.
    """
    names = [name for name in LABELS if name in found.columns]
    rows = []
    for _, group in groups(runs):
        done = group[group["status"] == "ok"].merge(found, on="run_id")
        for name in names:
            part = done[np.isfinite(done[name]) & np.isfinite(done["last_gap_acc"])]
            if len(part) < FEWEST or part[name].nunique() < 2:
                continue
            tau, low, high = tau_interval(part[name].to_numpy(np.float64), part["last_gap_acc"].to_numpy(np.float64))
            where = [str(part[column].iloc[0]) for column in COLUMNS[:3]]
            rows.append([*where, name, len(part), tau, low, high, LEVEL])
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    order = frame["tau"].abs().sort_values(ascending=False, kind="stable").index
    return frame.loc[order].sort_values(COLUMNS[:3], kind="stable").reset_index(drop=True)


def measures_caption(frame: pd.DataFrame) -> str:
    """What the numbers are, of one group."""
    n = sorted(set(frame["n_runs"]))
    runs = f"{n[0]:g}" if len(n) == 1 else f"{n[0]:g} to {n[-1]:g}"
    return (
        f"Kendall's τ of each measure with the generalization gap after the last epoch, over {runs} runs of all "
        f"methods, strengths and seeds, with its {100 * LEVEL:g}% bootstrap interval over runs ({RESAMPLES} draws). "
        f"1: the larger the measure, the larger the gap; {MINUS}1: the other way round. Runs share seeds and methods, "
        "so that the intervals are too narrow for other ones; a correlation over methods says nothing about what "
        "changing the measure would do."
    )


def measures_markdown(frame: pd.DataFrame) -> str:
    """One group's correlations as a Markdown table with its caption."""
    lines = ["| Measure | τ with the gap | Runs |", "|:--|--:|--:|"]
    for row in records(frame):
        tau, low, high = (f"{number(row, name):+.2f}".replace("-", MINUS) for name in ("tau", "lo", "hi"))
        text = f"{tau} [{low}, {high}]" if math.isfinite(number(row, "tau")) else BLANK
        lines.append(f"| {LABELS[str(row['measure'])]} | {text} | {number(row, 'n_runs'):.0f} |")
    return "\n".join(lines) + f"\n\n{measures_caption(frame)}\n"


def measures_figure(frame: pd.DataFrame) -> Drawing | None:
    """One group's correlations: a row per measure, tau with its interval. None without any."""
    return styled(lambda: _measures_figure(frame))


def _measures_figure(frame: pd.DataFrame) -> Drawing | None:
    shown = frame[frame["tau"].notna()].sort_values("tau", kind="stable").reset_index(drop=True)
    if shown.empty:
        return None
    title = f"{groups(shown)[0][0]}: measures of generalization and the gap"
    figure = sheet(6.4, 0.6 + 0.2 * len(shown), title, measures_caption(shown), [])
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    axes.hlines(shown.index, shown["lo"], shown["hi"], color="#0072B2", linewidth=1.6, alpha=0.6, zorder=2)
    axes.plot(shown["tau"], shown.index, "o", color="#0072B2", markersize=4.5, zorder=3)
    axes.set_yticks(range(len(shown)), [LABELS[str(name)] for name in shown["measure"]])
    axes.set_xlim(-1, 1)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Kendall's τ with the generalization gap")
    settle(figure)
    return Drawing(figure, shown)
