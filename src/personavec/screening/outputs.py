"""The files a data team takes away: all rows, the clean ones, the flagged, and subsets.

The input is streamed once more, beside its scores; original columns stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import ColumnMap, RawRow, files_of, is_saved_dataset, swapped
from personavec.errors import DataError
from personavec.plain import is_unicode, json_text, unicode_text
from personavec.runs import atomic_path
from personavec.wording import plural

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
    content: np.ndarray
    """The hash of every row of the dataset from the `first` on, scored or not."""
    first: int = 0

    def slice(self, start: int, stop: int) -> Added:
        """Of the rows with an index in [start, stop) alone."""
        first, last = np.searchsorted(self.index, (start, stop))
        part = slice(int(first), int(last))
        return Added(
            self.index[part],
            {name: values[part] for name, values in self.columns.items()},
            self.flagged[part],
            {name: chosen[part] for name, chosen in self.subsets.items()},
            self.content[start - self.first : stop - self.first],
            start,
        )


@dataclass(frozen=True)
class Files:
    """Where one dataset's files go, and what is in them.

    Without a `verdict` there are no clean and flagged ones. With `swap`, which says how rows are
    read, the responses of flagged pairs are exchanged, and stay among the clean ones.
    """

    source: str
    folder: Path
    format: Format
    verdict: bool
    swap: ColumnMap | None = None

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
    def finish(self) -> None: ...
    def close(self) -> None: ...


class Unfit(DataError):
    """Columns whose type does not hold all of their values after all."""

    def __init__(self, columns: tuple[str, ...]):
        super().__init__(columns)
        self.columns = columns


def write_outputs(
    rows: Callable[[], Iterator[RawRow]],
    added: Added,
    files: Files,
    *,
    types: Types | None = None,
    part: int | None = None,
) -> Counter[str]:
    """Write the files of one dataset, or of `part` of it; what is to be told, with counts of rows.

    `rows` has the original columns and those in `added`; `clean` and the subsets have the
    original columns alone. An original column that has the name of one that is added goes by
    another in `rows` and `flagged`. `types` are those of all rows where these are a part, and
    files are Parquet.

    Raises DataError where the rows are not those that were scored; Unfit where one of the given
    `types` does not hold a value.
    """
    if types is not None:
        return _write(rows, added, files, types, part)
    types = column_types(rows(), files.source) if files.format == "parquet" else {}
    while True:
        try:
            return _write(rows, added, files, types, part)
        except Unfit as unfit:
            types = types | dict.fromkeys(unfit.columns)


def _write(
    rows: Callable[[], Iterator[RawRow]],
    added: Added,
    files: Files,
    types: Types,
    part: int | None,
) -> Counter[str]:
    told: Counter[str] = Counter()
    writers: list[_Writer] = []
    with ExitStack() as stack:

        def open_(name: str, extra: Mapping[str, np.ndarray]) -> _Writer:
            path = files.path(name, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(atomic_path(path))
            if files.format == "jsonl":
                writer: _Writer = _Jsonl(aside)
            else:
                own = {_other_name(n, extra): t for n, t in types.items()}
                writer = _Parquet(aside, own | {n: _arrow_type(v) for n, v in extra.items()})
            stack.callback(writer.close)
            writers.append(writer)
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
        for place, raw in _scored(rows(), added, files.source):
            original = raw.columns
            if taken := added.columns.keys() & original.keys():
                original = {_other_name(n, added.columns): v for n, v in original.items()}
                told.update(
                    f"column '{name}' is written as '{_other_name(name, added.columns)}', since "
                    "the screen adds one of its name"
                    for name in taken
                )
            if files.format == "parquet" and not _is_unicode(raw.columns):
                told["half of a surrogate pair is written as U+FFFD, which Parquet can hold"] += 1
            wide = original | {name: _score(v[place]) for name, v in added.columns.items()}
            over = bool(added.flagged[place])
            everything.add(wide)
            if flagged is not None and over:
                flagged.add(wide)
            if clean is not None and not over:
                clean.add(raw.columns)
            elif clean is not None and files.swap is not None:
                exchanged = swapped(raw, files.swap)
                if exchanged is not None:
                    clean.add(exchanged)
                else:
                    told["a flagged pair was left out, as its responses cannot be exchanged"] += 1
            for writer, chosen in subsets:
                if chosen[place]:
                    writer.add(raw.columns)
        for writer in writers:
            writer.finish()
    return told


def _other_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_original"
    return name


def _scored(rows: Iterable[RawRow], added: Added, source: str) -> Iterator[tuple[int, RawRow]]:
    """The rows that have scores, with their place among these."""
    place, seen = 0, 0
    for raw in rows:
        check_row(raw, added.content, source, first=added.first)
        seen += 1
        if place < len(added.index) and raw.index == added.index[place]:
            yield place, raw
            place += 1
    if seen < len(added.content):
        raise changed(source, f"it has {plural(len(added.content) - seen, 'row')} fewer")


def check_row(raw: RawRow, content: np.ndarray, source: str, *, first: int = 0) -> None:
    """Raise DataError unless a row is the one that was scored, by its hash in `content`."""
    place = raw.index - first
    if place >= len(content) or content[place] != raw.hash.encode():
        raise changed(source, f"its row {raw.index + 1} is another")


def changed(source: str, how: str) -> DataError:
    """What to raise where a dataset's rows are not those that have the scores."""
    return DataError(
        f"{source} has changed since it was scored ({how}); run the same command again: "
        "rows that are the same keep their scores"
    )


