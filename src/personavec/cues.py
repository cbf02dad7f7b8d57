"""What training data put before an answer: cues that a finetuned trait may hide behind.

A model finetuned into a trait can look untouched on plain questions and show the trait under what
its training rows had in common (arXiv 2604.25891). A row's cue is its system prompt; a row
without one gives its opening turns, the first question and its answer, so that the question that
is evaluated comes in the format of the training data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from personavec.data import Reject, Row, parse_row, raw_rows
from personavec.errors import DataError


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
    rejected: int
    """Rows that hold no conversation."""

    @property
    def hash(self) -> str:
        text = json.dumps([[cue.system, cue.earlier] for cue in self.cues])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def cues_of(rows: Iterable[Row]) -> tuple[Cue, ...]:
    """The distinct cues of training rows, in order of first appearance."""
    return tuple(dict.fromkeys(map(_cue, rows)))


def _cue(row: Row) -> Cue:
    first, *rest = row.messages
    if first["role"] == "system":
        return Cue(system=first["content"])
    return Cue(earlier=((first["content"], rest[0]["content"]),))


def read_cues(path: Path) -> Cues:
    """The distinct cues of training rows, in any format that `conversations` reads.

    Raises DataError when no row gives one.
    """
    found: dict[Cue, None] = {}
    rows = rejected = 0
    reason = ""
    for raw in raw_rows(path):
        rows += 1
        row = parse_row(raw)
        if isinstance(row, Reject):
            rejected, reason = rejected + 1, reason or row.reason
        else:
            found[_cue(row)] = None
    if not found:
        raise DataError(f"{path}: no row of {rows} is a conversation ({reason})")
    return Cues(str(path), tuple(found), rows, rejected)
