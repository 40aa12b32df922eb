"""Objects that a configuration names by `_target_`, built of its values: data, a model, a stack of methods."""

from __future__ import annotations

import inspect
import re
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner import checks
from runner.data.base import Data, Splitter
from runner.data.labels import FORMS, LabelNoise
from runner.data.resize import resized
from runner.errors import Refusal, unknown
from runner.methods.base import Method, ranges
from runner.methods.stack import Stack
from runner.nets.foreign import Adopted

# What may be named by a configuration file. A user's own package must be named on the command line: allow=[mypackage]
TRUSTED = (
    "runner.methods.", "runner.data.", "runner.nets.", "runner.engine.optimizers.", "runner.engine.schedules.",
    "torch.nn.",
)  # fmt: skip
SPLIT_KEYS = (
    "train_size", "val_size", "test_size", "resplit", "standardize", "smoke", "label_noise", "noise_form", "noisy_val",
    "random_labels", "imbalance", "input_dim",
)  # fmt: skip


def trusting(packages: Iterable[str]) -> Sequence[str]:
    """What the names of trusted objects begin with, where the user trusts packages of their own, too."""
    return (*TRUSTED, *(f"{package}." for package in packages))


def build(
    where: str, node: Mapping[str, Any], kind: type | tuple[type, ...], trusted: Sequence[str]
) -> tuple[Any, dict[str, list[float]]]:
    """An object of a dataclass named by `_target_`, and those of its numbers that were written as lists.

    A list's first value stands in the object; the lanes of the job replace it.
    """
    target = located(where, node.get("_target_"), trusted)
    if not (isinstance(target, type) and issubclass(target, kind) and is_dataclass(target)):
        raise Refusal(f"{where}._target_ is {node.get('_target_')!r}, which is no {where.split('.')[0]}")
    given = {key: value for key, value in node.items() if key != "_target_"}
    known = {field.name: field for field in fields(target)}
    for key in given:
        if key not in known:
            raise unknown(f"setting of {where}", key, known, f"conf/{where.replace('.', '/')}.yaml")
    axes: dict[str, list[float]] = {}
    checked: dict[str, Any] = {}
    for name, field in known.items():
        key = f"{where}.{name}"
        if name not in given:
            raise Refusal(f"{key} is missing; {target.__name__} needs it ({key}=...)")
        value = given[name]
        if "range" in field.metadata:
            allowed = field.metadata["range"]
            if isinstance(value, list):
                axes[f"{where.removeprefix('method.')}.{name}"] = values = checks.numbers(key, value, allowed)
                checked[name] = values[0]
            else:
                checked[name] = checks.in_range(key, value, allowed)
        elif "options" in field.metadata:
            if value not in field.metadata["options"]:
                raise Refusal(
                    f"{key} is {value!r}; it must be one of {', '.join(field.metadata['options'])} ({key}=...)"
                )
            checked[name] = value
        elif field.type == "bool":
            checked[name] = checks.true_or_false(key, value)
        elif isinstance(value, dict):
            checked[name] = {k: checks.number(f"{key}.{k}", v, "a group of numbers") for k, v in value.items()}
        else:
            checked[name] = value
    return target(**checked), axes


def called(
    where: str, node: Mapping[str, Any], given: Mapping[str, Any], trusted: Sequence[str]
) -> Callable[[], object]:
    """The function named by `_target_`, with its arguments checked against its signature."""
    target = located(where, node.get("_target_"), trusted)
    if not callable(target):
        raise Refusal(f"{where}._target_ is {node.get('_target_')!r}, which cannot be called")
    try:
        wanted = inspect.signature(target)
    except ValueError as error:
        raise Refusal(f"{where}._target_ is {node.get('_target_')!r}, whose arguments cannot be known") from error
    try:
        wanted.bind(**given)
    except TypeError as error:
        known = [name for name in wanted.parameters if name not in ("shape", "classes")]
        raise Refusal(f"{where}: {error}; {node.get('_target_')} takes: {', '.join(known) or 'nothing'}") from error
    for name, value in given.items():
        kind = wanted.parameters[name].annotation if name in wanted.parameters else None
        if kind in (int, "int"):
            checks.whole(f"{where}.{name}", value, 0 if name == "seed" else 1)
        elif kind in (float, "float"):
            checks.number(f"{where}.{name}", value, f"{where}.{name}=...")
        elif kind in (str, "str") and not isinstance(value, str):
            raise Refusal(f"{where}.{name} is {value!r}; it must be a text ({where}.{name}=...)")
    return lambda: target(**given)


