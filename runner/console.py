"""What regrun shows on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def plain(**settings: Any) -> Console:  # Any: rich's own settings
    """A console that shows what it is given: in names, paths and errors there may be what rich takes for markup."""
    return Console(markup=False, emoji=False, **settings)
