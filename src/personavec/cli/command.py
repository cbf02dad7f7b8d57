"""The class of every command: refuses what none of them can do, before any work."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from personavec.errors import StorageError, UsageError

#: Options that name what is written.
_WRITTEN = {"--out", "--cache", "--natural-cache", "--fit-limits"}
#: Commands whose --out is a file; the others' is a folder.
_FILES = {"check", "compare", "export", "score", "steer"}
#: No option means more than this; larger numbers fail somewhere below.
_LARGEST = 2**53


class Command(TyperCommand):
    """A command whose numbers are finite and whose output can be written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            option, value = parameter.opts[0], ctx.params.get(parameter.name or "")
            if isinstance(value, int | float) and not abs(value) <= _LARGEST:
                wanted = "a finite number" if not math.isfinite(value) else "a smaller number"
                raise UsageError(f"{option} {value:g}: give {wanted}")
            if option in _WRITTEN and isinstance(value, str | Path):
                is_file = option == "--out" and self.name in _FILES
                check_writable(option, Path(value), is_file=is_file)
        return rest


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
