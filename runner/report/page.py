"""The report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import runner
from runner.report.answers import answers
from runner.report.datasets import pooled_caption, pooled_rows
from runner.report.loso import loso_caption
from runner.report.tables import groups, weakest_first
from runner.report.writers import UNITS, caption, difference_names, human, number, records, score_of, shared_names

HEAVY = 400_000  # characters of SVG above which a figure goes in as PNG
ABOUT = {
    "forest": (
        "Difference to none",
        "One row per method: paired difference to none in test accuracy and in the gap, with intervals and verdict",
    ),
    "gap_vs_test": ("Gap and test accuracy", "Test accuracy against the generalization gap, a point per method"),
    "gap_decomposition": ("What closed the gap", "Change of train and of test accuracy against none, bars per method"),
    "strength_curves": ("Test accuracy over the strength", "A panel per method: test accuracy over its strengths"),
    "strength_gap": ("Gap over the strength", "A panel per method: generalization gap over its strengths"),
    "learning_curves": ("Learning curves", "A panel per method: train and validation loss over the epochs"),
    "cost_benefit": ("Cost and benefit", "Expected test accuracy of k strengths; difference against training time"),
    "reliability": ("Reliability", "A panel per method: accuracy against confidence on test data, with its bins"),
    "corruptions": ("Corruptions", "A row per method: accuracy under each kind of corruption, difference to none"),
    "measures": ("Measures of generalization", "A row per measure: rank correlation with the gap over all runs"),
    "weights": ("Weights", "Norm of the weights and share near zero, a dot per run and a row per method"),
    "seed_spread": ("Spread over seeds", "Test accuracy of every reported run, a row per method"),
    "axis_curves": ("Over an axis", "Test accuracy and gap over an axis of the study, a line per method"),
    "datasets": ("Data sets", "Difference in test accuracy to none, methods by data sets"),
    "profile": ("Performance profile", "Share of runs with a score above a threshold, a line per method"),
    "ranks": ("Ranks", "Ranks of the methods over the data sets"),
}
# What a sortable column is sorted by: the number behind its text.
KEYS = {
    "Gap": "gap_mean", "p (Holm)": "p_holm", "Wins": "wins", "Time ×": "time_ratio", "Strength": "strength",
    "Calibrated ≤": "null_mean", "T": "temperature_mean",
}  # fmt: skip
CHECKPOINTS = {"last": "last epoch", "best": "lowest validation loss"}
# The metrics to choose from, and how the heading of a table names them.
METRICS = {
    "test_acc": ("accuracy", "Test accuracy"),
    "test_loss": ("loss", "Test loss"),
    "test_r2": ("R²", "Test R²"),
    "test_mse": ("squared error", "Test loss"),
    "test_nll_t": ("loss after temperature scaling", "Test loss after temperature scaling"),
    "test_brier": ("Brier score", "Brier score"),
    "test_ece": ("calibration error", "Expected calibration error"),
    "corrupted_acc": ("accuracy under corruptions", "Test accuracy under corruptions"),
    "fgsm_acc": ("accuracy under FGSM", "Test accuracy under a one-step attack"),
    "pgd_acc": ("accuracy under PGD", "Test accuracy under an iterated attack"),
}


@dataclass(frozen=True)
class Shown:
    """A figure on disk: its name, the title of its group, and its files by suffix."""

    name: str
    group: str
    files: dict[str, Path]


@dataclass(frozen=True)
class Study:
    """What the page tells of: the frames of the report, jobs that did not end, and runs that were lost."""

    folder: Path
    runs: pd.DataFrame
    headline: pd.DataFrame
    secondary: tuple[pd.DataFrame, ...]
    pooled: pd.DataFrame | None
    left_out: pd.DataFrame | None
    failures: tuple[str, ...]
    lost: tuple[str, ...]
    extensions: tuple[str, ...]
    undrawn: str = ""  # that not every comparison has figures, if so


def inline_svg(text: str, prefix: str, title: str) -> Markup:
    """An SVG file as an element for HTML: every id and each reference to one gets `prefix`, and it has a title.

    >>> print(inline_svg('<?xml?><svg><use xlink:href="#a"/></svg>', "f-", "A & B"))
    <svg role="img" aria-labelledby="f-title"><title id="f-title">A &amp; B</title><use xlink:href="#f-a"/></svg>
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    head, rest = text.split(">", 1)
    name = f"{prefix}title"
    start = Markup(f'{head} role="img" aria-labelledby="{name}"><title id="{name}">')  # matplotlib's own
    return start + title + Markup("</title>") + Markup(rest.strip())


