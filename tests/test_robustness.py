"""Corruptions and attacks: worked by hand, and against torchvision and Pillow."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Regrun
from PIL import Image
from report_data import Plan, write_study
from test_engine import experiment, outcomes
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from runner.data.base import Data
from runner.engine.corruptions import CORRUPTIONS, SEVERITIES, Frame, corrupted, frame
from runner.engine.evaluate import Examiner, Pool
from runner.engine.machine import differentiable, prepare
from runner.engine.robustness import Attack, adversarial_accuracy, corrupted_accuracy
from runner.experiment import Asked
from runner.keys import Key
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.records import read_table
from runner.report.collect import collect
from runner.report.robustness import by_kind, corruptions, read_corruptions
from runner.report.tables import headline, read_runs
from runner.report.writers import caption, records

UNIT = Frame(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.5), torch.tensor(0.3))
KINDS = [(kind, name) for kind in CORRUPTIONS for name in CORRUPTIONS[kind]]
SMALL = (
    "data.pool=400", "data.test=300", "data.train_size=200", "data.val_size=100", "epochs=2", "batch_size=50",
    "out=out",
)  # fmt: skip


def examples(kind: str) -> Tensor:
    """Examples that are not alike, of this kind."""
    x = Key.of(1).normal(*{"image": (16, 3, 32, 33), "signal": (64, 2, 40), "table": (2000, 7)}[kind])
    if kind == "table":
        return 2 * x + 1
    along = torch.linspace(0, 6, x.shape[-1]).sin()
    return 0.5 + 0.25 * along + (0.005 if kind == "image" else 0.05) * x


def test_there_are_ten_kinds_of_corruption_for_images_and_signals() -> None:
    assert len(CORRUPTIONS["image"]) >= 10
    assert len(CORRUPTIONS["signal"]) >= 10
    assert all(len(c.levels) == len(SEVERITIES) for kinds in CORRUPTIONS.values() for c in kinds.values())


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_corruption_grows_with_its_severity_and_is_a_function_of_its_key(kind: str, name: str) -> None:
    x = examples(kind)
    about, key = frame(x, kind, None), Key.of(5)
    changed = [corrupted(x, kind, name, severity, key, about) for severity in SEVERITIES]
    sizes = [((one - x) ** 2).mean().item() for one in changed]
    if name != "pixelate":  # what shares of a side that are near 1 blur depends on the image
        assert all(a < b for a, b in pairwise(sizes)), sizes
    assert all(one.shape == x.shape and one.isfinite().all() and one.dtype == x.dtype for one in changed)
    assert torch.equal(corrupted(x, kind, name, 3, key, about), changed[2])
    if kind == "image":
        assert x.min() <= changed[4].min()
        assert changed[4].max() <= x.max()


def test_images_are_corrupted_in_the_units_of_their_range() -> None:
    x = (examples("image") * 255).clamp(0, 255)
    x[0, 0, 0, :2] = torch.tensor([0.0, 255.0])
    dark = corrupted(x, "image", "brightness", 5, Key.of(0), frame(x, "image", None))
    assert torch.allclose(dark, (x + 0.3 * 255).clamp(max=255), atol=1e-3)


def test_contrast_and_pixels_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])
    # the mean is 3/4, and 0.15 of the distances is left: 0.75 - 0.15 * 0.75, 0.75 + 0.15 * 0.25
    got = corrupted(x, "image", "contrast", 5, Key.of(0), UNIT)
    assert got[0, 0].tolist() == [pytest.approx([0.6375, 0.7875]), pytest.approx([0.7875, 0.7875])]
    # 65 % of two pixels is one: the mean of all four
    got = corrupted(x, "image", "pixelate", 5, Key.of(0), UNIT)
    assert got.flatten().tolist() == pytest.approx([0.75] * 4)


def test_blur_is_that_of_torchvision_inside_the_image() -> None:
    x = Key.of(2).uniform(2, 3, 32, 32)
    got = corrupted(x, "image", "gaussian_blur", 5, Key.of(0), UNIT)
    want = gaussian_blur(x, [9, 9], [1.0, 1.0])  # mirrors the edge, where ours repeats it
    assert torch.allclose(got[..., 4:-4, 4:-4], want[..., 4:-4, 4:-4], atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity: int) -> None:
    grey = (128 + 60 * torch.linspace(0, 9, 24).sin()[:, None] * torch.linspace(0, 5, 32).cos()).round()
    grey += (20 * Key.of(3).normal(24, 32)).round()
    grey = grey.clamp(0, 255)
    file = io.BytesIO()
    quality = int(CORRUPTIONS["image"]["jpeg"].levels[severity - 1])
    Image.fromarray(grey.numpy().astype(np.uint8)).save(file, "jpeg", quality=quality)
    want = torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32))
    got = 255 * corrupted(grey[None, None] / 255, "image", "jpeg", severity, Key.of(0), UNIT)[0, 0]
    # Pillow has whole numbers and bytes; where a coefficient lies between two steps, the one
    # rounds up and the other down, and the block is a little apart
    blocks = (got - want).abs().unflatten(0, (3, 8)).unflatten(2, (4, 8)).amax((1, 3))
    assert (blocks < 1.5).double().mean() >= 0.5
    assert (got - want).abs().mean() < 0.3 * (want - grey).abs().mean()
    assert (want - grey).abs().mean() > 3


def test_noise_has_the_variance_that_it_says() -> None:
    flat = torch.full((200, 1, 16, 16), 0.5)
    for name, sd in (("gaussian_noise", 0.08), ("shot_noise", math.sqrt(0.5 / 100)), ("speckle_noise", 0.06)):
        got = corrupted(flat, "image", name, 3, Key.of(7), UNIT)
        assert got.std().item() == pytest.approx(sd, rel=0.03)
    got = corrupted(flat, "image", "impulse_noise", 5, Key.of(7), UNIT)
    assert (got != 0.5).double().mean().item() == pytest.approx(0.07, abs=0.005)
    assert (got == 1.0).double().mean().item() == pytest.approx(0.035, abs=0.004)


def test_signals_by_hand() -> None:
    x = torch.arange(40.0).expand(50, 1, 40)
    about = frame(x, "signal", None)  # mean 19.5, variance (40^2 - 1) / 12
    sd = math.sqrt(1599 / 12)
    moved = corrupted(x, "signal", "shift", 3, Key.of(0), about)[:, 0]  # by 4 points
    assert {tuple(row[:6].tolist()) for row in moved} == {(0, 0, 0, 0, 0, 1), (4, 5, 6, 7, 8, 9)}
    drift = corrupted(x, "signal", "drift", 3, Key.of(0), about) - x
    assert drift[:, 0, -1].abs().tolist() == pytest.approx([sd / 2] * 50, rel=1e-4)
    gap = corrupted(x, "signal", "gap", 5, Key.of(0), about)
    assert (gap == 19.5).sum(2).flatten().tolist() == [12] * 50
    scaled = corrupted(x, "signal", "scale", 5, Key.of(0), about)[:, 0, 0]
    assert set(scaled.tolist()) == {19.5 - 1.5 * 19.5, 19.5 - 0.5 * 19.5}


def test_tables_by_hand() -> None:
    x = torch.cat([examples("table"), torch.ones(2000, 1)], 1)
    x[0, 0] = math.nan
    indicators = torch.tensor([False] * 7 + [True])
    about = frame(x, "table", indicators)
    want = np.nanmean(x.numpy(), 0), np.nanstd(x.numpy(), 0)
    assert about.mean[:7].tolist() == pytest.approx(want[0][:7].tolist(), rel=1e-5)
    assert about.sd[:7].tolist() == pytest.approx(want[1][:7].tolist(), rel=1e-5)
    gone = corrupted(x, "table", "missing", 5, Key.of(0), about)
    assert (gone[:, 1] == about.mean[1].float()).double().mean().item() == pytest.approx(0.4, abs=0.03)
    assert set(gone[:, 7].tolist()) == {0.0, 1.0}
    for name in ("noise", "spikes", "offset", "scale", "rounding"):  # an indicator is neither noisy nor scaled
        assert corrupted(x, "table", name, 5, Key.of(0), about)[:, 7].eq(1).all()
    swapped = corrupted(x, "table", "swapped", 5, Key.of(0), about)
    assert (swapped[:, 1] != x[:, 1]).double().mean().item() == pytest.approx(0.4, abs=0.03)
    assert set(swapped[:, 1].tolist()) <= set(x[:, 1].tolist())


def test_what_is_common_to_all_examples_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[int]] = {}

    def noting(x: Tensor, kind: str, name: str, severity: int, key: Key, about: Frame) -> Tensor:
        drawn.setdefault(name, set()).add(int(key.resolved()))
        return x

    monkeypatch.setattr("runner.engine.robustness.corrupted", noting)
    data = Data("drawn", "table", torch.randn(1200, 3), torch.arange(1200) % 2, 2, None)
    params = {"weight": torch.zeros(1, 2, 3), "bias": torch.zeros(1, 2)}
    pool = Pool(data.x, data.y, torch.zeros(1, 3), torch.ones(1, 3))
    rows = {split: torch.arange(1200)[None] for split in ("train", "test")}
    corrupted_accuracy(Examiner(nn.Linear(3, 2), True), params, pool, rows, data, torch.tensor([0]))
    assert {name for name, keys in drawn.items() if len(keys) == 1} == {"offset"}
    assert len(drawn["noise"]) == 3  # chunks of at most 500 rows


def linear(weight: list[list[float]], x: list[list[float]], y: list[int]) -> tuple[nn.Module, dict[str, Tensor], Pool]:
    """A linear net of one lane and its examples, whose first row is the training set."""
    params = {"weight": torch.tensor([weight]), "bias": torch.zeros(1, len(weight))}
    inputs = torch.tensor(x)
    width = inputs.shape[1]
    return (
        nn.Linear(width, len(weight)),
        params,
        Pool(inputs, torch.tensor(y), torch.zeros(1, width), torch.ones(1, width)),
    )


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("epsilon", "right"), [(0.09, 1.0), (0.11, 0.75), (0.21, 0.5), (0.6, 0.0)])
def test_attacks_on_a_linear_net_by_hand(mapped: bool, epsilon: float, right: float) -> None:
    # logit 1 less logit 0 is 2 x1 - x2; the worst change within epsilon takes 3 epsilon from an example's margin, here
    # 0.3, 0.6, 1.5 and 1.5: so they fall at 0.1, 0.2 and 0.5, and nothing falls before
    x = [[0.15, 0.0], [0.0, -0.6], [-0.75, 0.0], [0.5, -0.5]]
    net, params, pool = linear([[0.0, 0.0], [2.0, -1.0]], x, [1, 1, 0, 1])
    rows = {"train": torch.tensor([[0]]), "test": torch.arange(4)[None]}
    found = adversarial_accuracy(Examiner(net, mapped), params, pool, rows, Attack(epsilon, 10), torch.tensor([0]))
    assert {name: value.item() for name, value in found.items()} == {"fgsm_acc": right, "pgd_acc": right}
    assert net.training


def test_asking_changes_no_other_number_and_packs_agree() -> None:
    trial = experiment(Stack({"dropout": Dropout(0.2, 0.0), "batch_norm": BatchNorm(1e-5)}))
    asking = replace(trial, asked=Asked(corruptions=True, attack=Attack(0.3, 5), measures=False))
    plain, together = outcomes(trial, 3), outcomes(asking, 3)
    for one, more in zip(plain, together, strict=True):
        assert not one.tables
        assert all(more.figures[name] == value for name, value in one.figures.items())
        assert set(more.figures) - set(one.figures) == {"last_corrupted_acc", "last_fgsm_acc", "last_pgd_acc"}
        accuracies = [float(str(row["acc"])) for row in more.tables["corruptions"]]
        assert len(accuracies) == 50
        assert more.figures["last_corrupted_acc"] == pytest.approx(sum(accuracies) / 50)
        assert more.figures["last_pgd_acc"] <= more.figures["last_fgsm_acc"] < more.figures["last_test_acc"]
    for wide, narrow in zip(together, outcomes(replace(asking, lanes=2), 3), strict=True):
        assert wide.tables == narrow.tables
        assert wide.figures["last_pgd_acc"] == narrow.figures["last_pgd_acc"]
    for wide, alone in zip(together, outcomes(replace(asking, lanes=1), 3), strict=True):
        assert wide.figures["last_corrupted_acc"] == pytest.approx(alone.figures["last_corrupted_acc"], abs=0.02)
        assert wide.figures["last_pgd_acc"] == pytest.approx(alone.figures["last_pgd_acc"], abs=0.02)


def test_a_study_has_them_where_they_are_asked_for(regrun: Regrun, tmp_path: Path) -> None:
    assert regrun("method=l2", "seeds=2", "study=plain", *SMALL).code == 0
    assert not list(tmp_path.glob("out/plain/*/corruptions.csv"))
    settings = json.loads((tmp_path / "out/plain/study.json").read_text())["settings"]["mnist1d/mlp"]
    assert not [name for name in settings if name.startswith("evaluate.") and name != "evaluate.every"]
    told = regrun(
        "method=l2", "seeds=2", "study=asked", *SMALL, "evaluate.corruptions=true", "evaluate.adversarial=true"
    )
    assert told.code == 0
    (job,) = tmp_path.glob("out/asked/l2-*")
    rows = read_table(job / "runs.csv")
    table = pd.read_csv(job / "corruptions.csv")
    for row in rows:
        own = table[table["run_id"] == row["run_id"]]
        assert len(own) == 50
        assert own["acc"].mean() == pytest.approx(float(row["last_corrupted_acc"]), rel=1e-6)
        assert 0 <= float(row["last_pgd_acc"]) <= float(row["last_test_acc"])
    told = regrun("method=l2", "seeds=2", "study=plain", *SMALL, "evaluate.corruptions=true")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "evaluate.corruptions" in told.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluate.corruptions=3", "evaluate.corruptions is 3; it must be true or false"),
        ("evaluate.epsilon=0", "evaluate.epsilon is 0; it must be above 0"),
        ("evaluate.attack_steps=0", "evaluate.attack_steps is 0"),
    ],
)
def test_bad_requests_are_refused(regrun: Regrun, override: str, said: str) -> None:
    told = regrun("method=l2", "evaluate.adversarial=true", override, *SMALL)
    assert told.code == 2
    assert said in told.err


def test_the_report_pairs_corrupted_accuracies(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", Plan(methods=("l2",), report=3, tune=1, protocol="fixed", strengths=(0.1,)))
    shift = {"none": 0.0, "l2": 0.05}
    for job in study.iterdir():
        runs = pd.read_csv(job / "runs.csv")
        runs["last_corrupted_acc"] = 0.4 + 0.01 * runs["seed"] + runs["method"].map(shift)
        runs.to_csv(job / "runs.csv", index=False)
        pd.DataFrame(
            [
                {"run_id": run_id, "kind": kind, "severity": severity, "acc": acc + less}
                for run_id, acc in zip(runs["run_id"], runs["last_corrupted_acc"], strict=True)
                for kind, less in (("noise", -0.1), ("fog", 0.1))
                for severity in SEVERITIES
            ]
        ).to_csv(job / "corruptions.csv", index=False)
    runs = read_runs(collect(study))
    frame = headline(runs, "last", "corrupted_acc")
    row = next(row for row in records(frame) if row["method"] == "l2")
    assert row["diff"] == pytest.approx(0.05)
    assert row["wins"] == 3  # more is better
    assert bool(row["best"])
    assert "clean data" not in caption(frame)
    found = read_corruptions(study)
    assert by_kind(runs, row, found)["fog"].tolist() == pytest.approx([0.55, 0.56, 0.57])
    drawing = corruptions(runs, headline(runs), found)
    assert drawing is not None
    shown = drawing.data.set_index(["method", "kind"])
    assert shown.loc[("l2", "noise"), "diff"] == pytest.approx(0.05)
    assert shown.loc[("none", "fog"), "acc"] == pytest.approx(0.51)
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert texts == ["51.0", "31.0", "+5.0", "+5.0"]
    assert corruptions(runs, headline(runs), found.iloc[:0]) is None


def test_a_recurrent_net_is_differentiated_without_cudnn() -> None:
    """It has no backward pass for one in evaluation mode, where attacks and measures differentiate."""
    before = torch.backends.cudnn.enabled
    with differentiable(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2))):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled == before
    with differentiable(nn.Linear(2, 2)):
        assert torch.backends.cudnn.enabled == before


def test_a_gpu_multiplies_float32_as_such() -> None:
    prepare.cache_clear()
    torch.backends.cudnn.allow_tf32 = True
    prepare()
    assert not torch.backends.cudnn.allow_tf32
