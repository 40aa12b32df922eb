"""Torn files, full disks, two at once, processes that die: what can go on goes on, and nothing is lost or doubled."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from conftest import Regrun, Told
from test_study import SMALL, figures, job_of, rows_of

from runner import records
from runner.files import claimed, held, read_csv, write_atomic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "stress"))
from kill import command, stress

STUDY = Path("outputs") / "first"


@pytest.mark.slow
def test_a_study_that_is_killed_at_random_moments_is_the_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stress(tmp_path, command(["ema"], 4, 60), kills=4, seed=int(os.environ.get("KILL_SEED", "0"))) == ""
    assert "\nkilled 4 times in " in capsys.readouterr().out  # whatever ended before its moment


def test_a_table_torn_at_any_byte_of_its_last_line_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": 'a "quoted",\nbroken line'}, {"a": 3, "b": 'another "one",\nlike it'}]
    records.write_table(path, ("a", "b"), rows)
    raw = path.read_bytes()
    whole = read_csv(path, pytest.fail)[1]
    assert [row["a"] for row in whole] == ["1", "2", "3"]
    last = raw.index(b"3,")
    for end in range(last, len(raw)):
        path.write_bytes(raw[:end])
        said: list[str] = []
        assert read_csv(path, said.append)[1] == whole[:2]
        assert len(said) == (end > last)  # cut off between two lines it is no different from a shorter table
        assert all("\n" not in line and "torn" in line for line in said)


def test_of_those_who_claim_a_folder_at_once_each_has_its_own(tmp_path: Path) -> None:
    together = Barrier(8)

    def claim(number: int) -> Path:
        together.wait()
        return claimed(tmp_path / "outputs" / "sweep")

    with ThreadPoolExecutor(8) as pool:
        got = {path.name for path in pool.map(claim, range(8))}
    assert got == {"sweep", *(f"sweep-{number}" for number in range(2, 9))}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == got


def test_what_has_ended_is_kept_but_for_a_torn_line(tmp_path: Path) -> None:
    for number in range(3):
        asked = {"measures": [{"margin": "0.5"}]}
        records.write_ended(tmp_path, records.Ended({"run_id": str(number)}, [{"epoch": "1"}], asked))
    path = tmp_path / "ended.jsonl"
    raw = path.read_bytes()
    whole = records.read_ended(tmp_path, pytest.fail)
    last = raw.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(raw)):
        path.write_bytes(raw[:end])
        said: list[str] = []
        assert records.read_ended(tmp_path, said.append) == whole[:2]
        assert len(said) == 1
        assert path.read_bytes() == raw[:last]  # what comes next begins a line of its own
    path.write_bytes(raw[:5] + b"\0\xff" + raw[7:])
    assert records.read_ended(tmp_path, said.append) == whole[1:]


@pytest.mark.parametrize("name", ["runs.csv", "curves.csv", "status.json"])
def test_a_study_with_a_torn_file_is_made_whole(regrun: Regrun, tmp_path: Path, name: str) -> None:
    command = ["method=l2", "seeds=3", *SMALL[:-1]]
    assert regrun(*command).code == 0
    whole, path = figures(rows_of(STUDY)), job_of(STUDY, "l2") / name
    curves = records.read_table(job_of(STUDY, "l2") / "curves.csv")
    for cut in (1, 7):
        path.write_bytes(path.read_bytes()[:-cut])
        told = regrun(*command)
        assert told.code == 0, told.err
        assert sum("torn" in line for line in told.err.splitlines()) == (name != "status.json")
        assert figures(rows_of(STUDY)) == whole
        assert sorted(map(str, records.read_table(job_of(STUDY, "l2") / "curves.csv"))) == sorted(map(str, curves))
        assert json.loads((job_of(STUDY, "l2") / "status.json").read_text())["state"] == "complete"


def test_a_torn_study_file_is_refused_and_kept(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun("method=l2", "seeds=1", *SMALL).code == 0
    path = STUDY / "study.json"
    torn = path.read_bytes()[:-3]
    path.write_bytes(torn)
    told = regrun("method=l2", "seeds=2", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "study.json is not readable" in told.err
    assert path.read_bytes() == torn


def test_a_disk_that_is_full_at_any_write_is_a_line_and_nothing_is_lost(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a study fails once; then the same command ends with what an undisturbed one has."""
    command = ["method=ema", "seeds=2", *SMALL]
    assert regrun(*command, "out=whole").code == 0
    whole, fsync, count = figures(rows_of(Path("whole") / "first")), os.fsync, 0

    def full(handle: int) -> None:
        nonlocal count
        count -= 1
        if count < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr("runner.files.os.fsync", full)
    for writes in range(40):
        count = writes
        told = regrun(*command, f"out=full{writes}")
        assert (told.code, told.err.count("\n")) in ((1, 1), (2, 1), (0, 0)), told.err
        assert "Traceback" not in told.err
        if told.code == 0:
            break
        assert "No space left" in told.err
        assert not list(tmp_path.rglob(".*.part"))
        count = 10**6
        again = regrun(*command, f"out=full{writes}")
        assert again.code == 0, again.err
        assert figures(rows_of(Path(f"full{writes}") / "first")) == whole
    assert 10 < writes < 39  # all of them have failed once


