"""Parquet files, read one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personavec.data.raw import BadRow, NumberedRows, RawColumns
from personavec.errors import DataError


def parquet_rows(path: Path, start: int = 1) -> NumberedRows:
    """Rows from row `start` on; row groups before it are not read."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 1
    try:
        file = ParquetFile(path)
        group = 0
        while group < file.num_row_groups - 1 and (
            number + file.metadata.row_group(group).num_rows <= start
        ):
            number += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        for batch in file.iter_batches(batch_size=256, row_groups=groups):
            skipped = min(len(batch), max(0, start - number))
            yield from enumerate(_batch_rows(batch.slice(skipped)), start=number + skipped)
            number += len(batch)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _batch_rows(batch: Any) -> list[RawColumns | BadRow]:
    """The rows of a batch.

    A value that Python has no type for becomes text; if that fails too, its row is bad.
    """
    try:
        return batch.to_pylist()
    # pyarrow raises many types: a time out of range, nanoseconds, text that is not UTF-8.
    except Exception:
        columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    rows: list[RawColumns | BadRow] = []
    for place in range(len(batch)):
        row = {name: values[place] for name, values in columns.items()}
        bad = (f"column '{n}': {v.reason}" for n, v in row.items() if isinstance(v, BadRow))
        reason = next(bad, None)
        rows.append(row if reason is None else BadRow(reason))
    return rows


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except Exception:
        pass
    try:
        return column.cast("string").to_pylist()
    except Exception:
        return [_value(column.slice(place, 1)) for place in range(len(column))]


def _value(one: Any) -> Any:
    """The only value of a column; as Arrow prints it if Python has no type for it."""
    try:
        return one[0].as_py()
    except Exception:
        pass
    try:
        return " ".join(one.to_string().split())
    except Exception as error:
        return BadRow(f"it cannot be read ({error})")


def parquet_marks(path: Path) -> Iterator[tuple[int, int]]:
    """The number of every row with offset 0, from the file's footer alone."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        rows = read_metadata(path).num_rows
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    yield from ((number, 0) for number in range(1, rows + 1))
