"""Nets from elsewhere: torchvision, timm, or a class of the user's own, made fit to be studied.

What regularizes is a method's business, so a foreign net's own dropout is switched off and its batch norms become
`BatchNormLayer`s, whose statistics are measured for the very weights that are evaluated. Its marks are found by running
it once on random numbers and looking at what each value was computed from (`runner.nets.trace`).
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.utils.parametrize import register_parametrization

from runner.errors import Refusal, unknown
from runner.nets.norms import BatchNormLayer
from runner.nets.sites import Mark
from runner.nets.trace import Place, entrywise, places

DROPS = ("StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d")  # of torchvision and timm
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Off(nn.Identity):
    """What stands where a foreign net had a dropout of its own."""

    p = drop_prob = 0.0  # which some nets read


class Adopted(nn.Module):
    """A foreign net with marks, without randomness of its own, that can draw its weights again."""

    def __init__(self, make: Callable[[], nn.Module], shape: Sequence[int]) -> None:
        """Adopt what `make` gives, for examples of this shape; refuses one that is random in itself."""
        super().__init__()
        self.make = make
        self.net, self.switched_off = tamed(make())
        own = {module.kind for module in self.net.modules() if isinstance(module, Mark)}
        self.arrived = nn.Identity() if "input" in own else _mark("input", "before the net")
        for module in self.net.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters = None  # type: ignore[assignment]  # this module draws them all
        _refuse_randomness(self, shape)
        _refuse_norms_used_again(self, shape)
        self.placed: Sequence[Place] = ()
        self.marks = nn.ModuleList()
        if not own:
            with _plain_attention():
                self.placed = places(self.net, _example(shape))
            for place in self.placed:
                mark = _mark(place.kind, f"{'before' if place.entry else 'behind'} {place.name}")
                self.marks.append(mark)
                _hook(place, mark)
        with _plain_attention():
            self.drawn = flattened(self.net, _example(shape))

    def reset_parameters(self) -> None:
        """Draw all weights as the net itself does, from torch's generator."""
        fresh = dict(tamed(self.make())[0].named_parameters())
        mine = dict(self.net.named_parameters())
        with torch.no_grad():
            for name, own in self.drawn.items():
                mine[own].copy_(fresh[name].reshape(mine[own].shape))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ...] -> logits [B, classes]."""
        with _plain_attention():
            logits: Tensor = self.net(self.arrived(x))
        return logits


def torchvision(shape: Sequence[int], classes: int, arch: str) -> nn.Module:
    """A classification net of torchvision by name, with fresh weights: x [B, C, H, W] -> logits [B, classes]."""
    from torchvision import models

    known = models.list_models(module=models)
    if arch not in known:
        raise unknown("torchvision model", arch, known, "torchvision.models")
    _refuse_all_but_images("torchvision", shape)
    more: dict[str, Any] = {}
    if arch.startswith("vit_"):
        more = {"image_size": _side(arch, shape)}
    elif arch.startswith("maxvit"):
        more = {"input_size": tuple(shape[1:])}
    elif arch in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": True}

    make = partial(models.get_model, arch, weights=None, num_classes=classes, **more)
    return Adopted(make if shape[0] == 3 else partial(with_channels, make, shape[0]), shape)


def timm(shape: Sequence[int], classes: int, arch: str) -> nn.Module:
    """A net of timm by name, with fresh weights: x [B, C, H, W] -> logits [B, classes]."""
    try:
        import timm as library
    except ImportError as error:
        raise Refusal(
            "model=timm needs the package timm, which is not installed: pip install 'regrun[timm]'"
        ) from error
    if not library.is_model(arch):
        raise unknown("timm model", arch, library.list_models(), "timm")
    _refuse_all_but_images("timm", shape)
    card = library.get_pretrained_cfg(arch)
    more: dict[str, Any] = {"img_size": tuple(shape[1:])} if card and card.fixed_input_size else {}
    return Adopted(
        partial(library.create_model, arch, pretrained=False, num_classes=classes, in_chans=shape[0], **more), shape
    )


def with_channels(make: Callable[[], nn.Module], channels: int) -> nn.Module:
    """The net that `make` gives, but with a first convolution that takes this number of channels.

    The convolution has its channels before anything draws its weights, so that the net's own rule draws them, whatever
    it is, for their number.
    """
    first: list[nn.Conv2d] = []

    def fit(module: nn.Module, name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        if first or weight is None or not isinstance(module, nn.Conv2d):
            return None  # as it is
        first.append(module)
        module.in_channels = channels
        return nn.Parameter(weight.new_empty(len(weight), channels // module.groups, *module.kernel_size))

    hook = register_module_parameter_registration_hook(fit)  # type: ignore[arg-type]  # it may give a parameter
    try:
        net = make()
    finally:
        hook.remove()
    if not first:
        raise Refusal(f"model is a {type(net).__name__}, which has no convolution that could take {channels} channels")
    return net


def tamed(net: nn.Module) -> tuple[nn.Module, int]:
    """The net without in-place activations, dropout or running averages, and how many dropouts were switched off."""
    off = 0
    idle: dict[nn.Module, nn.Module] = {}
    for module in net.modules():
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            off += module.dropout > 0
            module.dropout = 0.0
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a marked value must stay what it was
        if isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d):
            module.track_running_stats = False
        if isinstance(module, _DropoutNd) or type(module).__name__ in DROPS:
            off += getattr(module, "p", getattr(module, "drop_prob", 0.0)) > 0
            idle[module] = Off()
    if isinstance(net, _BatchNorm | _DropoutNd):
        raise Refusal(f"model is a {type(net).__name__} alone, which is no net to train (model._target_=...)")
    _replace(net, idle)
    _replace(net, {module: _norm(module) for module in net.modules() if isinstance(module, _BatchNorm)})
    return net, off


def _replace(net: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Put the new modules where the old ones stand, each under all of its names, in place."""
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):  # `named_children` has a module under one name only
            if child is not None and child in new:
                setattr(parent, name, new[child])