def _width(svg: str) -> int:
    """The width of an SVG file in CSS pixels, 96 to an inch.

    >>> _width('<svg width="331.2pt" height="10pt" viewBox="0 0 331.2 10">')
    442
    """
    found = re.search(r'<svg[^>]*\swidth="([\d.]+)pt"', svg)
    assert found, "matplotlib writes the width of its sheet in points"
    return round(float(found[1]) * 96 / 72)


def _figure(shown: Shown, at: int, score: str) -> dict[str, object]:
    kind = shown.name.split("-")[0]
    heading, alt = (text.replace("accuracy", score) for text in ABOUT[kind])
    alt = f"{alt}. {shown.group}."
    svg = shown.files[".svg"].read_text(encoding="utf-8")
    found: dict[str, object] = {
        "id": shown.name,
        "kind": kind,
        "heading": heading,
        "alt": alt,
        "width": _width(svg),
        "svg": None,
        "png": None,
    }
    if len(svg) <= HEAVY:
        return found | {"svg": inline_svg(svg, f"f{at}-", alt)}
    return found | {"png": base64.b64encode(shown.files[".png"].read_bytes()).decode("ascii")}


def _figures(figures: Sequence[Shown], title: str, frame: pd.DataFrame) -> list[dict[str, object]]:
    """The figures of a group, whose headline is `frame`."""
    score = score_of(frame)
    return [_figure(shown, at, score) for at, shown in enumerate(figures) if shown.group == title]


def _table(frame: pd.DataFrame) -> dict[str, object]:
    """One group's headline for the template: headings and rows of cells, each text with the value it sorts by."""
    table = human(frame)
    unit = UNITS[str(frame["metric"].iloc[0])]
    heads = [str(name) for name in table.columns]
    keys = KEYS | {unit.short: "mean"} | dict(zip(difference_names(frame), ("diff", "gap_diff"), strict=True))
    rows = []
    for text, row in zip(table.to_dict("records"), records(frame), strict=True):
        cells = []
        for name in heads:
            cell = str(text[name])
            value = f"{number(row, keys[name]):.9g}" if name in keys else cell.casefold()
            mark = name == unit.short
            cells.append(
                {
                    "text": cell, "value": "" if value == "nan" else value, "best": mark and bool(row["best"]),
                    "tied": mark and bool(row["tied_best"]),
                    "verdict": str(row["verdict"]).partition(",")[0] if name == "Verdict" else "",
                }
            )  # fmt: skip
        rows.append(cells)
    left = {"Method", "Strength", "Verdict"}
    return {
        "heads": [{"text": name, "left": name in left, "number": name in keys} for name in heads], "rows": rows,
        "caption": caption(frame),
    }  # fmt: skip


def _groups(study: Study, figures: Sequence[Shown]) -> list[dict[str, object]]:
    told = dict(answers(study.headline))
    others = [dict(groups(frame)) for frame in study.secondary]
    found: list[dict[str, object]] = []
    for at, (title, frame) in enumerate(groups(study.headline)):
        variants = []
        for part in [frame, *(other[title] for other in others if title in other)]:
            checkpoint, metric = str(part["checkpoint"].iloc[0]), str(part["metric"].iloc[0])
            name = f"{checkpoint} {metric}"
            text = f"{METRICS[metric][1]}, {CHECKPOINTS[checkpoint]}"
            variants.append(_table(part) | {"name": name, "checkpoint": checkpoint, "metric": metric, "text": text})
        left_out = None
        if study.left_out is not None and title in dict(groups(study.left_out)):
            part = dict(groups(study.left_out))[title]
            left_out = _table(part) | {"caption": loso_caption(part)}
        found.append(
            {
                "id": f"group{at}", "title": title, "metrics": _metrics(variants), "answer": told[title],
                "variants": variants, "left_out": left_out,
                "figures": _figures(figures, title, frame),
            }
        )  # fmt: skip
    return found


def _metrics(variants: Sequence[dict[str, object]]) -> list[dict[str, str]]:
    """The metrics that a group has tables of, by the values of their buttons."""
    there = dict.fromkeys(str(table["metric"]) for table in variants)
    return [{"value": metric, "text": METRICS[metric][0]} for metric in METRICS if metric in there]


