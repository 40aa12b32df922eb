"""Many runs trained in one pass: the step of one run, mapped over a leading axis [L].

A run alone is the same step, unmapped. Both forms draw the same random numbers and agree to rounding; mapped packs of
any number of lanes agree bit for bit on CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_map

from runner.engine.optimizers import Hyper, Optimizer
from runner.engine.step import Differentiate, LossAt, State, train_step
from runner.keys import Key
from runner.methods.base import Batch, Now, Params
from runner.methods.stack import Stack

Strengths: TypeAlias = Mapping[str, Tensor]  # {"mixup.alpha": [L]}
# (states, batches, strengths, optimizer numbers, keys, step, steps, share of the rate) -> (states, losses [L])
LaneStep: TypeAlias = Callable[[State, Batch, Strengths, Hyper, Tensor, Tensor, int, Tensor], tuple[State, Tensor]]
FIXED = 3  # of these, the last: the same for all lanes


def lane_step(net: nn.Module, kinds: Sequence[str], stack: Stack, optimizer: Optimizer, mapped: bool) -> LaneStep:
    """The step of a pack of lanes: every tensor in and out has a leading [L] (L = 1 where it is not mapped).

    Where the stack trains M copies of a run, the state has [L, M]; a lane's copies share all else but their noise, the
    first has the noise of a run without copies, and the loss is the mean of theirs.
    """
    differentiate: Differentiate = _functorch if mapped else _autograd

    def one(
        state: State,
        batch: Batch,
        strengths: Strengths,
        hyper: Hyper,
        key: Tensor,
        step: Tensor,
        steps: int,
        share: Tensor,
    ) -> tuple[State, Tensor]:
        now = Now(Key(key), step, steps, hyper["lr"] * share)
        return train_step(net, kinds, stack.at(strengths), optimizer, differentiate, state, batch, hyper, now)

    def several(
        state: State, batch: Batch, strengths: Strengths, hyper: Hyper, key: Tensor, *fixed: Any
    ) -> tuple[State, Tensor]:
        def copy(state: State, key: Tensor) -> tuple[State, Tensor]:
            return one(state, batch, strengths, hyper, key, *fixed)

        keys = torch.stack([key, *(Key(key).fold("copy").fold(i).resolved() for i in range(1, stack.copies))])
        states, losses = over_copies(copy, stack.copies, mapped)(state, keys)
        return states, losses.mean()

    return over_lanes(several if stack.copies > 1 else one, mapped, FIXED)


def over_copies(one: Callable[..., Any], copies: int, mapped: bool) -> Callable[..., Any]:
    """`one`, applied to every copy [M] of a run that its arguments hold; `one` itself where a run has no copies."""

    def loop(*arguments: Any) -> Any:
        each = [one(*_leafwise(itemgetter(copy), arguments)) for copy in range(copies)]
        return tree_map(lambda *leaves: torch.stack(leaves), *each)

    if copies == 1:
        return one
    return vmap(one) if mapped else loop


def over_lanes(one: Callable[..., Any], mapped: bool, fixed: int = 0) -> Callable[..., Any]:
    """`one`, applied to every lane of its arguments but the last `fixed`: by vmap, or unmapped to the only lane.

    >>> over_lanes(lambda x, k: x.sum() * k, mapped=True, fixed=1)(torch.ones(2, 3), 5)
    tensor([15., 15.])
    >>> over_lanes(lambda x, k: x.sum() * k, mapped=False, fixed=1)(torch.ones(1, 3), 5)
    tensor([15.])
    """

    def mapping(*arguments: Any) -> Any:
        return vmap(one, in_dims=(0,) * (len(arguments) - fixed) + (None,) * fixed)(*arguments)

    def alone(*arguments: Any) -> Any:
        trees, rest = arguments[: len(arguments) - fixed], arguments[len(arguments) - fixed :]
        return _leafwise(lambda leaf: leaf[None], one(*_leafwise(lambda leaf: leaf[0], trees), *rest))

    return mapping if mapped else alone


def _leafwise(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree of dicts and tuples with every tensor changed; torch's tree_map would cost a tenth of a small step."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {name: _leafwise(change, part) for name, part in tree.items()}
    parts = [_leafwise(change, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _functorch(loss_at: LossAt, params: Params) -> tuple[Params, Tensor]:
    gradient: tuple[Params, Tensor] = grad_and_value(loss_at)(params)
    return gradient


def _autograd(loss_at: LossAt, params: Params) -> tuple[Params, Tensor]:
    """The same gradient by torch.autograd, which costs less where nothing is mapped."""
    leaves = {name: w.detach().requires_grad_() for name, w in params.items()}
    with torch.enable_grad():
        loss = loss_at(leaves)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True)), loss.detach()
