"""Rows as they are stored: read from files or datasets, one at a time, their columns untouched.

What cannot be read comes back as a reason, never as an exception, so that one bad row does not
end a run. The texts "None", "N/A", "null" and "" are texts.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from personavec.errors import DataError, UsageError, missing_extra

_CHUNK = 1 << 20
#: A longer item of a JSON list, in characters, is taken for a mistake in its syntax.
_LONGEST_ITEM = 1 << 26


@dataclass(frozen=True)
class _Bad:
    """A line or row that holds no columns: why, and its text as far as it can be read."""

    reason: str
    text: str | None = None


#: What a reader yields: the line or row number in its file, and what is there.
_Numbered = Iterator[tuple[int, dict[str, Any] | _Bad]]


@dataclass(frozen=True)
class RawRow:
    """One row of a dataset with its columns untouched, or the reason why it has none."""

    index: int
    """Place in the dataset, counted from 0; bad rows count."""
    source: str
    """The file's name, or the dataset's."""
    number: int
    """The line or row in that file, counted from 1."""
    columns: dict[str, Any]
    error: str | None = None
    text: str | None = None
    """A bad line as it stands in the file."""


def raw_rows(source: str | Path, *, split: str | None = None) -> Iterator[RawRow]:
    """Rows of a .jsonl, .json, .csv or .parquet file, a folder of such files, or a dataset.

    A dataset is a folder that `datasets` saved with `save_to_disk`, or a name on the Hugging
    Face hub, read as a stream; both need the extra `datasets`. `split` names one of its splits.
    Nothing is held in memory beyond the row at hand and a file's buffer. Raises DataError when
    the source cannot be read as what it is, or holds no rows.
    """
    index = 0
    for name, rows in _parts(source, split):
        for number, found in rows:
            yield _raw_row(index, name, number, found)
            index += 1
    if not index:
        raise DataError(f"{source} holds no rows")


@dataclass(frozen=True)
class Mark:
    """A row from which a dataset of .jsonl and .parquet files can be read on."""

    index: int
    """The row's place in the dataset, counted from 0."""
    file: int
    """Which of the dataset's files holds it, counted from 0 in order of name."""
    number: int
    """Its line or row in that file, counted from 1."""
    offset: int
    """The byte at which its line begins; 0 in a .parquet file, whose rows are found by number."""


def marks(source: str | Path, every: int) -> tuple[list[Mark], int] | None:
    """A mark at every so many rows, and how many rows there are.

    Lines are counted and not parsed, and of a .parquet file only its footer is read. None for
    other sources, which have no row that can be found without reading all before it.
    """
    path = Path(source)
    if not path.exists() or (path.is_dir() and _is_saved_dataset(path)):
        return None
    files = files_of(path)
    if any(file.suffix.lower() not in _MARKERS for file in files):
        return None
    found: list[Mark] = []
    index = 0
    for place, file in enumerate(files):
        for number, offset in _MARKERS[file.suffix.lower()](file):
            if index % every == 0:
                found.append(Mark(index, place, number, offset))
            index += 1
    if not index:
        raise DataError(f"{source} holds no rows")
    return found, index


def rows_from(source: str | Path, mark: Mark) -> Iterator[RawRow]:
    """The rows that `raw_rows` yields from the marked one on, without reading those before it."""
    path = Path(source)
    index = mark.index
    for place, file in enumerate(files_of(path)[mark.file :]):
        number, offset = (1, 0) if place else (mark.number, mark.offset)
        parquet = file.suffix.lower() == ".parquet"
        rows = _parquet(file, number) if parquet else _jsonl(file, number, offset)
        for number, found in rows:
            yield _raw_row(index, _name(file, path), number, found)
            index += 1


def _raw_row(index: int, source: str, number: int, found: dict[str, Any] | _Bad) -> RawRow:
    if isinstance(found, _Bad):
        return RawRow(index, source, number, {}, error=found.reason, text=found.text)
    return RawRow(index, source, number, found)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their place, counted from 1, of a .csv, .jsonl, .json or .parquet file.

    The texts "None", "N/A", "null" and "" are texts, not missing values. A line that is not a
    JSON object comes back as a row with the single key `_error`. Raises DataError when the file
    cannot be read as what its suffix says.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for place, (_, found) in enumerate(_reader(path)(path), start=1):
        yield place, {"_error": found.reason} if isinstance(found, _Bad) else found


def source_name(source: str | Path) -> str:
    """What a dataset is called in tables: its file's name without suffix, or its own."""
    return Path(source).stem if Path(source).is_file() else Path(source).name


