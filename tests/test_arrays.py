"""Arrays of the user's, functions of the user's, and made-up data whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Regrun
from numpy.typing import NDArray

from runner.data.arrays import npz
from runner.data.base import Data
from runner.data.teacher import teacher
from runner.errors import Refusal
from runner.keys import Key
from runner.records import read_table

Y = np.arange(12) % 3
RNG = np.random.default_rng(0)


def load(folder: Path, kind: str | None = None, **arrays: NDArray[np.generic]) -> Data:
    np.savez(folder / "my.npz", allow_pickle=True, **arrays)  # whatever it holds
    return npz(str(folder / "my.npz"), kind)


@pytest.mark.parametrize(
    ("shape", "dtype", "given", "kind", "expected"),
    [
        ((12, 5), np.float64, None, "table", (5,)),
        ((12, 2, 5), np.float32, None, "signal", (2, 5)),
        ((12, 6, 5), np.uint8, None, "image", (1, 6, 5)),
        ((12, 3, 6, 5), np.uint8, None, "image", (3, 6, 5)),
        ((12, 6, 5, 3), np.uint8, None, "image", (3, 6, 5)),
        ((12, 5, 6, 4), np.uint8, None, "image", (4, 5, 6)),
        ((12, 4, 6, 6), np.uint8, None, "image", (4, 6, 6)),
        ((12, 6, 6, 8), np.float64, None, "image", (8, 6, 6)),
        ((12, 2, 6, 5), np.uint8, "image", "image", (2, 6, 5)),
        ((12, 7, 7, 7), np.uint8, "image", "image", (7, 7, 7)),
        ((12, 3, 6, 1), np.uint8, "image", "image", (3, 6, 1)),
        ((12, 6, 5), np.float32, "image", "image", (1, 6, 5)),
        ((12, 5), np.int16, "signal", "signal", (1, 5)),
    ],
)
def test_shapes_of_x(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, given: str | None, kind: str, expected: tuple[int, ...]
) -> None:
    x: NDArray[np.generic] = RNG.integers(0, 100, shape).astype(dtype)
    data = load(tmp_path, given, x=x, y=Y)
    assert (data.kind, data.shape, data.classes, data.official_test) == (kind, expected, 3, None)
    assert data.x.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    behind = len(shape) == 4 and shape[1:] != expected
    straight = x.transpose(0, 3, 1, 2) if behind else x
    np.testing.assert_array_equal(data.x.numpy().reshape(straight.shape), straight.astype(data.x.numpy().dtype))


def test_labels_of_any_type_and_a_test_set(tmp_path: Path) -> None:
    x = RNG.random((12, 2))
    texts = np.array(["c", "a", "b"])[Y]
    data = load(tmp_path, x=x, y=texts[:, None], x_test=x[:2] + 1, y_test=np.array(["b", "c"]))
    assert data.y.tolist() == [2, 0, 1] * 4 + [1, 2]
    assert data.official_test is not None
    assert data.official_test.tolist() == [12, 13]
    assert data.notes == ()
    again = load(tmp_path, x=x, y=Y, x_test=np.concatenate([x[:2], x[:1] + 1]), y_test=Y[:3])
    assert again.notes[0].startswith("2 of 3 test examples")
    assert load(tmp_path, x=x, y=Y * 10 - 5).y.tolist() == Y.tolist()
    assert load(tmp_path, x=x, y=Y > 0).classes == 2
    gaps = np.where(x < 0.5, np.nan, x)
    assert load(tmp_path, x=gaps, y=Y).x.isnan().any()


@pytest.mark.parametrize(("kind", "shape"), [("table", (12, 2)), ("signal", (12, 2, 1)), ("image", (12, 1, 1, 2))])
def test_large_numbers_that_lie_close_together_stay_apart(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    x = np.stack([np.arange(12) + 1_700_000_000, np.arange(12) + (1_700_000_020 if kind == "image" else 0)], 1)
    data = load(tmp_path, kind, x=x.reshape(shape), y=Y, x_test=x[:3].reshape(3, *shape[1:]), y_test=Y[:3])
    columns = data.x.reshape(15, 2)
    for column in columns.T:
        assert (column[1:12] - column[:11]).tolist() == [1] * 11
        assert column[12:].tolist() == column[:3].tolist()
    apart = columns[0, 1] - columns[0, 0]
    assert apart == {"image": 20, "table": 5, "signal": 5}[kind]  # the lower median of the first is 1_700_000_005
    assert data.notes[0].startswith(f"{'column' if kind == 'table' else 'channel'} 0 of x has numbers near 17000000")
    plain = load(tmp_path, kind, x=(x - x[0]).reshape(shape), y=Y)
    assert torch.equal(plain.x, torch.from_numpy(x - x[0]).reshape(shape).float())
    assert plain.notes == ()


X = RNG.random((12, 2))
BAD: dict[str, tuple[dict[str, NDArray[np.generic]], str]] = {
    "no labels": ({"x": X}, "no array 'y'; it has x and needs x, y"),
    "half a test set": ({"x": X, "y": Y, "x_test": X}, "no array 'y_test'"),
    "other lengths": ({"x": X, "y": Y[:5]}, "one label for each"),
    "nothing": ({"x": X[:0], "y": Y[:0]}, "one label for each"),
    "objects": ({"x": X, "y": np.array([{}] * 12)}, "objects are not loaded"),
    "one class": ({"x": X, "y": Y * 0}, "y has 1 classes"),
    "no classes": ({"x": X, "y": X[:, 0]}, "12 different values for 12 examples"),
    "texts": ({"x": np.array([["a"]] * 12), "y": Y}, "x holds <U1; it must hold numbers"),
    "infinite": ({"x": np.where(X > 0.5, np.inf, X), "y": Y}, "infinite"),
    "gaps in signals": ({"x": np.full((12, 1, 5), np.nan), "y": Y}, "missing"),
    "five axes": ({"x": X.reshape(12, 2, 1, 1, 1), "y": Y}, "x is .12, 2, 1, 1, 1.; it must be"),
    "unclear channels": (
        {"x": np.zeros((12, 2, 6, 5)), "y": Y},
        r"x is \[N, 2, 6, 5\], either 2 channels of 6 x 5 pixels or 5 of 2 x 6; say data\.kind=image",
    ),
    "a cube": ({"x": np.zeros((12, 7, 7, 7)), "y": Y}, "either 7 channels of 7 x 7 pixels or 7 of 7 x 7"),
    "one and three": ({"x": np.zeros((12, 3, 6, 1)), "y": Y}, "either 3 channels of 6 x 1 pixels or 1 of 3 x 6"),
    "infinite labels": ({"x": X, "y": np.where(Y > 1, np.inf, Y)}, "y holds float64, or is missing or infinite"),
    "other test shape": ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, "both must hold the same"),
    "foreign class": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test has the class '3', which y has not"),
    "labels with gaps": ({"x": X, "y": np.where(Y > 1, np.nan, Y)}, "y holds float64, or is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_make_no_data_are_refused(tmp_path: Path, case: str) -> None:
    arrays, said = BAD[case]
    with pytest.raises(Refusal, match=said) as refused:
        load(tmp_path, None, **arrays)
    assert "\n" not in str(refused.value)
    assert "my.npz" in str(refused.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"data\.path is '.*none', which is not a file"):
        npz(str(tmp_path / "none"), None)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(Refusal, match=r"text\.npz cannot be read"):
        npz(str(tmp_path / "text.npz"), None)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(Refusal, match=r"one\.npy holds one array"):
        npz(str(tmp_path / "one.npy"), None)
    with pytest.raises(Refusal, match=r"data\.kind is 'sound'"):
        load(tmp_path, "sound", x=X, y=Y)
    with pytest.raises(Refusal, match="is no images"):
        load(tmp_path, "image", x=X, y=Y)


def made(noise: float = 0.1, test: int = 20000) -> Data:
    return teacher(1000, test, 12, 6, 8, 4, noise, 0, "classification")


def test_the_teacher_errs_as_often_as_the_labels_are_wrong_and_no_class_is_rare() -> None:
    data = made()
    assert data.truth is not None
    wrong = data.y != data.truth
    assert wrong.double().mean().item() == pytest.approx(0.1, abs=0.0065)  # 3 sd of 21,000 draws
    assert data.bayes_error == 0.1
    for seed in range(5):
        truth = teacher(1000, 20000, 12, 6, 8, 4, 0.1, seed, "classification").truth
        assert truth is not None
        assert (torch.bincount(truth, minlength=4) / len(truth)).tolist() == pytest.approx([0.25] * 4, abs=0.02)
    steps = torch.bincount((data.y - data.truth)[wrong] % 4, minlength=4) / wrong.sum()
    assert steps.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_truth_is_a_function_of_the_relevant_inputs_only(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign of one input of every example is changed after it is drawn; six of twelve are relevant."""
    plain = teacher.__wrapped__(100, 400, 12, 6, 8, 4, 0.1, 0, task)
    drawn = Key.normal
    for column in range(12):

        def changed(key: Key, *shape: int, column: int = column) -> torch.Tensor:
            values = drawn(key, *shape)
            if shape == (500, 12):
                values[:, column] *= -1
            return values

        monkeypatch.setattr(Key, "normal", changed)
        other = teacher.__wrapped__(100, 400, 12, 6, 8, 4, 0.1, 0, task)
        assert torch.equal(other.x[:, column], -plain.x[:, column])
        assert plain.truth is not None
        assert other.truth is not None
        assert torch.equal(other.truth, plain.truth) is (column >= 6)


