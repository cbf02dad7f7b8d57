"""CSV files: the first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, cast

from personavec.data.files.opening import opened
from personavec.data.raw import BadRow, NumberedRows, RawColumns
from personavec.errors import DataError
from personavec.plain import is_unicode


def csv_rows(path: Path) -> NumberedRows:
    """The rows, each with the number of its last line."""
    csv.field_size_limit(1 << 30)  # the default refuses long responses
    with opened(path) as raw:
        file = TextIOWrapper(
            cast(BinaryIO, raw), newline="", encoding="utf-8-sig", errors="surrogateescape"
        )
        lines = _LinesTaken(file)
        reader = csv.DictReader(lines)
        try:
            _check_quotes(path, lines, reader.fieldnames or [], reader.line_num)
            lines.taken.clear()
            for row in reader:
                _check_quotes(path, lines, list(row.values()), reader.line_num)
                yield reader.line_num, _csv_row(row, several_lines=lines.several)
                lines.taken.clear()
        except csv.Error as error:
            raise DataError(f"{path} cannot be read: line {reader.line_num}: {error}") from error


class _LinesTaken:
    """The lines of a text file; `taken` are those of the current record."""

    def __init__(self, file: TextIOWrapper):
        self._file, self.taken = file, list[str]()

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.taken.append(line)
            yield line

    @property
    def several(self) -> bool:
        """Whether the record spans several lines, not counting blank ones."""
        return sum(bool(line.strip("\r\n")) for line in self.taken) > 1


def _check_quotes(path: Path, lines: _LinesTaken, values: Sequence[Any], last: int) -> None:
    """Raise DataError for an unclosed quote, which makes the rest of the lines one field.

    Such a field extends to the next quote, which is not at the end of a field, or to the end of
    the file.
    """
    # A record of one line is fine unless one of its fields includes the line end.
    whole = len(lines.taken) == 1 and lines.taken[0].endswith(("\n", "\r"))
    if whole and not any(isinstance(v, str) and v.endswith(("\n", "\r")) for v in values):
        return
    try:
        list(csv.reader(lines.taken, strict=True))
    except csv.Error:
        if (place := _unclosed(lines.taken)) is not None:
            raise DataError(
                f"{path}, line {last - len(lines.taken) + 1 + place}: the quote that is opened "
                "there is never closed; close it, or write a quote in a text twice"
            ) from None


def _unclosed(lines: Sequence[str]) -> int | None:
    """Index of the line with a quote that is never closed, or closed inside a later field."""
    opened, state = 0, "start"
    for place, character in ((p, c) for p, line in enumerate(lines) for c in line):
        if state == "quoted":
            state = "closed" if character == '"' else state
        elif state == "closed" and character == '"':
            state = "quoted"  # a doubled quote stands for one
        elif character in ",\r\n":
            state = "start"
        elif state == "closed" and place > opened:
            return opened
        elif state == "start" and character == '"':
            opened, state = place, "quoted"
        else:
            state = "plain"
    return opened if state == "quoted" else None


def _csv_row(row: dict[Any, Any], *, several_lines: bool) -> RawColumns | BadRow:
    if None in row:
        return BadRow(f"{len(row[None])} more fields than the header has", str(row))
    if several_lines and None in row.values():
        return BadRow("over several lines, and fewer fields than the header has", str(row))
    if any(isinstance(v, str) and not is_unicode(v) for v in row.values()):
        return BadRow("not UTF-8", str(row).encode(errors="replace").decode())
    return row
