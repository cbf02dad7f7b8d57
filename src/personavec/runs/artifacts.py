"""Artifacts: files that are written to a temporary name and renamed, so they are never partial."""

from __future__ import annotations

import glob
import math
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from personavec.runs.storage import disk_full_error, make_folder, storage_errors, sync_folder

#: Names that `atomic_path` gives to unfinished files.
_ASIDE = re.compile(r"\.[0-9a-f]{8}\.tmp\..+")
#: Levels of folders below a run's folder in which such a file may lie.
_LEVELS = 3


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which is renamed to `path` on success and removed on failure.

    A reader of `path` finds the old file or the new one, never a partial one. Raises StorageError.
    """
    aside = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
    make_folder(path.parent)
    try:
        try:
            yield aside
        except Exception as error:
            if full := disk_full_error(path, error):
                raise full from error
            raise
        with storage_errors(path):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file; text is UTF-8. Raises StorageError if it cannot be written."""
    with atomic_path(path) as aside, storage_errors(path):
        # A lone surrogate is escaped as in JSON.
        text = isinstance(data, str)
        aside.write_bytes(data.encode(errors="backslashreplace") if text else data)


def remove_leftovers_of(path: Path) -> None:
    """Remove the unfinished files that a killed process left of one file."""
    for aside in path.parent.glob(f".????????.tmp.{glob.escape(path.name)}"):
        if _ASIDE.fullmatch(aside.name):
            with suppress(OSError):
                aside.unlink()


def remove_leftovers(folder: Path, *, older_than: float | None = None) -> None:
    """Remove the unfinished files that a killed process left in a folder.

    Without a lock give `older_than`, in seconds: a younger file may still be written.
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
