"""Rows as they are stored: read from files or datasets, one at a time, their columns untouched.

What cannot be read comes back as a reason, never as an exception, so that one bad row does not
end a run. The texts "None", "N/A", "null" and "" are texts.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from personavec.errors import DataError, UsageError, missing_extra
from personavec.plain import TooDeepError, is_deep, is_unicode, json_text, parse_data, whole_number

_CHUNK = 1 << 20
#: A longer item of a JSON list, in characters, is taken for a mistake in its syntax.
_LONGEST_ITEM = 1 << 26
#: Keys of a JSON object whose list holds the rows of a file.
_HOLDERS = ("data", "rows", "examples", "instances", "records", "samples", "items", "train")
#: Files that tell of a dataset in its folder, and hold none of its rows.
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_PACKED = (".zst", ".bz2", ".xz", ".zip", ".7z")


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

    @cached_property
    def hash(self) -> str:
        """What tells the row from any other: a hash of its columns, wherever it stands."""
        own = self.columns if self.error is None else {"error": self.error, "text": self.text}
        # A column more or less in another file's order is the same row.
        text = json_text(own, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    if not path.exists() or (is_saved_dataset(path)):
        return None
    files = files_of(path)
    if not all(_can_be_marked(file) for file in files):
        return None
    found: list[Mark] = []
    index = 0
    for place, file in enumerate(files):
        own = _parquet_marks(file) if _format(file) == ".parquet" else _jsonl_marks(file)
        for number, offset in own:
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
        parquet = _format(file) == ".parquet"
        rows = _parquet(file, number) if parquet else _lines(file, number, offset)
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
    path = Path(source)
    if not path.is_file():
        return path.name
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def fingerprint(source: str | Path, *, split: str | None = None) -> dict[str, Any]:
    """What tells a changed input from the same one: a hash over the content of its files.

    A dataset on the hub is known by its name and split alone.
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
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return {"source": path.name, "split": split, "files": len(files), "hash": digest.hexdigest()}


def files_of(path: Path) -> list[Path]:
    """The data files of a file or folder, in order of name.

    What lies in hidden folders, or begins with `.` or `_`, is no data; nor are the files in which
    a dataset's folder tells of itself. Raises DataError if there are none, or one is packed in a
    form that is not read.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    seen = sorted(p for p in path.rglob("*") if not _is_hidden(p.relative_to(path)))
    seen = [p for p in seen if p.name.lower() not in _ABOUT and p.is_file()]
    for packed in (p for p in seen if p.suffix.lower() in _PACKED and _format(p.with_suffix(""))):
        raise DataError(f"{packed} is packed: unpack it, or write it as .gz")
    found = [p for p in seen if _format(p) and not p.name.lower().endswith(".metadata.json")]
    if any(p.name.lower() != "metadata.json" for p in found):
        found = [p for p in found if p.name.lower() != "metadata.json"]
    if not found:
        raise DataError(f"{path} holds no {_SUFFIXES} file")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _format(path: Path) -> str:
    """The suffix that says how a file is read, without that of gzip; "" if none does."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    packed = name != path.name.lower()
    return suffix if suffix in _READERS and not (packed and suffix == ".parquet") else ""


def _parts(source: str | Path, split: str | None) -> Iterator[tuple[str, _Numbered]]:
    path = Path(source)
    if is_saved_dataset(path):
        yield path.name, _saved_dataset(path, split)
    elif path.exists():
        if split:
            raise UsageError(f"--split {split}: {source} is no dataset with splits")
        for file in files_of(path):
            yield _name(file, path), _reader(file)(file)
    elif _format(path) or len(path.parts) > 2 or path.is_absolute():
        raise DataError(f"{source}: no such file or folder")
    else:
        yield str(source), _hub_dataset(str(source), split)


def _name(file: Path, source: Path) -> str:
    """What a row says of the file that it is from."""
    return str(file.relative_to(source)) if source.is_dir() else file.name


def _reader(path: Path) -> Callable[[Path], _Numbered]:
    reader = _READERS.get(_format(path))
    if reader is None:
        raise DataError(f"{path}: use a {_SUFFIXES} file; all but the last may end in .gz")
    return reader


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, unpacked where its name ends in .gz."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from error


# JSON

_Layout = Literal["lines", "list", "object"]
_BOM = b"\xef\xbb\xbf"


def _json(path: Path) -> _Numbered:
    """Rows of a JSON or JSON Lines file, as its content says and whatever its name."""
    layout = _layout(path)
    if layout == "lines":
        yield from _lines(path)
        return
    with _opened(path) as file:
        rows = _list_items(file, path) if layout == "list" else _object_items(file, path)
        yield from enumerate(rows, start=1)


