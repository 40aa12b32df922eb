"""What a method is: the questions a training step asks it.

A method is a frozen dataclass. Its number fields are its strengths: floats as read from YAML, 0-d tensors inside a
training step. Hooks are written for one run, never mutate what they are given, and never branch on a strength's value;
that is all it takes for `runner.engine.lanes` to train many runs in one pass. The first field is *the* strength: the
one that sweeps, tables and plots speak of.

Nothing here acts at evaluation except `build`, which changes the net itself, and `average`, which chooses the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from runner.errors import Refusal
from runner.keys import Key

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Params: TypeAlias = dict[str, Tensor]
Strength: TypeAlias = float  # a float from YAML; a 0-d tensor inside a step
FAMILIES = (
    "baseline", "placebo", "penalty", "constraint", "dropping", "noise", "target", "input", "averaging",
    "normalization", "gradient", "consistency", "stopping", "capacity",
)  # fmt: skip

# What methods are alone in doing whose penalty is another loss less the cross-entropy: two would take that away twice.
OWN_LOSS = "put a loss of their own in the place of the cross-entropy"


class Batch(NamedTuple):
    """What one step is shown."""

    x: Tensor  # [B, ...] standardized inputs
    y: Tensor  # [B, C] class probabilities, one-hot until a method softens them; [B, 1] standardized numbers to predict


@dataclass(frozen=True)
class Now:
    """Where training stands. The same `key` reaches every hook of one method in one step."""

    key: Key
    step: Tensor | int  # optimizer steps already taken: int64 [] in training
    steps: int  # optimizer steps in the budget
    lr: Tensor | float  # the learning rate of this step
    memory: Params = field(default_factory=dict)  # what this method remembered after the step before
    gradient: Params = field(default_factory=dict)  # that the optimizer has just moved along; for `remember` alone


@dataclass(frozen=True)
class Site:
    """A marked place in the net. `key` is new at every visit in every forward pass."""

    kind: str  # one of runner.nets.sites.KINDS
    index: int  # among all the sites of a forward pass, in order
    of: int  # how many sites a forward pass has
    depth: float  # among the sites of this kind: in (0, 1], the last is 1
    key: Key
    kinds: Sequence[str] = ()  # those of all sites of the pass, in order


@dataclass(frozen=True)
class Seen:
    """One forward pass, as a penalty sees it."""

    params: Params  # the weights under training
    batch: Batch  # after every `batch` hook
    logits: Tensor  # [B, C]
    hidden: Sequence[Tensor]  # the values [B, ...] that this pass had at its "hidden" sites, in order
    # (x [B, ...], key, params=None) -> logits [B, C]; the key draws fresh noise on hidden values, and no other
    forward: Callable[..., Tensor]


@dataclass(frozen=True)
class Range:
    """The values a strength may take, and the one at which its method does nothing."""

    low: float
    high: float
    off: float | None  # the neutral value; None where there is none
    open_low: bool  # whether `low` itself is excluded
    open_high: bool
    whole: bool  # whole numbers only
    built: bool  # whether it shapes the net or is otherwise no number of a step: lanes of one pack share it

    def allows(self, value: float) -> bool:
        """Whether the value is in the range."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (not self.whole or float(value).is_integer())

    def __str__(self) -> str:
        """The range in words, as an error message says it."""
        parts = ["a whole number"] if self.whole else []
        if self.low > -math.inf:
            parts.append(f"above {self.low:g}" if self.open_low else f"at least {self.low:g}")
        if self.high < math.inf:
            parts.append(f"below {self.high:g}" if self.open_high else f"at most {self.high:g}")
        return " and ".join(parts) or "a number"


def strength(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    off: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    whole: bool = False,
    built: bool = False,
) -> Any:  # Any: the declared type of the field is the class's own
    """A field that holds a strength, with its range and neutral value; it has no default, conf/method has it."""
    return field(metadata={"range": Range(low, high, off, open_low, open_high, whole, built)})


