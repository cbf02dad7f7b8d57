"""Score a file of questions and answers for a trait."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from personavec.data import ColumnMap, RawRow, Row, parse_row, read_rows
from personavec.errors import DataError, UsageError
from personavec.judges.base import Answer, Judge
from personavec.progress import Progress
from personavec.runs import MANIFEST, append_records, claim, lock, read_records, write_records
from personavec.traits import TraitSpec

_SCORES = ("log_odds", "trait_score", "coherence", "spread", "mass")
_FAILED = "failed: "


def score_file(
    make_judge: Callable[[], Judge],
    spec: TraitSpec,
    path: Path,
    out: Path,
    *,
    question_column: str = "question",
    answer_column: str = "answer",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every row and write it to `out` with the new columns.

    Original columns and row order are kept. A row without a usable question and answer keeps its
    place with a `state` that says why. Rows that `out` holds with the same content, wherever they
    stood, keep their scores (`kept` of them), but for those whose judge's call failed.

    Before the judge is made, raises DataError when no row has the columns, UsageError when `out`
    is not what an earlier call wrote for rows of this file, StorageError when another process is
    writing it.
    """
    progress = progress or Progress()
    columns = (question_column, answer_column)
    rows = _rows(path, columns)
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out} is the input file; write to another")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")
    beside = out.with_name(f".{out.name}.run")
    with lock(beside):
        earlier = _earlier(out, beside, rows, columns)
        judge = make_judge()
        settings = {"spec": spec.hash, "judge": judge.identity(), "columns": list(columns)}
        claim(beside, {"command": "judges score", **settings})
        kept = {i: r for i, r in earlier.items() if not r["state"].startswith(_FAILED)}
        _write(out, kept)
        missing = [i for i in range(len(rows)) if i not in kept]
        found = dict(kept)
        with progress.bar("judging", len(rows)) as bar:
            bar.advance(len(kept))
            for start in range(0, len(missing), judge.group):
                group = missing[start : start + judge.group]
                scores = _score_group(judge, spec, [rows[i] for i in group], columns)
                append_records(out, scores)
                found.update(zip(group, scores, strict=True))
                bar.advance(len(group))
        _write(out, found)
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
        "out": str(out),
    }


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


def _judged(row: dict[str, Any], columns: tuple[str, str]) -> str:
    """What of a row is judged, as text; all of it where nothing can be. A record has the same."""
    own = {name: value for name, value in row.items() if name not in (*_SCORES, "state")}
    named = (
        ColumnMap(prompt=columns[0], response=columns[1]) if set(columns) <= own.keys() else None
    )
    parsed = parse_row(RawRow(0, "", 1, own, error=own.get("_error")), named)
    found = parsed.messages if isinstance(parsed, Row) else own
    return json.dumps(found, sort_keys=True, default=str)


def _write(out: Path, found: dict[int, dict[str, Any]]) -> None:
    """Make the file hold these records in the order of their rows, where it does not."""
    ordered = [found[i] for i in sorted(found)]
    if out.exists() and read_records(out) == ordered:
        return
    write_records(out, ordered)


def file_answers(path: Path, columns: tuple[str, str]) -> list[Answer]:
    """The answers that `score_file` would hand to a judge."""
    return _answers(_rows(path, columns), columns)


def _rows(path: Path, columns: tuple[str, str]) -> list[dict[str, Any]]:
    rows = [row for _, row in read_rows(path)]
    if not rows:
        raise DataError(f"{path} holds no rows")
    if missing := [c for c in columns if not any(c in row for row in rows)]:
        raise DataError(
            f"{path} has no column '{missing[0]}' (found: {', '.join(map(str, rows[0]))}); "
            "name it with --question-column or --answer-column"
        )
    return rows


def _answers(rows: list[dict[str, Any]], columns: tuple[str, str]) -> list[Answer]:
    usable = (row for row in rows if _state(row, columns) == "scored")
    return [Answer(row[columns[0]], row[columns[1]]) for row in usable]


def _score_group(
    judge: Judge, spec: TraitSpec, rows: list[dict[str, Any]], columns: tuple[str, str]
) -> list[dict[str, Any]]:
    scores = iter(judge.score(spec, _answers(rows, columns)))
    records = []
    for row in rows:
        added: dict[str, Any] = dict.fromkeys(_SCORES)
        state = _state(row, columns)
        if state == "scored":
            found = next(scores)
            added = {name: getattr(found, name) for name in _SCORES}
            state = found.state
            if found.state == "failed":
                state = f"{_FAILED}{found.why}"
            elif found.state == "unscored":
                state = found.why or found.state
        records.append({**row, **added, "state": state})
    return records


def _state(row: dict[str, Any], columns: tuple[str, str]) -> str:
    if "_error" in row:
        return row["_error"]
    for name in columns:
        if not isinstance(row.get(name), str):
            return f"no text in column '{name}'"
    return "scored" if row[columns[1]] else "empty answer"
