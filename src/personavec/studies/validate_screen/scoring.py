"""Scores of a validation's rows, by every method that needs the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from personavec.data import RawRow
from personavec.judges import ContrastJudge
from personavec.results import without_nan
from personavec.runs import append_records, read_scores
from personavec.screen import (
    Columns,
    FloatColumns,
    Plan,
    Prepared,
    Probe,
    judge_rows,
    natural_projections,
    prepare,
    probe,
    score_prepared,
)
from personavec.studies.validate_screen.figures import ScoredRow
from personavec.studies.validate_screen.job import PlantedTrait, ValidationJob
from personavec.studies.validate_screen.planting import StudyRow
from personavec.traits import TraitSpec

#: Rows scored between two writes to disk; a killed run loses at most these.
_GROUP = 64


def score(
    job: ValidationJob,
    label: str,
    rows: Sequence[StudyRow],
    traits: Sequence[PlantedTrait],
    path: Path,
) -> Sequence[ScoredRow]:
    """Score rows for some traits as a screen does, by every method that needs the model.

    Records are kept in the file `path` as they come; a continued run scores the others. One record
    for each row, in their order.
    """
    ids, names = [row.id for row in rows], [trait.vector.trait for trait in traits]

    def kept() -> Sequence[ScoredRow]:
        return read_scores(path, ids, id_key="id", by="scores", traits=names)

    done = len(kept())
    own = probe(
        [trait.vector for trait in traits],
        job.loaded,
        random=job.config.random_directions,
        seed=job.config.seed,
    )
    specs = [trait.spec for trait in traits]
    plan = Plan(turns="last")
    with job.progress.bar(f"scoring {label}", len(rows)) as bar:
        bar.found(done)
        for start in range(done, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            raws = [_raw(place, row) for place, row in enumerate(group, start=start)]
            prepared = prepare(job.loaded, raws, plan)
            columns = score_prepared(job.loaded, prepared, own, plan, naturals=job.naturals)
            averaged = (
                None
                if job.sampled is None
                else columns.projection - natural_projections(prepared, own, job.sampled)
            )
            judged = _judged(job.judge, specs, prepared, group)
            records = [_record(columns, judged, averaged, own, i, r) for i, r in enumerate(group)]
            append_records(path, records)
            bar.advance(len(group))
    return kept()


def _judged(
    judge: ContrastJudge, specs: Sequence[TraitSpec], prepared: Prepared, rows: Sequence[StudyRow]
) -> FloatColumns:
    """Log-odds [row, trait]; what was judged when it was elicited is not judged again."""
    known = [[row.log_odds] * len(specs) for row in rows]
    out = np.array(known, np.float32).reshape(len(rows), len(specs))
    left = [i for i, row in enumerate(rows) if row.log_odds is None]
    unread = Prepared(tuple(prepared.raws[i] for i in left), tuple(prepared.rows[i] for i in left))
    out[left] = judge_rows(judge, specs, unread)
    return out


def _raw(place: int, row: StudyRow) -> RawRow:
    return RawRow(place, row.kind, place + 1, {"id": row.id, "messages": list(row.messages)})


def _record(
    columns: Columns,
    judged: FloatColumns,
    averaged: FloatColumns | None,
    own: Probe,
    i: int,
    row: StudyRow,
) -> ScoredRow:
    return without_nan(
        {
            "id": row.id,
            "kind": row.kind,
            "question": row.question,
            "response": row.response,
            "prompt": int(columns.prompt[i]),
            "reason": columns.reason[i],
            "scores": {
                trait: {
                    "length": float(columns.n_tokens[i]),
                    "judge": float(judged[i, t]),
                    "none": float(columns.projection[i, t]),
                    "last_prompt": float(columns.minus_prompt[i, t]),
                    "generate": float(columns.minus_natural[i, t]),
                    **({} if averaged is None else {"averaged": float(averaged[i, t])}),
                    "random_directions": columns.minus_natural[i, own.controls[t]].tolist(),
                }
                for t, trait in enumerate(own.traits)
            },
        }
    )
