"""Read rows one at a time from files or datasets, without interpreting them.

A row that cannot be read becomes a `RawRow` with an error, so that one bad row does not end a run.
The texts "None", "N/A", "null" and "" stay texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from personavec.data.files.csv_files import csv_rows
from personavec.data.files.hugging_face import hub_dataset, is_saved_dataset, saved_dataset
from personavec.data.files.json_files import json_rows
from personavec.data.files.opening import CHUNK, SUFFIXES, file_format
from personavec.data.files.parquet_files import parquet_rows
from personavec.data.raw import BadRow, NumberedRows, RawColumns, RawRow
from personavec.errors import DataError, UsageError

#: Files that describe a dataset and have no rows.
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_PACKED = (".zst", ".bz2", ".xz", ".zip", ".7z")
_READERS: dict[str, Callable[[Path], NumberedRows]] = {
    ".csv": csv_rows,
    ".jsonl": json_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
}


def raw_rows(source: str | Path, *, split: str | None = None) -> Iterator[RawRow]:
    """Rows of a .jsonl, .json, .csv or .parquet file, a folder of such files, or a dataset.

    A dataset is a folder that `datasets` saved with `save_to_disk`, or a name on the Hugging
    Face hub, read as a stream; both need the extra `datasets`. `split` names one of its splits.
    Only one row and a file's buffer are in memory at a time. Raises DataError if the source cannot
    be read or holds no rows.
    """
    index = 0
    for name, rows in _files_with_rows(source, split):
        for number, found in rows:
            yield raw_row(index, name, number, found)
            index += 1
    if not index:
        raise DataError(f"{source} holds no rows")


def read_rows(path: Path) -> Iterator[tuple[int, RawColumns]]:
    """Rows with their place, counted from 1, of a .csv, .jsonl, .json or .parquet file.

    A line that is not a JSON object is a row with the single key `_error`. Raises DataError if the
    file is not of the format that its suffix names.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for place, (_, found) in enumerate(_reader_of(path)(path), start=1):
        yield place, {"_error": found.reason} if isinstance(found, BadRow) else found


def source_name(source: str | Path) -> str:
    """The name of a dataset in tables: its file's name without suffix, or its own."""
    path = Path(source)
    if not path.is_file():
        return path.name
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def fingerprint(source: str | Path, *, split: str | None = None) -> RawColumns:
    """The dataset's identity for a manifest: a hash over the content of its files.

    A dataset on the hub is identified by its name and split alone.
    """
    path = Path(source)
    if not path.exists():
        return {"source": str(source), "split": split}
    saved = is_saved_dataset(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if saved else files_of(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
    return {"source": path.name, "split": split, "files": len(files), "hash": digest.hexdigest()}


def files_of(path: Path) -> list[Path]:
    """The data files of a file or folder, in order of name.

    Files and folders whose names begin with `.` or `_` are skipped, and so are a dataset's
    description files. Raises DataError if no file is left, or one is compressed in another form
    than gzip.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    seen = sorted(p for p in path.rglob("*") if not _is_hidden(p.relative_to(path)))
    seen = [p for p in seen if p.name.lower() not in _ABOUT and p.is_file()]
    packed = (p for p in seen if p.suffix.lower() in _PACKED)
    if first := next((p for p in packed if file_format(p.with_suffix(""))), None):
        raise DataError(f"{first} is packed: unpack it, or write it as .gz")
    found = [p for p in seen if file_format(p) and not p.name.lower().endswith(".metadata.json")]
    if any(p.name.lower() != "metadata.json" for p in found):
        found = [p for p in found if p.name.lower() != "metadata.json"]
    if not found:
        raise DataError(f"{path} holds no {SUFFIXES} file")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _files_with_rows(source: str | Path, split: str | None) -> Iterator[tuple[str, NumberedRows]]:
    path = Path(source)
    if is_saved_dataset(path):
        yield path.name, saved_dataset(path, split)
    elif path.exists():
        if split:
            raise UsageError(f"--split {split}: {source} is not a dataset with splits")
        for file in files_of(path):
            yield name_in(file, path), _reader_of(file)(file)
    elif file_format(path) or len(path.parts) > 2 or path.is_absolute():
        raise DataError(f"{source}: no such file or folder")
    else:
        yield str(source), hub_dataset(str(source), split)


def name_in(file: Path, source: Path) -> str:
    """The file's name as its rows record it: relative to the dataset's folder."""
    return str(file.relative_to(source)) if source.is_dir() else file.name


def _reader_of(path: Path) -> Callable[[Path], NumberedRows]:
    reader = _READERS.get(file_format(path))
    if reader is None:
        raise DataError(f"{path}: use a {SUFFIXES} file; all but the last may end in .gz")
    return reader


def raw_row(index: int, source: str, number: int, found: RawColumns | BadRow) -> RawRow:
    """What a file's reader found, with its place in the dataset."""
    if isinstance(found, BadRow):
        return RawRow(index, source, number, {}, error=found.reason, text=found.text)
    return RawRow(index, source, number, found)
