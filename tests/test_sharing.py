"""A method's runs split over several jobs, and each job of a parallel launcher with a device of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from types import FrameType

import pytest
from conftest import Regrun
from test_checkpoint import small
from test_study import SMALL, figures, job_of, predictions_of, rows_of

from runner import devices, study
from runner.engine.checkpoint import Checkpoints, Stopped
from runner.engine.loop import train
from runner.engine.workers import cores
from runner.files import held, held_within
from runner.grid import Run
from runner.methods.stack import Stack

STUDY = Path("outputs") / "first"
TUNED = ["-m", "method=l2", "protocol=tuned", "protocol.tune_seeds=2", "method.l2.rate=[1e-3,1.0]", "seeds=3", *SMALL]


@pytest.mark.usefixtures("unreported")
def test_a_split_job_leaves_what_a_whole_one_leaves(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun(*TUNED, "out=whole").code == 0
    told = regrun(*TUNED, "lanes_per_job=2", "progress=true")
    assert told.code == 0, told.err
    assert figures(rows_of(STUDY)) == figures(rows_of(Path("whole") / "first"))
    for name in ("l2", "none"):
        mine, whole = job_of(STUDY, name), job_of(Path("whole") / "first", name)
        assert mine.name == whole.name
        assert (mine / "curves.csv").read_text() == (whole / "curves.csv").read_text()
        left = {path.name for path in mine.iterdir()}
        assert left == {path.name for path in whole.iterdir()}
        assert json.loads((mine / "status.json").read_text())["state"] == "complete"
    assert predictions_of(STUDY).keys() == predictions_of(Path("whole") / "first").keys()
    # l2 tunes 2 strengths on 2 seeds and reports 3 seeds, none reports 3: by two
    assert sum("epoch 2/2" in line for line in told.err.splitlines()) == 2 + 2 + 2
    again = regrun(*TUNED, "progress=true")
    assert again.code == 0
    assert again.err.count("complete, nothing to run") == 2


@pytest.mark.usefixtures("undrawn")
def test_a_share_that_breaks_loses_nothing_of_the_others(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert regrun(*TUNED, "out=whole").code == 0
    trained = study._trained

    def breaks(*arguments: object) -> Iterator[object]:
        if arguments[2].name == "share-1" and "l2" in arguments[0].name:  # type: ignore[attr-defined]
            raise MemoryError("no more")
        return trained(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "_trained", breaks)
    told = regrun(*TUNED, "lanes_per_job=2")
    assert told.code == 1
    assert "regrun: 1 of 2 jobs failed" in told.err
    assert not (job_of(STUDY, "l2") / "runs.csv").exists()
    assert json.loads((job_of(STUDY, "l2") / "status.json").read_text())["state"] == "failed"
    monkeypatch.setattr(study, "_trained", trained)
    again = regrun(*TUNED, "progress=true")  # whole: what a share has trained is taken over
    assert again.code == 0, again.err
    assert figures(rows_of(STUDY)) == figures(rows_of(Path("whole") / "first"))
    assert not list(STUDY.glob("*/share-*"))
    shares = [line for line in again.err.splitlines() if "runs ended" in line and line.startswith("l2")]
    assert shares[0].endswith("2 runs ended, 0 running")  # of four


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("times", [1, 9])
def test_a_share_that_breaks_while_tuning_is_made_up_for_or_told_of(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once: the rounds after it train its runs and one more those of the later stage. Each time: the job has failed."""
    assert regrun(*TUNED, "out=whole").code == 0
    trained, broken = study._trained, list[int]()

    def breaks(*arguments: object) -> Iterator[object]:
        if arguments[2].name == "share-1" and "l2" in arguments[0].name and len(broken) < times:  # type: ignore[attr-defined]
            broken.append(1)
            raise MemoryError("no more")
        return trained(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "_trained", breaks)
    told = regrun(*TUNED, "lanes_per_job=2")
    if times == 1:
        assert told.code == 0, told.err
        assert figures(rows_of(STUDY)) == figures(rows_of(Path("whole") / "first"))
    else:
        assert told.code == 1
        assert json.loads((job_of(STUDY, "l2") / "status.json").read_text())["state"] == "failed"
        assert len(broken) == 2  # once in each stage: what breaks each time is not tried on and on


def test_a_part_is_taken_while_nobody_has_the_whole_and_does_not_keep_it(tmp_path: Path) -> None:
    whole, part, other = tmp_path / "job", tmp_path / "job" / "share-0", tmp_path / "job" / "share-1"
    heard: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        begun, release = Event(), Event()

        def train(where: Path) -> None:
            with held_within(where, whole, f"waits for {where.name}", heard.append):
                begun.set()
                assert release.wait(60)

        with held(whole, "", heard.append):
            share = pool.submit(train, part)
            assert not begun.wait(0.3)
        assert begun.wait(60)
        assert heard == ["waits for share-0"]
        with held(whole, "the whole is not free", heard.append), ExitStack() as stack:
            stack.callback(release.set)  # or the wait for the part would have no end
        share.result(60)
        begun.clear()
        release.clear()
        share = pool.submit(train, part)
        assert begun.wait(60)
        with ThreadPoolExecutor(1) as more:  # the same share again waits without keeping the whole from another one
            twin = more.submit(lambda: held_within(part, whole, "waits for its twin", heard.append).__enter__())
            while "waits for its twin" not in heard:
                time.sleep(0.01)
            with held_within(other, whole, "waits for the whole", heard.append):
                pass
            release.set()
            share.result(60)
            twin.result(60)


