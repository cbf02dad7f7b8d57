"""Rows of data from CSV, JSONL, JSON or Parquet files. Texts stay texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personavec.errors import DataError


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their number, counted from 1, of a .csv, .jsonl, .json or .parquet file.

    The texts "None", "N/A", "null" and "" are texts, not missing values. A line that is not a
    JSON object comes back as a row with the single key `_error`. Raises DataError when the file
    cannot be read as what its suffix says.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: use a .csv, .jsonl, .json or .parquet file")
    try:
        yield from enumerate(readers[path.suffix.lower()](path), start=1)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                row = {"_error": f"not JSON: {error}"}
            yield row if isinstance(row, dict) else {"_error": "not a JSON object"}


def _json(path: Path) -> Iterator[dict[str, Any]]:
    rows = json.loads(path.read_text("utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} must be a JSON list of objects")
    yield from rows


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
