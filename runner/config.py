"""From a composed configuration to a job that can be trained: every value is checked once.

Single values are checked by `runner.checks`, and what they name is built by `runner.building`; here they are put
together, and what does not go together is refused. This file, `runner.checks` and `runner.cli` with its sweeper are the
only ones that know Hydra's and OmegaConf's types.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from omegaconf import DictConfig

from runner import building, checks, trackers
from runner.data.base import Data, Splitter
from runner.engine.compilation import compiler
from runner.engine.optimizers import Optimizer
from runner.engine.products import exact
from runner.engine.rehearsal import rehearse, unmappable
from runner.engine.robustness import Attack
from runner.engine.schedules import Constant, Cosine, Cyclic, Step
from runner.engine.workers import forks
from runner.errors import Refusal, unknown
from runner.experiment import Asked, Budget, Experiment
from runner.grid import Run, along, crossed
from runner.job import Job, Protocol
from runner.keys import Key
from runner.labels import flatten, option, stack_in_a_word
from runner.methods.base import ranges
from runner.methods.stack import Stack
from runner.overrides import key_of
from runner.search import Space, drawn

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "auto": None}
MARGINS = ("acc", "gap", "loss")
MOST_RUNS = 1_000_000  # of a job: they are listed before the first one trains
PROTOCOLS = ("fixed", "tuned", "search", "smoke")
SAMPLERS = ("random", "tpe")  # of a search
TOP = (
    "study", "seeds", "extend", "seed0", "epochs", "batch_size", "device", "deterministic", "dtype", "evaluate",
    "penalize_biases", "margins", "lanes", "lanes_per_job", "share", "threads", "workers", "compile", "onednn",
    "checkpoint", "progress", "out", "allow", "axes", "data", "model", "optimizer", "schedule", "method", "protocol",
    "marks", "tracker",
)  # fmt: skip
# What changes no number of a run that is trained: it is no part of a job's identity. But compile=on and
# onednn=on are, and so is deterministic=true on a GPU.
OUTSIDE = (
    "study", "seeds", "extend", "margins", "lanes", "lanes_per_job", "share", "threads", "workers", "compile", "onednn",
    "checkpoint", "progress", "out", "allow", "axes", "marks", "tracker", "deterministic",
)  # fmt: skip


def read(cfg: DictConfig, overrides: Sequence[str] = ()) -> Job:
    """The job that a composed configuration describes; refuses anything that cannot be trained.

    `overrides` is the command line, which alone may name packages of the user's own.
    """
    values = _complete(checks.plain(cfg))
    checks.once(overrides)
    trusted = _trusted(values["allow"], overrides)
    protocol = _protocol(values["protocol"])
    device = _device(values["device"])
    seed0 = checks.whole("seed0", values["seed0"], 0)
    seeds = checks.whole("seeds", values["seeds"], 1)
    evaluate = checks.section(values, "evaluate")
    predictions = checks.true_or_false("evaluate.predictions", evaluate.pop("predictions", None))  # changes no number
    budget = Budget(
        checks.whole("epochs", values["epochs"], 1),
        checks.whole("batch_size", values["batch_size"], 1),
        checks.whole("evaluate.every", evaluate.get("every"), 1),
    )
    asked = _asked(evaluate)
    data, splitter = _data(values, protocol, budget, asked, seed0, trusted)
    if not isinstance(values["dtype"], str) or values["dtype"] not in DTYPES:
        raise Refusal(f"dtype is {values['dtype']!r}; it must be one of {', '.join(DTYPES)} (dtype=...)")

    named = building.named_stacks(checks.section(values, "method"))
    stack, axes, grids = building.stack_of(values["method"], trusted)
    for name, method in stack.methods.items() if data.regression else ():
        if method.classes:
            raise Refusal(f"method.{name} is about classes; {data.name} is a regression, which has none (method=[...])")
    _typed(overrides, grids, axes, protocol)
    optimizer, shared = _optimizer(values, protocol, trusted)
    schedules = (Constant, Cosine, Cyclic, Step)
    schedule, _ = building.build("schedule", checks.section(values, "schedule"), schedules, trusted)
    points, space = _points(protocol, grids, axes, shared, stack, optimizer, seed0)
    lanes_per_job = _or_none("lanes_per_job", values, 1)
    if space and lanes_per_job is not None:
        raise Refusal(
            f"lanes_per_job is {lanes_per_job}; a search that asks for its points, a batch by the figures "
            "of the one before, cannot be split (lanes_per_job=null or protocol=search)"
        )
    if not splitter.sizes(data)[1] and (stack.ends_at_best or (protocol.tune_seeds and len(points) > 1)):
        who = "early_stopping" if stack.ends_at_best else "protocol=tuned"
        raise Refusal(f"data.val_size is 0; {who} needs validation data (data.val_size=... or another data=...)")

    model = building.model_of(checks.section(values, "model"), data, trusted)
    checks.true_or_false("penalize_biases", values["penalize_biases"])
    lanes = None if values["lanes"] == "auto" else checks.whole("lanes", values["lanes"], 1)
    experiment = Experiment(
        data, splitter, model, stack, optimizer, schedule, budget, device, DTYPES[values["dtype"]], lanes, asked,
        compiled=_compiled(values["compile"], device),
        onednn=_onednn(values["onednn"]),
        deterministic=checks.true_or_false("deterministic", values["deterministic"]),
    )  # fmt: skip
    extend, tune = _extension(values), protocol.tune_seeds
    most = len(points) * max(seeds + extend, tune)
    if most > MOST_RUNS:
        raise Refusal(
            f"seeds is {seeds} and there are {len(points)} settings of strengths; a job has at most {MOST_RUNS} runs, "
            f"and this one would have {most} (seeds=..., or shorter lists)"
        )
    # a study may give its jobs more seeds than they ask for (runner.extending)
    several = most > 1 or values["study"] is not None
    why = _rehearse(experiment if several else replace(experiment, lanes=1), points, seed0)
    return Job(
        settings=_identity(values, experiment, shared),
        study=checks.study_name(values["study"]),
        out=checks.folder(values["out"]),
        progress=checks.true_or_false("progress", values["progress"]),
        predictions=predictions and not data.regression,  # which are of classes
        lanes_per_job=lanes_per_job,
        share=_or_none("share", values, 0),
        threads=None if values["threads"] == "auto" else checks.whole("threads", values["threads"], 1),
        workers=_workers(values["workers"], device),
        keep_every=_keep_every(checks.section(values, "checkpoint")),
        trackers=trackers.known(values["tracker"]),
        dataset=checks.title("data", values["data"]),
        model=checks.title("model", values["model"]),
        setting=_setting(values),
        protocol=protocol,
        method=stack_in_a_word(list(stack.methods), named, _options(values, stack, {**grids, **axes})),
        margins=_margins(checks.section(values, "margins")),
        experiment=replace(experiment, lanes=1) if why else experiment,
        one_by_one=why,
        marks=_marks(values["marks"]),
        points=points[: protocol.batch] if space else points,
        space=space,
        seeds=range(seed0 + tune, seed0 + tune + seeds),
        tune_seeds=range(seed0, seed0 + tune),
        extend=extend,
    )


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """The settings, of which there must be all of TOP and no others."""
    for key in values:
        if key not in TOP:
            raise unknown("setting", key, TOP, "conf/config.yaml")
    for key in TOP:
        if key not in values and key != "method":
            raise Refusal(f"{key} is missing; conf/config.yaml has a value for it, so leave it as it is ({key}=...)")
    return values | {"method": values.get("method") or {}}  # method=none and method=[] are one job


def _trusted(allow: object, overrides: Sequence[str]) -> Sequence[str]:
    """The packages that may be named by `_target_`: the user's own only where the command line allows them."""
    packages = checks.names("allow", allow)
    on_command_line = any(key_of(override) == "allow" for override in overrides)
    return building.trusting(packages if on_command_line else ())