def test_a_share_of_a_job_that_is_complete_leaves_no_folder(regrun: Regrun, tmp_path: Path) -> None:
    for share in (0, 1, 1):
        assert regrun("method=l2", "seeds=3", *SMALL, "lanes_per_job=2", f"share={share}").code == 0
    assert len(rows_of(STUDY)) == 3
    assert not list(STUDY.glob("*/share-*"))


def test_what_a_share_keeps_of_the_report_outlives_the_tables_of_tuning(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split job that was cut off in its second stage, gone on with as a whole."""
    tuned, trained, found = TUNED[1:], study._trained, list[tuple[int, bool]]()
    for share in (0, 1):
        assert regrun(*tuned, "lanes_per_job=2", f"share={share}").code == 0
    kept = job_of(STUDY, "l2") / "share-1" / "checkpoint-0-1"
    kept.touch()

    def looks(*arguments: object) -> Iterator[object]:
        found.append((len(arguments[4]), kept.exists()))  # type: ignore[arg-type]
        return trained(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "_trained", looks)
    assert regrun(*tuned).code == 0
    assert found == [(3, True)]  # the report's three seeds; those that tuned had ended
    assert not list(STUDY.glob("*/share-*"))


@pytest.mark.usefixtures("unreported")
def test_a_share_of_a_job_that_is_small_is_the_job(regrun: Regrun) -> None:
    assert regrun("-m", "method=l2", "seeds=2", *SMALL, "lanes_per_job=2").code == 0
    assert "share=" not in json.loads((job_of(STUDY, "l2") / "status.json").read_text())["command"]
    told = regrun("-m", "method=l2", *SMALL, "lanes_per_job=0")
    assert (told.code, told.err.count("\n")) == (2, 1)


def test_the_processes_of_a_pool_take_the_devices_in_turn(tmp_path: Path) -> None:
    """With the launcher `gpus`, real processes of joblib; the devices are names only."""
    code = """
import os, time
from joblib import Parallel, delayed
from runner.devices import devices, take_one
def seen():
    take_one()
    time.sleep(0.5)
    return os.environ["CUDA_VISIBLE_DEVICES"]
take_one()
assert devices() == ["3", "5"]
print(*sorted(set(Parallel(n_jobs=2)(delayed(seen)() for _ in range(6)))))
"""
    path = tmp_path / "pool.py"
    path.write_text(code)
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "3,5", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["3", "5"]


def test_devices_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(devices.VISIBLE, "")
    assert devices.devices() == []
    monkeypatch.delenv(devices.VISIBLE)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert devices.devices() == ["0", "1"]


def test_a_job_of_slurm_has_the_cores_that_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4096")
    assert cores() == there


@pytest.mark.parametrize(("name", "ends"), [("SIGTERM", False), ("SIGUSR2", True)])
def test_a_launcher_that_has_taken_a_signal_keeps_its_say(name: str, ends: bool, tmp_path: Path) -> None:
    """submitit only notes SIGTERM, after which the training must go on, and queues the job again after SIGUSR2."""
    number, told = getattr(signal, name), list[int]()

    def launcher(signal_number: int, frame: FrameType | None) -> None:
        told.append(signal_number)

    before = signal.signal(number, launcher)
    try:
        keeper = Checkpoints(tmp_path, {}, None, print)
        runs = [Run(seed, "report", {}, 0) for seed in range(2)]
        done = []
        with keeper.listening():
            os.kill(os.getpid(), number)
            if ends:
                with pytest.raises(Stopped, match=name):
                    list(train(small("image", Stack({})), runs, keeper=keeper))
            else:
                done = list(train(small("image", Stack({})), runs, keeper=keeper))
        assert len(done) == (0 if ends else 2)
        assert len(list(tmp_path.glob("checkpoint-*"))) == 1
        with pytest.raises(Stopped), keeper.listening():
            raise Stopped(number)  # as train raises it
        assert told == [number]
        assert signal.getsignal(number) is launcher
    finally:
        signal.signal(number, before)


def test_a_launcher_that_is_not_installed_is_a_line(regrun: Regrun, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        told = regrun("-m", "method=l2", *SMALL, "hydra/launcher=ray_cluster")
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert "pip install 'regrun[ray]'" in told.err
    if find_spec("submitit") is None:
        told = regrun("-m", "method=l2", *SMALL, "hydra/launcher=slurm")
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert "pip install 'regrun[slurm]'" in told.err


@pytest.mark.slow
def test_the_launchers_of_one_machine_give_the_records_of_one_process(tmp_path: Path) -> None:
    """All cores, and all devices: processes of joblib, in which a job is split, too."""
    found: list[dict[str, dict[str, str]]] = []
    for more in ([], ["hydra/launcher=cores", "lanes_per_job=2"], ["hydra/launcher=gpus"]):
        command = [sys.executable, "-m", "runner.cli", *TUNED, *more, f"out=out{len(found)}", "device=cpu"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(figures(rows_of(tmp_path / f"out{len(found)}" / "first")))
    assert found[0] == found[1] == found[2]
