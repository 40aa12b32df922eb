"""A device that is not there: its tensors hold real numbers, and refuse to be put together with the CPU's.

What trains on it meets no tensor that was left behind on the CPU, so that it can be moved to a GPU. Operations that
copy between devices are allowed, and so are indices of the CPU's and, entry by entry, its single numbers, as CUDA
allows them; other operations, such as clamp_max, refuse even these there.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
Given = TypeVar("Given")
COPIES = {aten.copy_.default, aten._to_copy.default}
ELEMENTWISE = {
    aten.add, aten.sub, aten.mul, aten.div, aten.pow, aten.remainder, aten.gt, aten.ge, aten.lt, aten.le, aten.eq,
    aten.ne, aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor, aten.add_, aten.sub_, aten.mul_, aten.div_,
    aten.where,
}  # fmt: skip


class Pretended(Tensor):
    """A tensor on the device."""

    here: Tensor  # what it holds, on the CPU

    @staticmethod
    def __new__(cls, here: Tensor) -> Pretended:
        """Of what it holds."""
        made: Pretended = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device("pretend", 0),
        )  # fmt: skip
        made.here = here
        return made

    # as torch's own subclasses have it
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it no class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do an operation."""
        return done(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Its numbers; torch's own refuses subclasses."""
        return self.here.tolist()


def done(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives, on the device where one of its tensors, or what it asks for, is there."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(x.here): x for x in tensors if isinstance(x, Pretended)}
    single = func.overloadpacket in ELEMENTWISE
    left_behind = [tuple(x.shape) for x in tensors if not isinstance(x, Pretended) and (x.ndim or not single)]
    indexing = func is aten.index.Tensor and isinstance(args[0], Pretended)
    if there and left_behind and func not in COPIES and not indexing:
        raise RuntimeError(f"{func} of tensors on the device and of others, {left_behind}, on the CPU")
    if there and torch.Tag.nondeterministic_seeded in func.tags:
        raise RuntimeError(f"{func} draws on the device, whose generator gives other numbers than the CPU's")
    held = tree_map(_held, (args, dict(kwargs)))
    out = func(*held[0], **held[1])
    if func is aten.copy_.default:
        return args[0]
    asked = kwargs.get("device")
    if torch.device(asked).type != "pretend" if asked is not None else not there:
        return out

    def put(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return there[id(leaf)] if id(leaf) in there else Pretended(leaf)

    return tree_map(put, out)


def _held(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.here if isinstance(leaf, Pretended) else leaf


class _Doing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return done(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU first, since torch does so beneath all modes."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rest = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor) and rest.get("device"):
            device = rest.pop("device")
            return func(*args, **rest).to(device)
        return func(*args, **rest)


def pretending(do: Callable[..., Given], *arguments: object) -> Given:
    """What `do`, of a module, gives of the device and of arguments, in a process of its own.

    torch keeps a device that it has met, and then differentiates in threads, after which no process may be forked.
    """
    process = _process()
    process.send((do, arguments))
    given, error = process.recv()
    if error:
        raise AssertionError(error)
    return cast(Given, given)


@cache
def _process() -> Connection:
    """The process, which lasts as long as this one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there,), daemon=True).start()
    return here


def _serve(asked: Connection) -> None:
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend("pretend")
    vars(torch)["pretend"].get_amp_supported_dtype = lambda: [torch.bfloat16]  # else autocast cannot be switched off
    while True:
        do, arguments = asked.recv()
        try:
            with _Making(), _Doing():  # type: ignore[no-untyped-call]  # torch's has no annotations
                said = do(torch.device("pretend", 0), *arguments), ""
        except Exception:
            said = None, traceback.format_exc()
        asked.send(said)
