"""Where regrun's own files are, installed or in a checkout."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """The folder of configuration groups: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"regrun's configuration is neither in {here / 'conf'} nor in {here.parent / 'conf'}")


def options(group: str) -> list[str]:
    """The names on the menu of one group, in order.

    >>> options("protocol")
    ['fixed', 'smoke', 'tuned']
    """
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