def test_the_truth_is_the_same_at_every_noise() -> None:
    clean, noisy = made(0.0), made(0.4)
    assert clean.truth is not None
    assert noisy.truth is not None
    assert torch.equal(clean.y, clean.truth)
    assert torch.equal(clean.truth, noisy.truth)
    assert torch.equal(clean.x, noisy.x)
    more = teacher(1000, 20000, 12, 6, 8, 4, 0.0, 1, "classification")
    assert not torch.equal(more.truth if more.truth is not None else more.y, clean.truth)


def test_the_best_accuracy_stands_in_every_row(regrun: Regrun, tmp_path: Path) -> None:
    told = regrun("data=teacher", "protocol=smoke", "model=linear", "study=s", "data.noise=0.2", "progress=false")
    assert told.code == 0, told.err
    for row in read_table(tmp_path / "outputs" / "s" / "runs.csv"):
        assert float(row["bayes_acc"]) == pytest.approx(0.8)
        assert float(row["teacher_acc"]) == pytest.approx(0.8, abs=0.04)  # 3 sd of 1,000 test examples
        assert float(row["last_test_acc"]) < float(row["teacher_acc"])


@pytest.mark.parametrize(
    ("setting", "said"), [("noise=0.8", "from 0 to 0.75"), ("relevant=30", "from 0 to 20"), ("classes=1", "two")]
)
def test_a_teacher_that_could_not_be_is_refused(regrun: Regrun, setting: str, said: str) -> None:
    told = regrun("data=teacher", f"data.{setting}")
    assert told.code == 2
    assert said in told.err


MINE = """
import torch
from runner.data.base import Data

def stripes(rows: int) -> Data:
    x = torch.arange(rows * 3.0).view(rows, 3) % 7
    return Data("stripes", "table", x, (x[:, 0] > 3).long(), 2, None)
"""


def test_a_function_of_the_users_own_package(regrun: Regrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mydata.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    conf = tmp_path / "mine" / "data"
    conf.mkdir(parents=True)
    (conf / "stripes.yaml").write_text(
        "defaults: [base/splits@_here_, _self_]\nname: stripes\n_target_: mydata.stripes\nrows: 300\ntest_size: 0.2\n"
        "smoke: {train_size: 100, val_size: 50}\n"
    )
    command = ("--config-dir", "mine", "data=stripes", "protocol=smoke", "study=s", "progress=false")
    told = regrun(*command)
    assert told.code == 2
    assert "allow=[mydata]" in told.err
    told = regrun(*command, "allow=[mydata]")
    assert told.code == 0, told.err
    (row, _) = read_table(tmp_path / "outputs" / "s" / "runs.csv")
    assert (row["dataset"], row["n_train"], row["n_test"]) == ("stripes", "100", "60")
    sys.modules.pop("mydata")
