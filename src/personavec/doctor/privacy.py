"""Paths without the user's name."""

from __future__ import annotations

import getpass
from pathlib import Path

#: What stands where the user's name stood.
USER = "USER"


def private(path: Path) -> str:
    """The path with `~` for the home folder, and `USER` for each part that is the user's name."""
    home = Path.home()
    path = path.absolute()
    begin: tuple[str, ...] = ()
    if path.is_relative_to(home):
        begin, path = ("~",), path.relative_to(home)
    names = _names(home)
    return str(Path(*begin, *(USER if part in names else part for part in path.parts)))


def _names(home: Path) -> set[str]:
    """What the user is called; a home folder right below the root is named for something else."""
    names = {home.name} if len(home.parts) > 2 else set()
    try:
        return names | {getpass.getuser()}
    except (OSError, KeyError):  # The number of the user has no name here.
        return names
