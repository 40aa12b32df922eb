"""Studies on Slurm and Ray, begun for real on this machine: the same records as in one process, whatever dies.

`make test-cluster` installs what they need, on Debian as root, and runs them; elsewhere they are skipped: Slurm needs
root, Debian's slurmctld, slurmd, slurm-client and munge, and hydra-submitit-launcher; Ray needs ray.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_study import figures, rows_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
INSTALLS = "make test-cluster, on Debian as root"
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "cluster"
LONG = 16_000  # epochs that take ten seconds or so
STUDY = [
    "-m", "method=l2", "method.l2.rate=[1e-3,1e-2]", "seeds=3", "data=digits", "data.train_size=100",
    "data.val_size=50", "data.test_size=200", "model.width=8", "model.depth=1", "batch_size=50", "evaluate.every=500",
    "study=first", "checkpoint.minutes=0.002",
]  # fmt: skip
SLURM = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=1", "lanes_per_job=3"]


def regrun(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """The command, begun in a folder."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "runner.cli", *arguments],
        cwd=folder, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float = 400) -> tuple[int, str]:
    """The exit code of a command and what it said on stderr."""
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"not done after {seconds} s: {process.communicate()}")
    return process.returncode, said


def until(what: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something is so."""
    clock = time.monotonic()
    while not what():
        assert time.monotonic() - clock < seconds, "it never came"
        time.sleep(0.1)


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob("outputs/first/*/**/checkpoint-*"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, dict[str, str]]]:
    """The records of the study in one process, by epochs."""
    done: dict[int, dict[str, dict[str, str]]] = {}

    def run(epochs: int) -> dict[str, dict[str, str]]:
        if epochs not in done:
            folder = tmp_path_factory.mktemp("alone")
            assert ended(regrun(folder, {}, *STUDY, f"epochs={epochs}"))[0] == 0
            done[epochs] = figures(rows_of(folder / "outputs" / "first"))
        return done[epochs]

    return run


@dataclass(frozen=True)
class Lab:
    """A Slurm of two nodes of one core each."""

    folder: Path
    env: dict[str, str]

    def do(self, what: str, *more: str) -> None:
        subprocess.run([SCRIPTS / "slurm.sh", what, self.folder, *more], check=True, env=os.environ | self.env)

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, check=True, env=os.environ | self.env, capture_output=True, text=True
        ).stdout.strip()

    def running(self, node: str) -> list[str]:
        """The jobs that run on a node."""
        return self.ask("squeue", "-h", "-t", "RUNNING", "-w", node, "-o", "%A").split()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    missing = [tool for tool in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(tool) is None]
    missing += ["hydra-submitit-launcher"] * (find_spec("hydra_plugins.hydra_submitit_launcher") is None)
    missing += ["root"] * (os.geteuid() != 0)
    if missing:
        pytest.skip(f"Slurm cannot be begun here without {', '.join(missing)} ({INSTALLS})")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([SCRIPTS / "slurm.sh", "start", folder], check=True)
        said = subprocess.run([SCRIPTS / "slurm.sh", "env", folder], check=True, capture_output=True, text=True).stdout
        found = re.search(r"SLURM_CONF=(\S+) PATH=([^:]+):", said)
        assert found is not None
        yield Lab(folder, {"SLURM_CONF": found[1], "PATH": f"{found[2]}:{os.environ['PATH']}"})
    finally:
        subprocess.run([SCRIPTS / "slurm.sh", "stop", folder], check=False)


def test_slurm_gives_the_records_of_one_process(
    slurm: Lab, tmp_path: Path, alone: Callable[[int], dict[str, dict[str, str]]]
) -> None:
    code, said = ended(regrun(tmp_path, slurm.env, *STUDY, *SLURM, "epochs=4", "lanes_per_job=2"))
    assert code == 0, said
    study = tmp_path / "outputs" / "first"
    assert figures(rows_of(study)) == alone(4)
    assert len(list((tmp_path / "outputs" / ".submitit").glob("[0-9]*_*"))) == 5  # 6 runs of l2 and 3 of none, by two
    assert not list(study.glob("*/share-*"))


def test_a_node_that_dies_is_made_up_for(
    slurm: Lab, tmp_path: Path, alone: Callable[[int], dict[str, dict[str, str]]]
) -> None:
    sweep = regrun(tmp_path, slurm.env, *STUDY, *SLURM, f"epochs={LONG}")
    until(lambda: slurm.running("n2") and len(checkpoints(tmp_path)) >= 4)
    slurm.do("kill", "n2")
    until(lambda: not slurm.running("n2"))
    assert sweep.poll() is None
    slurm.do("revive", "n2")
    code, said = ended(sweep)
    assert code == 0, said
    assert figures(rows_of(tmp_path / "outputs" / "first")) == alone(LONG)
    assert "goes on with 3 runs after" in logs(tmp_path)


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("outputs/.submitit/*/*.err"))


@pytest.mark.parametrize("how", ["preempted", "time"])
def test_a_job_that_must_give_way_goes_on_later(
    slurm: Lab, tmp_path: Path, alone: Callable[[int], dict[str, dict[str, str]]], how: str
) -> None:
    """Preempted by a partition of higher priority (SIGTERM), and asked by submitit's signal before the time is over."""
    sweep = regrun(tmp_path, slurm.env, *STUDY, *SLURM, f"epochs={LONG}")
    until(lambda: slurm.running("n1") and slurm.running("n2") and len(checkpoints(tmp_path)) >= 4)
    if how == "preempted":
        slurm.ask("sbatch", "-p", "urgent", "-N2", "-t1", "-o/dev/null", "--wrap", "sleep 2")
    else:
        for job in {*slurm.running("n1"), *slurm.running("n2")}:
            slurm.ask("scancel", "--signal=USR2", job)
    code, said = ended(sweep)
    assert code == 0, said
    assert figures(rows_of(tmp_path / "outputs" / "first")) == alone(LONG)
    assert logs(tmp_path).count("goes on with 3 runs after") >= 2


def holder(lock: Path) -> int:
    """The process that has a lock."""
    inode = str(lock.stat().st_ino)
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return next(int(line[4]) for line in lines if line[5].split(":")[2] == inode)


def test_a_job_that_is_killed_fails_alone(slurm: Lab, tmp_path: Path) -> None:
    """Killed as by a system that is out of memory; the sweep ends, says so, and the same command goes on."""
    sweep = regrun(tmp_path, slurm.env, *STUDY, *SLURM[:-1], f"epochs={LONG}")
    until(lambda: len(list(tmp_path.glob("outputs/first/l2-*/checkpoint-*"))) == 2)
    os.kill(holder(next(tmp_path.glob("outputs/first/l2-*")) / ".lock"), signal.SIGKILL)
    code, said = ended(sweep)
    assert code == 1, said
    assert "1 of 2 jobs failed" in said
    assert "Traceback" not in said
    assert {row["method"] for row in rows_of(tmp_path / "outputs" / "first")} == {"none"}
    assert "its process was lost: Slurm job" in (tmp_path / "outputs/first/report/headline.md").read_text()
    code, said = ended(regrun(tmp_path, {}, *STUDY, f"epochs={LONG}"))
    assert code == 0, said
    assert "goes on with 6 runs after" in said


def test_what_slurm_does_not_take_is_a_line(slurm: Lab, tmp_path: Path) -> None:
    code, said = ended(regrun(tmp_path, slurm.env, *STUDY, *SLURM, "epochs=2", "hydra.launcher.partition=nosuch"))
    assert code == 1
    assert said.splitlines()[-1].startswith("regrun: Slurm did not take the jobs: ")
    assert "Traceback" not in said


def ray(lab: Path, what: str) -> None:
    subprocess.run([SCRIPTS / "ray.sh", what, lab], check=True, env=os.environ | {"PYTHON": sys.executable})


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray of two nodes of one core each."""
    if find_spec("ray") is None:
        pytest.skip(f"ray is not installed ({INSTALLS})")
    lab = tmp_path_factory.mktemp("ray")
    try:
        ray(lab, "start")
        yield lab
    finally:
        ray(lab, "stop")


def test_a_node_of_ray_that_dies_is_made_up_for(
    two_nodes: Path, tmp_path: Path, alone: Callable[[int], dict[str, dict[str, str]]]
) -> None:
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(two_nodes / "token")}
    more: Sequence[str] = ["hydra/launcher=ray_cluster", "hydra.launcher.address='127.0.0.1:6399'", "lanes_per_job=3"]
    sweep = regrun(tmp_path, env, *STUDY, *more, f"epochs={LONG}")
    until(lambda: len(checkpoints(tmp_path)) >= 4)
    ray(two_nodes, "kill2")
    code, said = ended(sweep)
    assert code == 0, said
    assert figures(rows_of(tmp_path / "outputs" / "first")) == alone(LONG)
