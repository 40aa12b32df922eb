"""From a composed configuration to a job that can be trained: every value is checked here, once.

This file and `runner.cli` with its sweeper are the only ones that know Hydra's and OmegaConf's types.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import traceback
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from runner import trackers
from runner.data.base import Data, Splitter
from runner.data.labels import FORMS, LabelNoise
from runner.data.resize import resized
from runner.engine.compilation import compiler
from runner.engine.optimizers import Optimizer
from runner.engine.rehearsal import rehearse, unmappable
from runner.engine.robustness import Attack
from runner.engine.schedules import Constant, Cosine, Cyclic, Step
from runner.errors import Refusal, unknown
from runner.experiment import Asked, Budget, Experiment
from runner.grid import Run, along, crossed, runs
from runner.keys import Key
from runner.methods.base import Method, ranges
from runner.methods.stack import Stack
from runner.nets.foreign import Adopted
from runner.paths import conf_dir, options
from runner.search import Space, drawn

# What may be named by a configuration file. A user's own package must be named on the command line: allow=[mypackage]
TRUSTED = (
    "runner.methods.", "runner.data.", "runner.nets.", "runner.engine.optimizers.", "runner.engine.schedules.",
    "torch.nn.",
)  # fmt: skip
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "auto": None}
SPLIT_KEYS = (
    "train_size", "val_size", "test_size", "resplit", "standardize", "smoke", "label_noise", "noise_form", "noisy_val",
    "random_labels", "imbalance", "input_dim",
)  # fmt: skip
MARGINS = ("acc", "gap", "loss")
MOST_VALUES = 10_000_000  # that interpolations may come to; some configurations of regrun's have 400
MOST_RUNS = 1_000_000  # of a job: they are listed before the first one trains
PROTOCOLS = ("fixed", "tuned", "search", "smoke")
SAMPLERS = ("random", "tpe")  # of a search
TOP = (
    "study", "seeds", "extend", "seed0", "epochs", "batch_size", "device", "deterministic", "dtype", "evaluate",
    "penalize_biases", "margins", "lanes", "lanes_per_job", "share", "threads", "workers", "compile", "checkpoint",
    "progress", "out", "allow", "axes", "data", "model", "optimizer", "schedule", "method", "protocol", "marks",
    "tracker",
)  # fmt: skip
# What changes no number of a run that is trained: it is no part of a job's identity. But compile=on is, and so is
# deterministic=true on a GPU.
OUTSIDE = (
    "study", "seeds", "extend", "margins", "lanes", "lanes_per_job", "share", "threads", "workers", "compile",
    "checkpoint", "progress", "out", "allow", "axes", "marks", "tracker", "deterministic",
)  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How seeds are spent."""

    name: str  # one of PROTOCOLS
    tune_seeds: int  # seeds that choose a strength; 0 where nothing is chosen
    trials: int  # points that a search draws for each stack; 0 where they are not drawn
    batch: int  # points that are asked for at a time, by the figures of those before; 0 where all are drawn at once
    alternatives: Sequence[Sequence[str]]  # methods of which a search takes one at most
    requires: Mapping[str, str]  # methods that a search takes together with another
    select: str  # the validation figure that chooses: val_acc or val_loss


