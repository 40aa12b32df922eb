"""One training step of one run, as a pure function.

What a step does, in the order of its values: the batch, the weights of the forward pass, the hidden values, the loss
with its penalties, the gradient, the optimizer's move, the move after it. Each is a hook of `runner.methods.base`, and
a stack of methods answers all of them. `runner.engine.lanes` maps this function over many runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.func import functional_call

from runner.engine.optimizers import Hyper, Optimizer
from runner.keys import Key
from runner.methods.base import Batch, Now, Params, Seen, Site, losses
from runner.methods.stack import Stack
from runner.nets.sites import tapped


class State(NamedTuple):
    """What one step hands to the next; every leaf gains a leading [L] in a pack of lanes."""

    params: Params
    moments: Params  # the optimizer's
    memory: Params  # the methods'


LossAt: TypeAlias = Callable[[Params], Tensor]
# Params -> (the gradient of a loss there, the loss); functorch's under a map, autograd's own otherwise
Differentiate: TypeAlias = Callable[[LossAt, Params], tuple[Params, Tensor]]


def mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the batch of -sum_c y_c log p_c, logits and y [B, C]; of single outputs of (y - logit)^2: []."""
    return losses(logits, y).mean()


def sites(kinds: Sequence[str], key: Key) -> Iterator[Site]:
    """The sites that one forward pass meets, given the kinds that `nets.sites.visits` found."""
    for i, kind in enumerate(kinds):
        depth = kinds[: i + 1].count(kind) / kinds.count(kind)
        yield Site(kind, i, len(kinds), depth, key.fold(i), kinds)


def train_step(
    net: nn.Module,
    kinds: Sequence[str],
    stack: Stack,
    optimizer: Optimizer,
    differentiate: Differentiate,
    state: State,
    batch: Batch,
    hyper: Hyper,
    now: Now,
) -> tuple[State, Tensor]:
    """The state after one step, and the loss it descended: []."""
    now = replace(now, memory=state.memory)
    batch = stack.batch(batch, now)

    def loss_at(params: Params) -> Tensor:
        hidden: list[Tensor] = []

        def forward(x: Tensor, key: Key, at: Params = params) -> Tensor:
            met = sites(kinds, key)

            def tap(h: Tensor, kind: str) -> Tensor:
                h = stack.hidden(h, next(met), now)
                hidden.extend([h] * (kind == "hidden"))
                return h

            with tapped(tap):
                logits: Tensor = functional_call(net, stack.weights(at, now), (x,))
            return logits.to(batch.y.dtype)  # where autocast has rounded them, losses still add up in full

        logits = forward(batch.x, now.key)
        seen = Seen(params, batch, logits, tuple(hidden), forward)
        return mean_loss(logits, batch.y) + stack.penalty(seen, now)

    seen_losses: list[Tensor] = []

    def grad_at(params: Params) -> Params:
        gradient, loss = differentiate(loss_at, params)
        seen_losses.append(loss)
        return gradient

    gradient = stack.gradient(grad_at, state.params, now)
    params, moments = optimizer.move(state.params, gradient, state.moments, hyper, now)
    params = stack.project(params, now)
    return State(params, moments, stack.remember(params, replace(now, gradient=gradient))), seen_losses[0]
