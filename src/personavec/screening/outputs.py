"""The files a data team takes away: all rows, the clean ones, the flagged, and subsets.

The input is streamed once more, beside its scores; original columns stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.conversations import RawRow, files_of
from personavec.errors import DataError
from personavec.runs import atomic_path

Format = Literal["jsonl", "parquet"]
_BATCH = 512


@dataclass(frozen=True, eq=False)
class Added:
    """What the screen has to say of one dataset's scored rows, in their order."""

    index: np.ndarray
    columns: Mapping[str, np.ndarray]
    flagged: np.ndarray
    """Over any trait's line."""
    subsets: Mapping[str, np.ndarray]
    """By file name: which rows are in it."""


@runtime_checkable
class _Writer(Protocol):
    def add(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def write_outputs(
    rows: Callable[[], Iterator[RawRow]],
    source: Path,
    added: Added,
    folder: Path,
    *,
    format: Format,
    verdict: bool,
    swap: tuple[str, str] | None = None,
) -> dict[str, str]:
    """Write the files of one dataset whole, and return their paths by name.

    `rows` has the original columns and those in `added`; `clean` (without the flagged rows, or
    with the two `swap` columns exchanged in them) and the subsets have the original columns
    alone. Without a `verdict` there are no clean and flagged files. Raises DataError where a column
    has a name that would be added.
    """
    types = _types(rows(), source) if format == "parquet" else {}
    paths: dict[str, Path] = {}
    with ExitStack() as stack:

        def open_(name: str, extra: Mapping[str, np.ndarray]) -> _Writer:
            path = folder / f"{name}.{format}"
            paths[name] = path
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(atomic_path(path))
            if format == "jsonl":
                writer: _Writer = _Jsonl(aside)
            else:
                writer = _Parquet(aside, types | {n: _arrow_type(v) for n, v in extra.items()})
            stack.callback(writer.close)
            return writer

        everything = open_("rows", added.columns)
        clean = open_("clean", {}) if verdict else None
        flagged = open_("flagged", added.columns) if verdict else None
        subsets = [(open_(name, {}), chosen) for name, chosen in added.subsets.items()]
        for place, raw in _scored(rows(), added.index):
            if taken := added.columns.keys() & raw.columns.keys():
                raise DataError(
                    f"{source} has a column '{min(taken)}' already; rename it, since the screen "
                    "adds one of this name"
                )
            wide = raw.columns | {name: _plain(v[place]) for name, v in added.columns.items()}
            over = bool(added.flagged[place])
            everything.add(wide)
            if flagged is not None and over:
                flagged.add(wide)
            if clean is not None and not over:
                clean.add(raw.columns)
            elif clean is not None and swap is not None:
                a, b = swap
                clean.add(raw.columns | {a: raw.columns[b], b: raw.columns[a]})
            for writer, chosen in subsets:
                if chosen[place]:
                    writer.add(raw.columns)
    return {name: str(path) for name, path in paths.items()}


def _scored(rows: Iterable[RawRow], index: np.ndarray) -> Iterator[tuple[int, RawRow]]:
    """The rows that have scores, with their place among these."""
    place = 0
    for raw in rows:
        if place < len(index) and raw.index == index[place]:
            yield place, raw
            place += 1
    if place < len(index):
        raise DataError(f"the input has fewer rows than were scored: row {index[place]} is gone")


class _Jsonl:
    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8", errors="surrogatepass")

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Columns that hold several types of values, or none that Arrow knows, are JSON texts."""

    def __init__(self, path: Path, types: Mapping[str, pa.DataType | None]):
        self._types = types
        self._schema = pa.schema([(n, pa.string() if t is None else t) for n, t in types.items()])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append({name: self._value(row.get(name), name) for name in self._types})
        if len(self._rows) == _BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _value(self, value: Any, name: str) -> Any:
        if self._types[name] is not None or value is None:
            return value
        return json.dumps(value, ensure_ascii=False, default=str)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


def _types(rows: Iterator[RawRow], source: Path) -> dict[str, pa.DataType | None]:
    """An Arrow type for every column; None where no one type holds all of its values."""
    if source.exists() and (own := _parquet_schema(source)) is not None:
        return {field.name: field.type for field in own}
    types: dict[str, pa.DataType | None] = {}
    batch: list[dict[str, Any]] = []

    def take() -> None:
        for name in {name: None for row in batch for name in row}:
            found = _inferred([row.get(name) for row in batch])
            types[name] = found if name not in types else _unified(types[name], found)
        batch.clear()

    for raw in rows:
        if raw.error is None:
            batch.append(raw.columns)
        if len(batch) == _BATCH:
            take()
    take()
    return types


def _parquet_schema(source: Path) -> pa.Schema | None:
    """The schema of a dataset of Parquet files that all share it."""
    files = [source] if source.is_file() else [f for f in files_of(source)]
    if any(file.suffix.lower() != ".parquet" for file in files):
        return None
    schemas = [pq.read_schema(file).remove_metadata() for file in files]
    return schemas[0] if all(schema == schemas[0] for schema in schemas) else None


def _inferred(values: Sequence[Any]) -> pa.DataType | None:
    try:
        return pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
        return None


def _unified(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
    if a is None or b is None:
        return None
    schemas = [pa.schema([("x", a)]), pa.schema([("x", b)])]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None


def _arrow_type(values: np.ndarray) -> pa.DataType:
    # Verdicts are True, False or None; everything else that is added is a number.
    return pa.bool_() if values.dtype in (bool, object) else pa.float32()


def _plain(value: Any) -> Any:
    """A score as JSON knows it: a missing one is null."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.floating):
        return None if np.isnan(value) else round(float(value), 5)
    return value
