"""What commands check of their output, before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from personavec.errors import StorageError


def check_writable(option: str, path: Path, *, is_file: bool) -> None:
    """Raise StorageError for an output that cannot be written; leaves nothing behind."""
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
