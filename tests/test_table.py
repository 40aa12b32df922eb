"""Tables of the user's: what is read, what is encoded, and what is refused in one line."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Regrun

from runner.data.base import Data, Splitter
from runner.data.table import table
from runner.errors import Refusal
from runner.records import read_table

ROWS = 40


def people(n: int = ROWS) -> pd.DataFrame:
    """Two numbers, one with gaps; a text with a gap; a flag; and the class."""
    return pd.DataFrame(
        {
            "age": [20 + i % 30 for i in range(n)],
            "income": [None if i % 7 == 0 else 1000.5 * i for i in range(n)],
            "city": [None if i == 5 else ("Oslo", "Rome", "Bern")[i % 3] for i in range(n)],
            "member": [i % 2 == 0 for i in range(n)],
            "kind": [("no", "yes")[i % 2] for i in range(n)],
        }
    )


def read(path: Path, target: str = "kind", test: Path | None = None, drop: Sequence[str] = (), most: int = 100) -> Data:
    return table(str(path), target, None if test is None else str(test), drop, most, "classification")


def written(folder: Path, text: str, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_texts_and_flags_of_a_csv_file(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "my.csv", index=False)
    data = read(tmp_path / "my.csv")
    # age, income, Bern, Oslo, Rome, no city, member
    assert data.x[1].tolist() == [21, 1000.5, 0, 0, 1, 0, 0]
    assert data.x[0, 1].isnan()
    assert data.x[5, 2:6].tolist() == [0, 0, 0, 1]
    assert data.indicators is not None
    assert data.indicators.tolist() == [False, False, True, True, True, True, False]
    assert (data.name, data.kind, data.classes, data.y[:4].tolist()) == ("my", "table", 2, [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("semicolons.csv", {"sep": ";", "decimal": ","}),
        ("tabs.tsv", {"sep": "\t"}),
        ("bom.csv", {"encoding": "utf-8-sig"}),
        ("question_marks.csv", {"na_rep": "?"}),
        ("packed.csv.gz", {}),
    ],
)
def test_other_ways_to_write_it_give_the_same(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    people().to_csv(tmp_path / "my.csv", index=False)
    people().to_csv(tmp_path / name, index=False, **options)  # type: ignore[call-overload]  # options of its own
    plain, other = read(tmp_path / "my.csv"), read(tmp_path / name)
    assert torch.equal(plain.x.nan_to_num(-1), other.x.nan_to_num(-1))
    assert torch.equal(plain.y, other.y)


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    people().to_csv(tmp_path / "my.csv", index=False)
    people().to_parquet(tmp_path / "my.parquet")
    plain, other = read(tmp_path / "my.csv"), read(tmp_path / "my.parquet")
    assert torch.equal(plain.x.nan_to_num(-1), other.x.nan_to_num(-1))
    people().convert_dtypes().assign(city=people()["city"].astype("category")).to_parquet(tmp_path / "typed.parquet")
    typed = read(tmp_path / "typed.parquet")
    assert torch.equal(plain.x.nan_to_num(-1), typed.x.nan_to_num(-1))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 1, 2], [2, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        ([0.5, -1.0, 10.0], [1, 0, 2]),
        (["b", "a", "é"], [1, 0, 2]),
    ],
)
def test_labels_of_any_type_are_numbered_in_their_order(
    tmp_path: Path, labels: list[object], classes: list[int]
) -> None:
    pd.DataFrame({"x": range(30), "y": labels * 10}).to_csv(tmp_path / "my.csv", index=False)
    assert read(tmp_path / "my.csv", "y").y[:3].tolist() == classes


def test_a_second_file_is_the_test_set_and_teaches_the_encoders_nothing(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "train.csv", index=False)
    ours = people(10)
    ours.loc[3, "city"] = "Pisa"
    ours.to_csv(tmp_path / "test.csv", index=False)
    data = read(tmp_path / "train.csv", test=tmp_path / "test.csv")
    assert data.official_test is not None
    assert data.official_test.tolist() == list(range(40, 50))
    assert torch.equal(data.x[:40].nan_to_num(-1), read(tmp_path / "train.csv").x.nan_to_num(-1))
    assert data.x[43, 2:6].tolist() == [0, 0, 0, 0]  # a city that training has not


def test_texts_of_the_test_file_are_texts_as_the_training_file_has_them(tmp_path: Path) -> None:
    """Columns that hold texts in one file and, by themselves, numbers, flags or nothing in the other."""
    train = written(tmp_path, "size,code,flag,y\n" + "1,01,true,01\n2,1,false,1\nx,x,,x\n" * 3)
    test = written(tmp_path, "size,code,flag,y\n1,01,true,01\n2,1,false,1\n,01,,01\n", "test.csv")
    data = read(train, "y", test=test)
    assert data.official_test is not None
    # sizes 1, 2, x; codes 01, 1, x; flags False, True and none
    assert data.x[data.official_test].tolist() == [
        [1, 0, 0, 1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 1],
    ]  # fmt: skip
    assert data.x[:2].tolist() == data.x[data.official_test][:2].tolist()
    assert data.y[data.official_test].tolist() == [0, 1, 0]


def test_whole_numbers_of_a_parquet_file_are_texts_without_decimals(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"size": ["1", "2", "x"] * 4, "y": [0, 1] * 6}).to_parquet(tmp_path / "train.parquet")
    pd.DataFrame({"size": [1, None, 2], "y": [0, 1, 0]}).to_parquet(tmp_path / "test.parquet")
    data = read(tmp_path / "train.parquet", "y", test=tmp_path / "test.parquet")
    assert data.x[12:].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_dates_where_the_training_file_has_numbers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": range(12), "y": [0, 1] * 6}).to_parquet(tmp_path / "train.parquet")
    dates = pd.DataFrame({"a": pd.to_datetime(["2024-01-01"] * 2), "y": [0, 1]})
    dates.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(Refusal, match=r"'a' of .*test\.parquet is not all numbers, .*: dates or times"):
        read(tmp_path / "train.parquet", "y", test=tmp_path / "test.parquet")


def test_constant_and_empty_columns_and_a_class_with_one_row_are_results(tmp_path: Path) -> None:
    frame = people().assign(same=3.0, nothing=None, word="x")
    frame.loc[0, "kind"] = "perhaps"
    frame.to_csv(tmp_path / "my.csv", index=False)
    data = read(tmp_path / "my.csv")
    assert data.classes == 3
    for seed in range(5):
        split = Splitter(None, 8, 8, "train_val", 0, True).split(data, seed)
        x = (data.x - split.mean) / split.std
        x = torch.where(x.isnan(), split.fill, x)
        assert x.isfinite().all()
        assert x[:, 7:9].abs().max() == 0


def test_a_file_that_changed_is_read_again_and_tells_itself_apart(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "my.csv", index=False)
    before = read(tmp_path / "my.csv")
    people(50).to_csv(tmp_path / "my.csv", index=False)
    after = read(tmp_path / "my.csv")
    assert (len(before.y), len(after.y)) == (40, 50)
    assert before.content != after.content


def test_large_numbers_that_lie_close_together_stay_apart(tmp_path: Path) -> None:
    """Seconds and cents: float32 has steps of 128 at 1.7e9, and of 64 at 1e9."""
    frame = pd.DataFrame({"s": [1_700_000_000 + i for i in range(100)], "a": range(100), "y": [0, 1] * 50})
    frame.to_csv(tmp_path / "my.csv", index=False)
    frame[40:50].assign(a=0).to_csv(tmp_path / "test.csv", index=False)
    data = read(tmp_path / "my.csv", "y", test=tmp_path / "test.csv")
    apart = data.x[1:, 0] - data.x[:-1, 0]
    assert apart[:99].tolist() == [1.0] * 99
    assert data.x[100:, 0].tolist() == data.x[40:50, 0].tolist()
    assert data.x[:100, 1].tolist() == list(range(100))
    assert data.notes == (
        "column 's' has numbers near 1700000049 that float32 cannot tell apart; 1700000049 is taken from each of them",
    )
    frame["y"] = [1e9 + 0.3 * i for i in range(100)]
    frame[["a", "y"]].to_csv(tmp_path / "my.csv", index=False)
    target = table(str(tmp_path / "my.csv"), "y", None, (), 100, "regression")
    assert (target.y[1:] - target.y[:-1]).tolist() == pytest.approx([0.3] * 99, rel=1e-5)
    split = Splitter(None, 10, 10, "train_val", 0, True).split(target, 0)
    # the sd of the training targets: 0.3 times that of their indices
    assert split.unit.item() == pytest.approx(0.3 * split.train.double().std(unbiased=False).item(), rel=1e-5)
    assert target.notes[0].startswith("data.target 'y' has numbers near 1000000015 ")


def test_numbers_that_float32_rounds_by_little_stay_as_they_are(tmp_path: Path) -> None:
    """Years are exact, and decimals of so many digits are rounded by 1e-7 of their spread, even where two are one."""
    frame = pd.DataFrame({"year": range(1990, 2030), "x": [0.1 + 1e-12 * i + i // 2 for i in range(40)]})
    frame.assign(y=[0, 1] * 20).to_csv(tmp_path / "my.csv", index=False)
    data = read(tmp_path / "my.csv", "y")
    assert torch.equal(data.x, torch.tensor(frame.to_numpy()).float())
    assert data.notes == ()


def test_a_column_of_numbers_that_a_cell_makes_one_of_texts_is_said(tmp_path: Path) -> None:
    numbers = "".join(f"{i},{i},{i % 2}\n" for i in range(19))
    data = read(written(tmp_path, "a,b,y\n" + numbers + '"1,234",7,1\n'), "y")
    assert data.notes == (
        "column 'a' is taken for texts, though 95 % are numbers and '1,234' is the first that is not; mend or leave "
        "these cells blank",
    )  # 19 of 20
    assert data.shape == (21,)
    assert read(written(tmp_path, "a,b,y\n" + numbers + ",7,1\n" + "x,1,0\n" * 3), "y").notes == ()  # 3 of 22
    with pytest.raises(Refusal, match=r"20 different texts \(95 % are numbers and 'none of it' is the first"):
        read(written(tmp_path, "a,b,y\n" + numbers + "none of it,7,1\n"), "y", most=19)


HEAD = "a,b,y\n"
BODY = "".join(f"{i},{'uvw'[i % 3]},{i % 2}\n" for i in range(12))

REFUSED: dict[str, tuple[str, str]] = {
    "no rows": (HEAD, "no rows"),
    "nothing at all": ("", "is not a table"),
    "twice the same name": ("a,a,y\n1,2,0\n3,4,1\n", "the column 'a' more than once"),
    "one class": (HEAD + "1,u,0\n2,v,0\n", "'y' is .*0.* in every row"),
    "a class for nearly every row": (HEAD + "".join(f"{i},u,{i}\n" for i in range(9)), "9 different values in 9 rows"),
    "missing class": (HEAD + BODY + "1,u,\n", "'y' is missing in 1 of 13 rows"),
    "no such target": ("a,b,z\n1,u,0\n", "no column 'y'"),
    "only the target": ("y\n" + "0\n1\n" * 5, "no column besides y"),
    "row numbers": (",a,y\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(9)), "column without a name.*Unnamed: 0"),
    "dates": (HEAD + "".join(f"{i},2024-01-{i:02},{i % 2}\n" for i in range(10, 20)), "'b' of .* is a date.*drop=.b."),
    "ids": (HEAD + "".join(f"{i},id{i},{i % 2}\n" for i in range(101)), "'b' of .* has 101 different texts.*drop=.b."),
    "infinite numbers": (HEAD + BODY + "inf,u,1\n", "'a' of .*infinite"),
    "huge numbers": (HEAD + BODY + "1e39,u,1\n", "'a' of .*above 3e38"),
    "rows longer than the header": ("a,y\n" + BODY, "is not a table"),
    "ragged rows": (HEAD + BODY + "1,u,0,5,6\n", "is not a table: .*line 14"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_of_numbers_and_categories_is_refused(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    with pytest.raises(Refusal, match=said) as refused:
        read(written(tmp_path, text), "y")
    assert "\n" not in str(refused.value)
    assert "my.csv" in str(refused.value)


def test_other_refusals(tmp_path: Path) -> None:
    good = written(tmp_path, HEAD + BODY)
    assert read(good, "y").shape == (4,)
    with pytest.raises(Refusal, match=r"data\.path is '.*nowhere.csv', which is not a file"):
        read(tmp_path / "nowhere.csv", "y")
    with pytest.raises(Refusal, match="no column 'bb'; did you mean 'b'"):
        read(good, "y", drop=["bb"])
    assert read(good, "y", drop=["b"]).shape == (1,)
    with pytest.raises(
        Refusal, match=r"data\.drop is 'ab'; it must be a list of names of columns \(data\.drop=\[ab\]\)"
    ):
        read(good, "y", drop="ab")
    (tmp_path / "latin.csv").write_bytes("a,y\né,1\n".encode("latin-1"))
    with pytest.raises(Refusal, match="is not UTF-8"):
        read(tmp_path / "latin.csv", "y")
    with pytest.raises(Refusal, match=r"'a' of .*test\.csv is not all numbers"):
        read(good, "y", test=written(tmp_path, HEAD + "x,u,1\n", "test.csv"))
    with pytest.raises(Refusal, match="has no column 'b'"):
        read(good, "y", test=written(tmp_path, "a,y\n1,1\n", "fewer.csv"))
    with pytest.raises(Refusal, match=r"has the class '7' in .*more\.csv"):
        read(good, "y", test=written(tmp_path, HEAD + "1,u,7\n", "more.csv"))
    with pytest.raises(Refusal, match="is not a Parquet file"):
        read(written(tmp_path, "hello", "my.parquet"), "y")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((HEAD + BODY).encode())[:-9])
    with pytest.raises(EOFError):
        read(tmp_path / "cut.csv.gz", "y")


def test_a_table_is_trained_on_and_a_changed_one_is_not_mixed_with_it(regrun: Regrun, tmp_path: Path) -> None:
    people(200).to_csv(tmp_path / "my.csv", index=False)
    command = ["data=table", "data.path=my.csv", "data.target=kind", "data.name=mine", "protocol=smoke", "study=s"]
    told = regrun(*command, "progress=false")
    assert told.code == 0, told.err
    (row, _) = read_table(tmp_path / "outputs" / "s" / "runs.csv")
    assert (row["dataset"], row["status"], row["n_train"], row["n_test"]) == ("mine", "ok", "128", "40")
    people(300).to_csv(tmp_path / "my.csv", index=False)
    told = regrun(*command, "progress=false")
    assert told.code == 2
    assert "data.content" in told.err


@pytest.mark.usefixtures("undrawn")
def test_a_test_file_with_rows_to_train_on_is_said_and_told(regrun: Regrun, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "all.csv", index=False)
    people()[5:10].to_csv(tmp_path / "part.csv", index=False)
    told = regrun(
        "data=table", "data.path=all.csv", "data.test_path=part.csv", "data.target=kind", "data.test_size=null",
        "protocol=smoke", "method=l2", "model=linear", "study=s", "progress=false", "batch_size=4", "-m",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "5 of 5 test examples stand among the others" in told.err
    page = (tmp_path / "outputs" / "s" / "report" / "report.html").read_text()
    assert "5 of 5 test examples stand among the others" in page