def takes(where: str, node: Mapping[str, Any], name: str, trusted: Sequence[str]) -> bool:
    """Whether what a node's _target_ names takes an argument of this name."""
    target = located(where, node.get("_target_"), trusted)
    with suppress(TypeError, ValueError):  # not to be called, or nothing is known of it: told of where it is called
        return name in inspect.signature(target).parameters
    return False


def located(where: str, path: object, trusted: Sequence[str]) -> Any:
    """The object at a dotted path, from a trusted package."""
    if not isinstance(path, str):
        raise Refusal(f"{where}._target_ is {path!r}; it must be the dotted name of a class or function")
    if not path.startswith(tuple(trusted)):
        package = path.split(".")[0]
        raise Refusal(
            f"{where}._target_ is {path!r}; it must begin with one of {', '.join(trusted)} "
            f"(a package of yours must be named on the command line: allow=[{package}])"
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]
        hint = " (install it, or put its folder on PYTHONPATH)" if missing else ""
        raise Refusal(f"{where}._target_ is {path!r}, which is not there: {error}{hint}") from error
    except Exception as error:  # whatever a module of the user's own does when it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise Refusal(f"{where}._target_ is {path!r}, which cannot be imported: {said}") from error
    home = getattr(found, "__module__", None)
    if path.startswith("runner.") and home != module:  # what a trusted module has imported from elsewhere
        raise Refusal(f"{where}._target_ is {path!r}, which is of {home}; it must be what {module} defines")
    if path.startswith("torch.nn.") and not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise Refusal(f"{where}._target_ is {path!r}; of torch.nn it must be a class of modules")
    return found


def load_data(node: dict[str, Any], seed0: int, trusted: Sequence[str]) -> tuple[Data, Splitter]:
    """The examples of conf/data's node, and how each seed splits them."""
    for key in SPLIT_KEYS:
        if key not in node:
            raise Refusal(
                f"data.{key} is missing; conf/data/base/splits.yaml has a value for what a file does not say itself "
                "(defaults: [base/splits@_here_, _self_] at its head)"
            )
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in node.items()
        if key not in (*SPLIT_KEYS, "name", "augment", "_target_")
    }
    sizes: dict[str, float | None] = {}
    for key in ("train_size", "val_size", "test_size"):
        value = node.get(key)
        if value is None and key == "val_size":
            raise Refusal("data.val_size is null; give a number of examples or a share below 1 (conf/data)")
        sizes[key] = None if value is None else checks.number(f"data.{key}", value, "conf/data")
    if node.get("resplit") not in ("train_val", "none"):
        raise Refusal(f"data.resplit is {node.get('resplit')!r}; it must be train_val or none (conf/data)")
    standardize = checks.true_or_false("data.standardize", node.get("standardize"))
    if not isinstance(node.get("augment", {}), dict):
        raise Refusal(f"data.augment is {node['augment']!r}; it must be a group of numbers (conf/data)")
    load = called("data", node, given, trusted)
    try:
        data = load()
    except (OSError, EOFError, zlib.error) as error:
        said = ", ".join(f"data.{key}={value}" for key, value in given.items()) or f"data={node.get('name')}"
        raise Refusal(f"{said} cannot be read: {error} (data.*=... or another data=...)") from error
    if not isinstance(data, Data):
        raise Refusal(f"data._target_ {node.get('_target_')} gave a {type(data).__name__}, not runner.data.base.Data")
    if node["input_dim"] is not None:
        data = resized(data, checks.whole("data.input_dim", node["input_dim"], 1))
    val_size = sizes["val_size"]
    assert val_size is not None  # refused above
    imbalance = checks.number("data.imbalance", node["imbalance"], "data.imbalance=...")
    if imbalance < 1:
        raise Refusal(f"data.imbalance is {imbalance:g}; it must be at least 1, which is none (data.imbalance=...)")
    noise = _label_noise(node)
    return data, Splitter(
        sizes["train_size"], val_size, sizes["test_size"], node["resplit"], seed0, standardize, imbalance, noise
    )


def _label_noise(node: Mapping[str, Any]) -> LabelNoise:
    rate = checks.number("data.label_noise", node["label_noise"], "data.label_noise=...")
    if not 0 <= rate <= 1:
        raise Refusal(f"data.label_noise is {rate:g}; it must be from 0 to 1 (data.label_noise=...)")
    if node["noise_form"] not in FORMS:
        raise Refusal(f"data.noise_form is {node['noise_form']!r}; it must be {' or '.join(FORMS)}")
    random = checks.true_or_false("data.random_labels", node["random_labels"])
    if random and rate > 0:
        raise Refusal(f"data.label_noise is {rate:g}; with data.random_labels=true no label is right, so it must be 0")
    return LabelNoise(rate, node["noise_form"], checks.true_or_false("data.noisy_val", node["noisy_val"]), random)


