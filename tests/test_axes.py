"""The axes that every data set has: training size, label noise, random labels, imbalance, input size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Regrun
from test_engine import blobs, experiment, outcomes, same

from runner.data.base import Data, Splitter
from runner.data.digits import digits
from runner.data.labels import LabelNoise
from runner.data.resize import resized
from runner.data.table import table
from runner.data.tables import wine
from runner.errors import Refusal
from runner.experiment import Experiment
from runner.keys import Key
from runner.methods.dropping import Dropout
from runner.methods.normalization import BatchNorm
from runner.methods.stack import Stack
from runner.nets.dense import mlp
from runner.records import read_table

SPLITTER = Splitter(120, 60, None, "train_val", 0, True)


def noise(rate: float, form: str = "symmetric", on_val: bool = True, random: bool = False) -> LabelNoise:
    return LabelNoise(rate, form, on_val, random)


def many(classes: int = 4, n: int = 20000) -> torch.Tensor:
    return torch.arange(n) % classes


def test_symmetric_noise_makes_the_share_asked_for_wrong_and_every_other_class_alike() -> None:
    y = many()
    told = noise(0.3).of(y, 4, Key.of(0))
    assert (told != y).double().mean().item() == pytest.approx(0.3, abs=0.01)  # 3 sd of 20,000 draws
    steps = torch.bincount((told - y) % 4) / len(y)
    assert steps.tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.01)


def test_pairwise_noise_goes_to_the_next_class_only() -> None:
    y = many()
    steps = torch.bincount((noise(0.3, "pairwise").of(y, 4, Key.of(0)) - y) % 4, minlength=4) / len(y)
    assert steps.tolist() == pytest.approx([0.7, 0.3, 0, 0], abs=0.01)


def test_random_labels_say_nothing_of_the_true_ones() -> None:
    y = many()
    joint = torch.bincount(4 * y + noise(0, random=True).of(y, 4, Key.of(0)), minlength=16) / len(y)
    assert joint.tolist() == pytest.approx([1 / 16] * 16, abs=0.006)


def test_what_is_wrong_stays_wrong_in_the_same_way_at_a_higher_rate_and_in_larger_data() -> None:
    y = many()
    low, high = noise(0.1).of(y, 4, Key.of(1)), noise(0.4).of(y, 4, Key.of(1))
    wrong = low != y
    assert torch.equal(low[wrong], high[wrong])
    assert torch.equal(noise(0.1).of(y[:100], 4, Key.of(1)), low[:100])


@pytest.mark.parametrize("on_val", [True, False])
def test_noise_is_in_training_and_if_wanted_validation_labels_and_never_in_the_test_set(on_val: bool) -> None:
    data = blobs()
    split = replace(SPLITTER, noise=noise(0.5, on_val=on_val)).split(data, 0)
    wrong = split.y != data.y
    assert 0.3 < wrong[split.train].double().mean() < 0.7
    assert bool(wrong[split.val].any()) is on_val
    assert not wrong[split.test].any()
    clean = SPLITTER.split(data, 0)
    assert all(torch.equal(a, b) for a, b in zip(split[:3], clean[:3], strict=True))  # the sets are the same
    assert torch.equal(clean.y, data.y)


def test_a_noisy_run_trains_on_the_wrong_labels_and_says_what_it_knows_of_the_right_ones() -> None:
    trial = experiment(epochs=40)
    trial = replace(trial, splitter=replace(trial.splitter, noise=noise(0.3)))
    for outcome in outcomes(trial):
        split = trial.splitter.split(trial.data, outcome.run.seed)
        realised = (split.y != trial.data.y)[split.train].double().mean().item()
        assert outcome.figures["label_noise"] == pytest.approx(realised)
        assert outcome.figures["last_train_acc"] > 0.77  # well above 0.7, what the right labels alone would give
        # Whoever gives every label as it was told is right as often as what was told is; else at most as much off as
        # the share of labels not given as told.
        apart = abs(outcome.figures["last_train_acc_clean"] - (1 - realised))
        assert apart <= 1 - outcome.figures["last_train_acc"] + 1e-9


def test_without_noise_there_is_no_second_training_accuracy() -> None:
    (outcome,) = outcomes(experiment(), seeds=1)
    assert not [name for name in outcome.figures if "clean" in name or "noise" in name]


def test_a_rate_of_zero_is_no_noise_bit_for_bit_and_lanes_keep_their_own_labels() -> None:
    plain = experiment()
    none = replace(plain, splitter=replace(plain.splitter, noise=noise(0.0)))
    assert all(same(a, b) for a, b in zip(outcomes(plain), outcomes(none), strict=True))
    noisy = replace(plain, splitter=replace(plain.splitter, noise=noise(0.4)))
    together, alone = outcomes(noisy, seeds=3), outcomes(replace(noisy, lanes=2), seeds=3)
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


def test_imbalance_keeps_the_exponential_profile() -> None:
    y = torch.arange(10000) % 10
    data = Data("even", "table", torch.zeros(10000, 1), y, 10, torch.arange(9000, 10000))
    splitter = replace(SPLITTER, train_size=5000, imbalance=100.0)
    split = splitter.split(data, 0)
    counts = torch.bincount(y[split.train])
    # 500 of each class before; 500 * 100^(-c/9): 500, 299.7, 179.7, 107.7, 64.6, 38.7, 23.2, 13.9, 8.3, 5
    assert counts.tolist() == [500, 300, 180, 108, 65, 39, 23, 14, 8, 5]
    assert splitter.sizes(data) == (int(counts.sum()), 60, 1000)
    even = replace(splitter, imbalance=1.0).split(data, 0)
    assert torch.equal(split.val, even.val)
    assert set(split.train.tolist()) <= set(even.train.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_imbalance_gives_every_seed_the_same_number(seed: int) -> None:
    scarce = Data("few", "table", torch.zeros(97, 1), torch.tensor([0] * 80 + [1] * 16 + [2]), 3, None)
    for splitter in (
        Splitter(2, 10, 20, "train_val", 0, True, 9),
        Splitter(None, 10, 20, "train_val", 0, True, 2.5),
        Splitter(40, 0.2, 0.2, "none", 0, True, 50),
    ):
        split = splitter.split(scarce, seed)
        assert tuple(len(part) for part in split[:3]) == splitter.sizes(scarce)
        assert len(torch.cat(split[:3]).unique()) == sum(splitter.sizes(scarce))


def test_images_and_signals_are_resized_and_tables_are_not() -> None:
    small = resized(digits(), 4)
    assert small.x.shape == (1797, 1, 4, 4)
    assert small.x.dtype == torch.uint8
    assert resized(replace(digits(), x=torch.full_like(digits().x, 7)), 4).x.unique().tolist() == [7]
    assert torch.equal(small.y, digits().y)
    assert resized(blobs(), 16).x.shape == (400, 2, 16)
    with pytest.raises(Refusal, match=r"data\.input_dim is 4; wine is a table"):
        resized(wine(), 4)


def gaps(seed: int = 0) -> Data:
    """A table with missing numbers, a column that is constant in most rows, and three indicator columns."""
    g = torch.Generator().manual_seed(seed)
    numbers = torch.randn(300, 4, generator=g) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 5
    numbers[torch.rand(300, 4, generator=g) < 0.1] = torch.nan
    category = torch.randint(0, 3, (300,), generator=g)
    x = torch.cat([numbers, torch.eye(3)[category]], 1)
    y = (numbers[:, 0].nan_to_num(5) > 5).long() + (category == 0).long()
    return Data("gaps", "table", x, y, 3, None, torch.tensor([False] * 4 + [True] * 3))


def table_experiment(data: Data, imbalance: float, labels: LabelNoise) -> Experiment:
    stack = Stack({"dropout": Dropout(0.2, 0.1), "batch_norm": BatchNorm(1e-5)})
    splitter = Splitter(100, 60, 80, "train_val", 0, True, imbalance, labels)
    return replace(experiment(stack, data), splitter=splitter, model=lambda: mlp((7,), 3, width=12, depth=2))


def as_frame(data: Data) -> pd.DataFrame:
    """The data of `gaps` as it would be in a file: numbers, a text and a label."""
    frame = pd.DataFrame(data.x[:, :4].numpy(), columns=["a", "b", "c", "d"])
    frame["text"] = [("red", "green", "blue")[int(row.argmax())] for row in data.x[:, 4:]]
    return frame.assign(y=data.y.numpy())


def from_files(folder: Path, frame: pd.DataFrame, official: bool) -> Data:
    """The frame as regrun reads it from a file, or from two, the last 80 rows in that of the test set."""
    folder.mkdir(exist_ok=True)
    known, tested = (frame[:-80], frame[-80:]) if official else (frame, frame[:0])
    known.to_csv(folder / "my.csv", index=False)
    tested.to_csv(folder / "test.csv", index=False)
    test_path = str(folder / "test.csv") if official else None
    return table(str(folder / "my.csv"), "y", test_path, (), 100, "classification")


@pytest.mark.parametrize(("imbalance", "labels"), [(1.0, noise(0.0)), (4.0, noise(0.3))])
@pytest.mark.parametrize("official", [False, True])
def test_test_rows_reach_no_encoder_no_statistic_and_no_choice(
    tmp_path: Path, imbalance: float, labels: LabelNoise, official: bool
) -> None:
    """Every input of the rows that seed 0 tests on is replaced in the files: by other numbers, missing or another text.

    Where the test set has a file of its own, by a text that no other row has.
    """
    frame = as_frame(gaps())
    data = from_files(tmp_path / "mine", frame, official)
    plain = table_experiment(data, imbalance, labels)
    if official:
        plain = replace(plain, splitter=replace(plain.splitter, test_size=None))
    rows = plain.splitter.split(data, 0).test
    frame.loc[rows.tolist(), ["a", "b", "c", "d"]] = [1e4, float("nan"), -1e4, 7.0]
    frame.loc[rows.tolist(), "text"] = "violet" if official else "red"
    spoiled = from_files(tmp_path / "theirs", frame, official)
    assert spoiled.shape == data.shape
    mine, theirs = (outcomes(trial, seeds=1)[0] for trial in (plain, replace(plain, data=spoiled)))
    assert mine.figures["last_test_loss"] != theirs.figures["last_test_loss"]
    assert [p.figures for p in mine.curve] == [p.figures for p in theirs.curve]
    kept = [name for name in mine.figures if "test" not in name and "gap" not in name]
    assert len(kept) >= 10
    assert all(mine.figures[name] == theirs.figures[name] for name in kept)


def test_missing_numbers_are_the_training_rows_median_and_unseen_categories_all_zeros() -> None:
    data = gaps()
    splitter = Splitter(100, 60, 80, "train_val", 0, True)
    split = splitter.split(data, 0)
    x = data.x.clone()
    first = x[split.train, 0]
    assert first.isnan().any()
    median = first[~first.isnan()].sort().values[(int((~first.isnan()).sum()) - 1) // 2]  # the lower one
    filled = torch.where(first.isnan(), median, first)
    assert split.fill[0].item() == pytest.approx(((median - filled.mean()) / filled.std(unbiased=False)).item(), 1e-4)
    assert (split.mean[4:].tolist(), split.std[4:].tolist()) == ([0, 0, 0], [1, 1, 1])
    x[split.train, 4] = 0  # now training has never seen the first category
    unseen = splitter.split(replace(data, x=x), 0)
    assert ((1 - unseen.mean[4]) / unseen.std[4]).item() == 0


@pytest.mark.parametrize("standardize", [True, False])
def test_columns_without_a_number_in_training_are_zero(standardize: bool) -> None:
    x = torch.stack([torch.full((300,), torch.nan), torch.arange(300.0)], 1)
    split = Splitter(100, 60, 80, "train_val", 0, standardize).split(
        Data("t", "table", x, torch.arange(300) % 2, 2, None), 0
    )
    assert split.fill[0] == 0
    assert split.std.isnan().sum() == split.mean.isnan().sum() == 0


def test_noise_is_recorded(regrun: Regrun, tmp_path: Path) -> None:
    for rate in ("0", "0.25"):
        told = regrun(
            "data=digits", "protocol=smoke", f"data.label_noise={rate}", f"study=at{rate}", "model=linear",
            "data.train_size=100", "progress=false",
        )  # fmt: skip
        assert told.code == 0, told.err
        for row in read_table(tmp_path / "outputs" / f"at{rate}" / "runs.csv"):
            assert (row["label_noise"] == "") is (rate == "0")
            assert (row["last_train_acc_clean"] == "") is (rate == "0")
