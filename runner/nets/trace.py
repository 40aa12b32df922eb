"""Where a foreign net's marks belong, found from one forward pass.

Every operation of the pass is a node that knows which nodes it was computed from. Then

- a *branch* ends where a sum adds a longer way to a shorter one,
- a *hidden* value is what an activation, a dropout or the meeting of several ways gives, if the whole of an example
  passes there: no way from the input to the logits goes around it,

and a mark can be placed where a module gives that value, or is the only one that is given it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# Activations that are gates or probabilities are no hidden units.
GATES = ("Sigmoid", "Hardsigmoid", "LogSigmoid", "Softmin", "Softmax", "Softmax2d", "LogSoftmax", "MultiheadAttention")
UNITS = {name for name in activation.__all__ if name not in GATES}
UNITS |= {"Swish", "HardSwish", "HardMish", "GELUTanh", "QuickGELU"}  # timm's
UNIT_CALLS = {name.lower() for name in UNITS} | {"leaky_relu"}
RESHAPES = {"view", "reshape", "permute", "transpose", "flatten", "contiguous", "squeeze", "unsqueeze"}
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
MEETINGS = SUMS | {"cat", "concat", "concatenate"}
# What takes numbers of a parameter entry by entry, or sets them beside those of an example.
ENTRYWISE = MEETINGS | {
    *(f"{lead}{name}{end}" for name in ("sub", "mul", "div", "truediv") for lead, end in (("", ""), ("", "_"))),
    *(f"__{lead}{name}__" for name in ("sub", "mul", "truediv") for lead in ("", "r", "i")),
    "stack", "where", "lerp", "addcmul", "__setitem__", "copy_",
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
}  # fmt: skip
PRODUCTS = {"linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"}


@dataclass(frozen=True)
class Place:
    """A module at whose entry, or else behind which, a mark belongs."""

    kind: str  # "hidden" or "branch"
    name: str  # of the module in its net
    module: nn.Module
    entry: bool


@dataclass(eq=False)
class Node:
    """A value of the pass."""

    name: str  # of the operation
    number: int  # in the order of computation
    shape: Sequence[int]
    parents: Sequence[Node]
    weighs: bool  # whether a matrix or filter is applied
    layers: int  # the most matrices and filters that are applied on any way to it
    children: list[Node] = field(default_factory=list)
    giving: list[nn.Module] = field(default_factory=list)  # modules whose output it is, the innermost first
    taking: list[nn.Module] = field(default_factory=list)  # modules whose first argument it is


class Trace(TorchFunctionMode):
    """Notes what each value that depends on the input is computed from."""

    def __init__(self, x: Tensor) -> None:
        """Follow what is computed from x."""
        super().__init__()
        self.nodes = [Node("input", 0, x.shape, (), False, 0)]
        self.node_of: dict[int, Node] = {id(x): self.nodes[0]}
        self.kernels: set[int] = set()  # ids of what is computed from matrices and filters alone
        self.writes: dict[int, Node] = {}  # by the address of the memory: the last value that was written into it
        self.kept: list[Tensor] = [x]  # so that no two values share an id

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # whatever the operation gives
        """Do the operation and note its values."""
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        parents = list(dict.fromkeys(node for leaf in given if (node := self.node(leaf))))
        weighs = any(id(leaf) in self.kernels or (isinstance(leaf, nn.Parameter) and leaf.ndim >= 2) for leaf in given)
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        may_keep = not name.endswith("_") and name not in UNIT_CALLS  # those change a value where it is
        for leaf in tree_leaves(_results(name, args, out)) if parents or weighs else ():
            if not isinstance(leaf, Tensor) or (may_keep and [self.node_of.get(id(leaf))] == parents):
                continue  # a number, or the value as it was
            self.kept.append(leaf)
            if parents:
                node = self._note(leaf, name, parents, weighs)
                address = _address(leaf)
                if address is not None and any(leaf is other for other in given):
                    self.writes[address] = node
            elif not isinstance(leaf, nn.Parameter):
                self.kernels.add(id(leaf))
        return out

    def _note(self, value: Tensor, name: str, parents: Sequence[Node], weighs: bool) -> Node:
        layers = max(parent.layers for parent in parents) + weighs
        node = Node(name, len(self.nodes), value.shape, parents, weighs, layers)
        for parent in parents:
            parent.children.append(node)
        self.nodes.append(node)
        self.node_of[id(value)] = node
        return node

    def node(self, value: object) -> Node | None:
        """The node of a value, if it depends on the input; a new one if it was since written to by another view."""
        if not isinstance(value, Tensor):
            return None
        address = _address(value)
        write = None if address is None else self.writes.get(address)
        known = self.node_of.get(id(value))
        if write is None or (known and known.number >= write.number):
            return known
        self.kept.append(value)
        return self._note(value, "written", [known, write] if known else [write], False)


def _results(name: str, args: Sequence[Any], out: object) -> object:
    """What an operation makes; a write by index gives nothing back, but makes what it writes into another value."""
    return args[0] if name == "__setitem__" else out


def _address(value: Tensor) -> int | None:
    """Where the numbers are that a value shares with its views, if they are in memory of their own."""
    try:
        return value.untyped_storage().data_ptr()
    except RuntimeError:  # a sparse one, or one inside of a transform of torch.func
        return None


class Uses(TorchFunctionMode):
    """Notes which parameters a value of the input meets entry by entry, and which are multiplied as matrices are."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        """Follow x, and what is computed from the net's parameters alone."""
        super().__init__()
        self.seen = {id(x)}  # ids of what depends on x
        self.made_of = {id(w): {name} for name, w in net.named_parameters()}
        self.entrywise: set[str] = set()
        self.multiplied: set[str] = set()
        self.kept: list[Tensor] = [x]  # so that no two values share an id

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # whatever the operation gives
        """Do the operation and note what met in it."""
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        sees = any(id(leaf) in self.seen for leaf in given)
        made_of = {name for leaf in given for name in self.made_of.get(id(leaf), ())}
        name = getattr(func, "__name__", "")
        if name in PRODUCTS or (sees and name not in ENTRYWISE):
            self.multiplied |= made_of
        elif sees:
            self.entrywise |= made_of
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(_results(name, args, out)):
            if isinstance(leaf, Tensor):
                self.kept.append(leaf)
                if sees:
                    self.seen.add(id(leaf))
                elif made_of:
                    self.made_of[id(leaf)] = self.made_of.get(id(leaf), set()) | made_of
        return out