def model_of(node: dict[str, Any], data: Data, trusted: Sequence[str]) -> Callable[[], nn.Module]:
    """What builds the net of conf/model's node for the data, tried once on an example."""
    given = {key: value for key, value in node.items() if key not in ("name", "_target_")}
    target = located("model", node.get("_target_"), trusted)
    about = {"shape": data.shape, "classes": data.classes}
    known = _parameters(target)
    make = called("model", node, given | {key: value for key, value in about.items() if key in known}, trusted)
    ours = str(node["_target_"]).startswith("runner.")

    def model() -> nn.Module:
        net = make() if ours else Adopted(_net_of(node, make), data.shape)
        assert isinstance(net, nn.Module)
        return net

    try:
        with torch.no_grad():
            logits = model().eval()(data.x[:1].float())
    except Refusal:
        raise
    except Exception as error:
        if ours and not isinstance(error, TypeError | ValueError | RuntimeError | AssertionError):
            raise
        said = " ".join(str(error).split())
        if not ours:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno})"
        raise Refusal(
            f"model is {node.get('name')!r}, which cannot take the {data.kind} examples of {data.name}, of shape "
            f"{data.shape}: {said} (another model=... or data=...)"
        ) from error
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, data.classes):
        gives = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise Refusal(
            f"model is {node.get('name')!r}, which gives {gives} for one example; it must give (1, {data.classes}), a "
            f"logit for each class of {data.name} (model._target_=...)"
        )
    return model


def _net_of(node: Mapping[str, Any], make: Callable[[], object]) -> Callable[[], nn.Module]:
    """`make`, which must give a torch module."""

    def made() -> nn.Module:
        net = make()
        if not isinstance(net, nn.Module):
            raise Refusal(f"model._target_ {node.get('_target_')} gave a {type(net).__name__}, not a torch.nn.Module")
        return net

    return made


def _parameters(target: object) -> Sequence[str]:
    """The names of a function's parameters; all of ours if they cannot be known, which `_called` then refuses."""
    try:
        return list(inspect.signature(target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ["shape", "classes"]


def stack_of(
    node: Mapping[str, Any], trusted: Sequence[str]
) -> tuple[Stack, dict[str, list[float]], dict[str, list[float]]]:
    """The stack, the strengths written as lists, and the grids of the methods' own files."""
    methods: dict[str, Method] = {}
    axes: dict[str, list[float]] = {}
    grids: dict[str, list[float]] = {}
    for name, entry in node.items():
        where = f"method.{name}"
        _may_be_a_folder("method", name)
        if not isinstance(entry, dict):
            raise Refusal(f"{where} is {entry!r}; it must be a method with its strengths (conf/method/{name}.yaml)")
        plain = {key: value for key, value in entry.items() if key != "grid"}
        methods[name], own = build(where, plain, Method, trusted)
        axes |= own
        allowed = ranges(methods[name])
        grid = entry.get("grid") or {}
        if not isinstance(grid, dict):
            raise Refusal(
                f"{where}.grid is {grid!r}; it must give a list to each strength ({checks.home(where)}{where}.grid...)"
            )
        for field, values in grid.items():
            if field not in allowed:
                raise unknown(f"strength of {name}", field, allowed, f"conf/method/{name}.yaml")
            grids[f"{name}.{field}"] = checks.numbers(f"{where}.grid.{field}", values, allowed[field])
    return Stack(methods), axes, grids


def named_stacks(node: dict[str, Any]) -> dict[str, list[str]]:
    """The stacks that have a name of their own, with their methods; taken out of the stack's settings."""
    stacks = node.pop("stacks", {})
    if not isinstance(stacks, dict):
        raise Refusal(f"method.stacks is {stacks!r}; it must give each named stack its methods (conf/method)")
    for name in stacks:
        _may_be_a_folder("method.stacks", name)
    return {name: checks.names(f"method.stacks.{name}", methods) for name, methods in stacks.items()}


def _may_be_a_folder(where: str, name: object) -> None:
    """Refuse a name that a folder, a dotted key or a stack in a word could not have as a part."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]{0,99}", name, re.ASCII):
        raise Refusal(
            f"{where} has {name!r}; a name must be at most 100 letters, digits, _ and -, not led by - (conf/method)"
        )