def fingerprint(source: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """What tells a changed input from the same one: a hash over the content of its files.

    A dataset on the hub is known by its name and split alone.
    """
    path = Path(source)
    if not path.exists():
        return {"source": str(source), "split": split}
    saved = path.is_dir() and _is_saved_dataset(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if saved else files_of(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return {"source": path.name, "split": split, "files": len(files), "hash": digest.hexdigest()}


def files_of(path: Path) -> list[Path]:
    """The data files of a file or folder, in order of name. Raises DataError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in _READERS and p.is_file() and not p.name.startswith((".", "_"))
    )
    if not found:
        raise DataError(f"{path} holds no {_SUFFIXES} file")
    return found


def _parts(source: str | Path, split: str | None) -> Iterator[tuple[str, _Numbered]]:
    path = Path(source)
    if path.is_dir() and _is_saved_dataset(path):
        yield path.name, _saved_dataset(path, split)
    elif path.exists():
        if split:
            raise UsageError(f"--split {split}: {source} is no dataset with splits")
        for file in files_of(path):
            yield _name(file, path), _reader(file)(file)
    elif path.suffix.lower() in _READERS or len(path.parts) > 2 or path.is_absolute():
        raise DataError(f"{source}: no such file or folder")
    else:
        yield str(source), _hub_dataset(str(source), split)


def _name(file: Path, source: Path) -> str:
    """What a row says of the file that it is from."""
    return str(file.relative_to(source)) if source.is_dir() else file.name


def _reader(path: Path) -> Callable[[Path], _Numbered]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: use a {_SUFFIXES} file")
    return reader


def _jsonl(path: Path, start: int = 1, offset: int = 0) -> _Numbered:
    """Rows from a line on, which begins at the byte `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        for number, line in enumerate(file, start=start):
            if line.strip():
                yield number, _json_object(line.removeprefix(b"\xef\xbb\xbf"))


def _jsonl_marks(path: Path) -> Iterator[tuple[int, int]]:
    """Number and offset of every line that holds a row."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset
            offset += len(line)


def _json_object(line: bytes) -> dict[str, Any] | _Bad:
    text = line.decode(errors="replace").rstrip("\r\n")
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        place = f"byte 0x{line[error.start]:02x} at place {error.start + 1} of the line"
        return _Bad(f"not UTF-8: {place}", text)
    except (json.JSONDecodeError, RecursionError) as error:
        return _Bad(f"not JSON: {error}", text)
    return value if isinstance(value, dict) else _Bad("not a JSON object", text)


def _json(path: Path) -> _Numbered:
    """The objects of a JSON list, decoded one by one as the file is read."""
    with path.open("rb") as file:
        try:
            for number, value in enumerate(_list_items(file, path), start=1):
                yield number, value if isinstance(value, dict) else _Bad("not a JSON object")
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def _list_items(file: BinaryIO, path: Path) -> Iterator[Any]:
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")().decode
    buffer, at, ended = "", 0, False

    def more() -> None:
        nonlocal buffer, at, ended
        chunk = file.read(_CHUNK)
        ended = not chunk
        buffer, at = buffer[at:] + decode(chunk, final=ended), 0

    def next_character(skipped: str) -> str:
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in skipped:
                at += 1
            if at < len(buffer) or ended:
                return buffer[at : at + 1]
            more()

    if next_character(" \t\r\n") != "[":
        raise DataError(f"{path} must be a JSON list of objects")
    at += 1
    while next_character(" \t\r\n,") != "]":
        try:
            value, at = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError:
            # Cut off by the end of the chunk, or wrong.
            if ended or len(buffer) - at > _LONGEST_ITEM:
                raise
            more()
            continue
        yield value


def _csv(path: Path) -> _Numbered:
    csv.field_size_limit(1 << 30)  # a long response is no error
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, _csv_row(row)
        except csv.Error as error:
            raise DataError(f"{path} cannot be read: line {reader.line_num}: {error}") from error


def _csv_row(row: dict[Any, Any]) -> dict[str, Any] | _Bad:
    if None in row:
        return _Bad(f"{len(row[None])} more fields than the header has", str(row))
    if any(isinstance(v, str) and not is_unicode(v) for v in row.values()):
        return _Bad("not UTF-8", str(row).encode(errors="replace").decode())
    return row


def _parquet(path: Path, start: int = 1) -> _Numbered:
    """Rows from a number on; row groups before it are not read."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 1
    try:
        file = ParquetFile(path)
        group = 0
        while group < file.num_row_groups - 1 and (
            number + file.metadata.row_group(group).num_rows <= start
        ):
            number += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        for batch in file.iter_batches(batch_size=256, row_groups=groups):
            skipped = min(len(batch), max(0, start - number))
            yield from enumerate(batch.slice(skipped).to_pylist(), start=number + skipped)
            number += len(batch)
    except ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _parquet_marks(path: Path) -> Iterator[tuple[int, int]]:
    """Number of every row; there are no offsets."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        rows = read_metadata(path).num_rows
    except ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    yield from ((number, 0) for number in range(1, rows + 1))


_READERS: dict[str, Callable[[Path], _Numbered]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
_MARKERS: dict[str, Callable[[Path], Iterator[tuple[int, int]]]] = {
    ".jsonl": _jsonl_marks,
    ".parquet": _parquet_marks,
}
_SUFFIXES = ".csv, .jsonl, .json or .parquet"


def _is_saved_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved_dataset(path: Path, split: str | None) -> _Numbered:
    datasets = _datasets()
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        found = _one_split(found, split, str(path))
    elif split:
        raise UsageError(f"--split {split}: {path} is a dataset without splits")
    yield from enumerate(found, start=1)


def _hub_dataset(name: str, split: str | None) -> _Numbered:
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name, streaming=True)
    # What the hub's client raises is as manifold as what can go wrong between here and there.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{name}: no such file or folder, and no dataset of that name could be opened "
            f"({reason})"
        ) from error
    yield from enumerate(_one_split(found, split, name), start=1)


def _one_split(splits: Mapping[str, Any], split: str | None, name: str) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        wanted = f"no split '{split}'" if split else "several splits"
        raise UsageError(f"{name} has {wanted}: choose one with --split ({', '.join(splits)})")
    return splits[split]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets") from None
    return datasets


def is_unicode(text: str) -> bool:
    """Can UTF-8 hold the text? Half of a surrogate pair, which JSON can write, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
