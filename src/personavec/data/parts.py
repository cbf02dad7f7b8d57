"""Parts: scores on disk, in one Parquet file for each window of rows.

A window is a fixed number of consecutive rows, including bad ones, so a part's number determines
its rows. Parts are written atomically: after a kill, the windows without a part are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import RawRow
from personavec.errors import DataError
from personavec.plain import plain, unicode_text
from personavec.runs import append_records, atomic_path, read_records

#: Rows in a window: enough to batch texts of similar length, few enough to lose little in a kill.
WINDOW = 512

_Item = TypeVar("_Item")
_GROUP = "by."


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; each is prepared in a thread while the caller uses the one before."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def part(folder: Path, number: int) -> Path:
    """The path of a window's part."""
    return folder / f"{number:06d}.parquet"


def written(folder: Path) -> list[Path]:
    """The existing parts, in order."""
    return sorted(folder.glob("[0-9]*.parquet"))


def to_table(columns: Any) -> pa.Table:
    """A dataclass of columns as a table, with scores as fixed-size lists and a column per group."""
    data: dict[str, Any] = {}
    for field in fields(columns):
        value = getattr(columns, field.name)
        if isinstance(value, dict):
            data |= {f"{_GROUP}{name}": strings(values) for name, values in value.items()}
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            flat = pa.array(value.reshape(-1))
            data[field.name] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
        elif isinstance(value, np.ndarray):
            data[field.name] = pa.array(value)
        else:
            data[field.name] = strings(value)
    return pa.table(data)


def strings(values: Sequence[str | None]) -> pa.Array:
    """Texts as an Arrow array; half surrogate pairs are replaced."""
    return pa.array([None if v is None else unicode_text(v) for v in values], pa.string())


def write_part(path: Path, table: pa.Table) -> None:
    """Write a part atomically."""
    with atomic_path(path) as aside:
        pq.write_table(table, aside)


def matrix(table: pa.Table, name: str) -> np.ndarray:
    """A column of fixed-size lists as an array [row, item]."""
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


def write_window(
    folder: Path, number: int, raws: Sequence[RawRow], table: pa.Table, dataset: str
) -> int:
    """Write a scored window's rejects and then its part; returns the number of rejected rows."""
    ids, reasons = table.column("id").to_pylist(), table.column("reason").to_pylist()
    n = write_rejects(folder, number, raws, ids, reasons, dataset)
    # The part comes last, since a window with a part is finished.
    write_part(part(folder, number), table)
    return n


def rejects(folder: Path, number: int) -> Path:
    """The path of a window's bad rows."""
    return folder / f"{number:06d}.rejects.jsonl"


def write_rejects(
    folder: Path,
    number: int,
    raws: Sequence[RawRow],
    ids: Sequence[str],
    reasons: Sequence[str | None],
    dataset: str,
) -> int:
    """Write a window's bad rows with the reasons beside its part; returns their number."""
    records = [
        {
            "dataset": dataset,
            "index": raw.index,
            "id": row_id,
            "source": raw.source,
            "number": raw.number,
            "reason": reason,
            "row": plain(raw.columns) or None,
            "text": raw.text,
        }
        for raw, row_id, reason in zip(raws, ids, reasons, strict=True)
        if reason is not None
    ]
    path = rejects(folder, number)
    if records:
        with atomic_path(path) as aside:
            append_records(aside, records)
    else:
        path.unlink(missing_ok=True)
    return len(records)


def count_rejects(folder: Path, number: int) -> int:
    """The number of bad rows in a window's file; -1 if the file is damaged."""
    try:
        found = read_records(rejects(folder, number))
    except DataError:
        return -1
    sound = all(isinstance(r.get(name), str) for r in found for name in ("dataset", "reason"))
    return len(found) if sound else -1


def gather_rejects(folders: Sequence[Path], path: Path) -> None:
    """Write the run's rejects file from the files of all windows, in order; replaces the file."""
    found = [side for folder in folders for side in sorted(folder.glob("*.rejects.jsonl"))]
    if not found:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as aside:
        for side in found:
            append_records(aside, read_records(side))


def read_part(path: Path, columns: Mapping[str, pa.DataType | None]) -> pa.Table | None:
    """A part's table; None if it is damaged and must be made again.

    It must have at least these columns, with the given types.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return None
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    sound = (name in types and wanted in (None, types[name]) for name, wanted in columns.items())
    return table if all(sound) else None