class Shaped(nn.Module):
    """Numbers in a row as the parameter that a foreign net knows."""

    def __init__(self, shape: torch.Size) -> None:
        """A parameter of this shape."""
        super().__init__()
        self.shape = shape

    def forward(self, row: Tensor) -> Tensor:
        """The row [n] in its shape."""
        return row.view(self.shape)

    def right_inverse(self, w: Tensor) -> Tensor:
        """The parameter w as a row [n]."""
        return w.flatten()


def flattened(net: nn.Module, x: Tensor) -> dict[str, str]:
    """Store in rows, in place, what is no matrix or filter; what each parameter is called afterwards.

    Penalties, constraints and the like take what has two dimensions for a matrix, and leave positions, class tokens and
    scales alone by this, as they do in this project's own nets.
    """
    names = {name: name for name, _ in net.named_parameters()}
    rows = [name for name in entrywise(net, x) if net.get_parameter(name).ndim >= 2]
    for name in rows:
        lead, _, own = name.rpartition(".")
        register_parametrization(net.get_submodule(lead), own, Shaped(net.get_parameter(name).shape))
        names[name] = ".".join(filter(None, (lead, "parametrizations", own, "original")))
    return names


def _norm(theirs: _BatchNorm) -> nn.Module:
    """regrun's batch norm in place of torch's, with the same parameters; and what timm puts behind it."""
    layer = BatchNormLayer(theirs.num_features, theirs.eps)
    for name, weight in (("scale", theirs.weight), ("shift", theirs.bias)):
        if weight is not None:
            setattr(layer, name, weight)
        else:
            value = layer.get_parameter(name).detach()
            delattr(layer, name)
            layer.register_buffer(name, value)
    if type(theirs) in PLAIN_NORMS:
        return layer
    if type(theirs).__module__.startswith("timm.") and hasattr(theirs, "act"):  # BatchNormAct2d: norm, drop, act
        return nn.Sequential(OrderedDict(norm=layer, **dict(theirs.named_children())))
    raise Refusal(
        f"the model has a {type(theirs).__name__}, a batch norm of its own kind, whose running averages regrun cannot "
        "measure; it must be one of torch.nn's (model=...)"
    )


def _mark(kind: str, place: str) -> Mark:
    mark = Mark(kind)
    mark.place = place
    return mark


def _hook(place: Place, mark: nn.Module) -> None:
    """Let what the place's module is given, or gives, pass through the mark."""
    if place.entry:
        place.module.register_forward_pre_hook(lambda module, given: (mark(given[0]), *given[1:]))
    else:
        place.module.register_forward_hook(lambda module, given, out: mark(out))


def _example(shape: Sequence[int]) -> Tensor:
    """Two random examples [2, *shape]."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def _refuse_randomness(net: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a net whose training pass draws random numbers or does not give the same twice."""
    x = _example(shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        seen = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = _generators()
            seen.append(net.train()(x))
            drew = _generators() != before  # what is drawn once, in the first pass, stays as it is
    if not all(isinstance(out, Tensor) for out in seen):
        raise Refusal(f"model gives a {type(seen[0]).__name__}, not one tensor of logits [B, classes] (model=...)")
    if drew or not torch.equal(*(out.nan_to_num() for out in seen)):
        raise Refusal(
            "the model's own forward pass is random, which regrun cannot control lane by lane; switch that off "
            "(model=...) and use a method such as method=dropout"
        )
    if seen[0].isnan().any():
        raise Refusal(
            "the model gives NaN, before any training, for examples drawn from a standard normal distribution; its "
            "logits must be numbers for all inputs, also negative ones (model=...)"
        )


def _refuse_norms_used_again(net: nn.Module, shape: Sequence[int]) -> None:
    """Refuse a net with a batch norm that normalizes several values of one pass; only the last would be measured."""
    names: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if isinstance(module, BatchNormLayer)
    }
    uses: Counter[nn.Module] = Counter()
    hooks = [module.register_forward_hook(lambda module, given, out: uses.update([module])) for module in names]
    try:
        with torch.no_grad():
            net(_example(shape))
    finally:
        for hook in hooks:
            hook.remove()
    for module, count in uses.items():
        if count > 1:
            raise Refusal(
                f"the model uses its batch norm {names[module].removeprefix('net.')} {count} times in one pass, and "
                "regrun measures one set of statistics for each norm; it needs a norm of its own in each place "
                "(model=...)"
            )


def _generators() -> tuple[object, ...]:
    """The states of the generators that a net may draw from: torch's, and Python's for a coin per batch.

    Rare randomness, such as a branch that is dropped once in twenty examples, shows here and not in what two passes
    give.
    """
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """torch's attention in plain operations, which can be mapped over lanes; its fused kernels have no rule for it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _refuse_all_but_images(model: str, shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise Refusal(f"model={model} needs images; the data's examples have shape {tuple(shape)} (data=...)")


def _side(arch: str, shape: Sequence[int]) -> int:
    """The side of square images that a patch divides; refuses others."""
    patch = int(arch.rpartition("_")[2])
    if shape[1] != shape[2] or shape[1] % patch:
        raise Refusal(
            f"model.arch is {arch!r}, which cuts square images into patches of {patch} pixels a side; the data's "
            f"examples are {shape[1]} x {shape[2]} (model.arch=... or model=vit_small)"
        )
    return shape[1]
