"""Rows of data: read from files or datasets, and parsed into conversations. Texts stay texts.

Two steps. `raw_rows` streams rows with their columns untouched, one at a time, and knows files;
`parse_row` finds the conversation in one row's columns, and knows the usual ways to write it.
What either cannot use comes back as a reason, never as an exception, so that one bad row does
not end a run.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from personavec.errors import DataError, UsageError, missing_extra

Message = dict[str, str]
Kind = Literal["row", "pair"]

_CHUNK = 1 << 20
#: A longer item of a JSON list, in characters, is taken for a mistake in its syntax.
_LONGEST_ITEM = 1 << 26


# Rows as they are stored


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
    if any(isinstance(v, str) and not _is_unicode(v) for v in row.values()):
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


# Rows as conversations


@dataclass(frozen=True)
class ColumnMap:
    """Which columns hold what, where they are not called as usual."""

    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ColumnMap:
        """From `prompt=question,response=answer`. Raises UsageError."""
        names = [field.name for field in fields(cls)]
        pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
        if any(key.strip() not in names or not value.strip() for key, _, value in pairs):
            raise UsageError(
                f"--columns {text}: write NAME=COLUMN, separated by commas, with the names "
                f"{', '.join(names)}"
            )
        return cls(**{key.strip(): value.strip() for key, _, value in pairs})


@dataclass(frozen=True)
class Row:
    """A row's conversation: its messages up to and including the last assistant turn.

    In a preference pair `messages` ends with the chosen response, and `rejected` is the same
    prompt with the other one.
    """

    index: int
    id: str
    messages: tuple[Message, ...]
    rejected: tuple[Message, ...] | None = None


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    index: int
    id: str
    reason: str


#: Columns that hold a prompt and its response, most telling names first.
PROMPT_RESPONSE = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")


class _Unusable(ValueError):
    """Why a row cannot be used."""


def parse_row(
    raw: RawRow, columns: ColumnMap | None = None, kind: Kind | None = None
) -> Row | Reject:
    """The conversation in one row's columns, or why there is none.

    Known without a mapping: `messages` or `conversations` (a list of role/content or from/value,
    or such a list as JSON text), `prompt` with `completion` or `response`, `question` with
    `answer`, `instruction` with `output` or `response` and an optional `input`; `system` beside
    a prompt; `chosen` with `rejected`, texts beside a prompt or lists of messages. A last turn
    of the user is left out. `kind`, where given, is what every row of the dataset must be.
    """
    columns = columns or ColumnMap()
    row_id = _id(raw, columns)
    try:
        if raw.error is not None:
            raise _Unusable(raw.error)
        row = _conversation(raw.columns, columns)
        if kind is not None and kind != ("pair" if row[1] else "row"):
            raise _Unusable(
                "a row without 'chosen' and 'rejected' among preference pairs"
                if kind == "pair"
                else "a preference pair among rows with one response"
            )
    except _Unusable as error:
        return Reject(raw.index, row_id, str(error))
    return Row(raw.index, row_id, *row)


def kind_of(rows: Iterator[RawRow], columns: ColumnMap | None = None, peek: int = 1000) -> Kind:
    """Whether a dataset holds preference pairs: what its first usable row is.

    Raises DataError, with the first row's reason, when none of the first `peek` is usable.
    """
    first: Reject | None = None
    for raw in islice(rows, peek):
        parsed = parse_row(raw, columns)
        if isinstance(parsed, Row):
            return "pair" if parsed.rejected else "row"
        first = first or parsed
    reason = f"row {first.id}: {first.reason}" if first else "it holds no rows"
    raise DataError(f"none of the first {peek} rows can be used; {reason}")


def _id(raw: RawRow, columns: ColumnMap) -> str:
    given = raw.columns.get(columns.id or "id")
    return str(given) if given is not None and given != "" else f"{raw.source}:{raw.number}"


def _conversation(
    row: Mapping[str, Any], columns: ColumnMap
) -> tuple[tuple[Message, ...], tuple[Message, ...] | None]:
    chosen, rejected = columns.chosen or "chosen", columns.rejected or "rejected"
    if chosen in row and rejected in row:
        return _pair(row, columns, chosen, rejected)
    for name in (columns.messages,) if columns.messages else ("messages", "conversations"):
        if row.get(name) is not None:
            return _checked(_messages(row[name], name)), None
    prompt, response = _prompt_columns(row, columns)
    before = _prompt(row, prompt, columns)
    return _checked([*before, *_reply(row.get(response), response)]), None


def _prompt_columns(row: Mapping[str, Any], columns: ColumnMap) -> tuple[str, str]:
    if columns.messages:
        raise _Unusable(f"no messages in column '{columns.messages}'")
    if columns.prompt or columns.response:
        return columns.prompt or "prompt", columns.response or "response"
    for prompt, response in PROMPT_RESPONSE:
        if prompt in row and response in row:
            return prompt, response
    raise _Unusable(
        f"no conversation in columns {', '.join(map(str, row)) or '(none)'}; "
        "name them with --columns"
    )


def _prompt(row: Mapping[str, Any], name: str, columns: ColumnMap) -> list[Message]:
    value = row.get(name)
    if isinstance(value, list):
        return _messages(value, name)
    if not isinstance(value, str):
        raise _Unusable(f"no text in column '{name}'")
    more = row.get("input") if name == "instruction" else None
    content = f"{value}\n\n{more}" if isinstance(more, str) and more else value
    system = row.get(columns.system or "system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return [*before, {"role": "user", "content": content}]


def _reply(value: Any, name: str) -> list[Message]:
    if isinstance(value, list):
        return _messages(value, name)
    if not isinstance(value, str):
        raise _Unusable(f"no text in column '{name}'")
    return [{"role": "assistant", "content": value}]


def _pair(
    row: Mapping[str, Any], columns: ColumnMap, chosen: str, rejected: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    prompt = columns.prompt or next((p for p in ("prompt", "question") if p in row), None)
    before = _prompt(row, prompt, columns) if prompt else []
    sides = []
    for name in (chosen, rejected):
        reply = _reply(row.get(name), name)
        # Lists of messages usually repeat the prompt.
        sides.append(_checked(reply if len(reply) > 1 else [*before, *reply]))
    if sides[0][:-1] != sides[1][:-1]:
        raise _Unusable(f"'{chosen}' and '{rejected}' answer different prompts")
    return sides[0], sides[1]


def _messages(value: Any, name: str) -> list[Message]:
    """A list of messages in the usual form, from any of the forms that are in use."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _Unusable(f"column '{name}' holds no list of messages") from None
    if not isinstance(value, Sequence) or not all(isinstance(m, Mapping) for m in value):
        raise _Unusable(f"column '{name}' holds no list of messages")
    return [_message(message, place) for place, message in enumerate(value, start=1)]