def _data(
    values: Mapping[str, Any], protocol: Protocol, budget: Budget, asked: Asked, seed0: int, trusted: Sequence[str]
) -> tuple[Data, Splitter]:
    """The examples, and how a seed draws its sets of them; refuses what is asked of them and cannot be had."""
    data, splitter = building.load_data(checks.section(values, "data"), seed0, trusted)
    # no seed that strengths are chosen on may train or validate on what another one tests on
    splitter = replace(splitter, one_test=protocol.tune_seeds > 0)
    if data.regression:
        _regression(values["data"], asked)
    n_train = splitter.sizes(data)[0]
    if budget.batch_size > n_train:
        raise Refusal(
            f"batch_size is {budget.batch_size}; it must be at most the {n_train} training examples "
            "(batch_size=... or data.train_size=...)"
        )
    return data, splitter


def _optimizer(
    values: Mapping[str, Any], protocol: Protocol, trusted: Sequence[str]
) -> tuple[Optimizer, Mapping[str, Sequence[float]]]:
    """The optimizer, and those of its numbers that are lists: given as such, or grids that every method tunes alike."""
    node = checks.section(values, "optimizer")
    numbers = {key: value for key, value in node.items() if key != "grid"}
    optimizer, given = building.build("optimizer", numbers, Optimizer, trusted)
    return optimizer, given | _shared(values["protocol"].get("tune"), protocol, node, optimizer, given)


