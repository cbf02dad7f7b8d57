"""What reading a dataset has to tell: once a dataset, with counts, in results and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from personavec.data.conversations import Reject, Row


@dataclass
class Told:
    """Which readers were used, which columns were left out, what was done to rows; with counts.

    Every count is one of rows.
    """

    readers: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row | Reject) -> None:
        if isinstance(row, Reject):
            self.rejected[row.reason] += 1
            return
        self.readers[row.reader] += 1
        self.ignored.update(row.ignored)
        self.notes.update(row.notes)

    @classmethod
    def of(cls, rows: Iterable[Row | Reject]) -> Told:
        told = cls()
        for row in rows:
            told.add(row)
        return told

    def __add__(self, other: Told) -> Told:
        return Told(
            self.readers + other.readers,
            self.ignored + other.ignored,
            self.notes + other.notes,
            self.rejected + other.rejected,
        )

    def to_dict(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "readers": dict(self.readers.most_common()),
            "ignored_columns": dict(self.ignored.most_common()),
            "notes": dict(self.notes.most_common()),
            "rejected": dict(self.rejected.most_common()),
        }
