"""Presets: sizes of a verb's run that go together, by name.

A verb's config has one table of its sizes, from which the fields take their defaults. A size that
is given counts, wherever it is given: in Python, on the command line, or in a file of options.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from personavec.errors import UsageError

Preset: TypeAlias = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class BySize:
    """A field's default, one for each preset."""

    quick: Any
    standard: Any
    thorough: Any


def sizes(**rows: tuple[Any, Any, Any]) -> dict[str, Any]:
    """A table of defaults by field, from rows of quick, standard and thorough."""
    return {name: BySize(*row) for name, row in rows.items()}


def choose_sizes(config: Any) -> None:
    """Give the fields of a new config that were left out what its field `preset` says.

    Raises UsageError for an unknown preset.
    """
    if config.preset not in get_args(Preset):
        raise UsageError(f"preset {config.preset!r}: use {', '.join(get_args(Preset))}")
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, BySize):
            object.__setattr__(config, field.name, getattr(value, config.preset))
