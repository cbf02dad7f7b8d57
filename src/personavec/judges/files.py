"""Score a file of questions and answers for a trait."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from personavec.data import (
    UNFINISHED_THOUGHT,
    ColumnMap,
    DataReading,
    DataRow,
    RawColumns,
    RawRow,
    ReadingCounts,
    Reject,
    parse_row,
    read_rows,
)
from personavec.errors import DataError, UsageError
from personavec.judges.api_rubric import judge_notes
from personavec.judges.base import Answer, Judge, Score, last_answer
from personavec.judges.control_notes import chat_formats, count_control, spec_notes
from personavec.judges.results import ScoreResults
from personavec.judges.thresholds import showing_above
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

#: A row of the file, with the columns of its scores once it is judged.
Record: TypeAlias = RawColumns

_SCORES = ("log_odds", "trait_score", "coherence", "spread", "mass")
_FAILED = "failed: "
#: Default columns of the question and the answer.
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
) -> ScoreResults:
    """Score every row and write it to `out` with the new columns.

    Original columns and row order are kept. A file without the two columns may hold conversations
    in any format that the other verbs read; the last answer is judged, as a reply to the question
    before it. Thoughts before an answer are not judged. A row without a usable question and answer
    keeps its place, and its `state` gives the reason. Rows that `out` already holds with the same
    content keep their scores, whatever their place, unless the judge's call failed.

    Before the judge is made, raises DataError when the file has neither the columns nor
    conversations, UsageError when `out` is not what an earlier call wrote for rows of this file,
    StorageError when another process is writing it.
    """
    columns = (question_column, answer_column)
    rows = _rows(path)
    parsed = _parsed(path, rows, columns)
    _check_out(out, path)
    beside = out.with_name(f".{out.name}.run")
    with lock(beside):
        remove_leftovers_of(out)
        earlier = _earlier(out, beside, rows, columns)
        judge = make_judge()
        settings = {"spec": spec.hash, "judge": judge.identity(), "columns": list(columns)}
        claim(beside, {"command": "judges score", **settings})
        kept = {i: record for i, record in earlier.items() if _is_kept(parsed[i], record)}
        _write(out, kept)
        missing = [i for i in range(len(rows)) if i not in kept]
        found = kept | _score(judge, spec, rows, parsed, missing, out, progress or Progress())
        _write(out, found)
    above = showing_above(spec, judge.identity())
    return ScoreResults(
        trait=spec.name,
        rows=len(rows),
        kept=len(kept),
        scored=sum(record["state"] == "scored" for record in found.values()),
        states=dict(Counter(found[i]["state"] for i in range(len(rows)))),
        share_above_50=_share_above(50, list(found.values())),
        threshold=above,
        share_above_threshold=_share_above(above, list(found.values())),
        notes=[*judge_notes(judge), *spec_notes([spec], chat_formats(judge)), *_replaced(rows)],
        data={path.name: _reading(parsed, judge)},
        out=str(out),
    )


def file_answers(path: Path, columns: tuple[str, str]) -> list[Answer]:
    """The answers that `score_file` would hand to a judge."""
    return _answers(_parsed(path, _rows(path), columns))


# Reading the file


def _rows(path: Path) -> list[Record]:
    # As the file of scores will hold them.
    rows = [plain(row) for _, row in read_rows(path)]
    if not rows:
        raise DataError(f"{path} holds no rows")
    return rows


def _parsed(path: Path, rows: Sequence[Record], columns: tuple[str, str]) -> list[DataRow | Reject]:
    """Every row as a question and an answer, or the reason why it is none.

    Raises DataError for a file with neither the columns nor conversations.
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


# Scores of an earlier run


def _check_out(out: Path, path: Path) -> None:
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out} is the input file; write to another")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")


