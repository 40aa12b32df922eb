"""YAML whose aliases, written out, would fill the memory: refused before anything writes them out."""

from __future__ import annotations

import yaml

from runner.errors import Refusal

MOST = 100_000  # values of a file; regrun's own have less than a hundred


def refuse_bomb(text: str, where: object) -> None:
    """Refuse a document that comes to more than MOST values once every alias stands for what it names.

    >>> refuse_bomb("a: &a [1, 2]\\nb: [*a, *a]", "small.yaml")
    """
    if "&" not in text or "*" not in text:
        return
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1  # while it is counted: what holds itself is refused by who reads it
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            pairs = isinstance(node, yaml.MappingNode)
            sizes[id(node)] += sum(size(value) for part in parts for value in (part if pairs else (part,)))
        return sizes[id(node)]

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    count = size(root) if root else 0
    if count > MOST:
        raise Refusal(f"{where} comes to {count} values with its aliases written out; the most is {MOST}")
