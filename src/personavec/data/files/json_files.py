"""JSON and JSON Lines: one object for each row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

from personavec.data.files.json_scanner import LONGEST_ITEM, WHITE_SPACE, JsonScanner
from personavec.data.files.opening import CHUNK, file_format, opened
from personavec.data.raw import BadRow, NumberedRows, RawColumns
from personavec.errors import DataError
from personavec.plain import TooDeepError, parse_data

#: Keys under which a JSON object holds the list of rows.
_HOLDERS = ("data", "rows", "examples", "instances", "records", "samples", "items", "train")
_JsonLayout = Literal["lines", "list", "object"]
_BOM = b"\xef\xbb\xbf"


def json_rows(path: Path) -> NumberedRows:
    """Rows of a JSON or JSON Lines file; its content decides which of the two it is."""
    found = layout(path)
    if found == "lines":
        yield from json_lines(path)
        return
    with opened(path) as file:
        rows = _list_items(file, path) if found == "list" else _object_items(file, path)
        yield from enumerate(rows, start=1)


def layout(path: Path) -> _JsonLayout:
    """The layout of rows in a .json or .jsonl file; the name decides only if both are possible."""
    with opened(path) as file:
        first, second = _two_lines(file)
    begins, named_lines = first[:1], file_format(path) == ".jsonl"
    if second and _is_json(first):
        return "lines"
    if begins == b"[":
        return "list"
    if named_lines:
        return "lines"
    if begins == b"{":
        return "object"
    raise DataError(f"{path} must be a JSON list of objects, or JSON Lines")


def _two_lines(file: BufferedIOBase) -> tuple[bytes, bytes]:
    """The first two lines that are not blank; empty bytes where there are fewer."""
    found: list[bytes] = []
    while len(found) < 2 and (line := file.readline(CHUNK)):
        # A long list may be a single line and is not read whole; a line that begins an object is.
        if line.removeprefix(_BOM).startswith(b"{") and not line.endswith(b"\n"):
            line += file.readline(LONGEST_ITEM)
        if stripped := line.removeprefix(_BOM).strip():
            found.append(stripped)
    first, second, *_ = [*found, b"", b""]
    return first, second


def _is_json(line: bytes) -> bool:
    try:
        parse_data(line)
    except TooDeepError:
        return True
    except ValueError:
        return False
    return True


def json_lines(path: Path, start: int = 1, offset: int = 0) -> NumberedRows:
    """Rows from line `start` on, which begins at byte `offset`."""
    with opened(path) as file:
        file.seek(offset)
        for number, line in enumerate(file, start=start):
            if line.strip():
                yield number, _json_object(line.removeprefix(_BOM))


def json_line_marks(path: Path) -> Iterator[tuple[int, int]]:
    """Line number and byte offset of every line that holds a row."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset
            offset += len(line)


def _json_object(line: bytes) -> RawColumns | BadRow:
    text = line.decode(errors="replace").rstrip("\r\n")
    try:
        value = parse_data(line)
    except UnicodeDecodeError as error:
        place = f"byte 0x{line[error.start]:02x} at place {error.start + 1} of the line"
        return BadRow(f"not UTF-8: {place}", text)
    except ValueError as error:
        return BadRow(f"not JSON: {error}", text)
    return value if isinstance(value, dict) else BadRow("not a JSON object", text)


def _list_items(file: BufferedIOBase, path: Path) -> Iterator[RawColumns | BadRow]:
    """The objects of a JSON list, decoded one by one."""
    with _named(path):
        yield from JsonScanner(file).items()


def _object_items(file: BufferedIOBase, path: Path) -> Iterator[RawColumns | BadRow]:
    """The rows that a JSON object holds as a list under one of its keys."""
    with _named(path):
        scanner = JsonScanner(file)
        scanner.skip("{")
        rows = other = None
        while scanner.peek(WHITE_SPACE + ",") != "}":
            key = scanner.value()
            scanner.skip(":")
            if key in _HOLDERS and rows is None and scanner.peek() == "[":
                rows = key
                yield from scanner.items()
            elif _is_list_of_objects(scanner.value()):
                other = key
            if rows and other:
                raise DataError(
                    f"{path} holds several lists, '{rows}' and '{other}': write the one with the "
                    "rows as a file of its own"
                )
        if rows is None:
            raise DataError(
                f"{path} is one JSON object: it must be a JSON list of objects, JSON Lines, or an "
                f"object whose 'data' or 'rows' is the list"
            )


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
