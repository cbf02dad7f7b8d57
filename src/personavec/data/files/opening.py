"""Open data files, and find the format by the file's name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from personavec.errors import DataError

#: The suffixes of the formats that are read.
FORMATS = (".csv", ".jsonl", ".json", ".parquet")
SUFFIXES = ".csv, .jsonl, .json or .parquet"
#: Bytes that are read at once.
CHUNK = 1 << 20


def file_format(path: Path) -> str:
    """The suffix that names the format, without ".gz"; "" for a file that is not read."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    packed = name != path.name.lower()
    return suffix if suffix in FORMATS and not (packed and suffix == ".parquet") else ""


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, decompressed if its name ends in .gz."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error
