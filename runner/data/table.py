"""A table of the user's: rows of numbers and categories in a CSV or Parquet file, one column of them the class.

pandas reads the file and is imported for that only, inside the functions; what leaves this module is tensors.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from runner.data.base import Data, overlap, prints, tasked
from runner.data.precision import offset, told
from runner.errors import Refusal, unknown

if TYPE_CHECKING:
    import pandas as pd

PARQUET = (".parquet", ".pq")
SEPARATORS = ",;\t|"
MISSING = "?"  # beside what pandas takes for missing: how the tables of the UCI repository say it
NEARLY = 0.9  # the share of numbers from which on a column of texts was hardly meant as such
DATE = r"\d{4}-\d{2}-\d{2}.*"


class Column(NamedTuple):
    """A feature as numbers."""

    parts: list[NDArray[np.float32]]  # [rows, its columns] of each file
    indicates: bool  # whether its columns are 1 for one value and 0 for the others
    note: str  # what its user should know of it, or ""


def table(path: str, target: str, test_path: str | None, drop: Sequence[str], most_categories: int, task: str) -> Data:
    """The rows of `path`, and those of `test_path` as the official test set if it is given.

    Numbers are kept with their gaps, which each seed fills from its training rows. Every value of a text column becomes
    a column of its own, 1 where the row has it; a missing text is such a value too. What a column is, which values it
    has and which classes there are is read from `path` alone: a value that only test rows have is 0 in all its columns.

    Refuses what is no table of numbers and categories: dates, ids and free text (more than `most_categories` different
    texts), columns of the same name, infinite numbers, missing or single classes.
    """
    if isinstance(drop, str):
        raise Refusal(f"data.drop is {drop!r}; it must be a list of names of columns (data.drop=[{drop}])")
    files = tuple(_stamped("data." + key, file) for key, file in (("path", path), ("test_path", test_path)) if file)
    return _load(files, target, tuple(drop or ()), most_categories, tasked(task))


def _stamped(key: str, path: str) -> tuple[str, str]:
    """A file and what tells its content from any other."""
    if not Path(path).is_file():
        raise Refusal(f"{key} is {path!r}, which is not a file ({key}=...)")
    with Path(path).open("rb") as file:
        return path, hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=2)
def _load(files: Sequence[tuple[str, str]], target: str, drop: Sequence[str], most_categories: int, task: str) -> Data:
    path = files[0][0]
    frames = [_read(path)]
    frames += [_read(file, _text_columns(frames[0])) for file, _ in files[1:]]
    known = [str(name) for name in frames[0].columns]
    for key, name in (("target", target), *(("drop", name) for name in drop)):
        if name not in known:
            raise unknown("column", str(name), known, f"data.{key}=...; {path}")
    features = [name for name in known if name not in (target, *drop)]
    if not features:
        raise Refusal(f"{path} has no column besides {', '.join((target, *drop))}; nothing is left to learn from")
    for (file, _), frame in zip(files, frames, strict=True):
        _fits(file, frame, (target, *features), path)
    columns = [
        _encoded([frame[name] for frame in frames], name, [file for file, _ in files], most_categories)
        for name in features
    ]
    x = np.concatenate([np.concatenate(parts, 1) for parts in zip(*(column.parts for column in columns), strict=True)])
    indicators = [column.indicates for column in columns for _ in range(column.parts[0].shape[1])]
    read = _classes if task == "classification" else _targets
    y, classes, note = read([frame[target] for frame in frames], target, [file for file, _ in files])
    first = len(frames[0])
    test = torch.arange(first, len(y)) if len(files) > 1 else None
    return Data(
        name=Path(path).stem,
        kind="table",
        x=torch.from_numpy(x),
        y=torch.from_numpy(y),
        classes=classes,
        official_test=test,
        indicators=torch.tensor(indicators),
        content="-".join(digest for _, digest in files),
        task=task,
        notes=(
            *(line for line in (*(column.note for column in columns), note) if line),
            *(overlap(prints(torch.from_numpy(x)), test) if test is not None else ()),
        ),
    )


def _text_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that hold texts: what pandas took for neither numbers, nor dates, nor true and false with gaps."""
    return [
        str(name)
        for name in frame.columns
        if frame[name].dtype.kind not in "buifcmM"
        and not frame[name].dropna().map(lambda value: isinstance(value, bool)).all()
    ]


