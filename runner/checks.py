"""Values of a configuration, one by one: each is refused in a line that names its key, or given as what it is."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.errors import Refusal
from runner.methods.base import Range
from runner.overrides import key_of
from runner.paths import conf_dir, options

MOST_VALUES = 10_000_000  # that interpolations may come to; some configurations of regrun's have 400


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration in plain dicts and lists, its interpolations resolved."""
    try:
        _refuse_multiplied(cfg)
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise Refusal(f"{error.full_key or 'the configuration'}: {first}") from error
    assert isinstance(values, dict)  # the root is a mapping
    return typing.cast(dict[str, Any], values)


def _refuse_multiplied(cfg: DictConfig) -> None:
    """Refuse interpolations that may come to more than MOST_VALUES, without writing them out.

    One that brings in a group or a list, and each within a text, may double all there is; one that is a value does not.
    """
    size, whole, doublings = 0, list[Sequence[str | int]](), 0
    left: list[tuple[Sequence[str | int], Any]] = [((), OmegaConf.to_container(cfg, resolve=False))]
    while left:
        path, value = left.pop()
        size += 1
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((*path, key), below) for key, below in inner]
        elif isinstance(value, str):
            size += len(value) // 100
            if re.fullmatch(r"\$\{[^${}]*\}", value):
                whole.append(path)
            else:
                doublings += value.count("${")
    if size << min(doublings, 64) <= MOST_VALUES:
        doublings += sum(OmegaConf.is_config(reduce(getitem, path, cfg)) for path in whole)
    if size << min(doublings, 64) > MOST_VALUES:
        raise Refusal(
            f"the configuration has {doublings} interpolations of groups, lists or parts of texts, which may come to "
            f"more than {MOST_VALUES} values (fewer of ${{...}}, in conf or --config-dir)"
        )


def section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The settings of a group."""
    found = values.get(key)
    if not isinstance(found, dict):
        where = f"conf/{key}" if (conf_dir() / key).is_dir() else "conf/config.yaml"
        raise Refusal(f"{key} is {found!r}; it must be a group of settings ({where})")
    return found


def once(overrides: Sequence[str]) -> None:
    """Refuse a choice that Hydra would take otherwise than it reads: a method listed twice, two data sets at once."""
    for override in overrides:
        group, choice = key_of(override), override.partition("=")[2]
        names = [name.strip() for name in choice.strip("[]").split(",")]
        if group == "method" and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Refusal(f"method is {choice}; {twice} stands in the stack twice, and once is enough (method=[...])")
        if choice.startswith("[") and group != "method" and (conf_dir() / group).is_dir():
            raise Refusal(f"{group} is {choice}; it must be one of {', '.join(options(group))} ({group}=...)")


def names(key: str, value: object) -> list[str]:
    """A list of names, which may be empty."""
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise Refusal(f"{key} is {value!r}; it must be a list of names ({key}=[...])")
    return value


def study_name(study: object) -> str | None:
    """A study's name, which becomes a folder: no separators, no leading dot, nothing a shell or a page would read."""
    if study is None:
        return None
    name = study if isinstance(study, str) else str(study) if type(study) is int else ""
    if not name or len(name) > 100 or name[0] in ".-" or not all(c.isalnum() or c in "._-+=" for c in name):
        raise Refusal(f"study is {study!r}; it must be letters, digits and . _ - + =, not led by . or - (study=...)")
    return name


def title(group: str, node: Mapping[str, Any]) -> str:
    """What a data set or a model is called in records and reports."""
    name = node.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        raise Refusal(f"{group}.name is {name!r}; it must be a text of one line, of 1 to 100 characters (conf/{group})")
    return name


def folder(path: object) -> Path:
    """The folder that results go to."""
    if not isinstance(path, str) or not path:
        raise Refusal(f"out is {path!r}; it must be a folder (out=...)")
    return Path(path)


def whole(key: str, value: object, least: int) -> int:
    """A whole number of at least so much, below 2^31."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise Refusal(f"{key} is {value!r}; it must be a whole number from {least} to {2**31 - 1} ({key}=...)")
    return value


def true_or_false(key: str, value: object) -> bool:
    """A setting that is on or off."""
    if not isinstance(value, bool):
        raise Refusal(f"{key} is {value!r}; it must be true or false ({key}=...)")
    return value


def number(key: str, value: object, where: str) -> float:
    """A finite number; `where` says where to change it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refusal(f"{key} is {value!r}; it must be a finite number ({where})")
    return float(value)


def in_range(key: str, value: object, allowed: Range) -> float:
    """A strength, or a number of the optimizer."""
    found = number(key, value, f"{key}=...")
    if not allowed.allows(found):
        raise Refusal(f"{key} is {found:g}; it must be {allowed} ({home(key)}{key}=...)")
    return found


def numbers(key: str, values: object, allowed: Range) -> list[float]:
    """The values of a strength that a grid or a sweep walks, each of them once."""
    if not isinstance(values, list) or not values:
        raise Refusal(f"{key} is {values!r}; a grid must be a list of at least one number ({key}=[...])")
    checked = [in_range(key, value, allowed) for value in values]
    if len(set(checked)) < len(checked):
        raise Refusal(f"{key} is {values}; the same value stands in it twice ({key}=[...])")
    if len({f"{value:g}" for value in checked}) < len(checked):
        raise Refusal(f"{key} is {values}; tables show six digits, by which two of them are one ({key}=[...])")
    return checked


def home(key: str) -> str:
    """The file that has a method's value for a key, as an error message says it; nothing for other keys."""
    parts = key.split(".")
    return f"conf/method/{parts[1]}.yaml or " if parts[0] == "method" else ""