@dataclass(frozen=True)
class Job:
    """One stack on one data set and model, with all its runs."""

    settings: Mapping[str, Any]  # the resolved configuration, without what changes no number
    study: str | None
    out: Path
    progress: bool
    predictions: bool  # whether what each run says about each test example is kept
    lanes_per_job: int | None  # the most runs that one process of a sweep trains; None: all of the job
    share: int | None  # which so many runs this process trains, from 0 on; None: all
    threads: int | None  # None: as many as the work is worth
    workers: int | None  # processes; None: as many as the work is worth
    keep_every: float | None  # seconds between two checkpoints of the training; None: at signals only
    trackers: Sequence[str]  # that its records are shown in, too
    dataset: str
    model: str
    setting: str  # the axes of the sweep other than methods, "optimizer.lr=0.01"; usually empty
    protocol: Protocol
    margins: Mapping[str, float]  # differences that count as none, by metric
    method: str  # the stack in one word: "dropout+l2", or "none"
    experiment: Experiment
    one_by_one: str | None  # why its runs cannot be trained side by side, if they cannot
    marks: bool  # whether to show where the model's marks are, and train nothing
    points: Sequence[Mapping[str, float]]  # the configurations of the job; where they are asked for, the first of them
    space: Space | None  # what the others are asked from
    seeds: Sequence[int]  # of the runs to report
    tune_seeds: Sequence[int]
    extend: int  # report seeds to add to every configuration of a study that is there

    @property
    def name(self) -> str:
        """The job's folder: readable, and different for any two jobs whose numbers may differ."""
        text = json.dumps(self.settings, sort_keys=True)
        return f"{self.method}-{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]}"

    @property
    def shares(self) -> Sequence[int]:
        """Into how many shares each stage of the job is split; nothing if one process trains it all."""
        if self.lanes_per_job is None:
            return ()
        stages = [self.tuning(), self.reporting(0 if self.tunes else None)]
        counts = [math.ceil(len(stage) / self.lanes_per_job) for stage in stages if stage]
        return counts if max(counts) > 1 else ()

    def mine(self, stage: Sequence[Run]) -> Sequence[Run]:
        """The runs of a stage that are this process's to train."""
        if self.share is None or self.lanes_per_job is None:
            return stage
        return stage[self.share * self.lanes_per_job : (self.share + 1) * self.lanes_per_job]

    @property
    def tunes(self) -> bool:
        """Whether a strength is to be chosen."""
        return bool(self.tune_seeds) and len(self.points) > 1

    def tuning(self) -> list[Run]:
        """The runs that choose a strength; none where there is nothing to choose."""
        return runs(self.points, self.tune_seeds, "tune") if self.tunes else []

    def reporting(self, chosen: int | None) -> list[Run]:
        """The runs to report: of the chosen point, or of every point if none was chosen."""
        return [run for run in runs(self.points, self.seeds, "report") if chosen in (None, run.index)]


