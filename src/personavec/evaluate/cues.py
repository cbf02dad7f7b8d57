"""Cues: what training data put before an answer, and a finetuned model may need to show a trait.

A model finetuned into a trait can look untouched on plain questions and show the trait under what
its training rows had in common (arXiv 2604.25891). A row's cue is its system prompt. A row
without one gives its opening turns, the first question and its answer, so that the evaluated
question comes in the format of the training data.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from personavec.data import DataRow, ReadingCounts, parse_row, raw_rows
from personavec.errors import DataError
from personavec.evaluate.config import EvaluateConfig
from personavec.model import LoadedModel, chat
from personavec.wording import plural

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
    reading: ReadingCounts = field(default_factory=ReadingCounts)
    """How they were read."""
    begun: Mapping[Cue, int] = field(default_factory=dict)
    """How many rows begin with each cue."""

    @property
    def rejected(self) -> int:
        """Rows that hold no conversation."""
        return self.reading.rejected.total()

    @property
    def hash(self) -> str:
        text = json.dumps([[cue.system, cue.earlier] for cue in self.cues])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def usable_cues(
    cues: Cues,
    models: Sequence[LoadedModel],
    questions: Sequence[Sequence[str]],
    config: EvaluateConfig,
) -> tuple[Cue, ...]:
    """The cues in an order drawn by the seed, without those that leave no room for an answer.

    `questions` are those of every trait. No more cues are used than the trait with the most
    questions has responses. Raises DataError when no cue leaves room.
    """
    asked = [question for each in questions for question in each]
    longest = [(loaded, longest_question(loaded, asked)) for loaded in models]
    places = max(map(len, questions)) * config.samples
    usable: list[Cue] = []
    for cue in random.Random(config.seed).sample(cues.cues, len(cues.cues)):
        if len(usable) == places:
            break
        if all(leaves_room(cue, *each, config.max_tokens, config.system) for each in longest):
            usable.append(cue)
    if not usable:
        raise DataError(
            f"{cues.file}: no cue ({len(cues.cues)} found) leaves room for the questions and "
            f"{plural(config.max_tokens, 'token')} in the model's context; lower --max-tokens"
        )
    return tuple(usable)


def longest_question(loaded: LoadedModel, questions: Sequence[str]) -> str:
    """The one with most tokens."""
    return max(questions, key=lambda question: len(loaded.chat.response_ids(question)))


def leaves_room(
    cue: Cue, loaded: LoadedModel, question: str, max_tokens: int, system: str | None = None
) -> bool:
    """Whether a response of `max_tokens` to the question under the cue fits into the context.

    `system` is the system prompt for cues that have none.
    """
    prompt = chat(question, system if cue.system is None else cue.system, cue.earlier)
    return len(loaded.chat.prompt_ids(prompt)) + max_tokens <= loaded.context


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
    """The distinct cues of training rows, in any format that `data` reads.

    Raises DataError when no row gives one.
    """
    found: Counter[Cue] = Counter()
    rows = 0
    reading = ReadingCounts()
    for raw in raw_rows(path):
        rows += 1
        row = parse_row(raw)
        reading.add(row)
        if not isinstance(row, DataRow):
            continue
        if (cue := _cue(row)) is None:
            reading.notes[_NO_CUE] += 1
        else:
            found[cue] += 1
    if not found:
        reason = next(iter(reading.rejected), _NO_CUE)
        raise DataError(f"{path}: no row of {rows} is a conversation ({reason})")
    return Cues(str(path), tuple(found), rows, reading, found)
