"""Questions to ask, from a file."""

from __future__ import annotations

from pathlib import Path

from personavec.data.files.source import read_rows
from personavec.data.reading_counts import ReadingCounts, reason_kind
from personavec.errors import DataError
from personavec.plain import is_unicode


def read_questions(path: Path) -> tuple[list[str], ReadingCounts]:
    """Texts of the `question` column of a data file, or the lines of a .txt file.

    With what reading them has to tell. Raises DataError where there are none.
    """
    told = ReadingCounts()
    if path.suffix == ".txt":
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        found = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        if not found:
            raise DataError(f"{path} holds no questions")
        told.readers["lines"] = len(found)
        return found, told
    found = []
    for _, row in read_rows(path):
        question = row.get("question")
        if isinstance(question, str) and question.strip() and is_unicode(question):
            found.append(question)
            told.readers["question"] += 1
            told.ignored.update(str(name) for name in row if name not in ("question", "id"))
        else:
            told.rejected[reason_kind(row.get("_error") or "no text in column 'question'")] += 1
    if not found:
        raise DataError(f"{path} has no column 'question' with texts")
    return found, told
