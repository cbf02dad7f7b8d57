"""Folders, and the errors of the file system as StorageError."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from personavec.errors import StorageError


def cache_folder() -> Path:
    """The folder for converted models and endpoints' answers.

    It is $PERSONAVEC_CACHE, or `personavec` in the user's cache folder.
    """
    if own := os.environ.get("PERSONAVEC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "personavec"


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. Raises StorageError."""
    with storage_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # raised in folders such as /proc
            raise PermissionError(error.errno, error.strerror) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, so that a new file survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(option: str, path: Path, *, is_file: bool) -> None:
    """Raise StorageError if an output cannot be written; creates no files."""
    try:
        if path.exists() and path.is_dir() == is_file:
            is_now, wanted = ("a folder", "a file") if is_file else ("a file", "a folder")
            raise StorageError(f"{option} {path} is {is_now}; name {wanted}")
        place = path.parent if is_file else path
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryDirectory(prefix=".personavec-", dir=place):
            pass
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"{option} {path} cannot be written ({why}); name another") from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError for `path`.

    FileNotFoundError and BlockingIOError pass through, for the caller to handle.
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
            "check its permissions, or use another --out"
        ) from error


def disk_full_error(path: Path, error: Exception) -> StorageError | None:
    """The error to raise if `error` says that the disk is full; None for any other error."""
    return _disk_full(path) if _is_disk_full(error) else None


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors raises its own type of error, with the system's error number in the text.
    return f"(os error {errno.ENOSPC})" in str(error)


def _disk_full(path: Path) -> StorageError:
    return StorageError(
        f"disk full while writing {path}; free space and run the same command again"
    )
