"""Operations that write over what nothing reads any more.

Memory that is fresh to a core costs more than simple arithmetic on what it holds, and a step is mostly simple
arithmetic (docs/benchmarks.md). So where an operation on single entries is the last to read its first argument, it
leaves its result there: the same numbers, in memory that is at hand.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

aten = torch.ops.aten
FORM = "form"  # of the tensor that a node gives, in the node's meta


class Form(NamedTuple):
    """What a tensor is, but for its numbers."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> Form:
        """A tensor's."""
        return cls(tuple(x.shape), x.stride(), x.dtype)


def in_place(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph, of the same numbers, whose operations write over their first argument wherever they may.

    They may where nothing after them reads it or a view of it, and where their result has its shape, its order in
    memory and its type. A graph's inputs and constants have no form, and so are never written over.
    """
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    owners = _owners(copy)
    place = {node: number for number, node in enumerate(copy.nodes)}
    last = {owner: place[node] for node in copy.nodes for given in node.all_input_nodes for owner in owners[given]}
    for node in copy.nodes:
        over = _over(node)
        if over is None:
            continue
        first, *others = node.all_input_nodes
        if len(owners[first]) > 1 or first is not node.args[0]:  # it is not known whose memory, or it is no tensor
            continue
        (owner,) = owners[first]
        if last[owner] == place[node] and _alike(owner, first, node) and not any(owner in owners[x] for x in others):
            node.target = over
            if over is aten.threshold_backward.grad_input:
                node.kwargs = {"grad_input": first}
    return copy


def _owners(graph: fx.Graph) -> dict[fx.Node, set[fx.Node]]:
    """By node: the nodes of which one made the memory that holds what it gives, itself if no other."""
    owners: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        owners[node] = {owner for given in _shared(node) for owner in owners[given]} or {node}
    return owners


def _shared(node: fx.Node) -> list[fx.Node]:
    """What a node is given and may share memory with what it gives."""
    if not isinstance(node.target, OpOverload):
        return node.all_input_nodes if node.op == "call_function" else []  # an item of several
    schema = node.target._schema
    if all(given.alias_info is None for given in schema.returns):
        return []
    named = zip(schema.arguments, node.args, strict=False)
    given: list[Any] = [value for argument, value in named if argument.alias_info is not None]
    return [value for value in [*given, *node.kwargs.values()] if isinstance(value, fx.Node)]


def _over(node: fx.Node) -> OpOverload | None:
    """The operation on single entries that gives the same and writes over its first argument."""
    if not isinstance(node.target, OpOverload):
        return None
    if node.target is aten.threshold_backward.default:  # of ReLU; it has no such form but writes where it is told
        over: OpOverload = aten.threshold_backward.grad_input
        return over
    if torch.Tag.pointwise not in node.target.tags:
        return None
    space, _, name = node.target._schema.name.partition("::")
    return getattr(getattr(getattr(torch.ops, space), f"{name}_", None), node.target._overloadname, None)


def _alike(owner: fx.Node, first: fx.Node, node: fx.Node) -> bool:
    """Whether a result would fill the memory of its first argument, and lie there just as that does."""
    forms: list[Form | None] = [each.meta.get(FORM) for each in (owner, first, node)]
    whole, before, after = forms
    return None not in forms and before == after and prod(whole.shape) == prod(after.shape)  # type: ignore[union-attr]
