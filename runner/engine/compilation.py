"""The step of a pack through torch's compiler: the operations that `runner.engine.tape` has of it, fused.

A fused loop rounds otherwise than the operations it is made of, so that a compiled run differs from one that is not by
rounding. It does not depend on the runs beside it: a step is compiled for a number of lanes, and fewer are filled up.
What was compiled is kept by torch in the user's cache folder, and found there by later processes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx

from runner.engine.pack import SHARED, Call, PackStep
from runner.engine.products import onednn
from runner.engine.step import State
from runner.engine.tape import Given, Operations, written_down
from runner.paths import cache_dir

STEPS = 3  # that a compiled step is compared on before a run begins
SHARE = 0.01  # of what the weights have moved by, that those of a compiled step may be off after each of them
aten = torch.ops.aten
_compiled: dict[str, Any] = {}  # by what was compiled; worker processes are forked with it
_agreed: set[Any] = set()  # those of them that gave what the step as written gives


def compiler() -> str | None:
    """The C++ compiler that torch would build CPU kernels with; None if there is none."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def compiled(step: PackStep, arguments: Sequence[Any]) -> PackStep:
    """A step through torch's compiler, for at most as many lanes as these arguments have.

    Raises Unfit for a step that is no fixed list of operations, and whatever the compiler raises.
    """
    _, operations = written_down(step, arguments)
    each = [Given.of(argument).leaves for argument in arguments]
    return cast(PackStep, Fused(_fused(operations, [leaf for leaves in each for leaf in leaves]), operations, each))


class Fused:
    """A compiled step, for at most as many lanes as it was compiled with."""

    def __init__(self, call: Any, operations: Operations, given: Sequence[Sequence[Tensor]]) -> None:
        """Of what was compiled, of which operations, and the tensors of each argument that it was compiled for."""
        self.call, self._operations = call, operations
        self._forms = [[(leaf.shape, leaf.stride()) for leaf in leaves] for leaves in given]
        self._width = len(given[0][0])
        self._by_onednn = operations.by_onednn  # all products or none: a compiled step is one call
        self._known: dict[int, tuple[Any, list[Tensor]]] = {}  # by place: the latest argument, and what `_ready` said

    def __call__(self, *arguments: Any) -> tuple[State, Tensor]:
        """What the step gives."""
        tensors: list[Tensor] = []
        for place, argument in enumerate(arguments):
            if place not in self._known or self._known[place][0] is not argument:
                self._known[place] = argument, self._ready(place, argument)
            tensors += self._known[place][1]
        with torch.no_grad(), onednn(self._by_onednn):
            leaves = list(self.call(*tensors))
        lanes = len(arguments[-SHARED - 1])  # it has a key for each
        state, loss = self._operations.whole([leaf[:lanes] for leaf in leaves] if lanes < self._width else leaves)
        # the next step is given this state, whose lanes that fill up need not be put together again
        self._known[0] = state, [_laid_out(*pair) for pair in zip(leaves, self._forms[0], strict=False)]
        return state, loss

    def _ready(self, place: int, argument: Any) -> list[Tensor]:
        """The tensors of an argument, with as many lanes as the step has and as it expects them in memory."""
        leaves = Given.of(argument).leaves
        if place < len(self._forms) - SHARED:
            leaves = [_filled(leaf, self._width) for leaf in leaves]
        return [*map(_laid_out, leaves, self._forms[place])]


def checked(fused: PackStep, written: PackStep, calls: Callable[[], Sequence[Call]]) -> str | None:
    """What is wrong with a compiled step, beside the step as written in these calls of it; None if nothing.

    What was compiled is tried once in a process: other packs do the same operations on other numbers.
    """
    if isinstance(fused, Fused) and fused.call in _agreed:
        return None
    for (state, *rest), (after, _) in calls():
        elsewhere, _ = written(shaken(state), *rest)
        why = disagreement(state, after, fused(state, *rest)[0], elsewhere)
        if why:
            return why
    if isinstance(fused, Fused):
        _agreed.add(fused.call)
    return None


