"""A row as it is stored, before anything looks for a conversation in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from personavec.plain import json_text

#: One row's columns by name: the JSON object, CSV record or Parquet row of a user's file.
RawColumns: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A line or row without columns: the reason, and its text as far as it can be read."""

    reason: str
    text: str | None = None


#: What a file's reader yields: the line or row number, counted from 1, and what it holds.
NumberedRows = Iterator[tuple[int, RawColumns | BadRow]]


@dataclass(frozen=True)
class RawRow:
    """One row of a dataset with its columns untouched, or the reason why it has none."""

    index: int
    """Place in the dataset, counted from 0; bad rows count."""
    source: str
    """The file's name, or the dataset's."""
    number: int
    """The line or row in that file, counted from 1."""
    columns: RawColumns
    error: str | None = None
    text: str | None = None
    """A bad line as it stands in the file."""

    @cached_property
    def hash(self) -> str:
        """A hash of the columns, independent of the row's place and of the columns' order."""
        own = self.columns if self.error is None else {"error": self.error, "text": self.text}
        text = json_text(own, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
