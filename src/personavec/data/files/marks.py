"""Marks: positions in a dataset of .jsonl and .parquet files from which reading can start.

With them, several processes can read one dataset, and a resumed run skips finished rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from personavec.data.files.hugging_face import is_saved_dataset
from personavec.data.files.json_files import json_line_marks, json_lines, layout
from personavec.data.files.opening import file_format
from personavec.data.files.parquet_files import parquet_marks, parquet_rows
from personavec.data.files.source import files_of, name_in, raw_row
from personavec.data.raw import RawRow
from personavec.errors import DataError


@dataclass(frozen=True)
class Mark:
    """A row at which reading can begin."""

    index: int
    """The row's place in the dataset, counted from 0."""
    file: int
    """Which of the dataset's files holds it, counted from 0 in order of name."""
    number: int
    """Its line or row in that file, counted from 1."""
    offset: int
    """The byte at which its line begins; 0 in a .parquet file, whose rows are found by number."""


def marks(source: str | Path, every: int) -> tuple[list[Mark], int] | None:
    """A mark at every `every`-th row, and the number of rows.

    Lines are counted but not parsed, and of a .parquet file only the footer is read. None for other
    sources, where a row can only be reached by reading all rows before it.
    """
    path = Path(source)
    if not path.exists() or is_saved_dataset(path):
        return None
    files = files_of(path)
    if not all(_can_be_marked(file) for file in files):
        return None
    found: list[Mark] = []
    index = 0
    for place, file in enumerate(files):
        own = parquet_marks(file) if file_format(file) == ".parquet" else json_line_marks(file)
        for number, offset in own:
            if index % every == 0:
                found.append(Mark(index, place, number, offset))
            index += 1
    if not index:
        raise DataError(f"{source} holds no rows")
    return found, index


def rows_from(source: str | Path, mark: Mark) -> Iterator[RawRow]:
    """The rows that `raw_rows` yields from the mark on, without reading those before it."""
    path = Path(source)
    index = mark.index
    for place, file in enumerate(files_of(path)[mark.file :]):
        number, offset = (1, 0) if place else (mark.number, mark.offset)
        parquet = file_format(file) == ".parquet"
        rows = parquet_rows(file, number) if parquet else json_lines(file, number, offset)
        for number, found in rows:
            yield raw_row(index, name_in(file, path), number, found)
            index += 1


def _can_be_marked(path: Path) -> bool:
    """Whether a row can be reached without decompressing or parsing all rows before it."""
    if path.suffix.lower() == ".gz":
        return False
    return file_format(path) == ".parquet" or (
        file_format(path) in (".jsonl", ".json") and layout(path) == "lines"
    )
