"""A step as the flat list of torch's operations that it comes to.

To map a step over lanes and to differentiate it takes torch some milliseconds that compute nothing, and the operations
that come of it are the same in every step. So they are written down once and then gone through again with other
numbers: the same operations on the same values in the same order, hence the same bits. What depends on nothing that
changes from step to step is computed once, and what nothing depends on is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import getitem
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from runner.engine.machine import is_full, repeating
from runner.engine.products import MATRICES, is_on, onednn, through_onednn
from runner.engine.reuse import FORM, Form, in_place

Step: TypeAlias = Callable[..., Any]  # of trees of tensors, and of what is the same in every step, to a tree of tensors

PLAIN = 2  # steps taken as they are written before one is written down: what the first sets up is no part of it
aten = torch.ops.aten
RENAMING = {  # which may give just what they are given
    aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.detach.default, aten.lift_fresh.default,
}  # fmt: skip
ONEDNN = "onednn"  # whether a product is oneDNN's, in its node's meta
PRODUCTS = MATRICES | {aten.convolution.default, aten.convolution_backward.default}


class Unfit(Exception):
    """A step is no fixed list of operations; the text says why."""


@dataclass(frozen=True)
class Operations:
    """What a step does, to be done again with other numbers: a function of the tensors of its arguments, in order."""

    graph: fx.Graph
    constants: nn.Module  # what the graph takes as given, as buffers
    tree: TreeSpec  # of what the step gives

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        """What the step gives."""
        return self.whole(self.leaves(tensors))

    def leaves(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The leaves of what the step gives."""
        with torch.no_grad():
            return list(self._function(self.constants, *tensors))

    def whole(self, leaves: Sequence[Tensor]) -> Any:
        """What the step gives, of its leaves."""
        return tree_unflatten(leaves, self.tree)

    def __len__(self) -> int:
        """How many there are."""
        return sum(node.op == "call_function" for node in self.graph.nodes)

    @property
    def by_onednn(self) -> bool:
        """Whether all matrix products are oneDNN's."""
        return all(node.meta[ONEDNN] for node in self.graph.nodes if node.target in MATRICES)

    @property
    def code(self) -> str:
        """The operations as Python writes them."""
        return self.graph.python_code("self").src

    @cached_property
    def _function(self) -> Callable[..., Any]:
        """The graph as a function of the constants and of tensors.

        An fx.GraphModule would be the same, but torch keeps the source of each one for as long as the process lives.
        """
        graph = in_place(self.graph)
        for node in graph.nodes:
            if node.meta.get(ONEDNN):
                node.target = through_onednn(node.target)
        written = graph.python_code("self")
        names, source = dict(written.globals), written.src
        called = {node.target for node in graph.nodes if isinstance(node.target, OpOverload)}
        for number, operation in enumerate(called):  # what its call comes to, which is a third of a microsecond nearer
            source = source.replace(f" torch.ops.{operation}(", f" operation{number}(")
            names[f"operation{number}"] = operation._op
        exec(source, names)  # torch has written it, of the operations above
        function: Callable[..., Any] = names["forward"]
        return function

    def seconds(self, tensors: Sequence[Tensor]) -> tuple[float, float]:
        """How long all of them take, and how long matrix products and convolutions among them."""
        clock = time.perf_counter()
        self(tensors)
        whole = time.perf_counter() - clock
        timed = Timed(self.constants, graph=self.graph)
        with torch.no_grad():
            timed.run(*tensors)
        return whole, timed.products


class Timed(fx.Interpreter):
    """Takes the time of matrix products and convolutions in a graph that it goes through."""

    products: float = 0.0  # seconds

    def run_node(self, node: fx.Node) -> Any:
        """Do an operation."""
        with onednn(node.meta.get(ONEDNN, False)):
            clock = time.perf_counter()
            out = super().run_node(node)
            self.products += (time.perf_counter() - clock) * (node.target in PRODUCTS)
        return out


