"""Settings of the process: for many small steps, for what a GPU computes with, and how its end of memory is told."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch._functorch import eager_transforms

# mallopt's parameters of the C library (malloc.h): above which size memory is mapped from the system and handed back at
# once, and how much freed memory at the top of the heap is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# What says that memory has run out, in errors of torch's that are of no class for it.
FULL = (
    "DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "ALLOCATION_FAILED",
    "unable to find an engine",  # of cuDNN's for a convolution: there is memory for the workspace of none
)  # fmt: skip


@cache
def prepare() -> None:
    """Flush denormal numbers to zero, and keep freed memory for the next step where the C library allows it.

    And let a GPU compute float32 in float32: by itself it rounds what convolutions multiply to ten bits (TF32).

    Weights that a penalty drives to zero pass through denormal numbers, which are up to a hundred times as slow.
    Weights of a megabyte would be mapped from the system and handed back in every step (docs/benchmarks.md).
    """
    torch.set_flush_denormal(True)
    torch.backends.cudnn.allow_tf32 = False
    if hasattr(eager_transforms, "_autograd_grad"):
        eager_transforms._autograd_grad = _gradients
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


@contextmanager
def repeating(device: torch.device) -> Iterator[None]:
    """Let a GPU give the same bits each time meanwhile, wherever it can: what is nearly zero is rounding of its own."""
    if device.type == "cpu" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that have no such algorithm
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def repeat(exactly: bool) -> None:
    """Let a GPU take only algorithms that give the same bits each time, or whichever are fastest.

    Where torch has no such algorithm for an operation, it raises RuntimeError with its name when that is met.
    """
    if exactly:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(exactly)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it


@contextmanager
def differentiable(net: nn.Module) -> Iterator[None]:
    """The net without cuDNN if it is recurrent: in evaluation mode that has no backward pass for it."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = before and not any(isinstance(module, nn.RNNBase) for module in net.modules())
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on an accelerator or on the CPU."""
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


_with_compiler = getattr(eager_transforms, "_autograd_grad", None)


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    create_graph: bool = True,
) -> tuple[Tensor, ...]:
    """What torch.func.grad calls for the gradients, without the import of torch's compiler, which takes two seconds.

    torch imports it here only to switch off its compiled gradients. Where nothing else has imported it, there are none.
    """
    reached = tuple(out for out in outputs if out.requires_grad)
    if "torch._dynamo" in sys.modules or grad_outputs is not None or not reached:
        assert _with_compiler is not None
        told: tuple[Tensor, ...] = _with_compiler(outputs, inputs, grad_outputs, retain_graph, create_graph)
        return told
    found = torch.autograd.grad(
        reached, inputs, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
    )
    return tuple(torch.zeros_like(at) if g is None else g for g, at in zip(found, inputs, strict=True))