def _message(message: Mapping[str, Any], place: int) -> Message:
    role = next((message[key] for key in _ROLE_KEYS if message.get(key) is not None), None)
    if role not in _ROLES:
        raise _Unusable(f"message {place} has the unknown role {role!r}")
    content = next((message[key] for key in _CONTENT_KEYS if message.get(key) is not None), None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise _Unusable(f"message {place} ({_ROLES[role]}) has no text")
    return {"role": _ROLES[role], "content": content}


def _checked(messages: list[Message]) -> tuple[Message, ...]:
    """The messages up to the last assistant turn, if they are in order and say something."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise _Unusable("no assistant turn")
    messages = messages[: turns[-1] + 1]
    first = 1 if messages[0]["role"] == "system" else 0
    for i, message in enumerate(messages):
        expected = ("user", "assistant")[(i - first) % 2] if i >= first else "system"
        if message["role"] != expected:
            raise _Unusable(
                f"roles out of order: message {i + 1} is of the {message['role']}, "
                f"where the {expected} should speak"
            )
        if message["role"] == "assistant" and not message["content"].strip():
            raise _Unusable(f"message {i + 1} is an empty response")
        if not _is_unicode(message["content"]):
            raise _Unusable(f"message {i + 1} holds half of a surrogate pair, which is no text")
    return tuple(messages)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
