"""Every file in conf/ is on the menu, composes, and builds what it describes."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import runner.methods
from runner.cli import GROUPS
from runner.config import read
from runner.errors import Refusal
from runner.job import Job
from runner.methods.base import Method, ranges
from runner.methods.gradients import Clipping
from runner.methods.stack import Stack
from runner.paths import conf_dir, options, stacked

FILES = [path.relative_to(conf_dir()) for path in sorted(conf_dir().rglob("*.yaml"))]
METHODS = [name for name in options("method") if name != "none" and stacked(name) == [name]]
IMAGE_MODELS = (
    "alexnet_small", "convnet", "inception_small", "resnet18_cifar", "resnet20", "timm", "torchvision", "vit_small",
    "wide_resnet",
)  # fmt: skip
# the data set that a model suits, where it is not the default one
DATA_OF = dict.fromkeys(IMAGE_MODELS, "digits")
DOWNLOADED = ("mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn", "stl10")
SMALL = ["protocol=smoke", "out=nowhere"]


def composed(*overrides: str) -> Job:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return read(compose("config", list(overrides)), overrides)


@cache
def fitting(name: str, *overrides: str) -> Job:
    """The job of one method, on the first model that suits it."""
    refused = []
    for model in ("mlp", "convnet", "resnet_mlp", *options("model")):
        try:
            return composed(f"method={name}", f"model={model}", "data=digits", *overrides)
        except Refusal as refusal:
            refused.append(str(refusal))
    raise AssertionError(refused)


@pytest.mark.parametrize("asked", ["false", "true"])
def test_one_setting_says_whether_biases_are_penalized(asked: str) -> None:
    which = [n for n in METHODS if "biases:" in (conf_dir() / "method" / f"{n}.yaml").read_text(encoding="utf-8")]
    assert len(which) == 9
    for name in which:
        method = composed(f"method={name}", f"penalize_biases={asked}", "model=mlp", *SMALL).experiment.stack
        assert str(vars(method.methods[name])["biases"]).lower() == asked, name
    optimizer = composed("optimizer=adamw", f"penalize_biases={asked}", *SMALL).experiment.optimizer
    assert str(vars(optimizer)["biases"]).lower() == asked


def test_every_file_is_in_a_group_that_the_command_knows() -> None:
    assert {path.parts[0] for path in FILES} == {*GROUPS, "hydra", "config.yaml"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    lines = (conf_dir() / path).read_text(encoding="utf-8").splitlines()
    told = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert told.startswith("# ")
    assert len(told) > 25


SMALLER_IS_STRONGER = (  # patience, limits, the share of a normalized value that is the net's own
    "agc", "batch_norm", "clip_norm", "clip_value", "early_stopping", "ghost_batch_norm", "layer_norm", "lookahead",
    "max_norm", "rms_norm", "spectral_norm", "swa", "weight_standardization",
)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_builds_and_has_a_grid_of_five(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{name}.yaml"))
    assert isinstance(node, dict)
    assert list(node) == [name]
    first = next(iter(ranges(fitting(name, *SMALL).experiment.stack.methods[name])))
    assert list(node[name]["grid"]) == [first]
    grid = node[name]["grid"][first]
    assert len(grid) == 5
    assert grid == sorted(grid, reverse=name in SMALLER_IS_STRONGER)  # from weakest to strongest
    off = ranges(fitting(name, *SMALL).experiment.stack.methods[name])[first].off
    if off is not None:  # the weakest is the nearest to doing nothing
        assert (grid[0] < grid[-1]) == (off <= grid[0])
    tuned = fitting(name, "protocol=tuned", "out=nowhere")
    assert [point[f"{name}.{first}"] for point in tuned.points] == grid
    # 5 strengths on 3 seeds, then one strength on 10 others
    assert (len(tuned.tuning()), len(tuned.reporting(2))) == (15, 10)
    assert not {run.seed for run in tuned.tuning()} & {run.seed for run in tuned.reporting(2)}


def test_every_method_class_is_on_the_menu_and_no_other() -> None:
    modules = [import_module(f"runner.methods.{found.name}") for found in pkgutil.iter_modules(runner.methods.__path__)]
    written = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Method) and cls not in (Method, Stack, Clipping)
    }
    offered = {type(fitting(name, *SMALL).experiment.stack.methods[name]) for name in METHODS}
    assert offered == written


@pytest.mark.parametrize("name", options("data"))
def test_a_data_set_loads_and_splits(name: str, tmp_path: Path) -> None:
    if name == "fashion_mnist" and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("no Fashion-MNIST on this machine")
    if name in DOWNLOADED:
        pytest.skip("not on this machine; tests/test_images.py reads files of its format")
    mine = user_data(name, tmp_path)
    job = composed(f"data={name}", "out=nowhere", *mine)
    data, splitter = job.experiment.data, job.experiment.splitter
    assert job.dataset == name
    split = splitter.split(data, 3)
    assert tuple(len(part) for part in split[:3]) == splitter.sizes(data)
    assert len(set(split.train.tolist()) | set(split.val.tolist()) | set(split.test.tolist())) == sum(
        splitter.sizes(data)
    )
    if data.official_test is not None:
        assert all(torch.equal(splitter.split(data, seed).test, data.official_test) for seed in (3, 4))
    composed(f"data={name}", "method=augment", "model=linear", *SMALL, *mine)


def user_data(name: str, folder: Path) -> list[str]:
    """The overrides that point a data set of the user's at a small one in `folder`."""
    if name == "table":
        rows = "".join(f"{i},{'uvw'[i % 3]},{i % 2}\n" for i in range(400))
        (folder / "my.csv").write_text("a,b,y\n" + rows)
        return [f"data.path={folder / 'my.csv'}", "data.target=y"]
    if name == "image_folder":
        for i in range(400):
            place = folder / "photos" / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i % 256, 0, 0)).save(place / f"{i:03}.png")
        return [f"data.path={folder / 'photos'}", "data.size=4", "data.test_size=0.2"]
    if name == "npz":
        x, y = np.arange(1200.0).reshape(400, 3), np.arange(400) % 3
        np.savez(folder / "my.npz", allow_pickle=False, x=x, y=y)
        return [f"data.path={folder / 'my.npz'}", "data.test_size=0.2"]
    return []


