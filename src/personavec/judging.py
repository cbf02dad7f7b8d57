"""Score a file of questions and answers for a trait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from personavec.data import read_rows
from personavec.errors import DataError, UsageError
from personavec.judges.base import Answer, Judge
from personavec.judges.rubric import judge_notes
from personavec.progress import Progress
from personavec.runs import append_records, atomic_path, claim, read_records
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
    place with a `state` that says why. Rows already in `out` are not scored again, but for those
    whose judge's call failed. Raises DataError, before the judge is made, when no row has the
    columns.
    """
    progress = progress or Progress()
    columns = (question_column, answer_column)
    rows = _rows(path, columns)
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out} is the input file; write to another")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")
    judge = make_judge()
    claim(
        out.with_name(f".{out.name}.run"),
        {
            "input": str(path.resolve()),
            "rows": len(rows),
            "spec": spec.hash,
            "judge": judge.identity(),
            "columns": list(columns),
        },
    )
    records = read_records(out)
    with progress.bar("judging", len(rows)) as bar:
        failed = [i for i, r in enumerate(records) if r["state"].startswith(_FAILED)]
        for start in range(0, len(failed), judge.group):
            group = failed[start : start + judge.group]
            again = _score_group(judge, spec, [rows[i] for i in group], columns)
            for i, record in zip(group, again, strict=True):
                records[i] = record
            with atomic_path(out) as aside:
                append_records(aside, records)
        bar.advance(len(records))
        for start in range(len(records), len(rows), judge.group):
            group = rows[start : start + judge.group]
            append_records(out, _score_group(judge, spec, group, columns))
            bar.advance(len(group))
    records = read_records(out)
    scored = [r for r in records if r["state"] == "scored"]
    return {
        "trait": spec.name,
        "rows": len(records),
        "scored": len(scored),
        "states": dict(Counter(r["state"] for r in records)),
        "share_above_50": sum(r["trait_score"] > 50 for r in scored) / len(scored)
        if scored
        else None,
        "notes": judge_notes(judge),
        "out": str(out),
    }


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
