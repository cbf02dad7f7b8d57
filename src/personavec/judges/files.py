"""Score a file of questions and answers for a trait."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from personavec.data import (
    UNFINISHED_THOUGHT,
    ColumnMap,
    DataRow,
    RawRow,
    ReadingCounts,
    Reject,
    parse_row,
    read_rows,
)
from personavec.errors import DataError, UsageError
from personavec.judges.base import Answer, Judge, last_answer
from personavec.judges.control_notes import count_control, readers, spec_notes
from personavec.judges.rubric import judge_notes
from personavec.plain import plain
from personavec.progress import Progress
from personavec.runs import (
    MANIFEST,
    append_records,
    claim,
    lock,
    read_records,
    remove_leftovers_of,
    write_records,
)
from personavec.traits import TraitSpec

_SCORES = ("log_odds", "trait_score", "coherence", "spread", "mass")
_FAILED = "failed: "
#: Where a file's question and answer are, unless it is said or the file holds conversations.
COLUMNS = ("question", "answer")
#: Rows that are tried before a file is taken to hold no conversations.
_PEEKED = 1000


def score_file(
    make_judge: Callable[[], Judge],
    spec: TraitSpec,
    path: Path,
    out: Path,
    *,
    question_column: str = COLUMNS[0],
    answer_column: str = COLUMNS[1],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every row and write it to `out` with the new columns.

    Original columns and row order are kept. A file without the two columns may hold conversations
    in any format that the other verbs read: the last answer is judged, to the question before it.
    A row without a usable question and answer keeps its place with a `state` that says why, as
    does one whose thought never ends; a thought before an answer is not judged. Rows that `out`
    holds with the same content, wherever they stood, keep their scores (`kept` of them), but for
    those whose judge's call failed.

    Before the judge is made, raises DataError when the file has neither the columns nor
    conversations, UsageError when `out` is not what an earlier call wrote for rows of this file,
    StorageError when another process is writing it.
    """
    progress = progress or Progress()
    columns = (question_column, answer_column)
    rows = _rows(path)
    parsed = _parsed(path, rows, columns)
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out} is the input file; write to another")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")
    beside = out.with_name(f".{out.name}.run")
    with lock(beside):
        remove_leftovers_of(out)
        earlier = _earlier(out, beside, rows, columns)
        judge = make_judge()
        settings = {"spec": spec.hash, "judge": judge.identity(), "columns": list(columns)}
        claim(beside, {"command": "judges score", **settings})
        kept = {
            i: record
            for i, record in earlier.items()
            if isinstance(parsed[i], DataRow) and not record["state"].startswith(_FAILED)
        }
        _write(out, kept)
        missing = [i for i in range(len(rows)) if i not in kept]
        found = dict(kept)
        with progress.bar("judging", len(rows)) as bar:
            bar.advance(len(kept))
            for start in range(0, len(missing), judge.group):
                group = missing[start : start + judge.group]
                scores = _score_group(
                    judge, spec, [rows[i] for i in group], [parsed[i] for i in group]
                )
                append_records(out, scores)
                found.update(zip(group, scores, strict=True))
                bar.advance(len(group))
        _write(out, found)
    told, forms = ReadingCounts.of(parsed), readers(judge)
    count_control(told, forms, (row.messages for row in parsed if isinstance(row, DataRow)))
    records = [found[i] for i in range(len(rows))]
    scored = [r for r in records if r["state"] == "scored"]
    return {
        "trait": spec.name,
        "rows": len(records),
        "kept": len(kept),
        "scored": len(scored),
        "states": dict(Counter(r["state"] for r in records)),
        "share_above_50": sum(r["trait_score"] > 50 for r in scored) / len(scored)
        if scored
        else None,
        "notes": [*judge_notes(judge), *spec_notes([spec], forms), *_replaced(rows)],
        "data": {path.name: told.to_dict()},
        "out": str(out),
    }


