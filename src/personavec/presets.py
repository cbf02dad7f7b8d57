"""Presets: sizes of a run that go together, by name.

A config has one table of its sizes, from which the fields take their defaults. A size that is
given counts, wherever it is given: in Python, on the command line, or in a file of options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from personavec.errors import UsageError

Preset: TypeAlias = Literal["quick", "standard", "thorough"]
Scale: TypeAlias = Literal["small", "medium", "paper"]


@dataclass(frozen=True)
class BySize:
    """A field's default, one for each name of a size."""

    values: Mapping[str, Any]
    chosen_by: str
    """The config's field that names the size."""
    usual: str
    """The size that is meant where none is named."""

    def of(self, name: str) -> Any:
        """The default under a size; the usual one's under a name that is none."""
        return self.values.get(name, self.values[self.usual])


def sizes(**rows: tuple[Any, Any, Any]) -> dict[str, Any]:
    """A table of a verb's defaults by field, from rows of quick, standard and thorough."""
    return _table(get_args(Preset), "preset", "standard", rows)


def scales(**rows: tuple[Any, Any, Any]) -> dict[str, Any]:
    """A table of a study's defaults by field, from rows of small, medium and paper."""
    return _table(get_args(Scale), "scale", "small", rows)


def _table(
    names: tuple[str, ...], chosen_by: str, usual: str, rows: Mapping[str, tuple[Any, Any, Any]]
) -> dict[str, Any]:
    return {
        field: BySize(dict(zip(names, row, strict=True)), chosen_by, usual)
        for field, row in rows.items()
    }


def choose_sizes(config: Any, chosen_by: str = "preset") -> None:
    """Give the fields of a new config that were left out what its field `chosen_by` says.

    Raises UsageError for an unknown size.
    """
    names = get_args(Scale if chosen_by == "scale" else Preset)
    if (name := getattr(config, chosen_by)) not in names:
        raise UsageError(f"{chosen_by} {name!r}: use {', '.join(names)}")
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, BySize):
            object.__setattr__(config, field.name, value.of(name))
