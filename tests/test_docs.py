"""The pages that are written by programs are up to date, and what the documents name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from runner.nets.sites import Slot, visits
from runner.paths import conf_dir, options

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_methods_is_up_to_date() -> None:
    told = subprocess.run(
        [sys.executable, ROOT / "scripts" / "methods_table.py", "--check"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:conf|runner|scripts|tests|docs)/[\w./]+\.(?:py|md|yaml))`", text):
        invented = "gradient_centralization" in name  # CONTRIBUTING's example of a new method
        assert invented or (ROOT / name).exists(), f"{page.name} names {name}"


MODEL_ROWS = re.findall(
    r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \((\w+)\) \| (\d+) \| (\d+) \| (\d+) \|",
    (ROOT / "docs" / "models.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
SHAPES = {"image": (3, 32, 32), "signal": (1, 40), "table": (20,)}


def test_the_table_of_models_has_them_all() -> None:
    assert sorted(row[0] for row in MODEL_ROWS) == options("model")


@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: row[0])
def test_the_table_of_models_is_true(row: tuple[str, ...]) -> None:
    name, parameters, kind, *counts = row
    if name == "timm":
        pytest.importorskip("timm")
    settings = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml"), resolve=True)
    assert isinstance(settings, dict)
    module, _, function = str(settings["_target_"]).rpartition(".")
    rest = {str(key): value for key, value in settings.items() if key not in ("name", "_target_")}
    net = getattr(import_module(module), function)(shape=SHAPES[kind], classes=10, **rest)
    assert f"{sum(w.numel() for w in net.parameters()):,}" == parameters
    kinds = visits(net.eval(), torch.zeros(1, *SHAPES[kind]))
    slots = sum(isinstance(m, Slot) for m in net.modules())
    assert [kinds.count("hidden"), kinds.count("branch"), slots] == [int(count) for count in counts]
    assert kinds.count("input") == 1
