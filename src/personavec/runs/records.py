"""Records: lines of JSON that are appended and fsynced in groups."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from personavec.errors import DataError
from personavec.runs.artifacts import atomic_write
from personavec.runs.storage import make_folder, storage_errors, sync_folder

#: A parsed line of a JSONL file.
Record: TypeAlias = dict[str, Any]
#: Bytes that are read at once from the end of a file.
_BLOCK = 1 << 16


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a JSONL file as one group, which is on disk when this returns.

    An incomplete last line, left by a killed process, is removed first. If the group cannot be
    written completely, none of it is kept. Without records nothing is written.

    Raises DataError for NaN or infinity, and StorageError if the file cannot be written.
    """
    payload = b"".join(encode(record, path) + b"\n" for record in records)
    if not payload:
        return
    make_folder(path.parent)
    with storage_errors(path):
        is_new = not path.exists()
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 0) as file:
            start = _sound_length(file)
            file.truncate(start)
            file.seek(start)
            try:
                _write_all(file.fileno(), payload)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(start)
                raise
        if is_new:
            sync_folder(path.parent)


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSONL file by these records. Raises as `append_records` does."""
    atomic_write(path, b"".join(encode(record, path) + b"\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """The records of a JSONL file; an empty list if there is no such file.

    An incomplete last line (no line end, or not a JSON object) is left out. Raises DataError for
    such a line anywhere else.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    lines.pop()  # empty, or a last line without its end
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        record = _decode(line)
        if record is None:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number}: not a JSON object; "
                "delete the line, or delete the file to make its records again"
            )
        records.append(record)
    return records


def read_scores(
    path: Path, ids: Sequence[str], *, id_key: str, by: str, traits: Collection[str]
) -> list[Record]:
    """Read scores that were appended row by row, for the first rows of `ids` in order.

    A record has the row's id under `id_key`, and under `by` a value for each trait. Raises
    DataError with the remedy if the file has records of other rows.
    """
    records = read_records(path)
    sound = len(records) <= len(ids) and all(
        record.get(id_key) == id and isinstance(of := record.get(by), dict) and set(of) == {*traits}
        for record, id in zip(records, ids, strict=False)
    )
    if not sound:
        raise DataError(f"{path} is damaged (scores of other rows); delete it to score them again")
    return records


def _sound_length(file: BinaryIO | Any) -> int:
    """The length in bytes up to the end of the last complete line, read from the file's end."""
    start = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and tail.count(b"\n") < 2:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    end = tail.rfind(b"\n") + 1
    if end == 0:
        return 0
    last = tail.rfind(b"\n", 0, end - 1) + 1
    return start + (end if _decode(tail[last : end - 1]) is not None else last)


def encode(value: Mapping[str, Any], path: Path, indent: int | None = None) -> bytes:
    """The record as UTF-8 JSON, with lone surrogates escaped. Raises DataError."""
    try:
        try:
            text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False, indent=indent)
            return text.encode()
        except UnicodeEncodeError:
            return json.dumps(dict(value), allow_nan=False, indent=indent).encode()
    except ValueError as error:
        name = f"record {value['id']!r}" if "id" in value else "a record"
        raise DataError(
            f"{path}: {name} cannot be written as JSON ({error}); "
            "write null where a value is missing"
        ) from error


def _decode(line: bytes) -> Record | None:
    """The JSON object on a line; None if it holds none."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _write_all(handle: int, data: bytes) -> None:
    """Write all bytes, also if the system takes them in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
