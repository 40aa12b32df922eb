"""A stack of methods is a method; the empty stack is the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

from torch import Tensor, nn
from torch.func import vmap

from runner.errors import Refusal
from runner.methods.base import Batch, Method, Now, Params, Seen, Site, ranges
from runner.methods.gradients import Clipping


@dataclass(frozen=True)
class Stack(Method):
    """Methods by name, applied in list order in every hook, but for those that come last in it.

    A method's name also seeds its randomness, so adding or reordering others leaves its draws as they were.
    """

    methods: Mapping[str, Method] = field(default_factory=dict)

    def at(self, strengths: Mapping[str, Tensor | float]) -> Stack:
        """The same stack at other strengths, {"mixup.alpha": 0.2}, and without methods that are off, {"l2": 0}."""
        methods = {name: method for name, method in self.methods.items() if strengths.get(name, 1)}
        for path, value in strengths.items():
            name, _, strength = path.partition(".")
            if strength:
                methods[name] = replace(methods[name], **{strength: value})
        return Stack(methods)

    def shaping(self, point: Mapping[str, float]) -> dict[str, float]:
        """What of a point shapes the net or the stack itself, so that the runs of one pack share it."""
        built = {f"{n}.{f}" for n, m in self.methods.items() for f, allowed in ranges(m).items() if allowed.built}
        return {path: value for path, value in point.items() if "." not in path or path in built}

    @property
    def ends_at_best(self) -> bool:
        """Whether a run of this stack ends with the weights of its best validation loss."""
        return any(method.restores for method in self.methods.values())

    @property
    def members(self) -> int:
        """How many sets of weights are evaluated together; at most one method of a stack may have more than one."""
        return max((method.members for method in self.methods.values()), default=1)

    @property
    def copies(self) -> int:
        """How many nets each run trains; evaluation averages the predictions of them all."""
        return math.prod(method.copies for method in self.methods.values())

    @property
    def clips(self) -> str | None:
        """The method whose count of clipped steps holds: it cuts gradients, and none after it changes them again."""
        changing = [name for name, m in self.methods.items() if type(m).gradient is not Method.gradient]
        return changing[-1] if changing and isinstance(self.methods[changing[-1]], Clipping) else None

    def overrides(self, hook: str) -> bool:
        """Whether any method of the stack gives its own body to this hook."""
        return any(getattr(type(m), hook) is not getattr(Method, hook) for m in self.methods.values())

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """The pairs of methods that make no sense together, and why, in words that follow their names."""
        for (one, a), (other, b) in combinations(self.methods.items(), 2):
            if _sole(a) and _sole(a) == _sole(b):
                yield one, other, f", which each {_sole(a)}; a stack may have one such method"
            elif why := a.refuses.get(type(b).__name__) or b.refuses.get(type(a).__name__):
                yield one, other, f"; {why}"

    def build(self, net: nn.Module) -> nn.Module:
        """The net as every method in turn changes it; refuses two methods that make no sense together."""
        for one, other, why in self.conflicts():
            raise Refusal(f"method has {one} and {other}{why} (method=[...])")
        for _, method in self._ordered("build"):
            net = method.build(net)
        return net

    def batch(self, batch: Batch, now: Now) -> Batch:
        """The batch as every method in turn changes it."""
        for method, own in self._each(now, "batch"):
            batch = method.batch(batch, own)
        return batch

    def weights(self, params: Params, now: Now) -> Params:
        """The forward pass's weights as every method in turn changes them."""
        for method, own in self._each(now, "weights"):
            params = method.weights(params, own)
        return params

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """The hidden value as every method in turn changes it."""
        for name, (method, own) in zip(self.methods, self._each(now), strict=True):
            h = method.hidden(h, replace(site, key=site.key.fold(name)), own)
        return h

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """The sum of all penalties."""
        return sum(method.penalty(seen, own) for method, own in self._each(now))

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient of the last method, which asks the one before it, and so on down to the loss."""
        for method, own in self._each(now):
            grad_at = partial(method.gradient, grad_at, now=own)
        return grad_at(params)

    def project(self, params: Params, now: Now) -> Params:
        """The new weights as every method in turn moves them."""
        for method, own in self._each(now, "project"):
            params = method.project(params, own)
        return params

    def remember(self, params: Params, now: Now) -> Params:
        """All memories together, each entry's name led by its method's."""
        return _labelled({name: m.remember(params, own) for name, (m, own) in self._named(now)})

    def recall(self, params: Params) -> Params:
        """All first memories together."""
        return _labelled({name: method.recall(params) for name, method in self.methods.items()})

    def average(self, params: Params, now: Now) -> Params:
        """The weights to evaluate: as every method in turn chooses them, then as those that finish shape each set."""
        for method, own in self._each(now):
            if not method.finishes:
                params = method.average(params, own)
        finished = partial(self.finished, now=now)
        return vmap(finished)(params) if self.members > 1 else finished(params)

    def finished(self, params: Params, now: Now) -> Params:
        """One set of weights as it is evaluated: within its constraints, and as layers compute with it."""
        for method, own in self._each(now):
            if method.finishes and not _reparametrizes(method):
                params = method.average(params, own)
        return self.effective(params, now)

    def effective(self, params: Params, now: Now) -> Params:
        """What layers compute with at evaluation, given the weights that are trained."""
        for method, own in self._each(now, "weights"):
            if _reparametrizes(method):
                params = method.average(params, own)
        return params

    def stop(self, curve: Tensor) -> Tensor:
        """Whether any method says stop."""
        stop = super().stop(curve)
        for method in self.methods.values():
            stop = stop | method.stop(curve)
        return stop

    def _named(self, now: Now) -> Iterator[tuple[str, tuple[Method, Now]]]:
        return zip(self.methods, self._each(now), strict=True)

    def _ordered(self, hook: str) -> list[tuple[str, Method]]:
        """The methods by name, those that come last in this hook behind the others."""
        return sorted(self.methods.items(), key=lambda each: hook in each[1].comes_last)

    def _each(self, now: Now, hook: str = "") -> Iterator[tuple[Method, Now]]:
        """Every method with its own key and its own memory, in the order of this hook."""
        for name, method in self._ordered(hook):
            lead = f"{name}/"
            own = {entry.removeprefix(lead): value for entry, value in now.memory.items() if entry.startswith(lead)}
            yield method, replace(now, key=now.key.fold(name), memory=own)


def _sole(method: Method) -> str:
    """What the method must be the only one of a stack to do."""
    chooses = type(method).average is not Method.average and not method.finishes
    return method.sole or "choose the weights to evaluate" * chooses


def _reparametrizes(method: Method) -> bool:
    """Whether layers compute with a function of the weights that this method gives, at evaluation too."""
    return method.finishes and type(method).weights is not Method.weights


def _labelled(memories: Mapping[str, Params]) -> Params:
    return {f"{name}/{entry}": value for name, memory in memories.items() for entry, value in memory.items()}