@pytest.mark.parametrize("name", options("model"))
def test_a_model_gives_one_logit_for_each_class(name: str) -> None:
    job = composed(f"model={name}", f"data={DATA_OF.get(name, 'mnist1d')}", *SMALL)
    assert job.model == {"timm": "timm_resnet18", "torchvision": "torchvision_resnet18"}.get(name, name)
    data = job.experiment.data
    assert job.experiment.model().eval()(data.x[:2].float()).shape == (2, data.classes)


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("optimizer", "schedule", "protocol") for name in options(group)]
)
def test_every_other_choice_builds(choice: str) -> None:
    if choice == "protocol=optuna":
        pytest.importorskip("optuna")
    job = composed("data=digits", choice, "out=nowhere")
    group, name = choice.split("=")
    said = job.protocol.name if group == "protocol" else type(getattr(job.experiment, group)).__name__.lower()
    assert said == {"optuna": "search"}.get(name, name)  # which is a search with a sampler


@pytest.mark.parametrize("name", options("experiment"))
def test_every_job_of_an_experiment_composes(name: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [f"experiment={name}"], return_hydra_config=True)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params or OmegaConf.create({}))
    assert isinstance(params, dict)
    for method in re.split(r",(?![^[]*\])", str(params.get("method", "none"))):  # no comma within brackets
        assert composed(f"experiment={name}", f"method={method}").study == name


def test_no_method_and_none_are_one_job() -> None:
    assert composed("method=none", *SMALL).name == composed("method=[]", *SMALL).name == composed(*SMALL).name


def test_a_job_is_named_by_what_its_numbers_depend_on() -> None:
    first = composed("method=l2", *SMALL)
    assert composed("method=l2", "seeds=9", "lanes=1", "study=x", *SMALL).name == first.name
    others = ["method.l2.rate=0.5", "epochs=3", "seed0=1", "data.train_size=100", "dtype=float64", "optimizer=sgd"]
    names = {composed("method=l2", *SMALL, other).name for other in others}
    assert len(names | {first.name}) == 1 + len(others)
    assert json.loads(json.dumps(dict(first.settings))) == first.settings  # what is written is what was read
