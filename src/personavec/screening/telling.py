"""What reading rows has to tell, kept beside their scores: a continued run counts it all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from personavec.data import Row, Told
from personavec.data.message_lists import THOUGHT
from personavec.data.told import counted
from personavec.screening.encode import Encoded


def with_thoughts(row: Encoded, kept: str) -> Encoded:
    """A row whose thoughts were kept where its answers have one, with the note that says so."""
    if not any(turn.thinking for text in row.texts for turn in text.turns):
        return row
    notes = tuple(kept if note == THOUGHT else note for note in row.row.notes)
    return replace(row, row=replace(row.row, notes=notes))


def tell(row: Row) -> str:
    """A row's reader, the columns left out and the notes, as one text to keep and count."""
    return json.dumps([row.reader, row.ignored, row.notes])


def told_in(parts: Iterable[Path]) -> Told:
    """The counts of all rows in some parts, from their columns `told` and, if any, `reason`."""
    found = Told()
    for path in parts:
        there = set(pq.read_schema(path).names) & {"told", "reason"}
        table = pq.read_table(path, columns=sorted(there))
        if "reason" in there:
            for reason, n in _counts(table.column("reason")).items():
                found.rejected[counted(reason)] += n
        for text, n in _counts(table.column("told")).items() if "told" in there else ():
            reader, ignored, notes = json.loads(text)
            found.readers[reader] += n
            found.ignored += Counter(dict.fromkeys(ignored, n))
            found.notes += Counter(dict.fromkeys(notes, n))
    return found


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    counted = pc.value_counts(column).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
    return Counter({of["values"]: of["counts"] for of in counted if of["values"] is not None})
