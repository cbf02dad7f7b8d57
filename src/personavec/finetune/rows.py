"""Rows to train on; rows that cannot be used are kept apart with the reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from personavec.data import (
    ColumnMap,
    DataRow,
    RawRow,
    ReadingCounts,
    Reject,
    check_columns,
    fingerprint,
    parse_row,
    raw_rows,
    source_name,
)
from personavec.errors import DataError
from personavec.runs import Settings

PAIR = "of a preference pair only the better response was trained on"


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on, and those that cannot be used."""

    rows: tuple[DataRow, ...]
    rejects: tuple[Reject, ...] = ()
    flagged: frozenset[int] = frozenset()
    """`index` of the rows that a screen flagged for one of the chosen traits."""
    parts: Mapping[int, str] = field(default_factory=dict)
    """By `index`, the part of the data that a row belongs to, where a column tells it."""
    source: Settings = field(default_factory=dict)
    """Identity of the input by content (`data.fingerprint`)."""
    reading: ReadingCounts = field(default_factory=ReadingCounts)
    """How the rows were read."""
    name: str = "rows"
    """Name of the data in results."""

    @classmethod
    def of(cls, rows: list[DataRow] | tuple[DataRow, ...]) -> TrainingRows:
        """Rows in memory, identified by a hash of their messages."""
        text = json.dumps([row.messages for row in rows], ensure_ascii=False)
        source = {"rows": len(rows), "hash": _hash(text)}
        return cls(tuple(rows), source=source, reading=ReadingCounts.of(rows))

    @property
    def hash(self) -> str:
        """Of the rows as read: the same file with other columns has another hash."""
        rows = [[row.index, row.messages, row.index in self.flagged] for row in self.rows]
        return _hash(json.dumps(rows))


def read_training_rows(
    source: str | Path,
    *,
    columns: ColumnMap | None = None,
    split: str | None = None,
    flags: Iterable[str] = (),
    by: str | None = None,
) -> TrainingRows:
    """Rows of a file or dataset; those that cannot be used are kept apart with the reason.

    Of a preference pair the chosen response is taken. `flags` are columns of a screen's rows file
    that mark flagged rows, such as `evil_flag`; `by` is a column that tells the part of the data
    that a row belongs to. Raises DataError where no row can be used or a column is missing.
    """
    rows: list[DataRow] = []
    rejects: list[Reject] = []
    flagged: set[int] = set()
    parts: dict[int, str] = {}
    flags = tuple(flags)
    check_columns(raw_rows(source, split=split), columns or ColumnMap())
    for raw in raw_rows(source, split=split):
        parsed = parse_row(raw, columns)
        if isinstance(parsed, Reject):
            rejects.append(parsed)
            continue
        if _is_flagged(source, raw, parsed, flags):
            flagged.add(parsed.index)
        if by is not None:
            parts[parsed.index] = _part(source, raw, parsed, by)
        notes = (*parsed.notes, PAIR) if parsed.rejected else parsed.notes
        rows.append(replace(parsed, rejected=None, notes=notes))
    if not rows:
        first = f": row {rejects[0].id}: {rejects[0].reason}" if rejects else ""
        raise DataError(f"{source}: none of its rows ({len(rejects)}) can be trained on{first}")
    return TrainingRows(
        tuple(rows),
        tuple(rejects),
        frozenset(flagged),
        parts,
        fingerprint(source, split=split),
        ReadingCounts.of([*rows, *rejects]),
        source_name(source),
    )


def _is_flagged(source: str | Path, raw: RawRow, row: DataRow, flags: Sequence[str]) -> bool:
    if missing := [name for name in flags if name not in raw.columns]:
        raise DataError(
            f"{source}, row {row.id}: no column {missing[0]!r}; screen the data first "
            "(personavec screen) and give the rows file that it writes"
        )
    return any(raw.columns[name] in (True, "true", "True", 1) for name in flags)


def _part(source: str | Path, raw: RawRow, row: DataRow, column: str) -> str:
    if raw.columns.get(column) is None:
        raise DataError(
            f"{source}, row {row.id}: no value in column {column!r}; name a column that "
            "every row has"
        )
    return str(raw.columns[column])


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
