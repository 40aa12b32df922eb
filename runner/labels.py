"""What tells the configurations of a study apart in its tables, and which settings of a job that leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from runner.aliases import refuse_bomb
from runner.errors import Refusal

LABEL = ("dataset", "model", "setting", "method", "strengths")  # columns of runs.csv


def flatten(settings: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    >>> flatten({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{lead}{key}.") if isinstance(value, Mapping) else {f"{lead}{key}": value}
    return flat


def items_of(text: str) -> dict[str, str]:
    """What a setting or the strengths of a label name, and the values there.

    >>> items_of("data.train_size=500 data.label_noise=0.2")
    {'data.train_size': '500', 'data.label_noise': '0.2'}
    """
    return dict(item.split("=", 1) for item in text.split() if "=" in item)


def stack_in_a_word(methods: list[str], named: Mapping[str, list[str]], options: Mapping[str, list[str]]) -> str:
    """The stack in one word, with the options that a sweep varies; `named` are stacks with a name of their own.

    >>> stack_in_a_word(["l2", "dropout", "mixup"], {"cocktail": ["dropout", "l2"]}, {})
    'cocktail+mixup'
    >>> stack_in_a_word(["dropout", "l1"], {}, {"l1": ["l1.form=proximal"]})
    'dropout+l1.form=proximal'
    >>> stack_in_a_word(["l1", "l2"], {"elastic": ["l1", "l2"]}, {"l1": ["l1.form=proximal"]})
    'elastic,l1.form=proximal'
    >>> stack_in_a_word([], {}, {})
    'none'
    """
    words = {method: ",".join(options.get(method) or [method]) for method in methods}
    for name, parts in named.items():
        if set(parts) <= set(words):
            told = [option for part in parts for option in options.get(part, ())]
            words = {name: ",".join([name, *told])} | {m: word for m, word in words.items() if m not in parts}
    return "+".join(words.values()) or "none"


def unshown(settings: Mapping[str, Any], label: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a job that its label in the tables does not show, by key; of methods that are off, none.

    >>> settings = {"method": {"l1": {"rate": 0.1, "form": "proximal", "grid": {"rate": [1]}}, "l2": {"rate": 0.2}}}
    >>> unshown(settings, {"method": "l1", "strengths": "l1.rate=0.1", "setting": ""})
    {'method.l1.form': 'proximal'}
    >>> unshown(settings, {"method": "l1.form=proximal", "strengths": "l1.rate=0.1", "setting": ""})
    {}
    """
    strengths = items_of(label["strengths"])
    named = items_of(label["setting"]) | strengths
    on = {name.partition(".")[0] for name in strengths}
    words = re.split("[+,]", label["method"])
    return {
        key: value
        for key, value in flatten({key: value for key, value in settings.items() if key != "method"}).items()
        if key not in named
    } | {
        f"method.{name}.{field}": value
        for name, entry in (settings.get("method") or {}).items()
        # a method that has numbers shows its first wherever it is on
        if name in on or not any(_is_number(value) for value in entry.values())
        for field, value in entry.items()
        if field != "grid" and f"{name}.{field}" not in strengths and option(name, field, value) not in words
    }


def option(method: str, field: str, value: object) -> str:
    """A method's option as a label shows it.

    >>> option("l1", "form", "proximal"), option("dropout", "input_rate", 0), option("ema", "decay", 0.9000001)
    ('l1.form=proximal', 'dropout.input_rate=0', 'ema.decay=0.9000001')
    """
    return f"{method}.{field}={said(value)}"


def said(value: object) -> str:
    """A value as labels show it: of a number as many digits as it takes, whether it was written 0 or 0.0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def may_have(settings: Mapping[str, Any], label: Mapping[str, str]) -> bool:
    """Whether a job of these settings has, or will have, runs of this label.

    >>> mine = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "method": {"l2": {"rate": [0.1, 0.2]}}}
    >>> label = {"dataset": "digits", "model": "mlp", "setting": "", "method": "l2"}
    >>> [may_have(mine, label | {"strengths": f"l2.rate={rate}"}) for rate in ("0.1", "0.3")]
    [True, False]
    """
    flat = flatten(settings)
    if (flat.get("data.name"), flat.get("model.name")) != (label["dataset"], label["model"]):
        return False
    for name, text in (items_of(label["setting"]) | items_of(label["strengths"])).items():
        method, _, field = name.partition(".")
        given = [flat.get(key) for key in (name, f"method.{name}", f"method.{method}.grid.{field}")]
        if not any(text == said(value) for one in given for value in (one if isinstance(one, list) else [one])):
            return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | list) and not isinstance(value, bool)


def different(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key at which two groups of settings differ; None where they are equal."""
    return next((key for key in sorted({*one, *other}) if one.get(key) != other.get(key)), None)


def stored_settings(place: Path) -> dict[str, Any]:
    """The settings that a job's folder has; none where they cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError, Refusal):
        text = (place / "config.yaml").read_text(encoding="utf-8")
        refuse_bomb(text, place / "config.yaml")
        settings = yaml.safe_load(text)
        return settings if isinstance(settings, dict) else {}
    return {}
