"""Files of a run that can be killed at any byte and continued.

Records are lines of JSON, appended and fsynced in groups; artifacts are written aside and renamed;
a folder remembers the settings it was begun with. Knows nothing of what the records mean.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from personavec.errors import DataError, SettingsMismatchError, StorageError, UsageError
from personavec.plain import parse_json

if TYPE_CHECKING:
    from pydantic import ValidationError

_T = TypeVar("_T")

MANIFEST = "manifest.json"
LOCK = ".lock"
#: Of the files of all runs. A run of another format is not continued.
FORMAT = 2

#: In the manifest, beside the settings: the format, and the version that began the run.
_BEGUN = "personavec"
_BLOCK = 1 << 16
_UNSET = object()
#: Names that `atomic_path` gives to what is not finished.
_ASIDE = re.compile(r"\.[0-9a-f]{8}\.tmp\..+")
#: Folders within a run's folder in which such a file may lie.
_LEVELS = 3


# JSON


def read_as(path: Path, kind: Callable[..., _T], remedy: str) -> _T:
    """A value of a type, from the JSON in a file. Raises DataError, with the remedy."""
    from pydantic import TypeAdapter, ValidationError

    value = read_json(path, remedy)
    try:
        adapter: TypeAdapter[_T] = TypeAdapter(cast("Any", kind))
        return adapter.validate_python(value)
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({why_invalid(error)}); {remedy}") from error


def why_invalid(error: ValidationError) -> str:
    """The first thing that a schema found wrong, and where, in a few words."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    why = first["msg"].removeprefix("Value error, ")
    return f"{place}: {why}" if place else why


def read_json(path: Path, remedy: str) -> Any:
    """The JSON value in a file. Raises DataError, with the remedy, where it holds none."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error


# Records


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a JSONL file as one group, on disk when this returns.

    A torn last line, left by a killed process, is removed first. If the group cannot be written
    whole, none of it stays. No records, no write.

    Raises DataError for NaN or infinity, StorageError if the file cannot be written.
    """
    payload = b"".join(_encode(record, path) + b"\n" for record in records)
    if not payload:
        return
    _make_folder(path.parent)
    with _storage_errors(path):
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
            _sync_folder(path.parent)


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSONL file by these records, whole. Raises as `append_records` does."""
    atomic_write(path, b"".join(_encode(record, path) + b"\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; none if there is no such file.

    A torn last line (no line end, or not a JSON object) is left out. Such a line anywhere else
    raises DataError, which names it.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    lines.pop()  # empty, or a last line without its end
    records: list[dict[str, Any]] = []
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
) -> list[dict[str, Any]]:
    """Scores that were appended row by row: of the first of these rows, in their order.

    A record has the row's id under `id_key`, and under `by` what it has for each trait. Raises
    DataError, with the remedy, for records of anything else.
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
    """Bytes up to the end of the last sound line; reads no more of the file than that line."""
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


def _encode(value: Mapping[str, Any], path: Path, indent: int | None = None) -> bytes:
    """Readable UTF-8 JSON; lone surrogates, which UTF-8 cannot hold, are escaped."""
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


def _decode(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, or None if it holds none."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# Artifacts


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to: renamed to `path` on success, removed on failure.

    Whoever reads `path` finds the old file or the new one, never a part.
    """
    aside = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
    _make_folder(path.parent)
    try:
        try:
            yield aside
        except Exception as error:
            # Other errors in the caller's block are the caller's.
            if _is_disk_full(error):
                raise _disk_full(path) from error
            raise
        with _storage_errors(path):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
            _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file; text is UTF-8. Raises StorageError if it cannot be written."""
    with atomic_path(path) as aside, _storage_errors(path):
        # Lone surrogates are escaped, which in the strings of JSON is how JSON escapes them.
        text = isinstance(data, str)
        aside.write_bytes(data.encode(errors="backslashreplace") if text else data)


# Folders


def _refuse_files_in(folder: Path, known: str | None) -> None:
    with _storage_errors(folder):
        names = sorted(at.name for at in folder.iterdir()) if folder.is_dir() else []
    if own := [name for name in names if not name.startswith(".") and name != known]:
        raise UsageError(
            f"{folder} holds {own[0]!r} but no {MANIFEST}, so it is no run's folder; use another "
            "--out, or an empty folder"
        )


def claim(folder: Path, settings: Mapping[str, Any], *, beside: str | None = None) -> None:
    """Tie a folder to the settings of its run, kept in `manifest.json`.

    The first call writes them, into a folder that holds nothing yet but hidden files: what else
    lies there would be written over, or taken for a part of this run, unless it is the file that is
    called `beside`. Raises UsageError where there is any. Later calls raise
    SettingsMismatchError unless they are the same as JSON (a tuple equals a list). A run that
    another version of this package began continues with a warning on stderr, unless the format of
    its files has changed. Hold `lock` around it if two processes may come first.
    """
    path = folder / MANIFEST
    begun = {"format": FORMAT, "version": metadata.version("personavec")}
    encoded = _encode({_BEGUN: begun, **settings}, path, indent=2)
    try:
        with _storage_errors(path):
            found = path.read_bytes()
    except FileNotFoundError:
        _refuse_files_in(folder, beside)
        atomic_write(path, encoded + b"\n")
        return
    try:
        old = parse_json(found)
    except ValueError:
        old = None
    if not isinstance(old, dict):
        raise DataError(f"{path}: not a JSON object; use another --out, or delete this folder")
    earlier = old.pop(_BEGUN, None)
    if not isinstance(earlier, dict) or earlier.get("format") != FORMAT:
        raise SettingsMismatchError(
            f"{folder} holds a run of another version of personavec, whose files this one cannot "
            "continue; use another --out, or delete this folder"
        )
    new = json.loads(encoded)
    del new[_BEGUN]
    differences = _differences(_flat(old), _flat(new))
    if differences:
        raise SettingsMismatchError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}; "
            "use another --out, or the same settings to continue that run"
        )
    if earlier.get("version") != begun["version"]:
        print(
            f"warning: {folder} was begun by personavec {_shown(earlier.get('version'))} and goes "
            f"on with {begun['version']}; results may differ between the two",
            file=sys.stderr,
        )


