"""The tables of a report as Parquet too, where pyarrow is installed (pip install 'regrun[parquet]')."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from runner.report.collect import write_atomic


def write_parquet(path: Path, frame: pd.DataFrame) -> list[Path]:
    """Write `frame` to `path` with full precision and its types: text, whole numbers, floats, true and false.

    Gives the file that was written; without pyarrow none, and one from an earlier report is removed, since it would
    not be of the same runs as the CSV beside it.
    """
    if find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)
        return []
    buffer = io.BytesIO()
    frame.infer_objects().to_parquet(buffer, engine="pyarrow", index=False)
    return [write_atomic(path, buffer.getvalue())]
