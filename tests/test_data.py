"""Data sets and how a seed splits them."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from runner.data import idx
from runner.data import mnist1d as mnist1d_module
from runner.data.base import Data, Split, Splitter
from runner.data.digits import digits
from runner.data.mnist1d import mnist1d
from runner.data.tables import breast_cancer, iris, wine
from runner.errors import Refusal

SPLITTER = Splitter(100, 50, None, "train_val", 0, True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def small() -> Data:
    return mnist1d(300, 200, 1)


def same(one: Split, other: Split) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_mnist1d_is_the_packages_own() -> None:
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples = 500
    theirs = make_dataset(args)
    ours = mnist1d.__wrapped__(400, 100, 42)
    np.testing.assert_array_equal(ours.x[:400, 0].numpy(), theirs["x"].astype(np.float32))
    np.testing.assert_array_equal(ours.x[400:, 0].numpy(), theirs["x_test"].astype(np.float32))
    np.testing.assert_array_equal(ours.y[400:].numpy(), theirs["y_test"])
    assert ours.official_test is not None
    assert ours.official_test.tolist() == list(range(400, 500))


def test_mnist1d_has_the_sizes_asked_for_or_is_refused() -> None:
    for pool in (1, 58, 115):  # int(200 * (58 / 200)) is 57
        data = mnist1d.__wrapped__(pool, 200 - pool, 1)
        assert data.official_test is not None
        assert (len(data.y), data.official_test.tolist()) == (200, list(range(pool, 200)))
    for pool, test in ((95, 100), (100, 0), (0, 100)):
        with pytest.raises(Refusal, match=rf"data\.pool is {pool} and data\.test {test}; .* a multiple of 10"):
            mnist1d.__wrapped__(pool, test, 1)


def test_making_mnist1d_leaves_the_global_generators_alone() -> None:
    def drawn() -> tuple[float, float, float]:
        return np.random.rand(), random.random(), torch.rand(()).item()

    def seeded(seed: int) -> None:
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)

    made = []
    for seed in (5, 6):  # and what it makes does not depend on them
        seeded(seed)
        expected = drawn()
        seeded(seed)
        made.append(mnist1d_module._generate(100, 0.5, 3))
        assert drawn() == expected
    assert all(np.array_equal(made[0][name], made[1][name]) for name in ("x", "y", "x_test", "y_test"))
    assert not np.array_equal(made[0]["x"], mnist1d_module._generate(100, 0.5, 4)["x"])


@pytest.mark.parametrize("resplit", ["train_val", "none"])
def test_an_official_test_set_is_never_pooled_with_the_rest(resplit: str) -> None:
    # rows 100 to 199 of 300, so that neither the first nor the last are the test set
    data = replace(small(), x=small().x[:300], y=small().y[:300], official_test=torch.arange(100, 200))
    for seed in range(20):
        split = replace(SPLITTER, train_size=None, val_size=0.25, resplit=resplit).split(data, seed)
        assert split.test.tolist() == list(range(100, 200))
        rest = torch.cat([split.train, split.val])
        assert sorted(rest.tolist()) == [*range(100), *range(200, 300)]


def test_the_cache_gives_the_same_and_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mnist1d.__wrapped__(60, 40, 4)
    (stored,) = (tmp_path / "cache" / "regrun").iterdir()
    assert stored.suffix == ".npz"
    with monkeypatch.context() as patch:
        patch.setattr(mnist1d_module, "_generate", None)  # nothing is made again
        assert torch.equal(mnist1d.__wrapped__(60, 40, 4).x, first.x)
    monkeypatch.setattr(mnist1d_module, "version", lambda package: "another")  # which may make other numbers
    mnist1d.__wrapped__(60, 40, 4)
    assert len(list(stored.parent.iterdir())) == 2


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert torch.equal(mnist1d.__wrapped__(60, 40, 4).x, mnist1d.__wrapped__(60, 40, 4).x)


@pytest.mark.parametrize("left", [0, 100, -30])
def test_a_damaged_cache_is_made_again(tmp_path: Path, left: int) -> None:
    first = mnist1d.__wrapped__(60, 40, 4)
    (stored,) = (tmp_path / "cache" / "regrun").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole[:left])
    assert torch.equal(mnist1d.__wrapped__(60, 40, 4).x, first.x)
    assert stored.read_bytes() == whole
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_sets_are_disjoint_stratified_and_of_the_size_asked_for() -> None:
    split = SPLITTER.split(small(), 0)
    assert [len(part) for part in split[:3]] == [100, 50, 200]
    assert len(torch.cat(split[:3]).unique()) == 350
    counts = torch.bincount(small().y[split.train], minlength=10)
    expected = torch.bincount(small().y[:300], minlength=10) / 3  # a third of the pool's
    assert (counts - expected).abs().max() <= 1


def test_a_seed_fixes_its_split_and_another_draws_its_own() -> None:
    assert same(SPLITTER.split(small(), 3), SPLITTER.split(small(), 3))
    assert not same(SPLITTER.split(small(), 3), SPLITTER.split(small(), 4))
    assert torch.equal(SPLITTER.split(small(), 3).test, SPLITTER.split(small(), 4).test)  # official


def test_resplit_none_gives_all_seeds_the_split_of_seed0() -> None:
    fixed = replace(SPLITTER, resplit="none", seed0=7)
    assert same(fixed.split(small(), 3), fixed.split(small(), 4))
    assert torch.equal(fixed.split(small(), 3).train, SPLITTER.split(small(), 7).train)


def test_a_larger_training_set_contains_the_smaller_one() -> None:
    more = replace(SPLITTER, train_size=200).split(small(), 0)
    assert torch.equal(more.train[:100], SPLITTER.split(small(), 0).train)
    assert torch.equal(more.val, SPLITTER.split(small(), 0).val)


def test_statistics_are_those_of_the_training_rows() -> None:
    data, split = small(), SPLITTER.split(small(), 0)
    x = (data.x[split.train] - split.mean) / split.std
    assert abs(x.mean().item()) < 1e-5
    assert x.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    elsewhere = data.x.clone()
    elsewhere[torch.cat([split.val, split.test])] = 1e6  # what is not trained on must not matter
    assert torch.equal(SPLITTER.split(replace(data, x=elsewhere), 0).mean, split.mean)


def test_columns_of_a_table_have_their_own_and_constant_ones_stay_finite() -> None:
    x = torch.stack([torch.arange(400.0), torch.full((400,), 3.0)], 1)
    table = Data("t", "table", x, torch.arange(400) % 2, 2, None)
    split = Splitter(200, 100, 100, "train_val", 0, True).split(table, 0)
    assert split.std.shape == (2,)
    assert ((torch.tensor([5.0, 3.0]) - split.mean) / split.std)[1] == 0
    assert ((torch.tensor([5.0, 9.0]) - split.mean) / split.std)[1] == 0  # training has seen no other value


def test_without_an_official_test_set_the_seed_draws_one() -> None:
    splitter = Splitter(200, 0.25, 1000, "train_val", 0, True)
    one, other = splitter.split(digits(), 0), splitter.split(digits(), 1)
    assert len(one.val) == round(0.25 * 797)
    assert len(torch.cat(one[:3]).unique()) == 200 + 199 + 1000
    assert not torch.equal(one.test, other.test)


def test_where_strengths_are_chosen_all_seeds_share_a_test_set_that_none_has_seen() -> None:
    splitter = Splitter(200, 0.25, 1000, "train_val", 7, True, one_test=True)
    own = replace(splitter, one_test=False)
    tested = own.split(digits(), 7).test
    splits = [splitter.split(digits(), seed) for seed in range(6)]
    assert all(torch.equal(split.test, tested) for split in splits)
    assert not torch.isin(torch.cat([rows for split in splits for rows in (split.train, split.val)]), tested).any()
    assert not torch.equal(splits[0].val, splits[1].val)
    assert (splitter.mode(digits()), own.mode(digits())) == ("train_val", "all")
    assert own.mode(replace(digits(), official_test=tested)) == "train_val"


@pytest.mark.parametrize(
    ("load", "rows", "columns", "classes"), [(iris, 150, 4, 3), (wine, 178, 13, 3), (breast_cancer, 569, 30, 2)]
)
def test_scikit_learns_tables(load: Callable[[], Data], rows: int, columns: int, classes: int) -> None:
    data = load()
    assert (tuple(data.x.shape), data.kind, data.classes) == ((rows, columns), "table", classes)
    assert data.y.unique().tolist() == list(range(classes))


def test_breast_cancer_is_what_scikit_learn_has() -> None:
    data = breast_cancer()
    assert data.x[0, :2].tolist() == pytest.approx([17.99, 10.38])  # radius and texture of the first tumour
    assert data.y.float().mean().item() == pytest.approx(357 / 569)  # the documentation's 357 benign ones


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"train_size": 400}, "data.train_size"),
        ({"train_size": 0}, "data.train_size"),
        ({"train_size": 10.5}, "data.train_size"),
        ({"train_size": -0.5}, "data.train_size"),
        ({"val_size": 300}, "data.val_size"),
        ({"test_size": 10}, "data.test_size"),
    ],
)
def test_sizes_that_the_data_cannot_give_are_refused(change: dict[str, float], key: str) -> None:
    with pytest.raises(Refusal, match=key):
        replace(SPLITTER, **change).split(small(), 0)  # type: ignore[arg-type]  # the dict's types are the fields'


def test_shares_that_add_up_to_one_take_all_there_is() -> None:
    table = Data("t", "table", torch.zeros(20, 1), torch.arange(20) % 2, 2, torch.arange(15, 20))
    shares = Splitter(0.9, 0.1, None, "train_val", 0, True)
    assert shares.sizes(table) == (13, 2, 5)  # of 15: 13.5 and 1.5, both of which are rounded up
    assert [len(part) for part in shares.split(table, 0)[:3]] == [13, 2, 5]
    assert replace(shares, train_size=0.7, val_size=0.3).sizes(table) == (10, 4, 5)  # 10.5 and 4.5, to even
    for train, val in ((0.95, 0.1), (0.9, 2)):
        with pytest.raises(Refusal, match=r"data\.train_size=14 and data\.val_size=2 need 16 examples; t has 15"):
            replace(shares, train_size=train, val_size=val).sizes(table)


def test_a_data_set_without_official_test_needs_a_size() -> None:
    with pytest.raises(Refusal, match=r"data\.test_size is null"):
        SPLITTER.sizes(digits())


def idx_file(values: NDArray[np.generic]) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    return head + values.astype(np.uint8).tobytes()


def fashion_files(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in zip(idx.NAMES, (20, 20, 5, 5), strict=True):
        values = rng.integers(0, 256, (n, 28, 28)) if "images" in name else rng.integers(0, 10, n)
        if name.startswith("t10k"):
            (root / f"{name}.gz").write_bytes(gzip.compress(idx_file(values)))
        else:
            (root / name).write_bytes(idx_file(values))


def test_fashion_mnist_reads_idx_files_plain_and_gzipped(tmp_path: Path) -> None:
    fashion_files(tmp_path)
    data = idx.fashion_mnist.__wrapped__(str(tmp_path))
    assert data.x.shape == (25, 1, 28, 28)
    assert data.x.dtype == torch.uint8
    expected = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(data.x[:20, 0].numpy(), expected)
    assert data.official_test is not None
    assert data.official_test.tolist() == [20, 21, 22, 23, 24]
    published = gzip.decompress((tmp_path / f"{idx.NAMES[2]}.gz").read_bytes())[16:]  # the t10k images
    assert data.x[data.official_test].numpy().tobytes() == published


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b"PK\x03\x04" + b[4:], lambda b: b"", lambda b: b[:4], lambda b: b[:15]]
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_fashion_mnist_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], packed: bool) -> None:
    fashion_files(tmp_path)
    path = tmp_path / (f"{idx.NAMES[2]}.gz" if packed else idx.NAMES[0])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refusal, match=path.name):
        idx.fashion_mnist.__wrapped__(str(tmp_path))


def test_a_packed_file_that_is_cut_off_within_its_header_is_refused(tmp_path: Path) -> None:
    fashion_files(tmp_path)
    path = tmp_path / f"{idx.NAMES[2]}.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\3" + bytes(7)))
    with pytest.raises(Refusal, match="is cut off within its header, at 11 bytes"):
        idx.fashion_mnist.__wrapped__(str(tmp_path))


def like(kind: str, value: float, test: torch.Tensor | None = None) -> Data:
    """Twenty examples of zeros, the last with another number in it."""
    x = torch.zeros(20, *{"table": (2,), "signal": (1, 3), "image": (1, 2, 2)}[kind])
    x[19].view(-1)[1] = value
    return Data("mine", kind, x, torch.arange(20) % 2, 2, test)


@pytest.mark.parametrize("kind", ["table", "signal", "image"])
def test_numbers_that_are_none_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.data.base.NUMBERS", 8)  # in pieces
    assert like(kind, 1.0).kind == kind
    for value in (torch.inf, -torch.inf, *([] if kind == "table" else [torch.nan])):
        with pytest.raises(Refusal, match="mine has inputs that are infinite, or missing; only a table's"):
            like(kind, value)
    assert like("table", torch.nan).x.isnan().sum() == 1


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (torch.arange(20) < 5, r"torch\.bool \[20\]; it must be the numbers of its rows, .*mask\.nonzero"),
        (torch.arange(5.0), r"torch\.float32 \[5\]"),
        (torch.arange(4).view(2, 2), r"torch\.int64 \[2, 2\]"),
        (torch.tensor([3, 4, 3]), "2 different rows in 3, from 3 to 4; each must be there once, from 0 to 19"),
        (torch.tensor([3, 20]), "from 3 to 20"),
        (torch.tensor([-1, 3]), "from -1 to 3"),
    ],
)
def test_an_official_test_set_that_is_no_rows_is_refused(test: torch.Tensor, said: str) -> None:
    assert like("table", 1.0, torch.tensor([19, 3])).official_test is not None
    with pytest.raises(Refusal, match="mine has an official test set of .*" + said):
        like("table", 1.0, test)


@pytest.mark.skipif(not idx.SYSTEM.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_systems_fashion_mnist() -> None:
    data = idx.fashion_mnist.__wrapped__("nowhere")
    assert torch.bincount(data.y[:60000]).tolist() == [6000] * 10
    assert data.x.float().mean().item() / 255 == pytest.approx(0.286, abs=0.001)  # the mean that users know
