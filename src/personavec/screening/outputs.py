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

from personavec.data import RawRow, files_of
from personavec.errors import DataError
from personavec.runs import atomic_path

Format = Literal["jsonl", "parquet"]
#: Of columns, by name; None for values that become JSON texts.
Types = dict[str, pa.DataType | None]
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

    def slice(self, start: int, stop: int) -> Added:
        """Of the rows with an index in [start, stop) alone."""
        first, last = np.searchsorted(self.index, (start, stop))
        part = slice(int(first), int(last))
        return Added(
            self.index[part],
            {name: values[part] for name, values in self.columns.items()},
            self.flagged[part],
            {name: chosen[part] for name, chosen in self.subsets.items()},
        )


@dataclass(frozen=True)
class Files:
    """Where one dataset's files go, and what is in them.

    Without a `verdict` there are no clean and flagged ones. `swap` names the two columns that are
    exchanged in flagged rows, which stay among the clean ones then.
    """

    source: str
    folder: Path
    format: Format
    verdict: bool
    swap: tuple[str, str] | None = None

    def path(self, name: str, part: int | None = None) -> Path:
        """A whole file, or one of those in a folder of its name."""
        if part is None:
            return self.folder / f"{name}.{self.format}"
        return self.folder / name / f"{part:06d}.{self.format}"

    def names(self, added: Added) -> list[str]:
        return ["rows", *(("clean", "flagged") if self.verdict else ()), *added.subsets]


@runtime_checkable
class _Writer(Protocol):
    def add(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def write_outputs(
    rows: Callable[[], Iterator[RawRow]],
    added: Added,
    files: Files,
    *,
    types: Types | None = None,
    part: int | None = None,
) -> None:
    """Write the files of one dataset, or of `part` of it.

    `rows` has the original columns and those in `added`; `clean` and the subsets have the
    original columns alone. `types` are those of all rows where these are a part, and files are
    Parquet. Raises DataError where a column has a name that would be added.
    """
    if types is None:
        types = column_types(rows(), files.source) if files.format == "parquet" else {}
    with ExitStack() as stack:

        def open_(name: str, extra: Mapping[str, np.ndarray]) -> _Writer:
            path = files.path(name, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(atomic_path(path))
            if files.format == "jsonl":
                writer: _Writer = _Jsonl(aside)
            else:
                writer = _Parquet(aside, types | {n: _arrow_type(v) for n, v in extra.items()})
            stack.callback(writer.close)
            return writer

        everything = open_("rows", added.columns)
        clean = open_("clean", {}) if files.verdict else None
        flagged = open_("flagged", added.columns) if files.verdict else None
        # A subset has few rows, and no file for each part that has none of them.
        subsets = [
            (open_(name, {}), chosen)
            for name, chosen in added.subsets.items()
            if part is None or chosen.any()
        ]
        for place, raw in _scored(rows(), added.index):
            if taken := added.columns.keys() & raw.columns.keys():
                raise DataError(
                    f"{files.source} has a column '{min(taken)}' already; rename it, since the "
                    "screen adds one of this name"
                )
            wide = raw.columns | {name: _plain(v[place]) for name, v in added.columns.items()}
            over = bool(added.flagged[place])
            everything.add(wide)
            if flagged is not None and over:
                flagged.add(wide)
            if clean is not None and not over:
                clean.add(raw.columns)
            elif clean is not None and files.swap is not None:
                a, b = files.swap
                clean.add(raw.columns | {a: raw.columns[b], b: raw.columns[a]})
            for writer, chosen in subsets:
                if chosen[place]:
                    writer.add(raw.columns)


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

    def __init__(self, path: Path, types: Types):
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


def column_types(rows: Iterator[RawRow], source: str) -> Types:
    """An Arrow type for every column; None where no one type holds all of its values."""
    path = Path(source)
    if path.exists() and (own := _parquet_schema(path)) is not None:
        return {field.name: field.type for field in own}
    types: Types = {}
    batch: list[dict[str, Any]] = []

    def take() -> None:
        nonlocal types
        names = {name: None for row in batch for name in row}
        found = {name: _inferred([row.get(name) for row in batch]) for name in names}
        types = united_types(types, found)
        batch.clear()

    for raw in rows:
        if raw.error is None:
            batch.append(raw.columns)
        if len(batch) == _BATCH:
            take()
    take()
    return types


def united_types(a: Types, b: Types) -> Types:
    """What holds the values of both."""
    return a | {name: _unified(a[name], own) if name in a else own for name, own in b.items()}


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
