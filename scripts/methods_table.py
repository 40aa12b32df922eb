"""Write docs/methods.md: one line for every method, read from its class and its file in conf/method.

python scripts/methods_table.py            writes it
python scripts/methods_table.py --check    exits with 1 if it is out of date
"""

from __future__ import annotations

import argparse
import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from runner.methods.base import FAMILIES, Method, ranges
from runner.paths import conf_dir, options, stacked

DOCS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
HOOKS = (
    "build", "batch", "weights", "hidden", "penalty", "gradient", "project", "remember", "recall", "average", "stop",
)  # fmt: skip
HEAD = """# Methods

Written by `python scripts/methods_table.py` from the classes in `runner/methods` and the files in `conf/method`; do not
edit it. `regrun method=NAME` trains one, `regrun 'method=[NAME,OTHER]'` a stack, in that order.

- **Strengths**: each with its default and range; the first is the one that grids, tables and figures speak of. A
  strength marked *net* shapes the net, so that runs which differ in it are trained one pack after another.
- **Grid**: the values of the first strength that `protocol=tuned` chooses from.
- **Passes**: gradient passes of one step, in those of the baseline: what a method costs before its own arithmetic.
- **Hooks**: where it acts; see `runner/methods/base.py`.
"""


def page() -> str:
    """The text of docs/methods.md."""
    rows: dict[str, list[str]] = {}
    for name in options("method"):
        if name != "none" and stacked(name) == [name]:
            family, row = line(name)
            rows.setdefault(family, []).append(row)
    parts = [HEAD]
    for family in FAMILIES:
        if family in rows:
            parts.append(f"\n## {family.capitalize()}\n")
            parts.append("| Method | What it does | Strengths | Grid | Passes | Hooks |")
            parts.append("|---|---|---|---|---|---|")
            parts += rows[family]
    return "\n".join(parts) + "\n"


def line(name: str) -> tuple[str, str]:
    """The family of a method and its row."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{name}.yaml"))
    assert isinstance(node, dict)
    settings: dict[str, Any] = node[name]
    module, _, label = settings["_target_"].rpartition(".")
    method: type[Method] = getattr(import_module(module), label)
    first = inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    strengths = [
        f"`{field}` = {settings[field]:g} ({'net, ' if allowed.built else ''}{allowed})"
        for field, allowed in ranges(method).items()
    ]
    grid = ", ".join(f"{value:g}" for value in next(iter(settings["grid"].values())))
    hooks = ", ".join(hook for hook in HOOKS if getattr(method, hook) is not getattr(Method, hook))
    cells = [f"`{name}`", first, "; ".join(strengths), grid, f"{method.passes:g}", hooks]
    return method.family, "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Write the page, or say whether it is out of date."""
    parser = argparse.ArgumentParser(description="write docs/methods.md")
    parser.add_argument("--check", action="store_true", help="only say whether it is out of date")
    text = page()
    if parser.parse_args().check:
        same = DOCS.is_file() and DOCS.read_text(encoding="utf-8") == text
        if not same:
            print(f"{DOCS} is out of date; run: python scripts/methods_table.py", file=sys.stderr)
        return 0 if same else 1
    DOCS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
