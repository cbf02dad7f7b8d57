"""The questions to steer: arguments and a file's rows, and how they were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personavec.data import DataReading, ReadingCounts, read_questions
from personavec.errors import UsageError
from personavec.judges import count_control
from personavec.model import LoadedModel, chat


@dataclass(frozen=True)
class Questions:
    """Questions of one source, with counts of its rows."""

    source: str
    texts: tuple[str, ...]
    counts: ReadingCounts

    def reading(self, loaded: LoadedModel) -> DataReading:
        """How they were read, with the control tokens that the tokenizer finds in them."""
        counts = self.counts + ReadingCounts()
        count_control(counts, [loaded.chat], map(chat, self.texts))
        return counts.record()


def read(arguments: Sequence[str], file: Path | None) -> list[Questions]:
    """The questions that are given as arguments, then those in a file.

    Raises UsageError where there are none, DataError for a file without questions.
    """
    counts = ReadingCounts(Counter(question=len(arguments)))
    found = [Questions("arguments", tuple(arguments), counts)]
    if file:
        rows, counts = read_questions(file)
        found.append(Questions(file.name, tuple(rows), counts))
    if not any(questions.texts for questions in found):
        raise UsageError("no question: give one as an argument or a file with --file")
    return found


def readings(questions: Sequence[Questions], loaded: LoadedModel) -> dict[str, DataReading]:
    """How each source was read; arguments only where there is something to note."""
    arguments, *files = questions
    own = arguments.reading(loaded)
    found = {arguments.source: own} if own.notes else {}
    return found | {each.source: each.reading(loaded) for each in files}
