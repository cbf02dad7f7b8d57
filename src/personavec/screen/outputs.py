"""Write a screen's files of one dataset: all rows, the clean rows, the flagged rows and subsets.

The dataset is read again alongside its scores; its original columns are not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import ColumnMap, RawColumns, RawRow, swapped
from personavec.errors import DataError
from personavec.plain import json_text
from personavec.runs import atomic_path
from personavec.screen.arrow_types import (
    BATCH,
    MISFITS,
    Types,
    added_type,
    column_types,
    is_storable,
    storable_name,
    to_array,
)
from personavec.screen.config import Format
from personavec.wording import plural

_NO_SURROGATES = "half of a surrogate pair is written as U+FFFD, which Parquet can hold"
_NOT_SWAPPED = "a flagged pair was left out, as its responses cannot be exchanged"


@dataclass(frozen=True, eq=False)
class Added:
    """What a screen adds to one dataset's scored rows, in the order of these rows."""

    index: np.ndarray
    columns: Mapping[str, np.ndarray]
    flagged: np.ndarray
    """Whether a row is flagged for any trait."""
    subsets: Mapping[str, np.ndarray]
    """Whether a row is in the subset, by file name."""
    content: np.ndarray
    """Hashes of all rows of the dataset from row `first` on, scored or not."""
    first: int = 0

    def slice(self, start: int, stop: int) -> Added:
        """The part for the rows with an index in [start, stop)."""
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
    """Where one dataset's files are written, and which rows they hold."""

    source: str
    folder: Path
    format: Format
    split_flagged: bool
    """Whether there are `clean` and `flagged` files."""
    swap: ColumnMap | None = None
    """If given, the responses of flagged pairs are swapped, and the pairs stay in `clean`; this
    maps the columns of the pairs. None: flagged rows are left out of `clean`."""

    def path(self, name: str, part: int | None = None) -> Path:
        """The path of a file, or of one part in the folder of that name."""
        if part is None:
            return self.folder / f"{name}.{self.format}"
        return self.folder / name / f"{part:06d}.{self.format}"

    def names(self, added: Added) -> list[str]:
        """The files' names, without folder and suffix."""
        return ["rows", *(("clean", "flagged") if self.split_flagged else ()), *added.subsets]


class Unfit(DataError):
    """Raised when columns have values that do not fit their inferred type."""

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
    on_row: Callable[[int, RawRow], None] | None = None,
) -> Counter[str]:
    """Write the files of one dataset, or of `part` of it; returns notes with row counts.

    The files `rows` and `flagged` have the original columns and those in `added`; `clean` and the
    subsets have only the original columns. An original column with the name of an added one is
    renamed. `types` are the types of the dataset's columns; without them they are inferred first,
    which reads the rows once more. `on_row` is called with the position of each scored row among
    the scored rows, and the row.

    If values do not fit the type of their column, the rows are read again and the column is
    written as text. For a part, which shares its types with other parts, Unfit is raised instead.
    Raises DataError if the rows are not those that were scored.
    """
    if types is None:
        types = column_types(rows(), files.source) if files.format == "parquet" else {}
    while True:
        try:
            return _write(rows(), added, files, types, part, on_row)
        except Unfit as unfit:
            if part is not None:
                raise
            types = types | dict.fromkeys(unfit.columns)


def _write(
    rows: Iterator[RawRow],
    added: Added,
    files: Files,
    types: Types,
    part: int | None,
    on_row: Callable[[int, RawRow], None] | None,
) -> Counter[str]:
    notes: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = _Writers(stack, added, files, types, part)
        for place, raw in _scored(rows, added, files.source):
            if on_row is not None:
                on_row(place, raw)
            notes.update(writers.add(place, raw))
        writers.finish()
    return notes


