"""One forward pass through a net, as a penalty sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from runner.keys import Key
from runner.methods.base import Batch, Method, Now, Params, Seen

NOW = Now(Key.of(0), 0, 10, 0.1)


def through(net: nn.Module, x: Tensor, y: Tensor, params: Params | None = None, hidden: Sequence[Tensor] = ()) -> Seen:
    """What a penalty sees of this net at its own weights, or others, without noise."""
    own = {name: w.detach() for name, w in net.named_parameters()} if params is None else params

    def forward(x: Tensor, key: Key, at: Params = own) -> Tensor:
        logits: Tensor = functional_call(net, at, (x,))
        return logits

    return Seen(own, Batch(x, y), forward(x, NOW.key), hidden, forward)


def of_weights(params: Params) -> Seen:
    """What a penalty on weights sees."""
    return Seen(params, Batch(torch.zeros(1, 2), torch.eye(2)[:1]), torch.zeros(1, 2), (), lambda x, key: x)


def of_logits(logits: Tensor, y: Tensor, hidden: Sequence[Tensor] = ()) -> Seen:
    """What a penalty on logits or hidden values sees; a second pass gives the same logits."""
    return Seen({}, Batch(torch.zeros(len(y), 2), y), logits, hidden, lambda x, key: logits)


def value(method: Method, seen: Seen, now: Now = NOW) -> float:
    """The penalty as a number."""
    return float(method.penalty(seen, now))


def slope(method: Method, params: Params, now: Now = NOW) -> Params:
    """The gradient of a penalty on weights."""
    slopes: Params = grad(lambda at: torch.as_tensor(method.penalty(of_weights(at), now)))(params)
    return slopes