def entrywise(net: nn.Module, x: Tensor) -> list[str]:
    """The parameters that are no matrices or filters, whatever their shape, by what a pass on x [B, ...] does to them.

    Positions, class tokens, layers' scales: they are added to values, set beside them or multiplied with them entry by
    entry, and nothing else.
    """
    uses = Uses(net, x)
    with uses, torch.no_grad():
        net(x)
    return [name for name, _ in net.named_parameters() if name in uses.entrywise - uses.multiplied]


def places(net: nn.Module, x: Tensor) -> list[Place]:
    """Where marks belong in a net that is given x [B, ...], in the order in which a pass meets them."""
    trace = Trace(x)
    visits: dict[nn.Module, list[range]] = defaultdict(list)  # the numbers of the nodes that each visit made
    begun: list[int] = []
    units: set[Node] = set()

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        node = trace.node(given[0]) if given else None
        begun.append(len(trace.nodes))
        if node:
            node.taking.append(module)

    def leave(module: nn.Module, given: tuple[Any, ...], out: object) -> None:
        node = trace.node(out)
        visits[module].append(range(begun.pop(), len(trace.nodes)))
        if node:
            node.giving.append(module)
            if type(module).__name__ in UNITS | {"Off"}:
                units.add(node)

    with _hooked(net, enter, leave), trace, torch.no_grad():
        logits = net(x)
    last = trace.node(logits)
    if last is None:
        return []
    whole = _bottlenecks(trace.nodes, last)
    units |= {node for node in trace.nodes if node.name in UNIT_CALLS}
    branches = [branch for node in trace.nodes if (branch := _branch(node))]
    meetings = {
        node
        for node in whole
        if node.name in MEETINGS and len(node.parents) > 1 and not set(node.children) & units & whole
    }
    hidden = [node for node in sorted((units & whole) | meetings, key=lambda node: node.number) if _inside(node)]
    kinds = dict.fromkeys(branches, "branch") | dict.fromkeys(hidden, "hidden")
    names = {module: name for name, module in net.named_modules()}
    found: list[Place] = []
    for node in sorted(kinds, key=lambda node: node.number):
        placed = _placed(node, kinds, visits)
        if placed and not any(place.module is placed[0] and place.entry == placed[1] for place in found):
            found.append(Place(kinds[node], names[placed[0]], *placed))
    return found


def _placed(
    node: Node, kinds: Mapping[Node, str], visits: Mapping[nn.Module, Sequence[range]]
) -> tuple[nn.Module, bool] | None:
    """A module that gives this value and no other, or alone is given it; and whether the mark stands at its entry."""
    for module in node.giving:
        if len(visits[module]) == 1:
            return module, False
    for module in node.giving:  # used again and again: all that it gives must be alike
        if [kinds[other] for other in kinds if module in other.giving] == [kinds[node]] * len(visits[module]):
            return module, False
    for module in node.taking:
        if len(visits[module]) == 1 and all(child.number in visits[module][0] for child in node.children):
            return module, True
    if len(node.children) == 1 and node.children[0].name in RESHAPES:
        return _placed(node.children[0], kinds, visits)
    return None


def _branch(node: Node) -> Node | None:
    """The end of the branch that a sum adds, if it is a residual one: the way with more layers of the two."""
    if node.name not in SUMS or len(node.parents) != 2:
        return None
    short, long = sorted(node.parents, key=lambda parent: parent.layers)
    alike = short.shape == long.shape == node.shape
    return long if alike and short.layers < long.layers and node.children else None


def _inside(node: Node) -> bool:
    """Whether layers come before and after."""
    seen, ahead = {node}, list(node.children)
    while ahead:
        child = ahead.pop()
        if child.weighs:
            return node.layers > 0
        if child not in seen:
            seen.add(child)
            ahead += child.children
    return False


def _bottlenecks(nodes: Sequence[Node], last: Node) -> set[Node]:
    """The values that every way from the input to the last one goes through."""
    before = {nodes[0]: 1}  # how many ways lead to it from the input
    for node in nodes[1:]:
        before[node] = sum(before[parent] for parent in node.parents)
    after = defaultdict(int, {last: 1})  # how many ways lead from it to the end
    for node in reversed(nodes):
        after[node] += sum(after[child] for child in node.children)
    return {node for node in nodes if before[node] * after[node] == before[last]}


@contextmanager
def _hooked(net: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Within this block `enter` and `leave` are told of every module of the net but the net itself."""
    modules = [module for module in net.modules() if module is not net]
    hooks = [module.register_forward_pre_hook(enter) for module in modules]
    hooks += [module.register_forward_hook(leave) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