class _Writers:
    """The open files of one dataset. A row is written to every file that it belongs to."""

    def __init__(
        self, stack: ExitStack, added: Added, files: Files, types: Types, part: int | None
    ):
        self._stack, self._added, self._files = stack, added, files
        self._types, self._part = types, part
        self._open: list[_Writer] = []
        self._rows = self._writer("rows", added.columns)
        self._clean = self._writer("clean", {}) if files.split_flagged else None
        self._flagged = self._writer("flagged", added.columns) if files.split_flagged else None
        # Subsets are small: a part without rows of one has no file for it.
        self._subsets = [
            (self._writer(name, {}), chosen)
            for name, chosen in added.subsets.items()
            if part is None or chosen.any()
        ]

    def add(self, place: int, raw: RawRow) -> Iterator[str]:
        """Write one row; yields notes for the report."""
        original, names = raw.columns, self._added.columns
        if taken := names.keys() & original.keys():
            original = {_other_name(n, names): v for n, v in original.items()}
            yield from (_renamed(name, _other_name(name, names)) for name in taken)
        if self._files.format == "parquet" and not is_storable(raw.columns):
            yield _NO_SURROGATES
        scored = original | {name: _score(values[place]) for name, values in names.items()}
        self._rows.add(scored)
        if self._flagged is not None and self._added.flagged[place]:
            self._flagged.add(scored)
        yield from self._add_clean(raw, flagged=bool(self._added.flagged[place]))
        for writer, chosen in self._subsets:
            if chosen[place]:
                writer.add(raw.columns)

    def _add_clean(self, raw: RawRow, *, flagged: bool) -> Iterator[str]:
        if self._clean is None or (flagged and self._files.swap is None):
            return
        kept = swapped(raw, self._files.swap) if flagged else raw.columns
        if kept is None:
            yield _NOT_SWAPPED
        else:
            self._clean.add(kept)

    def finish(self) -> None:
        for writer in self._open:
            writer.finish()

    def _writer(self, name: str, extra: Mapping[str, np.ndarray]) -> _Writer:
        path = self._files.path(name, self._part)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._stack.enter_context(atomic_path(path))
        if self._files.format == "jsonl":
            writer: _Writer = _Jsonl(aside)
        else:
            own = {_other_name(n, extra): t for n, t in self._types.items()}
            writer = _Parquet(aside, own | {n: added_type(v) for n, v in extra.items()})
        self._stack.callback(writer.close)
        self._open.append(writer)
        return writer


def _other_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_original"
    return name


def _renamed(name: str, other: str) -> str:
    return f"column '{name}' is written as '{other}', since the screen adds one of its name"


def _scored(rows: Iterable[RawRow], added: Added, source: str) -> Iterator[tuple[int, RawRow]]:
    """The rows that have scores, each with its position among the scored rows."""
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
    """Raise DataError unless the row's hash is that of the scored row, in `content`."""
    place = raw.index - first
    if place >= len(content) or content[place] != raw.hash.encode():
        raise changed(source, f"its row {raw.index + 1} is another")


def changed(source: str, how: str) -> DataError:
    """The error for a dataset that changed after it was scored."""
    return DataError(
        f"{source} has changed since it was scored ({how}); run the same command again: "
        "rows that are the same keep their scores"
    )


class _Writer(Protocol):
    def add(self, row: RawColumns) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class _Jsonl:
    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")

    def add(self, row: RawColumns) -> None:
        self._file.write(json_text(row) + "\n")

    def finish(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Writes Parquet. Columns of mixed types, or of types unknown to Arrow, become JSON texts."""

    def __init__(self, path: Path, types: Types):
        self._types = types
        self._schema = pa.schema(
            [(storable_name(n), pa.string() if t is None else t) for n, t in types.items()]
        )
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[RawColumns] = []

    def add(self, row: RawColumns) -> None:
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self.finish()

    def finish(self) -> None:
        columns, unfit = [], []
        for name, type_ in self._types.items():
            values = [row.get(name) for row in self._rows]
            try:
                columns.append(to_array(values, type_))
            except MISFITS:
                unfit.append(name)
        if unfit:
            raise Unfit(tuple(unfit))
        if self._rows:
            self._writer.write_table(pa.table(columns, self._schema))
            self._rows = []

    def close(self) -> None:
        self._writer.close()


def _score(value: Any) -> Any:
    """A score as a JSON value, with null for a missing score."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.floating):
        return None if np.isnan(value) else round(float(value), 5)
    return value