def disagreement(start: State, plain: State, fused: State, shaken: State) -> str | None:
    """What is wrong with a state that a compiled step has led to, beside that of the step as written; None if nothing.

    Weights are compared by length over all of them. `shaken` is where the step as written leads from weights that are
    off by rounding: an optimizer that divides by the size of the gradient makes a whole step of what is rounding in a
    gradient of zero, as biases before a batch norm have, and a compiled step may be off by twice as much.
    """
    apart = _length(fused, plain)
    moved = _length(start, plain)
    if apart <= max(SHARE * moved, 2 * _length(shaken, plain)):  # not so if any is no number
        return None
    return f"its weights are {apart:.1e} from those of the step as written, which have moved by {moved:.1e}"


def shaken(state: State) -> State:
    """The state with every other weight larger by rounding, and those between smaller."""
    signs = {
        name: torch.arange(w.numel(), device=w.device).view(w.shape) % 2 * 2 - 1 for name, w in state.params.items()
    }
    by = {name: torch.finfo(w.dtype).eps * signs[name].to(w.dtype) for name, w in state.params.items()}
    return state._replace(params={name: w + w * by[name] for name, w in state.params.items()})


def _length(one: State, other: State) -> float:
    """The Euclidean distance between the weights of two states."""
    return math.sqrt(sum(float((one.params[n] - w).double().square().sum()) for n, w in other.params.items()))


def _filled(leaf: Tensor, width: int) -> Tensor:
    """The values [K, ...] of K lanes, and those of the last for the lanes that are missing: [width, ...]."""
    missing = width - len(leaf)
    return torch.cat([leaf, leaf[-1:].expand(missing, *leaf.shape[1:])]) if missing else leaf


def _laid_out(tensor: Tensor, form: tuple[torch.Size, tuple[int, ...]]) -> Tensor:
    """The tensor as the compiled step expects it in memory."""
    shape, stride = form
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def known(operations: Operations, given: Sequence[Tensor]) -> bool:
    """Whether these operations, on tensors of this form, have been compiled on this machine before."""
    return _kept_at(_key(operations, given)).exists()


def _fused(operations: Operations, given: Sequence[Tensor]) -> Any:
    """The operations through torch's compiler, or as it made them before in this process: of tensors, to tensors."""
    key = _key(operations, given)
    if key not in _compiled:
        if cache_dir().parent != Path(os.devnull):  # the user has a home; torch's own folder is open to others
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for a GPU and says so
        from torch._inductor import config, standalone_compile  # it takes two seconds

        module = fx.GraphModule(operations.constants, _without_halves(operations.graph))
        # What is computed of a few numbers for each lane is stored, not computed again for every weight; and no pool of
        # compiling processes is left behind, which a process that is about to be forked should not have.
        with torch.no_grad(), config.patch(realize_opcount_threshold=0, compile_threads=1):
            _compiled[key] = standalone_compile(module, list(given), dynamic_shapes="from_example_inputs")
        with suppress(OSError):
            _kept_at(key).touch()
    return _compiled[key]


def _key(operations: Operations, given: Sequence[Tensor]) -> str:
    """What stands for the operations, on tensors of this form, with this torch on so many threads."""
    forms = [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in given]
    constants = [(name, value.tolist()) for name, value in operations.constants.named_buffers()]
    about = (operations.code, forms, constants, torch.get_num_threads(), torch.__version__, platform.node())
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def _kept_at(key: str) -> Path:
    """The file that says that something was compiled, beside what torch keeps of it."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or cache_dir() / "compiled") / f"regrun-{key}"


def _without_halves(graph: fx.Graph) -> fx.Graph:
    """A copy of the graph that takes words of 32 bits apart by shifts, not by looking at memory as words of 16.

    The compiler has no vectors of those: a mask costs 9 ns an entry with them and 1 without (docs/benchmarks.md).
    """
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in copy.find_nodes(op="call_function", target=aten.view.dtype):
        word, dtype = node.args
        if dtype != torch.int16:
            continue
        with copy.inserting_before(node):
            low = copy.call_function(aten.__lshift__.Scalar, (word, 16))
            halves = [copy.call_function(aten.__rshift__.Scalar, (half, 16)) for half in (low, word)]
            pairs = copy.call_function(aten.stack.default, (halves, -1))
            both = copy.call_function(aten.flatten.using_ints, (pairs, -2, -1))
        node.replace_all_uses_with(both)
        copy.erase_node(node)
    return copy