def _earlier(
    out: Path, beside: Path, rows: list[Record], columns: tuple[str, str]
) -> dict[int, Record]:
    """The rows whose answer has a score in `out`, by their place, with the score.

    Raises UsageError for a file that `score_file` did not write, or wrote for other rows.
    """
    if not out.exists():
        return {}
    records = read_records(out) if (beside / MANIFEST).exists() else None
    if records is None or not all(
        isinstance(r.get("state"), str) and set(_SCORES) <= r.keys() for r in records
    ):
        raise UsageError(f"--out {out} was not written by 'judges score'; write to another file")
    scores: dict[str, list[Record]] = {}
    for record in reversed(records):
        if not _is_sound(record):
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


def _is_sound(record: Record) -> bool:
    """Whether the scores fit the state; a damaged record is judged again."""
    found = [record[name] for name in _SCORES if record[name] is not None]
    if record["state"] == "scored" and record["trait_score"] is None:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in found)


def _is_kept(parsed: DataRow | Reject, earlier: Record) -> bool:
    """Whether an earlier record is kept: rows whose judge's call failed are judged again."""
    return isinstance(parsed, DataRow) and not earlier["state"].startswith(_FAILED)


def _judged(row: Record, columns: tuple[str, str]) -> str:
    """The part of a row or record that is judged, as text; the whole row if it is unusable."""
    own = {name: value for name, value in row.items() if name not in (*_SCORES, "state")}
    named = (
        ColumnMap(prompt=columns[0], response=columns[1]) if set(columns) <= own.keys() else None
    )
    parsed = parse_row(RawRow(0, "", 1, own, error=own.get("_error")), named)
    found = parsed.messages if isinstance(parsed, DataRow) else own
    return json.dumps(found, sort_keys=True, default=str)


def _write(out: Path, found: dict[int, Record]) -> None:
    """Write the records in the order of their rows, unless the file holds them already."""
    ordered = [found[i] for i in sorted(found)]
    if out.exists() and read_records(out) == ordered:
        return
    write_records(out, ordered)


# Scoring


def _score(
    judge: Judge,
    spec: TraitSpec,
    rows: Sequence[Record],
    parsed: Sequence[DataRow | Reject],
    missing: Sequence[int],
    out: Path,
    progress: Progress,
) -> dict[int, Record]:
    """Judge the missing rows in groups and append each group to `out`; the records by place."""
    found: dict[int, Record] = {}
    with progress.bar("judging", len(rows)) as bar:
        bar.found(len(rows) - len(missing))
        for start in range(0, len(missing), judge.group):
            group = missing[start : start + judge.group]
            scores = iter(judge.score(spec, _answers([parsed[i] for i in group])))
            records = [_record(rows[i], parsed[i], scores) for i in group]
            append_records(out, records)
            found.update(zip(group, records, strict=True))
            bar.advance(len(group))
    return found


def _record(row: Record, parsed: DataRow | Reject, scores: Iterator[Score]) -> Record:
    """The row with the next score, or with the reason why it could not be judged."""
    if isinstance(parsed, Reject):
        unfinished = parsed.reason == UNFINISHED_THOUGHT
        state = "unfinished_thought" if unfinished else parsed.reason
        return {**row, **dict.fromkeys(_SCORES), "state": state}
    score = next(scores)
    added = {name: getattr(score, name) for name in _SCORES}
    return {**row, **added, "state": _state(score)}


def _state(score: Score) -> str:
    """The state with its reason, so that rows can be counted by it."""
    if score.state == "failed":
        return f"{_FAILED}{score.why}"
    return score.why or score.state if score.state == "unscored" else score.state


# Results


def _share_above(threshold: float, records: Sequence[Record]) -> float | None:
    scored = [r["trait_score"] > threshold for r in records if r["state"] == "scored"]
    return sum(scored) / len(scored) if scored else None


def _reading(parsed: Sequence[DataRow | Reject], judge: Judge) -> DataReading:
    counts = ReadingCounts.of(parsed)
    messages = (row.messages for row in parsed if isinstance(row, DataRow))
    count_control(counts, chat_formats(judge), messages)
    return counts.record()


def _replaced(rows: Sequence[Record]) -> list[str]:
    """A note if the file has columns with the names of the scores."""
    names = [name for name in (*_SCORES, "state") if any(name in row for row in rows)]
    return [f"scores took the place of the file's own: {', '.join(names)}"] if names else []
