"""Report seeds that were added to a study after it was begun: read from study.json, told wherever numbers are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Extension:
    """One step: from `start` to `stop` report seeds in a group ("mnist1d/mlp"), `asked` for by "extend=+5", say."""

    group: str
    methods: tuple[str, ...]
    start: int
    stop: int
    asked: str
    at: str
    command: str

    @property
    def span(self) -> str:
        """ "10 to 15"."""
        return f"{self.start} to {self.stop}"


def study_file(study_dir: Path) -> dict[str, object]:
    """The object in a study's study.json; empty where there is no file.

    Raises ValueError for a file that holds none: the margins and the steps of more seeds that were on record.
    """
    path = study_dir / "study.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not readable as JSON; mend it, since it has the margins and the seeds that were added"
        )
    return found


def read_extensions(study_dir: Path) -> tuple[Extension, ...]:
    """The extensions that study.json has on record, in the order in which they were made; none without a record.

    Raises ValueError for a record that is not one.
    """
    entries: Any = study_file(study_dir).get("extensions", [])
    try:
        return tuple(
            Extension(
                str(entry["group"]), tuple(entry["methods"]), int(entry["from"]), int(entry["to"]), str(entry["asked"]),
                str(entry["at"]), " ".join(entry["command"]),
            )
            for entry in entries
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{study_dir / 'study.json'}: extensions: {error!r}") from error


def marked(frame: pd.DataFrame, extensions: Sequence[Extension]) -> pd.DataFrame:
    """The headline with the steps of each row's group in `extended`: "10 to 15, 15 to 20"; blank without any.

    A step that several studies, merged into one, have made is told once.
    """
    groups = [f"{dataset}/{model}" for dataset, model in zip(frame["dataset"], frame["model"], strict=True)]
    steps = [dict.fromkeys(e.span for e in extensions if e.group == group) for group in groups]
    return frame.assign(extended=[", ".join(spans) for spans in steps])


def extension_lines(extensions: Sequence[Extension]) -> list[str]:
    """One line for each extension: when, how many, by which command."""
    return [
        f"{e.at[:16].replace('T', ' ')} UTC, {e.group}: {e.span} report seeds by {e.asked} "
        f"({', '.join(e.methods)}): {e.command}"
        for e in extensions
    ]