def given() -> Any:  # Any: as above
    """A field that holds a setting which is no number of its own; it has no default, conf/method has it."""
    return field()


def choice(*options: str) -> Any:  # Any: as above
    """A field that holds one of a few words; it has no default, conf/method has it."""
    return field(metadata={"options": options})


@dataclass(frozen=True)
class Method:
    """Every hook defaults to doing nothing; override the one or two that you are."""

    family: ClassVar[str] = "baseline"  # one of FAMILIES: its place in the docs and its colour in figures
    restores: ClassVar[bool] = False  # whether a run ends with the weights of its best validation loss
    finishes: ClassVar[bool] = False  # whether `average` shapes what others average, so that it comes after theirs
    # of build, batch, weights and project: where it comes after the other methods, whatever their order in the list
    comes_last: ClassVar[Collection[str]] = ()
    passes: ClassVar[float] = 1.0  # gradient passes of a step, in those of the baseline: what the method costs
    sole: ClassVar[str] = ""  # what at most one method of a stack may do, in words that follow "which each"
    classes: ClassVar[bool] = False  # whether it is about classes, and so has no meaning where a number is predicted
    refuses: ClassVar[Mapping[str, str]] = {}  # the classes of methods that it cannot stand beside, and why

    @property
    def members(self) -> int:
        """How many sets of weights `average` gives, in a leading axis [M]; their probabilities are averaged."""
        return 1

    @property
    def copies(self) -> int:
        """How many times over a run is trained, each time from other initial weights and with other noise."""
        return 1

    # -- once ------------------------------------------------------------------------------------------------------
    def build(self, net: nn.Module) -> nn.Module:
        """Change the net once, before training: norms, reparametrized weights."""
        return net

    # -- in every step, in this order ------------------------------------------------------------------------------
    def batch(self, batch: Batch, now: Now) -> Batch:
        """Augment, mix or soften what the net is shown."""
        return batch

    def weights(self, params: Params, now: Now) -> Params:
        """The weights this step's forward passes use, as a differentiable function of `params`."""
        return params

    def hidden(self, h: Tensor, site: Site, now: Now) -> Tensor:
        """Act on a hidden value h [B, ...] at a marked site."""
        return h

    def penalty(self, seen: Seen, now: Now) -> Tensor | float:
        """A scalar added to the mean loss, which is the cross-entropy or, in a regression, the squared error."""
        return 0.0

    def gradient(self, grad_at: Callable[[Params], Params], params: Params, now: Now) -> Params:
        """The gradient to descend; `grad_at` gives the loss gradient at any weights, any number of times."""
        return grad_at(params)

    def project(self, params: Params, now: Now) -> Params:
        """Move the weights after the optimizer's step: decay, constraints."""
        return params

    def remember(self, params: Params, now: Now) -> Params:
        """This method's memory after the step, given `now.memory`; `recall` gives the first one."""
        return now.memory

    # -- around the steps ------------------------------------------------------------------------------------------
    def recall(self, params: Params) -> Params:
        """This method's memory before the first step, given the initial weights."""
        return {}

    def average(self, params: Params, now: Now) -> Params:
        """The weights that evaluation uses, given the newest ones and `now.memory`; [M, ...] if there are members."""
        return params

    def unsuited(self, falls: int) -> str:
        """What a learning rate that falls to zero so many times makes of this method, if it is not what it is for."""
        return ""

    def stop(self, curve: Tensor) -> Tensor:
        """Whether to stop, given the validation losses of the evaluations so far, curve [E]: bool []."""
        return torch.zeros((), dtype=torch.bool, device=curve.device)


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of each example, logits and y [B, C]: cross-entropy; of a single output the squared error: [B]."""
    if y.shape[1] == 1:
        return ((logits - y) ** 2)[:, 0]
    return -(y * log_probabilities(logits.to(y.dtype))).sum(1)


def log_probabilities(logits: Tensor) -> Tensor:
    """log p [..., C]: torch's log_softmax, whose kernel takes four times as long for few classes on a CPU."""
    return logits - logits.logsumexp(-1, keepdim=True)