def read(cfg: DictConfig, overrides: Sequence[str] = ()) -> Job:
    """The job that a composed configuration describes; refuses anything that cannot be trained.

    `overrides` is the command line, which alone may name packages of the user's own.
    """
    values = _plain(cfg)
    for key in values:
        if key not in TOP:
            raise unknown("setting", key, TOP, "conf/config.yaml")
    for key in TOP:
        if key not in values and key != "method":
            raise Refusal(f"{key} is missing; conf/config.yaml has a value for it, so leave it as it is ({key}=...)")
    values["method"] = values.get("method") or {}  # method=none and method=[] are one job
    _once(overrides)
    trusted: tuple[str, ...] = TRUSTED
    allow = _names("allow", values["allow"])
    if any(override.lstrip("+").startswith("allow=") for override in overrides):
        trusted += tuple(f"{package}." for package in allow)

    protocol = _protocol(values["protocol"])
    device = _device(values["device"])
    seed0 = _whole("seed0", values["seed0"], 0)
    seeds = _whole("seeds", values["seeds"], 1)
    evaluate = _section(values, "evaluate")
    predictions = _true_or_false("evaluate.predictions", evaluate.pop("predictions", None))  # changes no number
    budget = Budget(
        _whole("epochs", values["epochs"], 1),
        _whole("batch_size", values["batch_size"], 1),
        _whole("evaluate.every", evaluate.get("every"), 1),
    )
    asked = _asked(evaluate)
    data, splitter = _data(_section(values, "data"), seed0, trusted)
    # no seed that strengths are chosen on may train or validate on what another one tests on
    splitter = replace(splitter, one_test=protocol.tune_seeds > 0)
    if data.regression:
        _regression(values["data"], asked)
    n_train, n_val, _ = splitter.sizes(data)
    if budget.batch_size > n_train:
        raise Refusal(
            f"batch_size is {budget.batch_size}; it must be at most the {n_train} training examples "
            "(batch_size=... or data.train_size=...)"
        )
    if not isinstance(values["dtype"], str) or values["dtype"] not in DTYPES:
        raise Refusal(f"dtype is {values['dtype']!r}; it must be one of {', '.join(DTYPES)} (dtype=...)")

    named = _named_stacks(_section(values, "method"))
    stack, axes, grids = _stack(values["method"], trusted)
    for name, method in stack.methods.items() if data.regression else ():
        if method.classes:
            raise Refusal(f"method.{name} is about classes; {data.name} is a regression, which has none (method=[...])")
    node = _section(values, "optimizer")
    optimizer, given = _build("optimizer", {k: v for k, v in node.items() if k != "grid"}, Optimizer, trusted)
    shared = given | _shared(values["protocol"].get("tune"), protocol, node, optimizer, given)
    schedule, _ = _build("schedule", _section(values, "schedule"), (Constant, Cosine, Cyclic, Step), trusted)
    space = None
    if protocol.trials:
        searched = grids | axes | shared
        space = _space(searched, stack, optimizer, protocol) if searched else None
        points = drawn(space, protocol.trials, Key.of(seed0).fold("search")) if space else [{}]
    elif protocol.tune_seeds:  # a list on the command line takes the place of a method's own grid
        points = [own | point for own in _tuned_points(grids | axes) for point in _crossed(shared)]
    else:
        points = _crossed(axes | shared)
    asks = space is not None and protocol.batch > 0
    if asks and values["lanes_per_job"] is not None:
        raise Refusal(
            f"lanes_per_job is {values['lanes_per_job']!r}; a search that asks for its points, a batch by the figures "
            "of the one before, cannot be split (lanes_per_job=null or protocol=search)"
        )
    if n_val == 0 and (stack.ends_at_best or (protocol.tune_seeds and len(points) > 1)):
        who = "early_stopping" if stack.ends_at_best else "protocol=tuned"
        raise Refusal(f"data.val_size is 0; {who} needs validation data (data.val_size=... or another data=...)")

    model = _model(_section(values, "model"), data, trusted)
    _true_or_false("penalize_biases", values["penalize_biases"])
    lanes = None if values["lanes"] == "auto" else _whole("lanes", values["lanes"], 1)
    tune = protocol.tune_seeds
    experiment = Experiment(
        data, splitter, model, stack, optimizer, schedule, budget, device, DTYPES[values["dtype"]], lanes, asked,
        compiled=_compiled(values["compile"], device),
        deterministic=_true_or_false("deterministic", values["deterministic"]),
    )  # fmt: skip
    extend = _extension(values)
    most = len(points) * max(seeds + extend, tune)
    if most > MOST_RUNS:
        raise Refusal(
            f"seeds is {seeds} and there are {len(points)} settings of strengths; a job has at most {MOST_RUNS} runs, "
            f"and this one would have {most} (seeds=..., or shorter lists)"
        )
    # a study may give its jobs more seeds than they ask for (runner.extending)
    several = most > 1 or values["study"] is not None
    why = _rehearse(experiment if several else replace(experiment, lanes=1), points, seed0)
    left = {"smoke", *(["task"] if not data.regression else [])}  # a classification is what no task was before
    settings = {key: value for key, value in values.items() if key not in OUTSIDE} | {
        "device": device.type,
        "data": {key: value for key, value in values["data"].items() if key not in left},
        # the grid that is walked, wherever it was written, and no other
        "optimizer": {k: shared.get(f"optimizer.{k}", v) for k, v in node.items() if k != "grid"},
        "protocol": {k: v for k, v in values["protocol"].items() if k != "tune"},
    }
    if experiment.compiled:
        settings["compile"] = "on"  # it changes rounding
    if experiment.deterministic and device.type != "cpu":
        settings["deterministic"] = True  # likewise
    if data.content:
        settings["data"]["content"] = data.content  # of files of the user's, which may change under the same name
    return Job(
        settings=settings,
        study=_name(values["study"]),
        out=_folder(values["out"]),
        progress=_true_or_false("progress", values["progress"]),
        predictions=predictions and not data.regression,  # which are of classes
        lanes_per_job=None if values["lanes_per_job"] is None else _whole("lanes_per_job", values["lanes_per_job"], 1),
        share=None if values["share"] is None else _whole("share", values["share"], 0),
        threads=None if values["threads"] == "auto" else _whole("threads", values["threads"], 1),
        workers=_workers(values["workers"], device),
        keep_every=_keep_every(_section(values, "checkpoint")),
        trackers=trackers.known(values["tracker"]),
        dataset=_title("data", values["data"]),
        model=_title("model", values["model"]),
        setting=_setting(values),
        protocol=protocol,
        method=_label(list(stack.methods), named),
        margins=_margins(_section(values, "margins")),
        experiment=replace(experiment, lanes=1) if why else experiment,
        one_by_one=why,
        marks=_marks(values["marks"]),
        points=points[: protocol.batch] if asks else points,
        space=space if asks else None,
        seeds=range(seed0 + tune, seed0 + tune + seeds),
        tune_seeds=range(seed0, seed0 + tune),
        extend=extend,
    )


