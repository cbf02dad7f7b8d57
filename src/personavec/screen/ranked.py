"""The texts of the rows that a person should read, and which of their words carry a trait."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personavec.model import Encoded
from personavec.runs import append_records, atomic_path
from personavec.screen.explain import explain
from personavec.screen.job import Job
from personavec.screen.score import prepare
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores


def read_ranked(
    job: Job,
    scores: Scores,
    traits: Sequence[TraitScores],
    results: dict[str, Any],
    *,
    explained: bool,
) -> None:
    """Put the ranked rows' texts into the results; if asked to, explain them and the flagged."""
    target = job.out / "explained.jsonl"
    if explained:
        with atomic_path(target) as aside:
            aside.touch()
            _read_ranked(job, scores, traits, results, aside)
    else:
        target.unlink(missing_ok=True)
        _read_ranked(job, scores, traits, results, None)
    if target.exists() and not target.stat().st_size:
        target.unlink()
    results["files"]["explained"] = str(target) if target.exists() else None


def _read_ranked(
    job: Job,
    scores: Scores,
    traits: Sequence[TraitScores],
    results: dict[str, Any],
    target: Path | None,
) -> None:
    records = results["traits"]
    shown = {p for r in records.values() for side in r["ranked"].values() for p in side}
    wanted = set(shown)
    if target is not None:
        flagged = np.any([own.verdict.flagged for own in traits], axis=0)
        wanted |= set(np.flatnonzero(flagged).tolist())
    places = np.array(sorted(wanted), dtype=np.int64)
    texts: dict[int, dict[str, Any]] = {}
    for number, dataset in enumerate(job.datasets):
        own = places[scores.dataset[places] == number]
        content = scores.content[number]
        for group, raws in dataset.rows_at(scores.index[own], own, content, size=64):
            rows = prepare(job.loaded, raws, job.plan).encoded
            pieces: list[dict[str, Any]] = [{} for _ in rows]
            if target is not None:
                pieces = explain(
                    job.loaded,
                    rows,
                    job.probe.traits,
                    job.probe.directions,
                    batch_tokens=job.plan.batch_tokens,
                )
                append_records(
                    target,
                    [
                        _explained(row, dataset.name, spans, traits, int(place))
                        for row, spans, place in zip(rows, pieces, group, strict=True)
                    ],
                )
            for row, spans, place in zip(rows, pieces, group.tolist(), strict=True):
                if place in shown:
                    texts[place] = _shown(job, row, dataset.name, spans)
    for i, (own, trait) in enumerate(zip(traits, job.probe.traits, strict=True)):
        for side, ranked in records[trait]["ranked"].items():
            records[trait]["ranked"][side] = [
                {
                    **texts[place],
                    "pieces": texts[place]["pieces"].get(trait),
                    "value": float(own.ranking[place]),
                    "difference": float(own.value[place]),
                    "projection": float(scores.projection[place, i]),
                    "log_odds": float(scores.judged[place, i]),
                    "n_tokens": int(scores.n_tokens[place]),
                    "flagged": bool(own.verdict.flagged[place]),
                    "groups": {name: values[place] for name, values in scores.groups.items()},
                }
                for place in ranked
            ]


def _explained(
    row: Encoded,
    dataset: str,
    pieces: dict[str, list[dict[str, Any]]],
    traits: Sequence[TraitScores],
    place: int,
) -> dict[str, Any]:
    """A flagged row's spans, for the traits that it is flagged for."""
    over = [own.verdict.flagged[place] for own in traits]
    return {
        "dataset": dataset,
        "index": row.row.index,
        "id": row.row.id,
        "spans": {
            trait: [{k: p[k] for k in ("text", "projection")} for p in found if p["span"]]
            for (trait, found), flagged in zip(pieces.items(), over, strict=True)
            if flagged or not any(over)
        },
    }


def _shown(
    job: Job, row: Encoded, dataset: str, pieces: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    text, turn = row.texts[-1], row.texts[-1].turns[-1]
    natural = None
    if job.naturals is not None:
        natural = job.naturals.response(text.ids[: turn.prompt_last + 1].tolist())
    return {
        "dataset": dataset,
        "index": row.row.index,
        "id": row.row.id,
        "messages": list(row.row.messages),
        "rejected": row.row.rejected[-1]["content"] if row.row.rejected else None,
        "natural": natural.response if natural else None,
        "pieces": pieces,
    }
