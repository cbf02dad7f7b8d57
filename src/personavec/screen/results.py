"""The results of a screen as a record: every trait's summary, and what was compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from personavec.data import parts, reading_counts_in
from personavec.judges import judge_notes, readers, spec_notes
from personavec.model.engine import TransformersEngine
from personavec.screen import summary, two_stage
from personavec.screen.job import Job
from personavec.screen.second_stage import Stage
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores
from personavec.screen.verdicts import describe


def results_of(
    job: Job,
    scores: Scores,
    reference: Scores | None,
    traits: Sequence[TraitScores],
    stage: Stage | None,
    *,
    ranked: int,
) -> dict[str, Any]:
    """What the verdicts say of the whole; of every trait, the `ranked` highest rows' places."""
    names = [dataset.name for dataset in job.datasets]
    records: dict[str, Any] = {}
    for own, trait in zip(traits, job.probe.traits, strict=True):
        records[trait] = summary.summarise(
            scores,
            reference,
            own,
            job.probe,
            names,
            ranked=ranked,
            comparable=job.side != "projection",
        )
        if stage is not None:
            records[trait] |= _two_stages(own, stage, len(scores))
    flagged = np.any([own.verdict.flagged for own in traits], axis=0)
    return {
        "command": "screen",
        "model": job.loaded.identity.as_dict(),
        "engine": _described(job),
        "kind": job.plan.kind,
        "natural": "rejected" if job.plan.kind == "pair" else job.natural,
        "turns": job.plan.turns,
        "rows": len(scores),
        "rejected": sum(scores.rejects),
        "datasets": [
            {"name": name, "rows": len(scores.of(i)), "rejected": scores.rejects[i]}
            for i, name in enumerate(names)
        ],
        "reference": None
        if reference is None or job.reference is None
        else {
            "name": job.reference.name,
            "rows": len(reference),
            "rejected": sum(reference.rejects),
        },
        "data": {
            dataset.name: reading_counts_in(parts.written(dataset.folder)).to_dict()
            for dataset in (*job.datasets, *([job.reference] if job.reference else []))
        },
        "judge": None if job.judge is None else job.judge.identity(),
        "rule": describe(job.rule) if job.rule else None,
        "flagged_any": int(flagged.sum()) if job.rule else None,
        "traits": records,
        "notes": _notes(job),
    }


def _two_stages(own: TraitScores, stage: Stage, n: int) -> dict[str, Any]:
    """The dataset's mean corrected by the exact differences, and what the top slice misses."""
    exact = stage.exact[:, own.trait]
    mean = two_stage.corrected_mean(own.value, exact, stage.chosen)
    threshold = own.verdict.threshold
    n_rest = int(np.isfinite(own.value).sum()) - len(stage.chosen.top)
    recall = (
        None
        if threshold is None
        else two_stage.recall(own.ranking, stage.chosen, n_rest, threshold)
    )
    return {
        **summary.interval(mean),
        "two_stage": {
            "cheap_mean": float(np.nanmean(own.value)),
            "top": len(stage.chosen.top),
            "sample": len(stage.chosen.sample),
            "without_natural": int(
                np.isnan(exact[np.concatenate([stage.chosen.top, stage.chosen.sample])]).sum()
            ),
            "recall": summary.interval(recall),
            "of": n,
        },
    }


def _described(job: Job) -> dict[str, Any]:
    """The engine that generated natural responses, and the one that scored."""
    own = TransformersEngine(job.loaded)
    scoring = job.scoring or own
    return {"generating": (job.engine or own).describe(), "scoring": scoring.describe()}


def _notes(job: Job) -> list[str]:
    found = list(job.loaded.chat.notes)
    if job.judge is not None:
        found += [*judge_notes(job.judge), *spec_notes(job.specs, readers(job.judge))]
    if job.scoring is not None:
        found.append(job.scoring.note())
    identity = job.loaded.identity
    for vector in job.vectors:
        if warning := vector.other_model_warning(*identity.lineage):
            found.append(f"{warning[0].upper()}{warning[1:]}.")
    if not job.rule:
        found.append(
            "No line was drawn, so no row is flagged: give a clean --reference, or --top, "
            "--bottom or --cut."
        )
    return found
