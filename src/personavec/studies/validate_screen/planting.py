"""Rows with known labels: elicited or written rows that show a trait, and clean rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Literal

from personavec.data import (
    ColumnMap,
    DataRow,
    Message,
    RawRow,
    ReadingCounts,
    Reject,
    kind_of,
    parse_row,
    raw_rows,
)
from personavec.errors import DataError, UsageError
from personavec.model import ChatFormat, chat, control_notes
from personavec.rollouts import Rollout, Task, eliciting_tasks
from personavec.traits import TraitSpec
from personavec.wording import plural

Style = Literal["elicited", "written"]
#: The styles of planted rows. `PLANTED` is the kind of the planted rows of a style, `SAME_PROMPTS`
#: that of the clean rows with the same prompts.
STYLES: tuple[Style, ...] = ("elicited", "written")
Kind = Literal["data", "elicited", "neutral", "written", "written clean"]
PLANTED: dict[Style, Kind] = {"elicited": "elicited", "written": "written"}
SAME_PROMPTS: dict[Style, Kind] = {"elicited": "neutral", "written": "written clean"}

#: Least number of clean rows on either side.
MIN_CLEAN = 20
#: Rows held in memory per row to draw, before the rows with the highest numbers are dropped.
_HELD = 4


@dataclass(frozen=True)
class StudyRow:
    """A row that ends with the response to detect, and the kind of row that it is."""

    id: str
    kind: Kind
    messages: tuple[Message, ...]
    """The messages, without the system prompt and examples that elicited the response."""
    log_odds: float | None = None
    """The judge's score in nats; None if the judge has not read the response yet."""

    @property
    def question(self) -> str:
        return self.messages[-2]["content"]

    @property
    def response(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Drawn:
    """Clean rows of a dataset: `test` to plant into, `training` to fit baselines on."""

    test: tuple[StudyRow, ...]
    training: tuple[StudyRow, ...]
    reading: ReadingCounts
    """How the whole dataset was read."""

    @property
    def rejected(self) -> int:
        """Number of rows in the whole dataset that cannot be used."""
        return self.reading.rejected.total()


def draw(
    data: str | Path,
    n: int,
    *,
    chat_format: ChatFormat,
    max_tokens: int,
    columns: ColumnMap | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Drawn:
    """Draw up to `n` random test rows and `n` training rows, which share no prompt.

    Responses are cut after `max_tokens` tokens. The dataset is streamed, not held in memory. Raises
    UsageError for preference pairs, and DataError if too few rows can be used.
    """
    rows, first = raw_rows(data, split=split), list[RawRow]()
    if kind_of(_noting(rows, first), columns) == "pair":
        raise UsageError(f"{data} holds preference pairs; give data with one response a row")
    reading = ReadingCounts()
    sides: tuple[list[DataRow], list[DataRow]] = ([], [])
    for raw in chain(first, rows):
        row = parse_row(raw, columns, "row")
        reading.add(row)
        if isinstance(row, Reject):
            continue
        reading.notes.update(control_notes([chat_format], row.messages))
        side = sides[_number(seed, row.messages[:-1]) % 2]
        side.append(row)
        if len(side) > _HELD * n:
            side[:] = _lowest(side, n, seed)
    drawn = [
        tuple(
            _cut(row, chat_format, max_tokens)
            for row in sorted(_lowest(side, n, seed), key=lambda row: row.index)
        )
        for side in sides
    ]
    if min(map(len, drawn)) < MIN_CLEAN:
        raise DataError(
            f"{data} gives {plural(len(drawn[0]), 'row')} to plant into and {len(drawn[1])} to "
            f"train the baselines on; at least {MIN_CLEAN} of each are needed"
        )
    return Drawn(drawn[0], drawn[1], reading)


def _noting(rows: Iterator[RawRow], seen: list[RawRow]) -> Iterator[RawRow]:
    """The rows; each that is consumed is also appended to `seen`."""
    for raw in rows:
        seen.append(raw)
        yield raw


def _lowest(rows: Sequence[DataRow], n: int, seed: int) -> list[DataRow]:
    """The `n` rows with the lowest random numbers."""
    return nsmallest(n, rows, key=lambda row: _number(seed, row.index))


def _number(*what: object) -> int:
    """A pseudorandom number that is the same in every run."""
    digest = hashlib.blake2b(repr(what).encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _cut(row: DataRow, chat_format: ChatFormat, max_tokens: int) -> StudyRow:
    *before, last = row.messages
    ids = chat_format.response_ids(last["content"])
    if len(ids) > max_tokens:
        last = last.copy()
        last["content"] = chat_format.decode(ids[:max_tokens])
    return StudyRow(f"data/{row.id}", "data", (*before, last))


def planting_tasks(spec: TraitSpec, questions: Sequence[str]) -> list[Task]:
    """Every question with the positive prompt of every pair, alternating with and without examples.

    A system prompt elicits a trait less without examples, so the rows vary in how strongly they
    show it.
    """
    plain, faint = (eliciting_tasks(spec, questions, examples=given) for given in (True, False))
    return [(plain, faint)[i % 2][i] for i in range(len(plain))]


def as_rows(rollouts: Sequence[Rollout], kind: Kind) -> list[StudyRow]:
    """Rollouts as rows of a dataset: question and response, without the eliciting prompt."""
    return [
        replace(_row(f"{kind}/{r.id}", kind, r.question, r.response), log_odds=r.log_odds)
        for r in rollouts
        if r.n_tokens
    ]


def written_rows(spec: TraitSpec) -> list[StudyRow]:
    """The spec's checks as rows: answers that people wrote, half of which show the trait.

    Checks with an extraction question are left out, since the vector was made from it.
    """
    return [
        _row(
            f"written/{number}",
            "written" if check.shows else "written clean",
            check.question,
            check.answer,
        )
        for number, check in enumerate(spec.checks)
        if check.question not in spec.questions.extraction
    ]


def _row(row_id: str, kind: Kind, question: str, response: str) -> StudyRow:
    return StudyRow(row_id, kind, (*chat(question), {"role": "assistant", "content": response}))
