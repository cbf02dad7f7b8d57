"""What reading a dataset has to tell: once a dataset, with counts, in results and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from personavec.data.conversations import Reject, Row

#: Of columns, notes or reasons that a dataset tells one by one. Reasons may name numbers, and
#: columns may be as many as rows.
_MOST = 30
OTHERS = "others"


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
        """For results.json: of each kind the most frequent, and the others together."""
        return {
            "readers": _counts(self.readers),
            "ignored_columns": _counts(self.ignored),
            "notes": _counts(self.notes),
            "rejected": _counts(self.rejected),
        }


def _counts(found: Counter[str]) -> dict[str, int]:
    counts = dict(found.most_common(_MOST))
    others = found.total() - sum(counts.values())
    return {**counts, OTHERS: others} if others else counts
