"""What tells the configurations of a study apart in its tables, and which settings of a stack that leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

LABEL = ("dataset", "model", "setting", "method", "strengths")  # columns of runs.csv


def unshown(stack: Mapping[str, Any], strengths: str) -> dict[str, Any]:
    """The settings of a stack that the strengths in a table do not show, by key; of methods that are off, none.

    >>> unshown({"l1": {"rate": 0.1, "form": "proximal", "grid": {"rate": [1]}}, "l2": {"rate": 0.2}}, "l1.rate=0.1")
    {'method.l1.form': 'proximal'}
    """
    shown = {item.partition("=")[0] for item in strengths.split()}
    on = {name.partition(".")[0] for name in shown}
    return {
        f"method.{name}.{field}": value
        for name, entry in stack.items()
        # a method that has numbers shows its first wherever it is on
        if name in on or not any(_is_number(value) for value in entry.values())
        for field, value in entry.items()
        if field != "grid" and f"{name}.{field}" not in shown
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | list) and not isinstance(value, bool)


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key at which two groups of settings differ; None where they are equal."""
    return next((key for key in sorted({*one, *other}) if one.get(key) != other.get(key)), None)


def stored_settings(place: Path) -> dict[str, Any]:
    """The settings that a job's folder has; none where they cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        settings = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        return settings if isinstance(settings, dict) else {}
    return {}