def _read(path: str, texts: Sequence[str] = ()) -> pd.DataFrame:
    """The file's rows; refuses one that cannot be read, has no rows, or two columns of one name.

    The columns `texts` are read as texts whatever is in them, since "01" is another text than "1".
    """
    import pandas as pd

    try:
        frame = _read_parquet(path) if path.endswith(PARQUET) else _read_csv(path, texts)
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, csv.Error) as error:
        raise Refusal(f"{path} is not a table: {' '.join(str(error).split())}") from error
    if not len(frame):
        raise Refusal(f"{path} has no rows besides its header")
    return frame


def _read_parquet(path: str) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path).reset_index(drop=True)
    except ImportError as error:
        raise Refusal(
            f"{path} is a Parquet file, and to read it needs pyarrow: pip install 'regrun[parquet]'"
        ) from error
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these kinds
        raise Refusal(f"{path} is not a Parquet file: {' '.join(str(error).split())}") from error
    frame.columns = [str(name) for name in frame.columns]
    _once(path, list(frame.columns))
    return frame


def _read_csv(path: str, texts: Sequence[str]) -> pd.DataFrame:
    """Separated by what gives the header the most names; in files with semicolons a number may have a decimal comma."""
    import pandas as pd

    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        head = file.readline()
    names, separator = max(
        ((next(csv.reader([head], delimiter=s, skipinitialspace=True), []), s) for s in SEPARATORS),
        key=lambda found: len(found[0]),
    )
    _once(path, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut
        frame = pd.read_csv(
            path, sep=separator, encoding="utf-8-sig", skipinitialspace=True, na_values=[MISSING], low_memory=False,
            index_col=False, dtype={name: str for name in texts if name in names},
        )  # fmt: skip
    if separator == ";":
        for name in set(frame.columns) - set(texts):
            cells = frame[name].dropna()
            if not pd.api.types.is_numeric_dtype(cells) and len(cells):
                cells = cells.astype(str)
                if cells.str.fullmatch(r"[-+]?\d+(,\d+)?").all():
                    frame[name] = pd.to_numeric(cells.str.replace(",", ".")).reindex(frame.index)
    return frame


def _once(path: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise Refusal(f"{path} has the column {twice[0]!r} more than once; give each a name of its own")


def _fits(file: str, frame: pd.DataFrame, needed: Sequence[str], path: str) -> None:
    for name in needed:
        if name not in frame:
            raise Refusal(f"{file} has no column {name!r}, which {path} has; both need the same columns")
        if name.startswith("Unnamed: "):
            raise Refusal(
                f"{file} has a column without a name (row numbers?); name it or leave it out (data.drop=['{name}'])"
            )


def _encoded(parts: Sequence[pd.Series], name: str, files: Sequence[str], most: int) -> Column:
    """A column of each file as numbers."""
    import pandas as pd

    first, types = parts[0], pd.api.types
    where = f"column {name!r} of {files[0]}"
    leave = f"leave it out (data.drop=[{name}])"
    if types.is_datetime64_any_dtype(first) or types.is_timedelta64_dtype(first):
        raise Refusal(f"{where} is a date or time; {leave} or make numbers of it")
    if types.is_numeric_dtype(first):
        single, note = _single(
            f"column {name!r}", [_numbers(part, name, file, files[0]) for part, file in zip(parts, files, strict=True)]
        )
        return Column([numbers[:, None] for numbers in single], False, note)
    texts = [_texts(part) for part in parts]
    values = sorted(texts[0].dropna().unique())
    if values and texts[0].dropna().str.fullmatch(DATE).all():
        raise Refusal(f"{where} is a date or time; {leave} or make numbers of it")
    spoiled = _spoiled(texts[0])
    if len(values) > most:
        raise Refusal(
            f"{where} has {len(values)} different texts ({spoiled or 'an id or free text?'}); {leave}, or allow more "
            "(data.most_categories=...)"
        )
    present: list[str | None] = [*values, *([None] if texts[0].isna().any() else [])]
    indicators: list[NDArray[np.float32]] = [
        np.stack([(text.isna() if value is None else text == value).to_numpy(np.float32) for value in present], 1)
        for text in texts
    ]
    note = spoiled and f"column {name!r} is taken for texts, though {spoiled}; mend or leave these cells blank"
    return Column(indicators, True, note)


def _spoiled(texts: pd.Series) -> str:
    """What keeps a column of texts from being one of numbers, where it is little; else ""."""
    import pandas as pd

    there = texts.dropna()
    odd = there[pd.to_numeric(there, errors="coerce").isna()]
    if not len(odd) or len(odd) > (1 - NEARLY) * len(there):
        return ""
    share = 100 * (1 - len(odd) / len(there))
    return f"{share:.3g} % are numbers and {odd.iloc[0]!r} is the first that is not"


def _texts(part: pd.Series) -> pd.Series:
    """The column as texts, None where one is missing; whole numbers that gaps have made floating ones without ".0"."""
    given = part.dropna()
    if part.dtype.kind == "f" and (given == given.round()).all():
        part = part.astype("Int64")
    return part.astype(object).where(part.notna(), None).map(str, na_action="ignore")


def _numbers(part: pd.Series, name: str, file: str, path: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where one is missing: float64 [rows]."""
    import pandas as pd

    try:
        if part.dtype.kind in "mM":
            raise TypeError("dates or times")
        numbers = pd.to_numeric(part).to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise Refusal(f"column {name!r} of {file} is not all numbers, as it is in {path}: {error}") from error
    if (np.abs(numbers) > np.finfo(np.float32).max).any():
        raise Refusal(
            f"column {name!r} of {file} has numbers that are infinite or above 3e38; mend or leave them blank"
        )
    return numbers


def _single(what: str, parts: Sequence[NDArray[np.float64]]) -> tuple[list[NDArray[np.float32]], str]:
    """The numbers of each file as float32, less an offset where it would make different ones of the first the same.

    And a line that says so, or "".
    """
    taken = offset(parts[0])
    return [(part - taken).astype(np.float32) for part in parts], told(what, taken) if taken else ""


def _targets(parts: Sequence[pd.Series], target: str, files: Sequence[str]) -> tuple[NDArray[np.float32], int, str]:
    """The numbers to predict of all files, 1 output of a net, and a note; refuses what is missing or no number."""
    import pandas as pd

    read = []
    for part, file in zip(parts, files, strict=True):
        if not pd.api.types.is_numeric_dtype(part):
            raise Refusal(f"data.target {target!r} of {file} is not all numbers, which data.task=regression predicts")
        numbers = _numbers(part, target, file, files[0])
        if np.isnan(numbers).any():
            raise Refusal(
                f"data.target {target!r} is missing in {np.isnan(numbers).sum()} of {len(part)} rows of {file}"
            )
        read.append(numbers)
    if len(np.unique(read[0])) == 1:
        raise Refusal(
            f"data.target {target!r} is {read[0][0]:g} in every row of {files[0]}; nothing is to be predicted"
        )
    single, note = _single(f"data.target {target!r}", read)
    return np.concatenate(single), 1, note


def _classes(parts: Sequence[pd.Series], target: str, files: Sequence[str]) -> tuple[NDArray[np.int64], int, str]:
    """The labels of all files as numbers in 0..classes-1, in the order of their values, how many classes, and ""."""
    import pandas as pd

    for part, file in zip(parts, files, strict=True):
        if part.isna().any():
            raise Refusal(f"data.target {target!r} is missing in {part.isna().sum()} of {len(part)} rows of {file}")
    first = parts[0]
    numbers = all(pd.api.types.is_numeric_dtype(part) for part in parts)
    labels = [part if numbers else _texts(part) for part in parts]
    values = sorted(labels[0].unique())
    if len(values) == 1:
        raise Refusal(
            f"data.target {target!r} is {str(first.iloc[0])!r} in every row of {files[0]}; there must be two classes"
        )
    if len(values) > len(first) / 2:
        raise Refusal(
            f"data.target {target!r} has {len(values)} different values in {len(first)} rows of {files[0]}; it must "
            "name a few classes"
        )
    number = {value: i for i, value in enumerate(values)}
    for part, file in zip(labels[1:], files[1:], strict=True):
        for value in part.unique():
            if value not in number:
                raise Refusal(
                    f"data.target {target!r} has the class {str(value)!r} in {file}, which {files[0]} has not"
                )
    return np.concatenate([part.map(number).to_numpy(np.int64) for part in labels]), len(values), ""