@pytest.mark.slow
def test_a_small_disk_is_a_line(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", place], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no file system can be mounted here")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli", "-m", "method=l2", "seeds=8", "workers=1", *SMALL, f"out={place}"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        for path in place.rglob("*.csv"):
            assert path.read_bytes().endswith(b"\n")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        told = subprocess.run(
            [sys.executable, "-m", "runner.cli", "method=l2", "seeds=8", "workers=1", *SMALL, f"out={place}"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode in (1, 2)
        assert told.stderr.count("\n") == 1, told.stderr
        assert "cannot be written to" in told.stderr
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_two_processes_on_one_study_train_each_run_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "runner.cli", *command(["l2"], 2, 40)]
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=250)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    rows = rows_of(tmp_path / "outputs" / "killed")
    assert len({row["run_id"] for row in rows}) == len(rows) == 4
    trained = sum("epoch 40/40" in line for text in said for line in text.splitlines())
    assert trained == 2  # each of the two jobs in one of the processes


def test_a_job_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    code = "import sys, time; from pathlib import Path; from runner.files import held\n"
    code += "with held(Path('job'), '', print): print('has it', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        signal.signal(signal.SIGALRM, lambda number, frame: other.kill())
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        clock = time.monotonic()
        with held(tmp_path / "job", "waits", said.append):
            assert time.monotonic() - clock > 0.25
    assert said == ["waits"]  # and a process that was killed leaves no lock


OWN = """
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from runner.methods.base import Method, strength


@dataclass(frozen=True)
class Breaking(Method):
    rate: float = strength(0, off=0)

    def penalty(self, seen, now):
        if now.step >= 4 and Path("broken").exists():
            {fault}
        return 0.0
"""
FAULTS = {
    "epoch": ('raise ArithmeticError("no more")', "ArithmeticError: no more"),
    "memory": ('raise torch.OutOfMemoryError("no more")', "OutOfMemoryError: no more"),
    "exit": ("os._exit(9)", "its process died"),
}


@pytest.mark.parametrize("fault", ["epoch", "memory", pytest.param("exit", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("undrawn")
def test_what_breaks_in_training_stops_no_other_job(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A method that raises in its third epoch, one that needs too much memory, and one that ends its process."""
    does, said = FAULTS[fault]
    package = f"own_{fault}"  # a module of a name is imported once
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(OWN.replace("{fault}", does))
    (tmp_path / "mine" / "method").mkdir(parents=True)
    yaml = f"# Fails on purpose.\nbreaking:\n  _target_: {package}.Breaking\n  rate: 1.0\n"
    (tmp_path / "mine" / "method" / "breaking.yaml").write_text(yaml)
    (tmp_path / "broken").touch()
    monkeypatch.syspath_prepend(tmp_path)
    small = [argument for argument in SMALL if not argument.startswith("epochs")]
    own = ["--config-dir", "mine", f"allow=[{package}]"]
    arguments = ["-m", "method=breaking,l2", "seeds=2", "epochs=4", *own, *small]
    if fault == "exit":
        pool = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli", *arguments, *pool],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=env,
        )  # fmt: skip
        told = Told(done.returncode, done.stdout, done.stderr)
    else:
        told = regrun(*arguments)
    assert told.code == 1, told.err
    assert "Traceback" not in told.err
    assert f"regrun: 1 of 3 jobs failed; see {STUDY}" in told.err
    assert said in json.loads((job_of(STUDY, "breaking") / "status.json").read_text())["error"]
    assert said in (STUDY / "report" / "headline.md").read_text()
    assert {row["method"] for row in rows_of(STUDY)} == {"none", "l2"}
    before = {path: path.read_bytes() for path in STUDY.glob("[ln]*/runs.csv")}
    (tmp_path / "broken").unlink()
    again = regrun(*arguments)
    assert again.code == 0, again.err
    assert len(rows_of(STUDY, "breaking")) == 2
    assert before == {path: path.read_bytes() for path in before}  # just that was run again


@pytest.mark.usefixtures("undrawn")
def test_a_file_of_data_that_vanishes_fails_its_jobs(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import study

    lines = "\n".join(f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(80))
    (tmp_path / "my.csv").write_text(f"u,v,y\n{lines}\n")
    run_job = study.run_job

    def then_gone(*arguments: object) -> object:
        done = run_job(*arguments)  # type: ignore[arg-type]
        (tmp_path / "my.csv").unlink(missing_ok=True)
        return done

    monkeypatch.setattr(study, "run_job", then_gone)
    data = ["data=table", "data.path=my.csv", "data.target=y", "batch_size=10", "epochs=2", "model.width=4"]
    told = regrun("-m", "method=l2", "seeds=2", *data, "study=first", "progress=false")
    assert told.code == 1, told.err
    assert "my.csv" in json.loads((job_of(STUDY, "l2") / "status.json").read_text())["error"]
    assert {row["method"] for row in rows_of(STUDY)} == {"none"}
    (tmp_path / "my.csv").write_text(f"u,v,y\n{lines}\n")
    monkeypatch.setattr(study, "run_job", run_job)
    assert regrun("-m", "method=l2", "seeds=2", *data, "study=first", "progress=false").code == 0
    assert {row["method"] for row in rows_of(STUDY)} == {"none", "l2"}


def test_a_clock_that_is_set_back_changes_nothing(
    regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert regrun("method=l2", "seeds=3", *SMALL, "out=whole").code == 0
    assert regrun("method=l2", "seeds=2", *SMALL).code == 0
    for path in STUDY.rglob("*"):
        os.utime(path, (4e9, 4e9))
    monkeypatch.setattr(records, "now", lambda: "1970-01-01T00:00:00+00:00")
    assert regrun("method=l2", "seeds=3", *SMALL).code == 0
    assert figures(rows_of(STUDY)) == figures(rows_of(Path("whole") / "first"))


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="irectory"):
        write_atomic(tmp_path, "a folder cannot be replaced")
    assert list(tmp_path.parent.glob(".*.part")) == []
