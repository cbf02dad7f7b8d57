"""What reading a dataset has to tell: once a dataset, with counts, in results and report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from personavec.data.conversations import Reject, Row
from personavec.wording import plural

#: Of reasons, columns and notes, in the results; rows of any shape could have one each.
_MOST = 100
#: What a reason says of one row alone: a place in it, or its length.
_OF_ONE_ROW = re.compile(r"\b(message|line|column|char|position) \d+\b|\A\d+(?= tokens)")


def counted(reason: str) -> str:
    """A reason as it is counted, the same for all its rows: "message N has no text"."""
    return _OF_ONE_ROW.sub(lambda found: f"{found[1]} N" if found[1] else "N", reason)


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
            self.rejected[counted(row.reason)] += 1
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
            "readers": _most(self.readers),
            "ignored_columns": _most(self.ignored),
            "notes": _most(self.notes),
            "rejected": _most(self.rejected),
        }


def _most(counts: Counter[str]) -> dict[str, int]:
    common = counts.most_common()
    rest = sum(n for _, n in common[_MOST:])
    return dict(common[:_MOST]) | ({plural(len(common) - _MOST, "other"): rest} if rest else {})