def _layout(path: Path) -> _Layout:
    """Of a .json or .jsonl file; the name decides where the content may be either."""
    with _opened(path) as file:
        first, second = _two_lines(file)
    begins, named_lines = first[:1], _format(path) == ".jsonl"
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
    """The first two lines that are not blank; empty where there are none."""
    found: list[bytes] = []
    while len(found) < 2 and (line := file.readline(_CHUNK)):
        # A list may be one line, however long; an object of a line may be a long row.
        if line.removeprefix(_BOM).startswith(b"{") and not line.endswith(b"\n"):
            line += file.readline(_LONGEST_ITEM)
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


def _lines(path: Path, start: int = 1, offset: int = 0) -> _Numbered:
    """Rows from a line on, which begins at the byte `offset`."""
    with _opened(path) as file:
        file.seek(offset)
        for number, line in enumerate(file, start=start):
            if line.strip():
                yield number, _json_object(line.removeprefix(_BOM))


def _can_be_marked(path: Path) -> bool:
    """Can rows be found without reading, or unpacking, all that is before them?"""
    if path.suffix.lower() == ".gz":
        return False
    return _format(path) == ".parquet" or (
        _format(path) in (".jsonl", ".json") and _layout(path) == "lines"
    )


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
        value = parse_data(line)
    except UnicodeDecodeError as error:
        place = f"byte 0x{line[error.start]:02x} at place {error.start + 1} of the line"
        return _Bad(f"not UTF-8: {place}", text)
    except ValueError as error:
        return _Bad(f"not JSON: {error}", text)
    return value if isinstance(value, dict) else _Bad("not a JSON object", text)


def _list_items(file: BufferedIOBase, path: Path) -> Iterator[dict[str, Any] | _Bad]:
    """The objects of a JSON list, decoded one by one as the file is read."""
    with _named(path):
        yield from _Scanner(file).items()


def _object_items(file: BufferedIOBase, path: Path) -> Iterator[dict[str, Any] | _Bad]:
    """The rows that a JSON object holds as a list."""
    with _named(path):
        scanner = _Scanner(file)
        scanner.skip("{")
        rows: str | None = None
        other: str | None = None
        while scanner.peek(_SPACE + ",") != "}":
            key = scanner.value()
            scanner.skip(":")
            if key in _HOLDERS and rows is None and scanner.peek() == "[":
                rows = key
                yield from scanner.items()
            else:
                value = scanner.value()
                if isinstance(value, list) and any(isinstance(item, dict) for item in value):
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


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


_SPACE = " \t\r\n"
#: What decides where a value ends: strings whole, and brackets.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class _Scanner:
    """Decodes the values in a JSON file one by one, holding no more than the one at hand."""

    def __init__(self, file: BufferedIOBase):
        self._file, self._buffer, self._at, self._ended = file, "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decoder = json.JSONDecoder(parse_int=whole_number)  # type: ignore[arg-type]

    def _more(self) -> None:
        chunk = self._file.read(_CHUNK)
        self._ended = not chunk
        self._buffer = self._buffer[self._at :] + self._decode(chunk, final=self._ended)
        self._at = 0

    def peek(self, skipped: str = _SPACE) -> str:
        """The next character that is none of those skipped; "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in skipped:
                self._at += 1
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._more()

    def skip(self, character: str) -> None:
        """Go past a character that must be next."""
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting '{character}'", self._buffer, self._at)
        self._at += 1

    def items(self) -> Iterator[dict[str, Any] | _Bad]:
        """What the list at this place holds."""
        self.skip("[")
        while self.peek(_SPACE + ",") != "]":
            value = self.value()
            yield value if isinstance(value, dict | _Bad) else _Bad("not a JSON object")
        self._at += 1

    def value(self) -> Any:
        """The value at this place; of one that is nested too deep, that it is."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except RecursionError:
                if (end := self._end()) is not None:
                    self._at = end
                    return _Bad(f"not JSON: {TooDeepError()}")
            except json.JSONDecodeError:
                # Cut off by the end of the chunk, or wrong.
                if self._ended or len(self._buffer) - self._at > _LONGEST_ITEM:
                    raise
            else:
                # A number may go on in the next chunk.
                if end < len(self._buffer) or self._ended:
                    deep = is_deep(value, self._buffer[self._at : end])
                    self._at = end
                    return _Bad(f"not JSON: {TooDeepError()}") if deep else value
            if self._ended:
                raise json.JSONDecodeError("Nested too deep", self._buffer, self._at)
            self._more()

    def _end(self) -> int | None:
        """Where the value at this place ends, by its brackets alone."""
        depth = 0
        for found in _BRACKETS.finditer(self._buffer, self._at):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if not depth:
                return found.end()
        return None


