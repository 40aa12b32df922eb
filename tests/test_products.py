"""Products by oneDNN: in float32 or not at all, the same whatever runs beside, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Regrun
from test_engine import experiment, same
from test_study import SMALL, job_of, rows_of
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from runner.engine import compilation, evaluate, packing, products
from runner.engine.calibration import null_draws, null_level
from runner.engine.loop import train
from runner.engine.packing import packed
from runner.engine.products import MATRICES, LargeByOneDNN, exact, is_on, large_by_onednn, onednn, through_onednn
from runner.engine.step import State
from runner.engine.tape import ONEDNN, Operations, Taped, written_down
from runner.experiment import Experiment
from runner.grid import Run
from runner.methods.base import Batch, Method
from runner.methods.dropping import Dropout
from runner.methods.flatness import SAM
from runner.methods.mixing import Mixup
from runner.methods.normalization import BatchNorm
from runner.methods.reparametrization import SpectralNorm
from runner.methods.stack import Stack
from runner.methods.weight_penalties import Orthogonal
from runner.nets.dense import mlp
from runner.report.cli import main

RUNS = [Run(seed, "report", {}, 0) for seed in range(5)]
METHODS: dict[str, Method] = {
    "none": Mixup(0.0), "dropout": Dropout(0.2, 0.1), "batch_norm": BatchNorm(1e-5), "mixup": Mixup(0.4),
    "sam": SAM(0.05), "spectral_norm": SpectralNorm(1.0, "equal"), "orthogonal": Orthogonal(1e-3),
}  # fmt: skip


class Seen(TorchDispatchMode):
    """Notes of every product whether oneDNN is asked for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on: list[bool] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.on += [is_on()] * (func in MATRICES)
        return func(*args, **(kwargs or {}))


def asked(one: Tensor, other: Tensor, mapped: bool, bias: Tensor | None = None) -> bool:
    """Whether oneDNN is asked for the product, or for it and what is added to it."""
    with Seen() as seen, LargeByOneDNN(mapped):
        one @ other if bias is None else torch.addmm(bias, one, other)
    (on,) = seen.on
    assert not is_on()
    return bool(on)


def test_it_is_asked_for_what_is_large_whatever_the_lanes() -> None:
    """A lane's part of 64 x 32 x 32 multiply-adds is just large enough; alone it is the whole that counts."""
    for lanes in (2, 3, 50):
        assert asked(torch.ones(lanes, 64, 32), torch.ones(lanes, 32, 32), mapped=True)
        assert not asked(torch.ones(lanes, 63, 32), torch.ones(lanes, 32, 32), mapped=True)
    assert asked(torch.ones(32, 64, 16), torch.ones(32, 16, 32), mapped=False)
    assert not asked(torch.ones(31, 64, 16), torch.ones(31, 16, 32), mapped=False)
    large = torch.ones(128, 128), torch.ones(128, 64)
    assert asked(*large, mapped=False)
    assert asked(*large, mapped=False, bias=torch.ones(64))
    assert not asked(large[0][:127], large[1], mapped=False)
    # of no lane, or of all of them: how large it is may depend on how many there are
    assert not asked(torch.ones(9, 4096), torch.ones(4096, 64), mapped=True)
    for dtype in (torch.float64, torch.bfloat16):
        assert not asked(large[0].to(dtype), large[1].to(dtype), mapped=False)


def test_the_setting_is_as_it_was_before_even_after_an_error() -> None:
    for before in ("none", "ieee"):
        torch.backends.mkldnn.matmul.fp32_precision = before  # type: ignore[attr-defined]
        try:
            with pytest.raises(RuntimeError), onednn():
                torch.ones(2, 3) @ torch.ones(2, 3)
            with pytest.raises(RuntimeError):
                through_onednn(torch.ops.aten.mm.default)(torch.ones(2, 3), torch.ones(2, 3))
            with onednn(False):
                assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
            assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = "none"  # type: ignore[attr-defined]


