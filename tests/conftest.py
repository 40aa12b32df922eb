"""What the tests of the command share: `regrun`, called in this process, in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from runner.cli import main


@dataclass(frozen=True)
class Told:
    """How a command ended and what it said."""

    code: object
    out: str
    err: str


Regrun = Callable[..., Told]
THREADS = torch.get_num_threads()  # that the tests begin with


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A cache folder of the session's own, so that no test finds, or leaves, anything in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_runtest_setup() -> None:
    """A job sets the threads of its process; on several, sums are split otherwise in wide packs than in narrow ones."""
    torch.set_num_threads(THREADS)


@pytest.fixture
def regrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Regrun:
    """The command, in `tmp_path`: `regrun("method=l2", "seeds=2")`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGRUN_MAIN", "")  # so that what `main` sets is undone
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def call(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["regrun", *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return Told(code, said.out, said.err)

    return call


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step calls every hook: for spies, which are not pure."""
    monkeypatch.setattr("runner.engine.loop.Taped", lambda step: step)
