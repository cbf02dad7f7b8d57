"""Scores on disk as they are made: one Parquet part for each window of rows.

A window is so many rows of the input in a row, bad ones too, so that a part says by its number
which rows it holds. Parts are written whole and in order: after a kill, the first that is missing
is where to go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import RawRow
from personavec.runs import append_records, atomic_path, atomic_write, read_records
from personavec.screening.score import Columns

#: Rows of a window: enough to find texts of like length, few enough to lose little in a kill.
WINDOW = 512

_Item = TypeVar("_Item")
_GROUP = "by."


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; each is made in a thread while the caller works on the one before."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def part(folder: Path, number: int) -> Path:
    """Where a window's scores are kept."""
    return folder / f"{number:06d}.parquet"


def parts(folder: Path) -> list[Path]:
    """The parts there are, in order."""
    return sorted(folder.glob("[0-9]*.parquet"))


def to_table(columns: Columns) -> pa.Table:
    """Columns as a table: scores as fixed-size lists, groups under names of their own."""
    data: dict[str, Any] = {}
    for field in fields(Columns):
        value = getattr(columns, field.name)
        if isinstance(value, dict):
            data |= {
                f"{_GROUP}{name}": pa.array(values, pa.string()) for name, values in value.items()
            }
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            flat = pa.array(value.reshape(-1))
            data[field.name] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
        elif isinstance(value, np.ndarray):
            data[field.name] = pa.array(value)
        else:
            data[field.name] = pa.array(value, pa.string())
    return pa.table(data)


def write_part(path: Path, table: pa.Table) -> None:
    """Write a part, whole or not at all."""
    with atomic_path(path) as aside:
        pq.write_table(table, aside)


def matrix(table: pa.Table, name: str) -> np.ndarray:
    """A column of fixed-size lists as [row, item]."""
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of an empty table
        return np.zeros((0, 0), np.float32)
    width = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)


def groups(table: pa.Table) -> list[str]:
    """The columns that rows are grouped by."""
    return [name.removeprefix(_GROUP) for name in table.column_names if name.startswith(_GROUP)]


def group_values(table: pa.Table, name: str) -> list[str | None]:
    """Every row's value of a column to group by."""
    return table.column(f"{_GROUP}{name}").to_pylist()


def keep_rejects(
    path: Path,
    raws: Sequence[RawRow],
    ids: Sequence[str],
    reasons: Sequence[str | None],
    dataset: str,
) -> int:
    """Append the window's bad rows, with the reason, to the rejects file; how many there were."""
    records = [
        {
            "dataset": dataset,
            "index": raw.index,
            "id": row_id,
            "source": raw.source,
            "number": raw.number,
            "reason": reason,
            "row": json.loads(json.dumps(raw.columns, default=str)) or None,
            "text": raw.text,
        }
        for raw, row_id, reason in zip(raws, ids, reasons, strict=True)
        if reason is not None
    ]
    append_records(path, records)
    return len(records)


def forget_rejects(path: Path, dataset: str, start: int) -> int:
    """Drop rejects of windows that were not finished; how many of the dataset are left."""
    records = read_records(path)
    kept = [r for r in records if r["dataset"] != dataset or r["index"] < start]
    if len(kept) < len(records):
        lines = (json.dumps(record) + "\n" for record in kept)
        atomic_write(path, "".join(lines))
    return sum(record["dataset"] == dataset for record in kept)