def _statuses(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/status.json")):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(status, dict):
            found.append(status)
    return found


def _quoted(word: str) -> str:
    """A word of a command line as a shell takes it."""
    return word if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def commands(statuses: Sequence[dict[str, Any]]) -> list[str]:
    """The command lines that made the jobs, each once, without what a sweep adds for itself."""
    lines = []
    for status in statuses:
        words = status.get("command")
        if isinstance(words, list) and words:
            lines.append(" ".join(_quoted(str(word)) for word in words if str(word) != "axes=[]"))
    return list(dict.fromkeys(lines))


def _versions(study: Study, statuses: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the runs were made with, from the jobs' records and the columns of the runs, several values joined."""
    found = []
    names = {
        "regrun": "regrun", "git_sha": "git", "torch": "torch", "python": "Python", "platform": "platform",
        "threads": "threads", "accelerator": "accelerator",
    }  # fmt: skip
    for key, label in names.items():
        values = dict.fromkeys(str(status[key]) for status in statuses if status.get(key) is not None)
        if values:
            found.append((label, ", ".join(values)))
    for key in ("device", "dtype", "deterministic"):
        if key in study.runs.columns:
            values = dict.fromkeys(str(value) for value in study.runs[key] if str(value))
            found.append((key, ", ".join(values)))
    return found


def _range(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return ""
    low, high = float(known.min()), float(known.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _protocol(study: Study, statuses: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """How the study was run, from its runs: one line per fact."""
    runs, found = study.runs, []
    for role, label in (("tune", "seeds that chose the strengths"), ("report", "seeds that are reported")):
        seeds = sorted(set(runs.loc[runs["role"] == role, "seed"]))
        if seeds:
            found.append((label, ", ".join(map(str, seeds)) if len(seeds) <= 20 else f"{seeds[0]} to {seeds[-1]}"))
    for name in ("protocol", "split_mode", "optimizer", "schedule"):
        if name in runs.columns:
            found.append((name.replace("_", " "), ", ".join(dict.fromkeys(v for v in map(str, runs[name]) if v))))
    for name in ("epochs", "steps", "batch_size", "lr", "n_train", "n_train_eval", "n_val", "n_test", "n_params"):
        if name in runs.columns and (text := _range(runs[name])):
            found.append((name.replace("n_", "number of ").replace("_", " "), text))
    for note in dict.fromkeys(str(note) for status in statuses for note in _listed(status.get("notes"))):
        found.append(("note", note))
    shared = shared_names(study.headline)
    found.append(("tuned for every method, none included", ", ".join(shared) or "nothing: learning rate not re-tuned"))
    rope = study.headline.iloc[0]
    found.append(
        ("margins", f"{score_of(study.headline)} ±{100 * rope['rope']:g} pp, gap ±{100 * rope['gap_rope']:g} pp")
    )
    found.append(("intervals cover", " / ".join(sorted(set(study.headline["interval_covers"])))))
    return found


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _methods(study: Study) -> list[dict[str, str]]:
    """Every method with its strengths: those tried, those reported, and its runs."""
    rows = []
    for (name, family), part in study.runs.groupby(["method", "family"], sort=True):
        tried = [text for text in weakest_first(part) if text]
        there = set(part.loc[part["role"] == "report", "strengths"])
        reported = [text for text in tried if text in there]
        rows.append(
            {
                "method": str(name), "family": str(family), "tried": ", ".join(tried) or "–",
                "reported": ", ".join(reported) or "–", "tuning": str(int((part["role"] == "tune").sum())),
                "runs": str(len(part)),
                "failed": str(int((part["status"] != "ok").sum())),
            }
        )  # fmt: skip
    return rows


def _settings(folder: Path) -> str:
    """What `study.json` says, as text."""
    path = folder / "study.json"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _bibtex(study: str, statuses: Sequence[dict[str, Any]]) -> str:
    sha = next((str(status["git_sha"]) for status in statuses if status.get("git_sha")), "")
    note = f"study {study}" + (f", git {sha}" if sha else "")
    return textwrap.dedent(f"""\
        @software{{regrun,
          title   = {{regrun: which regularizer makes this model generalize better on this data}},
          version = {{{runner.__version__}}},
          note    = {{{note}}}
        }}""")


def render(study: Study, figures: Sequence[Shown]) -> str:
    """The page of a study with these figures."""
    environment = Environment(
        loader=PackageLoader("runner.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    statuses = _statuses(study.folder)
    parts = _groups(study, figures)
    pooled = None
    if study.pooled is not None:
        heads, rows = pooled_rows(study.pooled)
        pooled = {"heads": heads, "rows": rows, "caption": pooled_caption(study.pooled)}
    return environment.get_template("report.html.jinja").render(
        study=study.folder.name,
        groups=parts,
        pooled=pooled,
        shared=[
            _figure(shown, at, score_of(study.headline))
            for at, shown in enumerate(figures)
            if shown.group == "All data sets"
        ],
        methods=_methods(study),
        protocol=_protocol(study, statuses),
        extensions=study.extensions,
        failures=[*(f"job {line}" for line in study.failures), *study.lost],
        undrawn=study.undrawn,
        versions=_versions(study, statuses),
        commands=commands(statuses),
        settings=_settings(study.folder),
        bibtex=_bibtex(study.folder.name, statuses),
        version=runner.__version__,
    )
