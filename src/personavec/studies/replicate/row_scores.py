"""What is read of every row of a dataset before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from personavec.data import DataRow, RawRow
from personavec.judges import Judge
from personavec.results import dump
from personavec.rollouts import Naturals
from personavec.runs import append_records, read_scores
from personavec.screen import (
    Columns,
    Plan,
    Prepared,
    Probe,
    judge_rows,
    prepare,
    probe,
    score_prepared,
)
from personavec.studies import Bench
from personavec.traits import TraitSpec

#: Rows scored between two writes to disk.
_GROUP = 64
_LAST_TURN = Plan(turns="last")


@dataclass(frozen=True, kw_only=True)
class RowPredictors:
    """What is read of a row's last turn along one trait; None where there is nothing to read."""

    projection_difference: float | None
    projection: float | None
    judge: float | None
    """Log-odds, in nats."""
    length: float | None
    """Tokens."""
    last_prompt: float | None
    """Projection minus that of the last prompt token, which needs no natural response."""
    random: tuple[float | None, ...]
    """The projection difference along random directions at the trait's layer."""


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """One row's predictors by trait; a line of `scores.jsonl`."""

    row: str
    reason: str | None
    """Why the row could not be scored."""
    traits: dict[str, RowPredictors]


_SCORES = TypeAdapter(list[RowScores])


def scored_rows(
    bench: Bench,
    specs: Sequence[TraitSpec],
    judge: Judge,
    naturals: Naturals,
    rows: Sequence[DataRow],
    path: Path,
    *,
    label: str,
    judged_rows: int | None,
    random: int,
) -> list[RowScores]:
    """Every row's predictors; those in the file at `path` stand.

    The judge reads `judged_rows` rows, evenly over all of them, or all for None.
    """
    own = probe(list(bench.vectors), bench.base, random=random)
    n = len(rows) if judged_rows is None else min(len(rows), judged_rows)
    to_judge = {i * len(rows) // n for i in range(n)}
    ids = [row.id for row in rows]

    def kept() -> list[RowScores]:
        found = read_scores(path, ids, id_key="row", by="traits", traits=own.traits)
        return _SCORES.validate_python(found)

    done = len(kept())
    with bench.progress.bar(f"scoring {label}", len(rows)) as bar:
        bar.found(done)
        for start in range(done, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            raws = [
                RawRow(start + i, label, start + i + 1, {"messages": list(row.messages)})
                for i, row in enumerate(group)
            ]
            prepared = prepare(bench.base, raws, _LAST_TURN)
            columns = score_prepared(bench.base, prepared, own, _LAST_TURN, naturals=naturals)
            judged = np.full((len(group), len(specs)), np.nan, np.float32)
            if places := [i for i in range(len(group)) if start + i in to_judge]:
                own_rows = [(prepared.raws[i], prepared.rows[i]) for i in places]
                chosen = Prepared(*map(tuple, zip(*own_rows, strict=True)))
                judged[places] = judge_rows(judge, list(specs), chosen)
            append_records(path, map(dump, _row_scores(group, columns, judged, own)))
            bar.advance(len(group))
    return kept()


def _row_scores(
    rows: Sequence[DataRow], columns: Columns, judged: np.ndarray, of: Probe
) -> list[RowScores]:
    """Every row's record, of the screen's scores and the judge's log-odds [row, trait]."""
    return [
        RowScores(
            row=row.id,
            reason=columns.reason[i],
            traits={
                trait: RowPredictors(
                    projection_difference=float(columns.minus_natural[i, t]),
                    projection=float(columns.projection[i, t]),
                    judge=float(judged[i, t]),
                    length=float(columns.n_tokens[i]),
                    last_prompt=float(columns.minus_prompt[i, t]),
                    random=tuple(float(columns.minus_natural[i, k]) for k in of.controls[t]),
                )
                for t, trait in enumerate(of.traits)
            },
        )
        for i, row in enumerate(rows)
    ]
