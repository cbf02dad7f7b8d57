"""A row as it is stored, before a conversation is looked for in it."""

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
    """A line or row that cannot be read: the reason, and its text if that can be read."""

    reason: str
    text: str | None = None


#: What a file's reader yields: the line or row number, from 1 on, and the row.
NumberedRows = Iterator[tuple[int, RawColumns | BadRow]]


@dataclass(frozen=True)
class RawRow:
    """A row of a dataset with its columns unchanged, or with the error if it cannot be read."""

    index: int
    """Index in the dataset, from 0 on; bad rows count."""
    source: str
    """The file's name, or the dataset's."""
    number: int
    """The line or row in that file, from 1 on."""
    columns: RawColumns
    error: str | None = None
    text: str | None = None
    """The text of a bad line."""

    @cached_property
    def hash(self) -> str:
        """A hash of the columns, independent of the row's index and of the columns' order."""
        own = self.columns if self.error is None else {"error": self.error, "text": self.text}
        text = json_text(own, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
