"""Rows to train on: read, and those that cannot be used kept aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from personavec.data import (
    ColumnMap,
    DataRow,
    ReadingCounts,
    Reject,
    check_columns,
    fingerprint,
    parse_row,
    raw_rows,
    source_name,
)
from personavec.errors import DataError

PAIR = "of a preference pair only the better response was trained on"


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on, and those that cannot be used."""

    rows: tuple[DataRow, ...]
    rejects: tuple[Reject, ...] = ()
    flagged: frozenset[int] = frozenset()
    """`index` of the rows that a screen flagged for one of the chosen traits."""
    parts: Mapping[int, str] = field(default_factory=dict)
    """Which part of the data a row is of, by its `index`, where a column says so."""
    source: dict[str, Any] = field(default_factory=dict)
    """What tells a changed input from the same one (`data.fingerprint`)."""
    told: ReadingCounts = field(default_factory=ReadingCounts)
    """What reading the rows has to tell."""
    name: str = "rows"
    """What the data is called in results."""

    @classmethod
    def of(cls, rows: list[DataRow] | tuple[DataRow, ...]) -> TrainingRows:
        """Rows that are in memory already, known by a hash of their messages."""
        text = json.dumps([row.messages for row in rows], ensure_ascii=False)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        source = {"rows": len(rows), "hash": digest}
        return cls(tuple(rows), source=source, told=ReadingCounts.of(rows))


def read_training_rows(
    source: str | Path,
    *,
    columns: ColumnMap | None = None,
    split: str | None = None,
    flags: Iterable[str] = (),
    by: str | None = None,
) -> TrainingRows:
    """Rows of a file or dataset; those that cannot be used are kept aside with the reason.

    Of preference pairs the chosen side is taken. `flags` are columns of a screen's rows that mark
    what it flagged, such as `evil_flag`; `by` is one that says which part of the data a row is
    of. Raises DataError when no row can be used, or a column is not there.
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
        if missing := [name for name in flags if name not in raw.columns]:
            raise DataError(
                f"{source}, row {parsed.id}: no column {missing[0]!r}; screen the data first "
                "(personavec screen) and give the rows file that it writes"
            )
        if any(raw.columns[name] in (True, "true", "True", 1) for name in flags):
            flagged.add(parsed.index)
        if by is not None:
            if raw.columns.get(by) is None:
                raise DataError(
                    f"{source}, row {parsed.id}: no value in column {by!r}; name a column that "
                    "every row has"
                )
            parts[parsed.index] = str(raw.columns[by])
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
