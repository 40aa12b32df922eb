"""What the tests of the command share: `regrun`, called in this process, in a folder of its own."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure

from runner.cli import main
from runner.report.build import unfinished_jobs


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


class Terminal(io.StringIO):
    """A terminal that keeps what it was told."""

    def isatty(self) -> bool:
        """It is one."""
        return True

    @property
    def shown(self) -> str:
        """What was written, without colours and moves of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Puts a terminal in place of stderr, once the test runs: before it does, pytest puts its own there."""

    def call() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("REGRUN_MAIN", str(os.getpid()))
        monkeypatch.setenv("COLUMNS", "500")  # a wide one
        return terminal

    return call


@pytest.fixture
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step calls every hook: for spies, which are not pure, and for trainings of a few steps."""
    monkeypatch.setattr("runner.engine.pack.Taped", lambda step: step)


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps make no report, which takes six seconds of their seven: for what looks at the records alone."""

    def failed(folder: Path, shown_in: object) -> int:
        return sum(failure.state == "failed" for failure in unfinished_jobs(folder))

    monkeypatch.setattr("runner.sweep.report", failed)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures, which take five of their six seconds: for what looks at tables or the page."""
    monkeypatch.setattr("runner.report.build._draw", lambda *found: iter(()))


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and laid out, where mistakes show, but empty sheets are written, which takes a third."""
    savefig = Figure.savefig

    def blank(figure: Figure, file: object, *, format: str, metadata: object) -> None:
        if format == "svg":  # once for the three
            figure.draw_without_rendering()
        savefig(Figure(figure.get_size_inches()), file, format=format, metadata=metadata)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(Figure, "savefig", blank)