def _rehearse(experiment: Experiment, points: Sequence[Mapping[str, float]], seed: int) -> str | None:
    """Let the methods refuse data or a model that they do not suit, before anything is written.

    Gives the reason why runs cannot be trained side by side, if there is one.
    """
    shapes = {tuple(experiment.stack.shaping(point).items()): point for point in points}
    for point in shapes.values():
        try:
            rehearse(experiment, Run(seed, "report", point, 0))
        except Refusal:
            raise
        except Exception:
            return None  # a method that breaks does so again in its job, whose folder then says how
    return unmappable(experiment, Run(seed, "report", points[0], 0)) if experiment.lanes != 1 else None


def flatten(settings: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    >>> flatten({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{lead}{key}.") if isinstance(value, Mapping) else {f"{lead}{key}": value}
    return flat


def _plain(cfg: DictConfig) -> dict[str, Any]:
    try:
        _refuse_multiplied(cfg)
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise Refusal(f"{error.full_key or 'the configuration'}: {first}") from error
    assert isinstance(values, dict)  # the root is a mapping
    return typing.cast(dict[str, Any], values)


def _refuse_multiplied(cfg: DictConfig) -> None:
    """Refuse interpolations that may come to more than MOST_VALUES, without writing them out.

    One that brings in a group or a list, and each within a text, may double all there is; one that is a value does not.
    """
    size, whole, doublings = 0, list[Sequence[str | int]](), 0
    left: list[tuple[Sequence[str | int], Any]] = [((), OmegaConf.to_container(cfg, resolve=False))]
    while left:
        path, value = left.pop()
        size += 1
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((*path, key), below) for key, below in inner]
        elif isinstance(value, str):
            size += len(value) // 100
            if re.fullmatch(r"\$\{[^${}]*\}", value):
                whole.append(path)
            else:
                doublings += value.count("${")
    if size << min(doublings, 64) <= MOST_VALUES:
        doublings += sum(OmegaConf.is_config(reduce(getitem, path, cfg)) for path in whole)
    if size << min(doublings, 64) > MOST_VALUES:
        raise Refusal(
            f"the configuration has {doublings} interpolations of groups, lists or parts of texts, which may come to "
            f"more than {MOST_VALUES} values (fewer of ${{...}}, in conf or --config-dir)"
        )


def _section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = values.get(key)
    if not isinstance(section, dict):
        home = f"conf/{key}" if (conf_dir() / key).is_dir() else "conf/config.yaml"
        raise Refusal(f"{key} is {section!r}; it must be a group of settings ({home})")
    return section


def _once(overrides: Sequence[str]) -> None:
    """Refuse a choice that Hydra would take otherwise than it reads: a method listed twice, two data sets at once."""
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        names = [name.strip() for name in choice.strip("[]").split(",")]
        if group == "method" and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Refusal(f"method is {choice}; {twice} stands in the stack twice, and once is enough (method=[...])")
        if choice.startswith("[") and group != "method" and (conf_dir() / group).is_dir():
            raise Refusal(f"{group} is {choice}; it must be one of {', '.join(options(group))} ({group}=...)")


def _names(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise Refusal(f"{key} is {value!r}; it must be a list of names ({key}=[...])")
    return value


def _folder(path: object) -> Path:
    if not isinstance(path, str) or not path:
        raise Refusal(f"out is {path!r}; it must be a folder (out=...)")
    return Path(path)


def _name(study: object) -> str | None:
    """A study's name, which becomes a folder: no separators, no leading dot, nothing a shell or a page would read."""
    if study is None:
        return None
    name = study if isinstance(study, str) else str(study) if type(study) is int else ""
    if not name or len(name) > 100 or name[0] in ".-" or not all(c.isalnum() or c in "._-+=" for c in name):
        raise Refusal(f"study is {study!r}; it must be letters, digits and . _ - + =, not led by . or - (study=...)")
    return name


def _title(group: str, node: Mapping[str, Any]) -> str:
    """What a data set or a model is called in records and reports."""
    name = node.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        raise Refusal(f"{group}.name is {name!r}; it must be a text of one line, of 1 to 100 characters (conf/{group})")
    return name


def _setting(values: Mapping[str, Any]) -> str:
    flat = flatten(values)
    return " ".join(f"{axis}={flat[axis]}" for axis in _names("axes", values["axes"]) if axis in flat)


def _whole(key: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise Refusal(f"{key} is {value!r}; it must be a whole number from {least} to {2**31 - 1} ({key}=...)")
    return value


def _extension(values: Mapping[str, Any]) -> int:
    """How many report seeds are to be added; refuses an extension of a study that has no name."""
    more = _whole("extend", values["extend"], 0)
    if more and values["study"] is None:
        raise Refusal(f"extend is +{more} and study is null; name the study that gets more seeds (study=...)")
    return more


def _true_or_false(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Refusal(f"{key} is {value!r}; it must be true or false ({key}=...)")
    return value


def _keep_every(node: dict[str, Any]) -> float | None:
    for key in node:
        if key != "minutes":
            raise unknown("setting of checkpoint", key, ["minutes"], "conf/config.yaml")
    minutes = node.get("minutes")
    if minutes is None:
        return None
    if _number("checkpoint.minutes", minutes, "checkpoint.minutes=...") <= 0:
        raise Refusal(f"checkpoint.minutes is {minutes:g}; it must be above 0, or null (checkpoint.minutes=...)")
    return 60 * float(minutes)


def _workers(value: object, device: torch.device) -> int | None:
    """The processes that share a job's runs; None: as many as they are worth."""
    if value == "auto":
        return None
    workers = _whole("workers", value, 1)
    if workers > 1 and device.type != "cpu":
        raise Refusal(
            f"workers is {workers}; on {device.type} one process trains all runs of a job, so it must be 1 "
            "(workers=auto or device=cpu)"
        )
    return workers


def _compiled(value: object, device: torch.device) -> bool | None:
    """Whether torch's compiler is to make the steps; None: where `runner.engine.packing` finds that it repays."""
    if value not in ("auto", "on", "off"):
        raise Refusal(f"compile is {value!r}; it must be auto, on or off (compile=...)")
    if value == "on" and device.type == "cpu" and compiler() is None:
        raise Refusal("compile is 'on'; torch needs a C++ compiler for that, and none is found (CXX or compile=auto)")
    return {"on": True, "off": False}.get(str(value))


def _marks(value: object) -> bool:
    if value not in (None, "show"):
        raise Refusal(f"marks is {value!r}; it must be null or show (marks=...)")
    return value == "show"


def _device(name: object) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise Refusal(f"device is {name!r}; it must be auto, cpu or cuda (device=...)")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise Refusal(
            "device is 'cuda'; this machine has no CUDA device that torch can use (device=auto or device=cpu)"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _protocol(node: object) -> Protocol:
    name = node.get("name") if isinstance(node, dict) else node
    if not isinstance(node, dict) or name not in PROTOCOLS:
        raise unknown("protocol", str(name), PROTOCOLS, "conf/protocol")
    if node.get("select") not in ("val_acc", "val_loss"):
        raise Refusal(f"protocol.select is {node.get('select')!r}; it must be val_acc or val_loss (conf/protocol)")
    tunes, searches = name in ("tuned", "search"), name == "search"
    tune = _whole("protocol.tune_seeds", node.get("tune_seeds"), 1 if tunes else 0)
    trials = _whole("protocol.trials", node.get("trials"), 2) if searches else 0
    if trials > MOST_RUNS:
        raise Refusal(f"protocol.trials is {trials}; a job has at most {MOST_RUNS} runs (protocol.trials=...)")
    batch = _batch(node) if searches else 0
    alternatives = node.get("alternatives") if searches else []
    if not isinstance(alternatives, list):
        raise Refusal(
            f"protocol.alternatives is {alternatives!r}; it must be a list of lists of methods (conf/protocol)"
        )
    groups = [_names("protocol.alternatives", group) for group in alternatives]
    requires = node.get("requires") if searches else {}
    if not isinstance(requires, dict) or not all(isinstance(other, str) for other in requires.values()):
        raise Refusal(f"protocol.requires is {requires!r}; it must name a method for a method (conf/protocol)")
    return Protocol(name, tune if tunes else 0, trials, batch, groups, requires, node["select"])


def _batch(node: Mapping[str, Any]) -> int:
    """How many points a search asks for at a time; 0 for one that draws all at random."""
    sampler = node.get("sampler", SAMPLERS[0])  # conf/protocol/search.yaml has none
    if sampler not in SAMPLERS:
        raise unknown("sampler", str(sampler), SAMPLERS, "protocol.sampler")
    if sampler == SAMPLERS[0]:
        return 0
    if find_spec("optuna") is None:
        raise Refusal(
            "protocol.sampler is 'tpe', which needs Optuna (pip install 'regrun[optuna]', or protocol=search)"
        )
    return _whole("protocol.batch", node.get("batch"), 2)


def _asked(evaluate: dict[str, Any]) -> Asked:
    """What is to be measured at the end of a run; what is not asked for leaves the settings, and so the job's name."""
    corruptions, adversarial, measures = (
        _true_or_false(f"evaluate.{name}", evaluate.get(name, False))
        for name in ("corruptions", "adversarial", "measures")
    )
    attack = None
    if adversarial:
        epsilon = _number("evaluate.epsilon", evaluate.get("epsilon"), "evaluate.epsilon=...")
        if epsilon <= 0:
            raise Refusal(f"evaluate.epsilon is {epsilon:g}; it must be above 0 (evaluate.epsilon=...)")
        attack = Attack(epsilon, _whole("evaluate.attack_steps", evaluate.get("attack_steps"), 1))
    unused = {
        "corruptions": not corruptions,
        "measures": not measures,
        **dict.fromkeys(("adversarial", "epsilon", "attack_steps"), not attack),
    }
    for name, off in unused.items():
        if off:
            evaluate.pop(name, None)
    return Asked(corruptions, attack, measures)


def _margins(node: dict[str, Any]) -> dict[str, float]:
    for key in node:
        if key not in MARGINS:
            raise unknown("margin", key, MARGINS, "conf/config.yaml")
    margins = {key: _number(f"margins.{key}", node.get(key), f"margins.{key}=...") for key in MARGINS}
    for key, value in margins.items():
        if value <= 0:
            raise Refusal(f"margins.{key} is {value:g}; it must be above 0 (margins.{key}=...)")
    return margins


def _data(node: dict[str, Any], seed0: int, trusted: Sequence[str]) -> tuple[Data, Splitter]:
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
        sizes[key] = None if value is None else _number(f"data.{key}", value, "conf/data")
    if node.get("resplit") not in ("train_val", "none"):
        raise Refusal(f"data.resplit is {node.get('resplit')!r}; it must be train_val or none (conf/data)")
    standardize = _true_or_false("data.standardize", node.get("standardize"))
    if not isinstance(node.get("augment", {}), dict):
        raise Refusal(f"data.augment is {node['augment']!r}; it must be a group of numbers (conf/data)")
    load = _called("data", node, given, trusted)
    try:
        data = load()
    except (OSError, EOFError, zlib.error) as error:
        said = ", ".join(f"data.{key}={value}" for key, value in given.items()) or f"data={node.get('name')}"
        raise Refusal(f"{said} cannot be read: {error} (data.*=... or another data=...)") from error
    if not isinstance(data, Data):
        raise Refusal(f"data._target_ {node.get('_target_')} gave a {type(data).__name__}, not runner.data.base.Data")
    if node["input_dim"] is not None:
        data = resized(data, _whole("data.input_dim", node["input_dim"], 1))
    val_size = sizes["val_size"]
    assert val_size is not None  # refused above
    imbalance = _number("data.imbalance", node["imbalance"], "data.imbalance=...")
    if imbalance < 1:
        raise Refusal(f"data.imbalance is {imbalance:g}; it must be at least 1, which is none (data.imbalance=...)")
    noise = _label_noise(node)
    return data, Splitter(
        sizes["train_size"], val_size, sizes["test_size"], node["resplit"], seed0, standardize, imbalance, noise
    )


def _regression(node: Mapping[str, Any], asked: Asked) -> None:
    """Refuse what is about classes where a number is predicted."""
    off = {"label_noise": 0, "random_labels": False, "imbalance": 1}
    for key, value in off.items():
        if node[key] != value:
            raise Refusal(
                f"data.{key} is {node[key]}; a regression has no classes, so it must be {value} (data.{key}=...)"
            )
    for name, wanted in (("corruptions", asked.corruptions), ("adversarial", asked.attack)):
        if wanted:
            raise Refusal(
                f"evaluate.{name} is true; it counts correct classes, which a regression lacks (evaluate.{name}=false)"
            )


def _label_noise(node: Mapping[str, Any]) -> LabelNoise:
    rate = _number("data.label_noise", node["label_noise"], "data.label_noise=...")
    if not 0 <= rate <= 1:
        raise Refusal(f"data.label_noise is {rate:g}; it must be from 0 to 1 (data.label_noise=...)")
    if node["noise_form"] not in FORMS:
        raise Refusal(f"data.noise_form is {node['noise_form']!r}; it must be {' or '.join(FORMS)}")
    random = _true_or_false("data.random_labels", node["random_labels"])
    if random and rate > 0:
        raise Refusal(f"data.label_noise is {rate:g}; with data.random_labels=true no label is right, so it must be 0")
    return LabelNoise(rate, node["noise_form"], _true_or_false("data.noisy_val", node["noisy_val"]), random)


def _model(node: dict[str, Any], data: Data, trusted: Sequence[str]) -> Callable[[], nn.Module]:
    given = {key: value for key, value in node.items() if key not in ("name", "_target_")}
    target = _locate("model", node.get("_target_"), trusted)
    about = {"shape": data.shape, "classes": data.classes}
    known = _parameters(target)
    make = _called("model", node, given | {key: value for key, value in about.items() if key in known}, trusted)
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


def _named_stacks(node: dict[str, Any]) -> dict[str, list[str]]:
    """The stacks that have a name of their own, with their methods; taken out of the stack's settings."""
    stacks = node.pop("stacks", {})
    if not isinstance(stacks, dict):
        raise Refusal(f"method.stacks is {stacks!r}; it must give each named stack its methods (conf/method)")
    return {name: _names(f"method.stacks.{name}", methods) for name, methods in stacks.items()}


def _label(methods: list[str], named: Mapping[str, list[str]]) -> str:
    """The stack in one word.

    >>> _label(["l2", "dropout", "mixup"], {"cocktail": ["dropout", "l2"]}), _label([], {})
    ('cocktail+mixup', 'none')
    """
    for name, parts in named.items():
        if set(parts) <= set(methods):
            methods = [name, *(method for method in methods if method not in parts)]
    return "+".join(methods) or "none"


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


def _stack(
    node: Mapping[str, Any], trusted: Sequence[str]
) -> tuple[Stack, dict[str, list[float]], dict[str, list[float]]]:
    """The stack, the strengths written as lists, and the grids of the methods' own files."""
    methods: dict[str, Method] = {}
    axes: dict[str, list[float]] = {}
    grids: dict[str, list[float]] = {}
    for name, entry in node.items():
        where = f"method.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]{0,99}", str(name), re.ASCII):
            raise Refusal(f"method has {str(name)!r}; a name must be letters, digits and _ . + - (conf/method)")
        if not isinstance(entry, dict):
            raise Refusal(f"{where} is {entry!r}; it must be a method with its strengths (conf/method/{name}.yaml)")
        plain = {key: value for key, value in entry.items() if key != "grid"}
        methods[name], own = _build(where, plain, Method, trusted)
        axes |= own
        allowed = ranges(methods[name])
        grid = entry.get("grid") or {}
        if not isinstance(grid, dict):
            raise Refusal(
                f"{where}.grid is {grid!r}; it must give a list to each strength ({_home(where)}{where}.grid...)"
            )
        for field, values in grid.items():
            if field not in allowed:
                raise unknown(f"strength of {name}", field, allowed, f"conf/method/{name}.yaml")
            grids[f"{name}.{field}"] = _list(f"{where}.grid.{field}", values, allowed[field])
    return Stack(methods), axes, grids


def _tuned_points(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """The K points that are tuned: all strengths of a stack from weakest to strongest together."""
    lengths = {path: len(values) for path, values in axes.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise Refusal(f"protocol=tuned walks the grids of a stack together, so they must be equally long: {said}")
    return along(axes)


def _crossed(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of the axes' values, unless they are too many to list."""
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_RUNS:
        raise Refusal(
            f"{', '.join(axes)} have {count} combinations; a job has at most {MOST_RUNS} runs (shorter lists)"
        )
    return crossed(axes)


def _shared(
    names: object, protocol: Protocol, node: Mapping[str, Any], optimizer: Optimizer, given: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """The grids of the numbers in protocol.tune, which every method tunes alike; `given` are lists written out."""
    names, allowed, found = _names("protocol.tune", names), ranges(optimizer), {}
    if names and not protocol.tune_seeds:
        raise Refusal(f"protocol.tune is {names}; protocol={protocol.name} chooses nothing (protocol=tuned)")
    grid = node.get("grid") or {}
    if not isinstance(grid, dict):
        raise Refusal(f"optimizer.grid is {grid!r}; it must give a list to each number (conf/optimizer)")
    for name in names:
        field = name.removeprefix("optimizer.")
        if not name.startswith("optimizer.") or field not in allowed:
            raise unknown("number to tune", name, [f"optimizer.{field}" for field in allowed], "protocol.tune")
        if name not in given:
            if field not in grid:
                raise Refusal(f"protocol.tune has {name}, which has no grid; give it a list ({name}=[...])")
            found[name] = _list(f"optimizer.grid.{field}", grid[field], allowed[field])
    return found


def _space(axes: Mapping[str, Sequence[float]], stack: Stack, optimizer: Optimizer, protocol: Protocol) -> Space:
    """What a search chooses from."""
    allowed = {f"{name}.{field}": r for name, method in stack.methods.items() for field, r in ranges(method).items()}
    allowed |= {f"optimizer.{field}": r for field, r in ranges(optimizer).items()}
    return Space(axes, allowed, protocol.alternatives, protocol.requires)


def _build(
    where: str, node: Mapping[str, Any], kind: type | tuple[type, ...], trusted: Sequence[str]
) -> tuple[Any, dict[str, list[float]]]:
    """An object of a dataclass named by `_target_`, and those of its numbers that were written as lists.

    A list's first value stands in the object; the lanes of the job replace it.
    """
    target = _locate(where, node.get("_target_"), trusted)
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
                axes[f"{where.removeprefix('method.')}.{name}"] = values = _list(key, value, allowed)
                checked[name] = values[0]
            else:
                checked[name] = _in_range(key, value, allowed)
        elif "options" in field.metadata:
            if value not in field.metadata["options"]:
                raise Refusal(
                    f"{key} is {value!r}; it must be one of {', '.join(field.metadata['options'])} ({key}=...)"
                )
            checked[name] = value
        elif field.type == "bool":
            checked[name] = _true_or_false(key, value)
        elif isinstance(value, dict):
            checked[name] = {k: _number(f"{key}.{k}", v, "a group of numbers") for k, v in value.items()}
        else:
            checked[name] = value
    return target(**checked), axes


def _list(key: str, values: object, allowed: Any) -> list[float]:
    if not isinstance(values, list) or not values:
        raise Refusal(f"{key} is {values!r}; a grid must be a list of at least one number ({key}=[...])")
    checked = [_in_range(key, value, allowed) for value in values]
    if len(set(checked)) < len(checked):
        raise Refusal(f"{key} is {values}; the same value stands in it twice ({key}=[...])")
    return checked


def _in_range(key: str, value: object, allowed: Any) -> float:
    number = _number(key, value, f"{key}=...")
    if not allowed.allows(number):
        raise Refusal(f"{key} is {number:g}; it must be {allowed} ({_home(key)}{key}=...)")
    return number


def _home(key: str) -> str:
    parts = key.split(".")
    return f"conf/method/{parts[1]}.yaml or " if parts[0] == "method" else ""


def _number(key: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refusal(f"{key} is {value!r}; it must be a finite number ({where})")
    return float(value)


def _called(
    where: str, node: Mapping[str, Any], given: Mapping[str, Any], trusted: Sequence[str]
) -> Callable[[], object]:
    """The function named by `_target_`, with its arguments checked against its signature."""
    target = _locate(where, node.get("_target_"), trusted)
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
            _whole(f"{where}.{name}", value, 0 if name == "seed" else 1)
        elif kind in (float, "float"):
            _number(f"{where}.{name}", value, f"{where}.{name}=...")
        elif kind in (str, "str") and not isinstance(value, str):
            raise Refusal(f"{where}.{name} is {value!r}; it must be a text ({where}.{name}=...)")
    return lambda: target(**given)


def takes(where: str, node: Mapping[str, Any], name: str, trusted: Sequence[str]) -> bool:
    """Whether what a node's _target_ names takes an argument of this name."""
    target = _locate(where, node.get("_target_"), trusted)
    with suppress(TypeError, ValueError):  # not to be called, or nothing is known of it: told of where it is called
        return name in inspect.signature(target).parameters
    return False


def _locate(where: str, path: object, trusted: Sequence[str]) -> Any:
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