# CSV


def _csv(path: Path) -> _Numbered:
    csv.field_size_limit(1 << 30)  # a long response is no error
    with _opened(path) as raw:
        file = TextIOWrapper(
            cast(BinaryIO, raw), newline="", encoding="utf-8-sig", errors="surrogateescape"
        )
        lines = _Lines(file)
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


class _Lines:
    """Lines of a text file; those taken since the last look are kept."""

    def __init__(self, file: TextIOWrapper):
        self._file, self.taken = file, list[str]()

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.taken.append(line)
            yield line

    @property
    def several(self) -> bool:
        """Not counting blank lines, which stand between rows too."""
        return sum(bool(line.strip("\r\n")) for line in self.taken) > 1


def _check_quotes(path: Path, lines: _Lines, values: Sequence[Any], last: int) -> None:
    """Refuse a file in which a quote that is opened and not closed has swallowed rows.

    The field then runs over lines to the next quote, which does not stand at a field's end, or to
    the end of the file.
    """
    # A quote that is open at the end of the file takes the line's end, or there is none.
    whole = len(lines.taken) == 1 and lines.taken[0].endswith(("\n", "\r"))
    if whole and not any(isinstance(v, str) and v.endswith(("\n", "\r")) for v in values):
        return
    try:
        list(csv.reader(lines.taken, strict=True))
    except csv.Error:
        if (place := _unclosed(lines.taken)) is not None:
            raise DataError(
                f"{path}, line {last - len(lines.taken) + 1 + place}: the quote that is opened "
                "there swallows the lines after it; close it, or write a quote in a text twice"
            ) from None


def _unclosed(lines: Sequence[str]) -> int | None:
    """Which line of a row opens a quote that ends on another in the midst of a field, or never."""
    opened, state = 0, "start"
    for place, character in ((p, c) for p, line in enumerate(lines) for c in line):
        if state == "quoted":
            state = "closed" if character == '"' else state
        elif state == "closed" and character == '"':
            state = "quoted"  # a quote that is written twice
        elif character in ",\r\n":
            state = "start"
        elif state == "closed" and place > opened:
            return opened
        elif state == "start" and character == '"':
            opened, state = place, "quoted"
        else:
            state = "plain"
    return opened if state == "quoted" else None


def _csv_row(row: dict[Any, Any], *, several_lines: bool) -> dict[str, Any] | _Bad:
    if None in row:
        return _Bad(f"{len(row[None])} more fields than the header has", str(row))
    if several_lines and None in row.values():
        return _Bad("over several lines, and fewer fields than the header has", str(row))
    if any(isinstance(v, str) and not is_unicode(v) for v in row.values()):
        return _Bad("not UTF-8", str(row).encode(errors="replace").decode())
    return row


# Parquet


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
            yield from enumerate(_batch_rows(batch.slice(skipped)), start=number + skipped)
            number += len(batch)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _batch_rows(batch: Any) -> list[dict[str, Any] | _Bad]:
    """The rows of a batch; a value that Python has no type for becomes a text, or its row bad."""
    try:
        return batch.to_pylist()
    # A time out of range, nanoseconds without pandas, a text that is not UTF-8.
    except Exception:
        columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    rows: list[dict[str, Any] | _Bad] = []
    for place in range(len(batch)):
        row = {name: values[place] for name, values in columns.items()}
        bad = (f"column '{n}': {v.reason}" for n, v in row.items() if isinstance(v, _Bad))
        reason = next(bad, None)
        rows.append(row if reason is None else _Bad(reason))
    return rows


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except Exception:
        pass
    try:
        return column.cast("string").to_pylist()
    except Exception:
        return [_value(column.slice(place, 1)) for place in range(len(column))]


def _value(one: Any) -> Any:
    """The value in a column of one; as Arrow shows it, where Python cannot hold it."""
    try:
        return one[0].as_py()
    except Exception:
        pass
    try:
        return " ".join(one.to_string().split())
    except Exception as error:
        return _Bad(f"it cannot be read ({error})")


def _parquet_marks(path: Path) -> Iterator[tuple[int, int]]:
    """Number of every row; there are no offsets."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        rows = read_metadata(path).num_rows
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    yield from ((number, 0) for number in range(1, rows + 1))


_READERS: dict[str, Callable[[Path], _Numbered]] = {
    ".csv": _csv,
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
}
_SUFFIXES = ".csv, .jsonl, .json or .parquet"


def is_saved_dataset(path: Path) -> bool:
    """Is it a folder that `datasets` has saved?"""
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