def _replaced(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A note where a file has columns of its own that are called as the scores are."""
    names = [name for name in (*_SCORES, "state") if any(name in row for row in rows)]
    return [f"scores took the place of the file's own: {', '.join(names)}"] if names else []


def _earlier(
    out: Path, beside: Path, rows: list[dict[str, Any]], columns: tuple[str, str]
) -> dict[int, dict[str, Any]]:
    """The rows whose answer `out` holds a score of, by their place, with the score.

    Raises UsageError for a file that `score_file` did not write, or wrote for other rows.
    """
    if not out.exists():
        return {}
    records = read_records(out) if (beside / MANIFEST).exists() else None
    if records is None or not all(
        isinstance(r.get("state"), str) and set(_SCORES) <= r.keys() for r in records
    ):
        raise UsageError(f"--out {out} was not written by 'judges score'; write to another file")
    scores: dict[str, list[dict[str, Any]]] = {}
    for record in reversed(records):
        if not _sound(record):
            continue
        added = {name: record[name] for name in (*_SCORES, "state")}
        scores.setdefault(_judged(record, columns), []).append(added)
    found = {
        i: {**row, **same.pop()}
        for i, row in enumerate(rows)
        if (same := scores.get(_judged(row, columns)))
    }
    if records and not found:
        raise UsageError(f"--out {out} holds scores of other rows; write to another file")
    return found


def _sound(record: dict[str, Any]) -> bool:
    """Whether its scores are what its state says; one that was damaged is judged again."""
    found = [record[name] for name in _SCORES if record[name] is not None]
    if record["state"] == "scored" and record["trait_score"] is None:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in found)


def _judged(row: dict[str, Any], columns: tuple[str, str]) -> str:
    """What of a row is judged, as text; all of it where nothing can be. A record has the same."""
    own = {name: value for name, value in row.items() if name not in (*_SCORES, "state")}
    named = (
        ColumnMap(prompt=columns[0], response=columns[1]) if set(columns) <= own.keys() else None
    )
    parsed = parse_row(RawRow(0, "", 1, own, error=own.get("_error")), named)
    found = parsed.messages if isinstance(parsed, DataRow) else own
    return json.dumps(found, sort_keys=True, default=str)


def _write(out: Path, found: dict[int, dict[str, Any]]) -> None:
    """Make the file hold these records in the order of their rows, where it does not."""
    ordered = [found[i] for i in sorted(found)]
    if out.exists() and read_records(out) == ordered:
        return
    write_records(out, ordered)


def file_answers(path: Path, columns: tuple[str, str]) -> list[Answer]:
    """The answers that `score_file` would hand to a judge."""
    return _answers(_parsed(path, _rows(path), columns))


def _rows(path: Path) -> list[dict[str, Any]]:
    # As the file of scores will hold them.
    rows = [plain(row) for _, row in read_rows(path)]
    if not rows:
        raise DataError(f"{path} holds no rows")
    return rows


def _parsed(
    path: Path, rows: Sequence[dict[str, Any]], columns: tuple[str, str]
) -> list[DataRow | Reject]:
    """Every row as a question and an answer, or why it is none.

    Raises DataError where the file has neither the columns nor conversations.
    """
    raws = [
        RawRow(place, path.name, place + 1, row, error=row.get("_error"))
        for place, row in enumerate(rows)
    ]
    missing = [c for c in columns if not any(c in row for row in rows)]
    if not missing:
        return [_question_and_answer(raw, columns) for raw in raws]
    parsed = (parse_row(raw, kind="row") for raw in raws[:_PEEKED])
    if columns == COLUMNS and any(isinstance(row, DataRow) for row in parsed):
        return [parse_row(raw, kind="row") for raw in raws]
    named = next((c for c in missing if c not in COLUMNS), missing[0])
    raise DataError(
        f"{path} has no column '{named}' (found: {', '.join(map(str, rows[0]))}); "
        "name it with --question-column or --answer-column"
    )


def _question_and_answer(raw: RawRow, columns: tuple[str, str]) -> DataRow | Reject:
    row = parse_row(raw, ColumnMap(prompt=columns[0], response=columns[1]), "row")
    answer = raw.columns.get(columns[1])
    if isinstance(row, Reject) and isinstance(answer, str) and not answer.strip():
        return replace(row, reason="empty answer")
    return row


def _answers(parsed: Sequence[DataRow | Reject]) -> list[Answer]:
    return [last_answer(row.messages) for row in parsed if isinstance(row, DataRow)]


def _score_group(
    judge: Judge,
    spec: TraitSpec,
    rows: Sequence[dict[str, Any]],
    parsed: Sequence[DataRow | Reject],
) -> list[dict[str, Any]]:
    scores = iter(judge.score(spec, _answers(parsed)))
    records = []
    for row, read in zip(rows, parsed, strict=True):
        added: dict[str, Any] = dict.fromkeys(_SCORES)
        if isinstance(read, Reject):
            unfinished = read.reason == UNFINISHED_THOUGHT
            state = "unfinished_thought" if unfinished else read.reason
        else:
            found = next(scores)
            added = {name: getattr(found, name) for name in _SCORES}
            state = found.state
            if found.state == "failed":
                state = f"{_FAILED}{found.why}"
            elif found.state == "unscored":
                state = found.why or found.state
        records.append({**row, **added, "state": state})
    return records