def _points(
    protocol: Protocol,
    grids: Mapping[str, Sequence[float]],
    axes: Mapping[str, Sequence[float]],
    shared: Mapping[str, Sequence[float]],
    stack: Stack,
    optimizer: Optimizer,
    seed0: int,
) -> tuple[Sequence[Mapping[str, float]], Space | None]:
    """The settings of strengths that a job compares, and the space that it asks for others if it does.

    `grids` are the methods' own, `axes` the strengths and `shared` the optimizer's numbers that are lists; a list on
    the command line takes the place of a method's own grid.
    """
    strengths = {**grids, **axes}
    if protocol.trials:
        searched = {**strengths, **shared}
        if not searched:
            return [{}], None
        space = _space(searched, stack, optimizer, protocol)
        return drawn(space, protocol.trials, Key.of(seed0).fold("search")), space if protocol.batch else None
    if protocol.tune_seeds:
        return [own | point for own in _tuned_points(strengths) for point in _crossed(shared)], None
    return _crossed({**axes, **shared}), None


def _identity(
    values: Mapping[str, Any], experiment: Experiment, shared: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """The settings on which a job's numbers depend, and no others: they make its name."""
    left = {"smoke", *(["task"] if not experiment.data.regression else [])}  # a classification is what no task was
    settings = {key: value for key, value in values.items() if key not in OUTSIDE} | {
        "device": experiment.device.type,
        "data": {key: value for key, value in values["data"].items() if key not in left},
        # the grid that is walked, wherever it was written, and no other
        "optimizer": {k: shared.get(f"optimizer.{k}", v) for k, v in values["optimizer"].items() if k != "grid"},
        "protocol": {k: v for k, v in values["protocol"].items() if k != "tune"},
    }
    if experiment.compiled:
        settings["compile"] = "on"  # it changes rounding
    if experiment.onednn:
        settings["onednn"] = "on"  # likewise
    if experiment.deterministic and experiment.device.type != "cpu":
        settings["deterministic"] = True  # likewise
    if experiment.data.content:
        settings["data"]["content"] = experiment.data.content  # of files of the user's, which may change in place
    return settings


def _or_none(key: str, values: Mapping[str, Any], least: int) -> int | None:
    """A whole number, or null."""
    return None if values[key] is None else checks.whole(key, values[key], least)


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


def _setting(values: Mapping[str, Any]) -> str:
    """What the sweep varies beside methods."""
    flat = flatten({key: value for key, value in values.items() if key != "method"})
    return " ".join(f"{axis}={flat[axis]}" for axis in sorted(checks.names("axes", values["axes"])) if axis in flat)


def _options(values: Mapping[str, Any], stack: Stack, lists: Collection[str]) -> dict[str, list[str]]:
    """What the sweep varies of each method, but for the strengths that tables show anyway, `lists` among them.

    A baseline has none of it, so that it makes rows of one comparison, and no comparisons of their own.
    """
    found: dict[str, list[str]] = {}
    for axis in sorted(checks.names("axes", values["axes"])):
        _, name, field = (*axis.split(".", 2), "", "")[:3]
        method, value = stack.methods.get(name), values["method"].get(name, {}).get(field)
        if method is None or f"{name}.{field}" in lists or value is None or field == next(iter(ranges(method)), None):
            continue
        told = option(name, field, value)
        if not re.fullmatch(r"[\w.=-]{1,100}", told, re.ASCII):
            raise Refusal(
                f"{axis} is {value!r}; what a sweep varies of a method names it in tables and folders, so it must be "
                f"of letters, digits and _ . - (a study for each value: study=... {axis}=...)"
            )
        found.setdefault(name, []).append(told)
    return found


def _typed(overrides: Sequence[str], grids: Collection[str], axes: Collection[str], protocol: Protocol) -> None:
    """Refuse a single number for a strength that the protocol takes from a grid: it would not be used."""
    if not (protocol.tune_seeds or protocol.trials):
        return
    written = {key_of(override): override.partition("=")[2] for override in overrides}
    for path in grids:
        if path not in axes and f"method.{path}" in written:
            value = written[f"method.{path}"]
            raise Refusal(
                f"method.{path} is {value}; protocol={protocol.name} takes it from a grid (method.{path}=[{value}], or "
                "protocol=fixed)"
            )


def _extension(values: Mapping[str, Any]) -> int:
    """How many report seeds are to be added; refuses an extension of a study that has no name."""
    more = checks.whole("extend", values["extend"], 0)
    if more and values["study"] is None:
        raise Refusal(f"extend is +{more} and study is null; name the study that gets more seeds (study=...)")
    return more


def _keep_every(node: dict[str, Any]) -> float | None:
    for key in node:
        if key != "minutes":
            raise unknown("setting of checkpoint", key, ["minutes"], "conf/config.yaml")
    minutes = node.get("minutes")
    if minutes is None:
        return None
    if checks.number("checkpoint.minutes", minutes, "checkpoint.minutes=...") <= 0:
        raise Refusal(f"checkpoint.minutes is {minutes:g}; it must be above 0, or null (checkpoint.minutes=...)")
    return 60 * float(minutes)


def _workers(value: object, device: torch.device) -> int | None:
    """The processes that share a job's runs; None: as many as they are worth."""
    if value == "auto":
        return None
    workers = checks.whole("workers", value, 1)
    if workers > 1 and device.type != "cpu":
        raise Refusal(
            f"workers is {workers}; on {device.type} one process trains all runs of a job, so it must be 1 "
            "(workers=auto or device=cpu)"
        )
    if workers > 1 and not forks():
        raise Refusal(
            f"workers is {workers}; where torch sees a GPU one process trains all runs of a job, on the CPU too, so it "
            "must be 1 (workers=auto, or CUDA_VISIBLE_DEVICES= before the command, which hides the GPU)"
        )
    return workers


def _compiled(value: object, device: torch.device) -> bool | None:
    """Whether torch's compiler is to make the steps; None: where `runner.engine.packing` finds that it repays."""
    wanted = _on_or_off("compile", value)
    if wanted and device.type == "cpu" and compiler() is None:
        raise Refusal("compile is 'on'; torch needs a C++ compiler for that, and none is found (CXX or compile=auto)")
    return wanted


def _onednn(value: object) -> bool | None:
    """Whether oneDNN is to make float32 products; None: where `runner.engine.packing` finds that it is faster."""
    wanted = _on_or_off("onednn", value)
    if wanted and not exact():
        raise Refusal("onednn is 'on'; on this processor oneDNN rounds to bfloat16 (onednn=auto or dtype=bfloat16)")
    return wanted


def _on_or_off(key: str, value: object) -> bool | None:
    """Whether something is asked for; None: where a measurement finds that it is faster."""
    if value not in ("auto", "on", "off"):
        raise Refusal(f"{key} is {value!r}; it must be auto, on or off ({key}=...)")
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
    tune = checks.whole("protocol.tune_seeds", node.get("tune_seeds"), 1 if tunes else 0)
    trials = checks.whole("protocol.trials", node.get("trials"), 2) if searches else 0
    if trials > MOST_RUNS:
        raise Refusal(f"protocol.trials is {trials}; a job has at most {MOST_RUNS} runs (protocol.trials=...)")
    batch = _batch(node) if searches else 0
    alternatives = node.get("alternatives") if searches else []
    if not isinstance(alternatives, list):
        raise Refusal(
            f"protocol.alternatives is {alternatives!r}; it must be a list of lists of methods (conf/protocol)"
        )
    groups = [checks.names("protocol.alternatives", group) for group in alternatives]
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
    return checks.whole("protocol.batch", node.get("batch"), 2)


def _asked(evaluate: dict[str, Any]) -> Asked:
    """What is to be measured at the end of a run; what is not asked for leaves the settings, and so the job's name."""
    corruptions, adversarial, measures = (
        checks.true_or_false(f"evaluate.{name}", evaluate.get(name, False))
        for name in ("corruptions", "adversarial", "measures")
    )
    attack = None
    if adversarial:
        epsilon = checks.number("evaluate.epsilon", evaluate.get("epsilon"), "evaluate.epsilon=...")
        if epsilon <= 0:
            raise Refusal(f"evaluate.epsilon is {epsilon:g}; it must be above 0 (evaluate.epsilon=...)")
        attack = Attack(epsilon, checks.whole("evaluate.attack_steps", evaluate.get("attack_steps"), 1))
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
    margins = {key: checks.number(f"margins.{key}", node.get(key), f"margins.{key}=...") for key in MARGINS}
    for key, value in margins.items():
        if value <= 0:
            raise Refusal(f"margins.{key} is {value:g}; it must be above 0 (margins.{key}=...)")
    return margins


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


def _tuned_points(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """The K points that are tuned: all strengths of a stack from weakest to strongest together."""
    most = max(map(len, axes.values()), default=1)
    axes = {path: [*values] * most if len(values) == 1 else values for path, values in axes.items()}  # one is held
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
    names, allowed, found = checks.names("protocol.tune", names), ranges(optimizer), {}
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
            found[name] = checks.numbers(f"optimizer.grid.{field}", grid[field], allowed[field])
    return found


def _space(axes: Mapping[str, Sequence[float]], stack: Stack, optimizer: Optimizer, protocol: Protocol) -> Space:
    """What a search chooses from."""
    allowed = {f"{name}.{field}": r for name, method in stack.methods.items() for field, r in ranges(method).items()}
    allowed |= {f"optimizer.{field}": r for field, r in ranges(optimizer).items()}
    excludes = [(one, other) for one, other, _ in stack.conflicts()]
    return Space(axes, allowed, protocol.alternatives, protocol.requires, excludes)
