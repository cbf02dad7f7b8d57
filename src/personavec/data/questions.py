"""Read questions from a file."""

from __future__ import annotations

from pathlib import Path

from personavec.data.files.source import read_rows
from personavec.data.reading_counts import ReadingCounts, reason_kind
from personavec.errors import DataError
from personavec.plain import is_unicode


def read_questions(path: Path) -> tuple[list[str], ReadingCounts]:
    """The `question` column of a data file, or the lines of a .txt file, and counts of its rows.

    Raises DataError if there are no questions.
    """
    if path.suffix == ".txt":
        return _read_lines(path)
    counts = ReadingCounts()
    found = []
    for _, row in read_rows(path):
        question = row.get("question")
        if isinstance(question, str) and question.strip() and is_unicode(question):
            found.append(question)
            counts.readers["question"] += 1
            counts.ignored.update(str(name) for name in row if name not in ("question", "id"))
        else:
            reason = row.get("_error") or "no text in column 'question'"
            counts.rejected[reason_kind(reason)] += 1
    if not found:
        raise DataError(f"{path} has no column 'question' with texts")
    return found, counts


def _read_lines(path: Path) -> tuple[list[str], ReadingCounts]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    found = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path} holds no questions")
    counts = ReadingCounts()
    counts.readers["lines"] = len(found)
    return found, counts