@contextmanager
def lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder; released by the system if the process dies.

    Files that a killed process was writing are removed. Raises StorageError at once if another
    process holds the lock, unless told to wait for it.
    """
    path = folder / LOCK
    _make_folder(folder)
    handle = _locked(path, wait=wait)
    try:
        remove_leftovers(folder)
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """`lock` for a result that is one file: its lock lies beside it while it is held."""
    beside = path.with_name(f".{path.name}{LOCK}")
    _make_folder(path.parent)
    handle = _locked(beside)
    try:
        remove_leftovers_of(path)
        yield
    finally:
        with suppress(OSError):
            beside.unlink()
        os.close(handle)


def _locked(path: Path, *, wait: bool = False) -> int:
    """An open handle on a lock file that no other process holds."""
    while True:
        with _storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with _storage_errors(path):
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever held it before may have removed the file in between.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError as error:
            os.close(handle)
            raise StorageError(
                f"{path.parent if path.name == LOCK else _target(path)} is being written by "
                "another process; wait until it has finished, or use another --out"
            ) from error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _target(path: Path) -> Path:
    """The file that a lock file is for."""
    return path.with_name(path.name.removeprefix(".").removesuffix(LOCK))


def remove_leftovers_of(path: Path) -> None:
    """Remove what a killed process left half written of one file."""
    for aside in path.parent.glob(f".????????.tmp.{glob.escape(path.name)}"):
        if _ASIDE.fullmatch(aside.name):
            with suppress(OSError):
                aside.unlink()


def remove_leftovers(folder: Path, *, older_than: float | None = None) -> None:
    """Remove what a killed process left half written, here and a few folders below.

    Without a lock, only what is `older_than` so many seconds: others may be writing.
    """
    before = math.inf if older_than is None else time.time() - older_than
    top = len(folder.parts)
    for place, folders, files in os.walk(folder):
        if len(Path(place).parts) - top >= _LEVELS:
            folders.clear()
        for name in files:
            path = Path(place) / name
            with suppress(OSError):
                if _ASIDE.fullmatch(name) and path.stat().st_mtime < before:
                    path.unlink()


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in old | new if name]
    pairs = [(name, old.get(name, _UNSET), new.get(name, _UNSET)) for name in names]
    return [
        f"{name} was {_shown(before)}, now {_shown(now)}"
        for name, before, now in pairs
        if before != now
    ]


def _shown(value: Any) -> str:
    if value is _UNSET:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# The system


def cache_folder() -> Path:
    """Where converted models and endpoints' answers are kept.

    $PERSONAVEC_CACHE, or the user's cache folder.
    """
    if own := os.environ.get("PERSONAVEC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personavec"


def _write_all(handle: int, data: bytes) -> None:
    """Write the bytes; one call unless the system takes them in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _make_folder(folder: Path) -> None:
    with _storage_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # where the system lets no folder be made, as in /proc
            raise PermissionError(error.errno, error.strerror) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals into StorageError.

    Absence and a lock held elsewhere pass through: what they mean is for the caller to say.
    """
    try:
        yield
    except (StorageError, FileNotFoundError, BlockingIOError):
        raise
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full(path) from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; "
            "check its rights, or use another --out"
        ) from error


def disk_full_error(path: Path, error: Exception) -> StorageError | None:
    """What to raise where `error` says that the disk is full; None where it says anything else."""
    return _disk_full(path) if _is_disk_full(error) else None


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors writes in Rust and raises an error of its own, with the number in its text.
    return f"(os error {errno.ENOSPC})" in str(error)


def _disk_full(path: Path) -> StorageError:
    return StorageError(
        f"disk full while writing {path}; free space and run the same command again"
    )
