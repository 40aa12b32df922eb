"""Where regrun's own files are, installed or in a checkout, and where it keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import yaml


def cache_dir() -> Path:
    """The user's folder for what was decoded, measured or compiled here; it may be emptied at any time.

    Of a user without a home, as some containers have, it is one that can be neither read nor made.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regrun"
    except RuntimeError:  # no HOME, and nothing in /etc/passwd
        return Path(os.devnull) / "regrun"


def conf_dir() -> Path:
    """The folder of configuration groups: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"regrun's configuration is neither in {here / 'conf'} nor in {here.parent / 'conf'}")


def stacked(name: str) -> list[str]:
    """The methods that a choice of `method` stacks: those of a named stack, else the one method itself.

    >>> stacked("dropout"), "dropout" in stacked("cocktail")
    (['dropout'], True)
    """
    path = conf_dir() / "method" / f"{name}.yaml"
    node = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    parts: list[str] = (node or {}).get("stacks", {}).get(name, [name])
    return parts


def options(group: str) -> list[str]:
    """The names on the menu of one group, in order.

    >>> options("protocol")
    ['fixed', 'optuna', 'search', 'smoke', 'tuned']
    """
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
