"""Counts of what reading a dataset found: readers used, columns left out, notes, rejects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from personavec.data.conversations import DataRow, Reject
from personavec.wording import plural

#: At most this many reasons, columns and notes are listed, since every row could have its own.
_LISTED = 100
#: The parts of a reason that name a place or a length in one row.
_OF_ONE_ROW = re.compile(r"\b(message|line|column|char|position) \d+\b|\A\d+(?= tokens)")


def reason_kind(reason: str) -> str:
    """A reason without what differs from row to row, for counting: "message N has no text"."""
    return _OF_ONE_ROW.sub(lambda found: f"{found[1]} N" if found[1] else "N", reason)


@dataclass(frozen=True, kw_only=True)
class DataReading:
    """How a dataset was read, for results. Every number counts rows."""

    readers: dict[str, int]
    """Rows by the reader that found their conversation; docs/data.md lists the readers."""
    ignored_columns: dict[str, int]
    """Rows by a column that was left out and may matter."""
    notes: dict[str, int]
    """Rows by what was changed or is noteworthy in them."""
    rejected: dict[str, int]
    """Unusable rows by the kind of reason."""


@dataclass
class ReadingCounts:
    """Running counts of rows while a dataset is read."""

    readers: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, row: DataRow | Reject) -> None:
        """Count one row."""
        if isinstance(row, Reject):
            self.rejected[reason_kind(row.reason)] += 1
            return
        self.readers[row.reader] += 1
        self.ignored.update(row.ignored)
        self.notes.update(row.notes)

    @classmethod
    def of(cls, rows: Iterable[DataRow | Reject]) -> ReadingCounts:
        """The counts of some rows."""
        counts = cls()
        for row in rows:
            counts.add(row)
        return counts

    def __add__(self, other: ReadingCounts) -> ReadingCounts:
        return ReadingCounts(
            self.readers + other.readers,
            self.ignored + other.ignored,
            self.notes + other.notes,
            self.rejected + other.rejected,
        )

    def record(self) -> DataReading:
        """The counts for a typed result: the most frequent of each kind, the rest as one."""
        return DataReading(
            readers=_listed(self.readers),
            ignored_columns=_listed(self.ignored),
            notes=_listed(self.notes),
            rejected=_listed(self.rejected),
        )


def _listed(counts: Counter[str]) -> dict[str, int]:
    common = counts.most_common()
    rest = sum(n for _, n in common[_LISTED:])
    others = {plural(len(common) - _LISTED, "other"): rest} if rest else {}
    return dict(common[:_LISTED]) | others


def reading_text(row: DataRow) -> str:
    """A row's reader, ignored columns and notes as one text, to be stored and counted later."""
    return json.dumps([row.reader, row.ignored, row.notes])


def reading_counts_in(parts: Iterable[Path]) -> ReadingCounts:
    """The counts of all rows in Parquet parts, from their columns `told` and `reason`."""
    counts = ReadingCounts()
    for path in parts:
        present = set(pq.read_schema(path).names) & {"told", "reason"}
        table = pq.read_table(path, columns=sorted(present))
        if "reason" in present:
            for reason, n in _value_counts(table.column("reason")).items():
                counts.rejected[reason_kind(reason)] += n
        if "told" in present:
            for text, n in _value_counts(table.column("told")).items():
                reader, ignored, notes = json.loads(text)
                counts.readers[reader] += n
                counts.ignored += Counter(dict.fromkeys(ignored, n))
                counts.notes += Counter(dict.fromkeys(notes, n))
    return counts


def _value_counts(column: pa.ChunkedArray) -> Counter[str]:
    found = pc.value_counts(column).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    return Counter({of["values"]: of["counts"] for of in found if of["values"] is not None})