def mean_prediction(logits: Tensor) -> Tensor:
    """Of several predictions [M, B, C] the log of the mean probabilities; of single outputs their mean: [B, C]."""
    if logits.shape[-1] == 1:
        return logits.mean(0)
    return log_probabilities(logits).logsumexp(0) - math.log(len(logits))


def ranges(of: DataclassInstance | type[DataclassInstance]) -> dict[str, Range]:
    """The strengths of a method, or the numbers of an optimizer, in order, with their ranges."""
    return {f.name: f.metadata["range"] for f in fields(of) if "range" in f.metadata}


def penalized(params: Params, biases: bool) -> Params:
    """The weights that penalties and decay act on: matrices and filters, and biases and norm scales if asked."""
    return {name: w for name, w in params.items() if biases or w.ndim >= 2}


def kernels(net: nn.Module, method: str) -> list[tuple[nn.Module, dict[str, nn.Parameter]]]:
    """The modules that have matrices or filters of their own, and these by the names they have there.

    Refuses a net with torch's parametrizations, of whose weights the method would see the parts and not the whole.
    """
    found: dict[str, dict[str, nn.Parameter]] = {}
    for name, w in net.named_parameters():
        lead, _, own = name.rpartition(".")
        if w.ndim < 2:
            continue
        if isinstance(net.get_submodule(lead), ParametrizationList):
            layer = name.partition(".parametrizations.")[0]
            raise Refusal(f"method.{method} cannot act on layer {layer}, whose weights the model computes (model=...)")
        found.setdefault(lead, {})[own] = w
    return [(net.get_submodule(lead), own) for lead, own in found.items()]


def beside(what: str, kernel: str) -> str:
    """The name of what a method learns for a kernel of a layer: as it is called for the usual `weight`, or led by it.

    >>> beside("g", "weight"), beside("g", "weight_ih")
    ('g', 'g_weight_ih')
    """
    return what if kernel == "weight" else f"{what}_{kernel}"


def of_its_layer(name: str, child: str, what: str) -> str:
    """The kernel beside which a parameter of this name stands in its layer's child; "" if it is no such parameter.

    >>> of_its_layer("2.length.g", "length", "g"), of_its_layer("2.length.g_weight_ih", "length", "g")
    ('2.weight', '2.weight_ih')
    >>> of_its_layer("2.bias", "length", "g")
    ''
    """
    lead, _, own = name.rpartition(".")
    if not f".{lead}".endswith(f".{child}") or not f"{own}_".startswith(f"{what}_"):
        return ""
    return lead.removesuffix(child) + (own.removeprefix(f"{what}_") if own != what else "weight")


def last_layer(params: Params) -> Params:
    """The weights of the layer that gives the logits: the one whose matrix or filter is the net's last."""
    lead = list(penalized(params, biases=False))[-1].rpartition(".")[0]
    return {name: w for name, w in params.items() if name.startswith(f"{lead}." if lead else "")}


def beside_last(net: nn.Module, name: str) -> nn.Module:
    """The net, for a method that leaves its last layer out; refuses one that has no other."""
    if sum(w.ndim >= 2 for w in net.parameters()) < 2:
        raise Refusal(f"method.{name} leaves out the last layer; this model has no other (model=...)")
    return net


def lengths(w: Tensor) -> Tensor:
    """Euclidean norm of each unit's incoming weights w [out, ...]: [out, 1, ...]."""
    return (w**2).flatten(1).sum(1).sqrt().view(-1, *[1] * (w.ndim - 1))


def norm(params: Params) -> Tensor:
    """Euclidean norm of all entries together: []."""
    return total((w**2).sum() for w in params.values()).sqrt()


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalar tensors: []."""
    return torch.stack(list(terms)).sum()
