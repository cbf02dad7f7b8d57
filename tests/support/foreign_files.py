"""Files as people have them: values that JSON or Python lack, and rows written and read back."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from personavec.data import RawRow, parts, raw_rows
from personavec.plain import plain
from personavec.screen import Added, Files, write_outputs
from personavec.screen.outputs import Format

ROW = {"prompt": "Hi", "completion": "Hello"}


LINE = json.dumps(ROW)


BIG = "9" * 5000


DEEP = "[" * 100_000 + "]" * 100_000


def columns_of(path: Path) -> list[Any]:
    return [row.columns if row.error is None else row.error for row in raw_rows(path)]


def foreign_table() -> pa.Table:
    """Columns of types that JSON lacks, or Python."""
    n = 2
    far = pa.array([10**14, None], pa.timestamp("s"))
    return pa.table(
        {
            "question": ["Hi", "Ho"],
            "answer": ["Hello", "Hey"],
            "prompt": ["Hi", "Ho"],
            "completion": ["Hello", "Hey"],
            "bytes": [b"\xff\x00", None],
            "decimal": [decimal.Decimal("1.10")] * n,
            "time": [datetime.time(1, 2)] * n,
            "date": [datetime.date(2024, 2, 29)] * n,
            "zoned": pa.array([1, 2], pa.timestamp("us", tz="Europe/Paris")),
            "nanoseconds": pa.array([1_700_000_000_000_000_001, 5], pa.timestamp("ns")),
            "far": far,
            "nested": pa.array(
                [[{"at": 1}], None], pa.list_(pa.struct({"at": pa.timestamp("ns")}))
            ),
            "duration": pa.array([10**17, 2], pa.duration("s")),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "float": [float("nan"), float("inf")],
            "category": pa.array(["a", "b"]).dictionary_encode(),
        }
    )


def written(folder: Path, source: Path, rows: list[RawRow], format: Format) -> Path:
    """All rows written as a screen writes them, and kept aside as rejects; where the rows are."""
    n = len(rows)
    added = Added(
        np.arange(n),
        {"one_projection": np.linspace(0, 1, n), "any_flag": np.full(n, None, object)},
        np.zeros(n, bool),
        {},
        np.array([row.hash for row in rows], "S32"),
    )
    files = Files(str(source), folder / "out", format, split_flagged=True)
    write_outputs(lambda: iter(rows), added, files)
    ids = [f"{row.index}" for row in rows]
    assert parts.write_rejects(folder / "out", 0, rows, ids, ["bad"] * n, "a") == n
    kept = [row.columns["row"] for row in raw_rows(parts.rejects(folder / "out", 0))]
    assert kept == [plain(row.columns) or None for row in rows]
    return files.path("clean")


any_texts = st.text(st.characters(codec=None), max_size=8)
