"""The wheel holds what it must, and works from any folder without the checkout."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(*command: object, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_is_whole_and_works_elsewhere(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("regrun-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"runner", "hydra_plugins", "regrun"}
    packed = {name for name in names if name.startswith("runner/conf/")}
    assert packed == {f"runner/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "runner").rglob("*.py") if "_plugins" not in path.parts}
    data = {"runner/py.typed", "runner/report/report.html.jinja"}
    assert {name for name in names if name.startswith("runner/")} - packed == modules | data
    plugins = ROOT / "runner" / "_plugins"
    assert {name for name in names if name.startswith("hydra_plugins/")} == {
        str(path.relative_to(plugins)) for path in plugins.rglob("*.py")
    }

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    _run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel,
        cwd=tmp_path,
    )  # fmt: skip
    # The packages that regrun needs, as installed here; a path in a .pth file does not run the .pth files in it, so the
    # editable regrun of this environment stays out.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = _run(
        python,
        "-c",
        "import runner, hydra_plugins.regrun_sweeper as s; print(runner.__file__, s.__file__)",
        cwd=elsewhere,
    )
    assert all(Path(path).is_relative_to(site) for path in where.split())
    told = _run(
        tmp_path / "env" / "bin" / "regrun", "method=l2,none", "-m", "protocol=smoke", "study=first", cwd=elsewhere
    )  # fmt: skip
    assert "gap_vs_test" in told
    assert (elsewhere / "outputs" / "first" / "report" / "headline.csv").is_file()
    with (elsewhere / "outputs" / "first" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["status"]) for row in rows] == [
        (method, seed, "ok") for method in ("l2", "none") for seed in ("0", "1")
    ]
    assert {path.name for path in elsewhere.iterdir()} == {"outputs"}
