"""The one kind of error a user can cause and mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST = 20  # names that one line lists


class Refusal(ValueError):
    """Bad input, in one line that names the key, the value, what is allowed and where to change it (exit code 2)."""


def unknown(what: str, name: str, known: Iterable[str], where: str) -> Refusal:
    """The refusal of a name that is not on the menu, with the nearest one that is.

    >>> print(unknown("method", "mixpu", ["mixup", "l2"], "conf/method"))
    no method 'mixpu'; did you mean 'mixup'? (conf/method has: l2, mixup)
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(names) <= MOST:
        return Refusal(f"no {what} {name!r}{hint} ({where} has: {', '.join(names)})")
    some = get_close_matches(name, names, n=5, cutoff=0.0)
    return Refusal(f"no {what} {name!r}{hint} ({where} has {len(names)}, among them {', '.join(some)}; see --help)")
