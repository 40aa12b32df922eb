"""Overrides as Hydra takes them, "epochs=3", "++method.l2.rate=0.1", read without Hydra."""

from __future__ import annotations


def key_of(override: str) -> str:
    """The key or group that an override gives a value to, without the + or ++ that says how.

    >>> key_of("++method.l2.rate=0.1"), key_of("experiment=brief")
    ('method.l2.rate', 'experiment')
    """
    return override.lstrip("+").partition("=")[0]