class Rounding(TorchDispatchMode):
    """Rounds what is multiplied to bfloat16 where it may be, as a processor with instructions for that does."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in MATRICES and is_on():
            args = tuple(x.bfloat16().float() for x in args)
        return func(*args, **(kwargs or {}))


def test_a_product_of_fewer_digits_is_found_out() -> None:
    with Rounding():  # type: ignore[no-untyped-call]  # torch's has no annotations
        assert not exact.__wrapped__()


@pytest.mark.parametrize(("mine", "theirs", "is_faster"), [(0.7, 1.0, True), (0.9, 1.0, False), (1.1, 1.0, False)])
def test_it_is_taken_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, mine: float, theirs: float, is_faster: bool
) -> None:
    monkeypatch.setattr(products, "_seconds", lambda one, other: mine if is_on() else theirs)
    assert products.faster() is is_faster


def wide(stack: Stack) -> Experiment:
    """With hidden layers whose products are large, an output whose are not, and odd sizes all around."""
    few = replace(experiment(stack, epochs=2), model=lambda: mlp((2, 8), 4, width=67, depth=2), lanes=None)
    return replace(few, onednn=True)


@pytest.mark.skipif(not exact(), reason="oneDNN rounds here")
@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_the_same_beside_any_others(name: str) -> None:
    """Beside none, one, four, and others in another order: bit for bit, a method's own products among them."""
    trained = wide(Stack({name: METHODS[name]}))
    large = 20 * 67 * 67
    assert large >= products.LEAST_MAPPED > 20 * 67 * 4
    packs = (RUNS[:1], RUNS[:2], RUNS, [RUNS[3], RUNS[1], RUNS[2]])
    one, two, five, other = (list(train(trained, runs)) for runs in packs)
    assert same(one[0], two[0])
    assert all(map(same, two, five[:2]))
    assert same(other[1], five[1])
    assert not same(two[0], two[1])


@pytest.mark.skipif(not exact(), reason="oneDNN rounds here")
@pytest.mark.parametrize("lanes", [1, None])
def test_it_changes_no_more_than_rounding(lanes: int | None) -> None:
    stack = Stack({"dropout": Dropout(0.2, 0.1)})
    large = replace(wide(stack), model=lambda: mlp((2, 8), 4, width=257, depth=2), lanes=lanes)
    mine = list(train(large, RUNS[:2]))
    theirs = list(train(replace(large, onednn=False), RUNS[:2]))
    for one, other in zip(mine, theirs, strict=True):
        for figure in ("last_train_loss", "last_val_loss", "last_test_loss", "w_l2"):
            assert one.figures[figure] == pytest.approx(other.figures[figure], rel=1e-3)


def two_products(x: Tensor, w: Tensor) -> Tensor:
    return ((x @ w) @ w[..., :4]).sum((-1, -2))


