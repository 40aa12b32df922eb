"""Whatever is typed or read ends in a result or in one clear line: no traceback, no half-written study."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import Regrun, Told
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_bad_input import BOMB

from runner.cli import GROUPS
from runner.paths import options

MANY = int(os.environ.get("FUZZ_CASES", "300"))
BASE = [
    "data=digits", "data.train_size=20", "data.val_size=10", "data.test_size=20", "model.width=2", "model.depth=1",
    "epochs=1", "seeds=1", "batch_size=10", "workers=1", "progress=false", "study=fuzz",
]  # fmt: skip
KEYS = [
    "epochs", "batch_size", "seeds", "seed0", "dtype", "device", "lanes", "threads", "workers", "progress", "study",
    "allow", "axes", "marks", "margins", "margins.acc", "checkpoint", "checkpoint.minutes", "evaluate.every",
    "evaluate.predictions", "penalize_biases", "data.train_size", "data.val_size", "data.test_size", "data.label_noise",
    "data.imbalance", "data.resplit", "data.input_dim", "data.name", "data._target_", "model.width", "model.name",
    "model._target_", "optimizer.lr", "optimizer.beta1", "optimizer._target_", "schedule._target_", "method.l2.rate",
    "method.l2", "method.l2._target_", "method.l2.grid", "protocol.name", "protocol.tune_seeds", "hydra.run.dir",
    *GROUPS, *(f"+{group}.more" for group in GROUPS),
]  # fmt: skip
# Numbers between the largest here would be allowed, and be a long training or a large net.
NUMBERS = [
    "-1",
    "0",
    "1",
    "2",
    "7",
    "0.5",
    "-0.0",
    "1e-300",
    "1e400",
    str(2**31),
    "9" * 400,
    "0x1F",
    "1_0",
    "nan",
    "inf",
]
TEXTS = [
    "..", "../../up", "a/b", "/etc/passwd", "'a\nb'", "'\x1b[31m'", '"', "'", "\\", "<script>alert(1)</script>", "📈",
    "null", "true", "~", "???", "${epochs}", "${nowhere}", "${${", "${oc.env:HOME}", "${oc.create:{a:1}}", "a=b",
    "!!python", "\\input{x}", "$(touch x)", "`id`", "%s%n", "x" * 5000,
    "[" * 300 + "]" * 300, "{a:" * 60 + "1" + "}" * 60,
    "[1,2", "{a:1", "[[1],[2]]", "[1,1]", "[]", "{}", "[nan]", "[0.1,0.2]", "os.system", "runner.nets.dense",
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(NUMBERS + TEXTS + options("method") + options("data")[:3]),
    st.text(max_size=12).filter(lambda text: "," not in text),
    st.floats(allow_subnormal=False).map(str),
)
OVERRIDES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(KEYS), VALUES).map("=".join),
        st.text(min_size=1, max_size=12).filter(lambda text: not text.startswith("-") and "," not in text),
        st.sampled_from(["--nonsense", "--cfg", "~epochs", "~model", "+x=1", "++x=1", "-x", "--config-dir", "--"]),
    ),
    min_size=1,
    max_size=2,
)
CELLS = st.one_of(
    st.sampled_from(["", "1", "nan", "inf", "1e999", "?", '"', "a\0b", "<b>", "2020-01-01", "é"]), st.text(max_size=4)
)
TABLES = st.one_of(
    st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), max_size=30).map(
        lambda rows: "\n".join(["x,y", *rows]).encode("utf-8", "replace")
    ),
    st.integers(10, 60).map(lambda n: "\n".join(["x,y", *(f"{i % 3},{'ab'[i % 2]}" for i in range(n))]).encode()),
    st.binary(max_size=300),
)
YAML = st.one_of(
    st.text(max_size=60),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_subnormal=False), st.sampled_from(TEXTS)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(["l2", "_target_", "rate", "grid", "a/b"]), inner, max_size=3),
        ),
        max_leaves=8,
    ).map(lambda node: json.dumps({"evil": node})),
    st.sampled_from([
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nevil: *c\n",
        BOMB + "\nevil: *a8\n",
        "evil: &a\n  again: *a\n", "evil: !!python/object/apply:os.system [id]\n", "[" * 2000, "evil: " + "9" * 5000,
        "defaults: [evil]\n", "defaults: [../../config]\n", "evil: [1\n",
        "\0", "\ufeffevil: 1",
    ]),
)  # fmt: skip


def settled(regrun: Regrun, arguments: Sequence[str]) -> Told:
    """The command in a folder of its own: a result, or one line and nothing written."""
    here = Path(tempfile.mkdtemp(dir=Path.cwd()))
    before = Path.cwd()
    for name in ("my.csv", "mine"):
        if Path(name).exists():
            (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, here / name)
    os.chdir(here)
    try:
        told = regrun(*arguments)
        there = {str(path) for path in Path().rglob("*") if not str(path).startswith(("mine", "my.csv"))}
    finally:
        torch.set_flush_denormal(False)  # hypothesis counts on denormal numbers, which a training flushes
        os.chdir(before)
        shutil.rmtree(here)
    assert "Traceback" not in told.err, (arguments, told.err)
    assert "\x1b" not in told.err
    if told.code == 2:
        assert told.err.count("\n") == 1, (arguments, told.err)
        assert told.err.startswith("regrun: ")
        assert there == set(), arguments
    else:
        assert told.code in (0, 1), (arguments, told)
        assert all(path.startswith("outputs") for path in there), (arguments, there)
        for status in [path for path in there if path.endswith("status.json")]:
            assert len(Path(status).parts) == 4
    return told


def fuzzed(cases: int) -> settings:
    return settings(
        max_examples=cases, deadline=None, derandomize=cases < 100, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Denormal numbers while cases are drawn; flushed for the tests that follow, as a training leaves them."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(True)


def check_overrides(regrun: Regrun, cases: int) -> None:
    @fuzzed(cases)
    @given(OVERRIDES)
    def check(overrides: list[str]) -> None:
        settled(regrun, ["method=l2", *BASE, *overrides])

    check()


def check_tables(regrun: Regrun, cases: int) -> None:
    base = [argument for argument in BASE if not argument.startswith("data=")]

    @fuzzed(cases)
    @given(TABLES)
    def check(table: bytes) -> None:
        Path("my.csv").write_bytes(table)
        settled(regrun, ["data=table", "data.path=my.csv", "data.target=y", *base])

    check()


def check_files(regrun: Regrun, cases: int) -> None:
    @fuzzed(cases)
    @given(YAML, st.sampled_from(["method", "model", "data", "optimizer", "experiment"]))
    def check(text: str, group: str) -> None:
        shutil.rmtree("mine", ignore_errors=True)
        (Path("mine") / group).mkdir(parents=True)
        (Path("mine") / group / "evil.yaml").write_text(text, encoding="utf-8", errors="replace")
        settled(regrun, ["--config-dir", "mine", *BASE, f"{group}=evil"])

    check()


CHECKS = {"overrides": check_overrides, "tables": check_tables, "files": check_files}


@pytest.mark.parametrize("what", CHECKS)
def test_twenty_of_anything_end_in_a_result_or_a_line(regrun: Regrun, what: str) -> None:
    CHECKS[what](regrun, 20)


@pytest.mark.slow
@pytest.mark.timeout(7200)  # for thousands of cases
@pytest.mark.parametrize("what", CHECKS)
def test_many_of_anything_end_in_a_result_or_a_line(regrun: Regrun, what: str) -> None:
    CHECKS[what](regrun, MANY)