class _Jsonl:
    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(json_text(row) + "\n")

    def finish(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Columns that hold several types of values, or none that Arrow knows, are JSON texts."""

    def __init__(self, path: Path, types: Types):
        self._types = types
        self._schema = pa.schema(
            [(_column_name(n), pa.string() if t is None else t) for n, t in types.items()]
        )
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def finish(self) -> None:
        self._flush()

    def close(self) -> None:
        self._writer.close()

    def _flush(self) -> None:
        columns, unfit = [], []
        for name, type_ in self._types.items():
            values = [row.get(name) for row in self._rows]
            try:
                columns.append(_array(values, type_))
            except _MISFITS:
                unfit.append(name)
        if unfit:
            raise Unfit(tuple(unfit))
        if self._rows:
            self._writer.write_table(pa.table(columns, self._schema))
            self._rows = []


#: What Arrow raises for values that a type does not hold.
_MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def _array(values: Sequence[Any], type_: pa.DataType | None) -> pa.Array:
    if type_ is None:
        texts = [None if value is None else json_text(value) for value in values]
        return pa.array(texts, pa.string())
    return pa.array([_arrow(value) for value in values], type_)


def _arrow(value: Any) -> Any:
    """The value with texts that Arrow can hold."""
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, dict):
        return {_column_name(name): _arrow(own) for name, own in value.items()}
    return [_arrow(own) for own in value] if isinstance(value, list) else value


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        return is_unicode(value)
    if isinstance(value, dict):
        return all(map(_is_unicode, (*value, *value.values())))
    return all(map(_is_unicode, value)) if isinstance(value, list) else True


def _column_name(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def column_types(rows: Iterator[RawRow], source: str) -> Types:
    """An Arrow type for every column; None where no one type holds all of its values."""
    path = Path(source)
    if path.exists() and not is_saved_dataset(path) and (own := _parquet_schema(path)) is not None:
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
        found = pa.array([_arrow(value) for value in values]).type
    except _MISFITS:
        return None
    return None if _is_empty(found) else found


def _is_empty(type_: pa.DataType) -> bool:
    """Does it hold a struct without fields, which Parquet cannot?"""
    if pa.types.is_struct(type_):
        return not type_.num_fields or any(_is_empty(field.type) for field in type_)
    return pa.types.is_list(type_) and _is_empty(type_.value_type)


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


def _score(value: Any) -> Any:
    """A score as JSON knows it: a missing one is null."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.floating):
        return None if np.isnan(value) else round(float(value), 5)
    return value