@pytest.mark.parametrize("mapped", [True, False])
def test_a_step_that_is_gone_through_again_asks_for_the_same(mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two products the first is large: when the step is written, when it is replayed, and when it is timed."""
    monkeypatch.setattr(products, "LEAST_ALONE", products.LEAST_MAPPED)
    x, w = torch.randn(2, 20, 64) if mapped else torch.randn(20, 64), torch.randn(2, 64, 64)
    w = w if mapped else w[0]
    step = large_by_onednn(two_products, mapped)
    _, operations = written_down(step, (x, w))
    assert [node.meta[ONEDNN] for node in operations.graph.nodes if node.target in MATRICES] == [True, False]
    taped = Taped(step)
    for _ in range(6):
        with Seen() as seen:
            taped(x, w)
        assert set(seen.on) == {True, False}
        assert len(seen.on) in (2, 4)  # the first replay is compared with the step as it is written
    assert taped.unfit is None
    with Seen() as seen:
        operations.seconds([x, w])
    assert seen.on == [True, False] * 2
    assert not is_on()


@pytest.mark.parametrize(("loss", "on"), [(two_products, False), (lambda x, w: (x @ w).sum((-1, -2)), True)])
def test_a_compiled_step_is_asked_for_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, loss: Callable[[Tensor, Tensor], Tensor], on: bool
) -> None:
    """Its products are within it, and it must not depend on what stands beside whether one is oneDNN's."""
    seen = []

    def step(state: State, batch: Batch, *_: object) -> tuple[State, Tensor]:
        return state, loss(batch.x, state.params["w"])

    def fused(operations: Operations, given: Any) -> Callable[..., Any]:
        def call(*tensors: Tensor) -> list[Tensor]:
            seen.append(is_on())
            return operations.leaves(tensors)

        return call

    monkeypatch.setattr(compilation, "_fused", fused)
    state, batch = State({"w": torch.randn(2, 64, 64)}, {}, {}), Batch(torch.randn(2, 20, 64), torch.zeros(2, 20, 1))
    arguments: Any = state, batch, {}, {}, {}, torch.arange(2), torch.tensor(0), 9, torch.tensor(1.0), {}
    _, losses = compilation.compiled(large_by_onednn(step, True), arguments)(*arguments)
    assert seen == [on]
    assert losses.shape == (2,)


def test_auto_takes_what_was_measured_once_and_what_a_run_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packing, "exact", lambda: True)
    found: list[bool] = []

    def faster() -> bool:
        found.append(len(found) == 0)
        return found[-1]

    monkeypatch.setattr(packing, "faster", faster)
    left = replace(experiment(), onednn=None)
    assert packed(left, RUNS, 1).onednn is True
    assert packed(left, RUNS, 1, {}).onednn is True
    assert found == [True]  # what was found is kept
    for began in ("True", "False"):
        assert packed(left, RUNS, 1, {"onednn": began}).onednn is (began == "True")
    assert packed(left, RUNS, 1, {"mapped": "True"}).onednn is False  # it began before there was a choice
    for asked_for in (True, False):
        assert packed(replace(left, onednn=asked_for), RUNS, 1, {"onednn": str(not asked_for)}).onednn is asked_for
    for dtype in (torch.float64, torch.bfloat16):
        assert packed(replace(left, dtype=dtype, onednn=True), RUNS, 1).onednn is False
    monkeypatch.setattr(packing, "_precision", lambda experiment, run: torch.bfloat16)
    assert packed(replace(left, dtype=None), RUNS, 1).onednn is False
    monkeypatch.setattr(packing, "exact", lambda: False)
    assert packed(left, RUNS, 1).onednn is False
    assert packed(left, RUNS, 1, {"onednn": "True"}).onednn is False
    assert packed(replace(left, onednn=True), RUNS, 1).onednn is False


@pytest.mark.skipif(not exact(), reason="oneDNN rounds here")
def test_it_is_recorded_and_taken_again_and_asked_for_a_job_of_its_own(
    regrun: Regrun, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {}
    for choice in ("on", "off", "auto"):
        assert regrun("method=l2", "seeds=2", f"onednn={choice}", "model.width=67", *SMALL, f"out={choice}").code == 0
        study = Path(choice) / "first"
        (row, _) = rows_of(study)
        assert choice == "auto" or row["onednn"] == str(choice == "on").lower()
        names[choice] = job_of(study, "l2").name
        capsys.readouterr()
        assert main([str(study), "--verify"]) == 0
    assert names["auto"] == names["off"] != names["on"]


@pytest.mark.parametrize("value", ["maybe", "1", "true"])
def test_other_choices_are_refused(regrun: Regrun, value: str) -> None:
    told = regrun("method=l2", f"onednn={value}", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "it must be auto, on or off" in told.err


def test_it_is_refused_where_it_would_round(regrun: Regrun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.config.exact", lambda: False)
    told = regrun("method=l2", "onednn=on", *SMALL)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "bfloat16" in told.err


def test_the_level_of_calibration_by_chance_is_the_same_by_either_library() -> None:
    """It counts in a product of zeros and ones, which no library rounds."""
    confidence, draws = torch.linspace(0.1, 1, 3001, dtype=torch.float64), null_draws(3001, torch.device("cpu"))
    with Seen() as seen:
        level = large_by_onednn(null_level, mapped=False)(confidence, draws)
    assert seen.on == [True]
    assert torch.equal(level, null_level(confidence, draws))


@pytest.mark.parametrize("onednn", [True, False])
def test_it_is_computed_by_onednn_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, onednn: bool) -> None:
    asked = []

    def level(confidence: Tensor, draws: Tensor) -> Tensor:
        asked.append(isinstance(_get_current_dispatch_mode(), LargeByOneDNN))
        return null_level(confidence, draws)

    monkeypatch.setattr(evaluate, "null_level", level)
    list(train(replace(experiment(Stack({}), epochs=1), lanes=None, onednn=onednn), RUNS))
    assert set(asked) == {onednn}
