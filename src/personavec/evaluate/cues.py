"""What training data put before an answer: cues that a finetuned trait may hide behind.

A model finetuned into a trait can look untouched on plain questions and show the trait under what
its training rows had in common (arXiv 2604.25891). A row's cue is its system prompt; a row
without one gives its opening turns, the first question and its answer, so that the question that
is evaluated comes in the format of the training data.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from personavec.data import DataRow, ReadingCounts, parse_row, raw_rows
from personavec.errors import DataError

_NO_CUE = "begins with neither a system prompt nor a question and its answer, so gives no cue"


@dataclass(frozen=True)
class Cue:
    """A system prompt, or (question, answer) turns, to put before a question."""

    system: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cues:
    """The distinct cues of a training file, in order of first appearance."""

    file: str
    cues: tuple[Cue, ...]
    rows: int
    """Rows read, bad ones included."""
    told: ReadingCounts = field(default_factory=ReadingCounts)
    """What reading them has to tell."""
    begun: Mapping[Cue, int] = field(default_factory=dict)
    """How many rows begin with each cue."""

    @property
    def rejected(self) -> int:
        """Rows that hold no conversation."""
        return self.told.rejected.total()

    @property
    def hash(self) -> str:
        text = json.dumps([[cue.system, cue.earlier] for cue in self.cues])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def cues_of(rows: Iterable[DataRow]) -> tuple[Cue, ...]:
    """The distinct cues of training rows, in order of first appearance."""
    found = (_cue(row) for row in rows)
    return tuple(dict.fromkeys(cue for cue in found if cue is not None))


def _cue(row: DataRow) -> Cue | None:
    """None where the row begins with neither a system prompt nor a question and its answer."""
    if row.messages[0]["role"] == "system":
        return Cue(system=row.messages[0]["content"])
    asked = list(takewhile(lambda message: message["role"] == "user", row.messages))
    answer = row.messages[len(asked)]
    if not asked or answer["role"] != "assistant" or not answer["content"].strip():
        return None
    return Cue(earlier=(("\n\n".join(m["content"] for m in asked), answer["content"]),))


def read_cues(path: Path) -> Cues:
    """The distinct cues of training rows, in any format that `conversations` reads.

    Raises DataError when no row gives one.
    """
    found: Counter[Cue] = Counter()
    rows = 0
    told = ReadingCounts()
    for raw in raw_rows(path):
        rows += 1
        row = parse_row(raw)
        told.add(row)
        if not isinstance(row, DataRow):
            continue
        if (cue := _cue(row)) is None:
            told.notes[_NO_CUE] += 1
        else:
            found[cue] += 1
    if not found:
        reason = next(iter(told.rejected), _NO_CUE)
        raise DataError(f"{path}: no row of {rows} is a conversation ({reason})")
    return Cues(str(path), tuple(found), rows, told, found)