class Given(NamedTuple):
    """One argument of a step, gone through."""

    leaves: list[Tensor]
    form: Any  # its tree, the shapes, strides and types of its tensors, and what is no tensor

    @classmethod
    def of(cls, argument: Any) -> Given:
        """An argument's."""
        if isinstance(argument, Tensor):  # torch takes twice as long for the same
            return cls([argument], (argument.shape, argument.stride(), argument.dtype))
        leaves, tree = tree_flatten(argument)
        form = tree, [(x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x for x in leaves]
        return cls(tensors_of(leaves), form)


class Taped:
    """A step that is written down when it has been taken PLAIN times with arguments of the same form, then replayed.

    The first replay is compared with the step as it is written. A step that comes out otherwise, that cannot be written
    down, or that takes numbers out of tensors, which may decide what it does next, is taken as it is written for good;
    `unfit` then says why.
    """

    def __init__(self, step: Step) -> None:
        """Of a step as it is written."""
        self.step = step
        self.unfit: str | None = None
        self._form: Any = None  # of the latest arguments
        self._met = 0  # how often they have had it
        self._operations: Operations | None = None
        self._lasting = False  # whether what it gives first has the form of what it is given first, as a state has
        self._gave: tuple[Any, Given] | None = None  # then what the latest step gave first: the next is given it

    def __call__(self, *arguments: Any) -> Any:
        """What the step gives."""
        if self.unfit:
            return self.step(*arguments)
        given = self._gone_through(arguments)
        form = [each.form for each in given]
        if form != self._form:  # at first, and when runs have left the pack
            self._form, self._met, self._operations = form, 0, None
        self._met += 1
        if self._met <= PLAIN:
            return self.step(*arguments)
        if self._operations is None:
            return self._written_down(arguments)
        tensors = [leaf for each in given for leaf in each.leaves]
        if self._met <= PLAIN + 2:
            return self._compared(arguments, self._operations, tensors)
        leaves = self._operations.leaves(tensors)
        out = self._operations.whole(leaves)
        if self._lasting:
            self._gave = out[0], Given(leaves[: len(given[0].leaves)], given[0].form)
        return out

    def _gone_through(self, arguments: Sequence[Any]) -> list[Given]:
        """The arguments gone through, but for a first one that the step before gave: that is known."""
        known, self._gave = self._gave, None
        if known and arguments[0] is known[0]:
            return [known[1], *map(Given.of, arguments[1:])]
        return [*map(Given.of, arguments)]

    def _written_down(self, arguments: Any) -> Any:
        try:
            out, self._operations = written_down(self.step, arguments)
        except Exception as why:  # whatever a foreign net's operations raise when they are written down
            if is_full(why):  # which is no fault of the operations
                raise
            self.unfit = _told(why)
            return self.step(*arguments)
        return out

    def _compared(self, arguments: Any, operations: Operations, tensors: Sequence[Tensor]) -> Any:
        with repeating(tensors[0].device):
            return self._compared_with(self.step(*arguments), operations, tensors)

    def _compared_with(self, out: Any, operations: Operations, tensors: Sequence[Tensor]) -> Any:
        try:
            again = operations(tensors)
            if not all(map(_same, tree_flatten(out)[0], tree_flatten(again)[0])):
                self.unfit = "its operations are others in another step"
            self._lasting = isinstance(again, tuple) and Given.of(again[0]).form == self._form[0]
        except Exception as why:  # as above
            if is_full(why):
                raise
            self.unfit = _told(why)
        return out


def tensors_of(leaves: Sequence[Any]) -> list[Tensor]:
    """Those of the leaves of a tree that are tensors."""
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def written_down(step: Step, arguments: Any) -> tuple[Any, Operations]:
    """What a step gives, and how to do it again. Raises Unfit."""
    with Tape(tensors_of(tree_flatten(arguments)[0])) as tape:
        out = step(*arguments)
    last, tree = tree_flatten(out)
    tape.graph.output(tuple(tape.node(leaf) for leaf in last))
    tape.graph.eliminate_dead_code()
    constants = nn.Module()
    for name, constant in _constants(tape.graph, tape.constants).items():
        constants.register_buffer(name, constant)
    return out, Operations(tape.graph, constants, tree)


class Tape(TorchDispatchMode):
    """Writes down, as a graph, every operation on tensors that is done while it is entered; raises Unfit."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        """Of a graph whose inputs are the given tensors."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._nodes = WeakTensorKeyDictionary()  # weak: a step holds no more memory than without
        for number, tensor in enumerate(given):
            self._nodes[tensor] = self.graph.placeholder(f"given{number}")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it means to import torch's compiler first, which takes two seconds

    def node(self, leaf: Any) -> Any:
        """What stands in the graph for a leaf of an operation's arguments."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf not in self._nodes:  # from before the step, or made of Python's numbers
            name = f"constant{len(self.constants)}"
            self.constants[name] = leaf
            self._nodes[leaf] = self.graph.get_attr(name)
        return self._nodes[leaf]

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation and write it down."""
        if _asks(func, args):
            raise Unfit(f"{func} takes numbers out of tensors")
        given = tree_map(self.node, (args, kwargs or {}))  # before it may change them
        out = func(*args, **(kwargs or {}))
        if func in RENAMING and (out.shape, out.stride()) == (args[0].shape, args[0].stride()):
            self._nodes[out] = given[0][0]
            return out
        node = self.graph.call_function(func, *given)
        if isinstance(out, Tensor):
            self._nodes[out] = node
            node.meta[FORM] = Form.of(out)
            node.meta[ONEDNN] = func in MATRICES and is_on()
        else:
            for number, part in enumerate(out or ()):
                if isinstance(part, Tensor):  # not so what was not asked for of several gradients
                    self._nodes[part] = self.graph.call_function(getitem, (node, number))
        return out


def _constants(graph: fx.Graph, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """The constants of a graph, `known` and those that it would compute in every step, which it now takes as given."""
    values = {node: known[node.target] for node in graph.find_nodes(op="get_attr")}
    for node in [node for node in graph.nodes if isinstance(node.target, OpOverload)]:
        changes = any(map(_changing, [node, *node.users])) or torch.Tag.nondeterministic_seeded in node.target.tags
        if not changes and all(before in values for before in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            name = f"computed{len(values)}"
            with graph.inserting_before(node):
                constant = graph.get_attr(name)
            values[constant] = node.target(*args, **kwargs)
            node.replace_all_uses_with(constant)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    left = set(graph.nodes)
    return {node.target: value for node, value in values.items() if node in left}


def _changing(node: fx.Node) -> bool:
    """Whether an operation changes what it is given, or may let others do so since what it gives shares its memory."""
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"  # an item of several
    schema = node.target._schema
    return schema.is_mutable or any(given.alias_info is not None for given in schema.returns)


def _asks(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether an operation takes numbers out of tensors: as such, or as the shape of what it gives."""
    if func is aten.index.Tensor:  # whose shape depends on numbers only where it is given a mask
        return any(at is not None and at.dtype in (torch.bool, torch.uint8) for at in args[1])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _told(why: Exception) -> str:
    return f"{type(why).__name__}: {why}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same: bit for bit on a CPU, where the same operations give the same bits."""
    if one.device.type == "cpu":
        return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
