"""Score a file of questions and answers for a trait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from personavec.conversations import read_rows
from personavec.errors import DataError, UsageError
from personavec.judges.base import Answer
from personavec.judges.contrast import ContrastJudge
from personavec.model.loading import LoadedModel
from personavec.progress import Progress
from personavec.runs import append_records, claim, read_records
from personavec.traits import TraitSpec

_GROUP = 64


def score_file(
    load: Callable[[], LoadedModel],
    spec: TraitSpec,
    path: Path,
    out: Path,
    *,
    question_column: str = "question",
    answer_column: str = "answer",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every row with the contrast judge and write it to `out` with the new columns.

    Original columns and row order are kept. A row without a usable question and answer keeps its
    place with a `state` that says why. Rows already in `out` are not scored again. Raises
    DataError, before the model is loaded, when no row has the columns.
    """
    progress = progress or Progress()
    rows = [row for _, row in read_rows(path)]
    if not rows:
        raise DataError(f"{path} holds no rows")
    columns = (question_column, answer_column)
    if missing := [c for c in columns if not any(c in row for row in rows)]:
        raise DataError(
            f"{path} has no column '{missing[0]}' (found: {', '.join(map(str, rows[0]))}); "
            "name it with --question-column or --answer-column"
        )
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out} is the input file; write to another")
    if out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")
    loaded = load()
    claim(
        out.with_name(f".{out.name}.run"),
        {
            "input": str(path.resolve()),
            "rows": len(rows),
            "spec": spec.hash,
            "model": loaded.identity.as_dict(),
            "columns": list(columns),
        },
    )
    done = len(read_records(out))
    with progress.bar("judging", len(rows)) as bar:
        bar.advance(done)
        for start in range(done, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            append_records(out, _score_group(loaded, spec, group, columns))
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
        "out": str(out),
    }


def _score_group(
    loaded: LoadedModel, spec: TraitSpec, rows: list[dict[str, Any]], columns: tuple[str, str]
) -> list[dict[str, Any]]:
    states = [_state(row, columns) for row in rows]
    answers = [
        Answer(row[columns[0]], row[columns[1]])
        for row, state in zip(rows, states, strict=True)
        if state == "scored"
    ]
    scores = iter(ContrastJudge(loaded).score(spec, answers))
    records = []
    for row, state in zip(rows, states, strict=True):
        added: dict[str, Any] = dict.fromkeys(("log_odds", "trait_score", "coherence"))
        if state == "scored":
            found = next(scores)
            state = found.why or found.state
            added = {
                "log_odds": found.log_odds,
                "trait_score": found.trait_score,
                "coherence": found.coherence,
            }
        records.append({**row, **added, "state": state})
    return records


def _state(row: dict[str, Any], columns: tuple[str, str]) -> str:
    if "_error" in row:
        return row["_error"]
    for name in columns:
        if not isinstance(row.get(name), str):
            return f"no text in column '{name}'"
    return "scored" if row[columns[1]] else "empty answer"
