"""Every trait's values of all rows, and the verdict on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personavec.screen.job import Job
from personavec.screen.second_stage import Stage
from personavec.screen.table import Scores, load_scores
from personavec.screen.verdicts import Verdict, combined, judge_trait


@dataclass(frozen=True, eq=False)
class TraitScores:
    """One trait's values, and what they are compared with."""

    trait: int
    value: np.ndarray
    """[row]: the difference that every row has; NaN where missing."""
    ranking: np.ndarray
    """[row]: what the verdict was given on, and rows are ranked by: the same, the exact
    difference of two stages, or projection and judge combined."""
    reference: np.ndarray | None
    """The reference's values."""
    verdict: Verdict
    sigma: float
    """Standard deviation of the projection on neutral prompts: the unit in which traits compare."""


def trait_scores(
    job: Job, scores: Scores, reference: Scores | None, stage: Stage | None
) -> list[TraitScores]:
    """Every trait's values and verdict. Raises DataError as `judge_trait` does."""
    exact_reference = reference
    if stage is not None and job.reference is not None:
        exact_reference = load_scores([job.reference.folder], "minus_natural", ())
    found = []
    for i, trait in enumerate(job.probe.traits):
        value = scores.value[:, i].astype(np.float64)
        ranking = value if stage is None else stage.exact[:, i]
        line = None if exact_reference is None else exact_reference.value[:, i].astype(np.float64)
        if job.judge is not None:
            judged = scores.judged[:, i].astype(np.float64)
            base = None
            if exact_reference is not None and line is not None:
                base = (line, exact_reference.judged[:, i].astype(np.float64))
                line = combined(*base, base)
            ranking = combined(ranking, judged, base)
        scale = _scale(job, i)
        found.append(
            TraitScores(
                trait=i,
                value=value,
                ranking=ranking,
                reference=None if reference is None else reference.value[:, i].astype(np.float64),
                verdict=judge_trait(
                    job.rule,
                    trait,
                    ranking,
                    line,
                    scale,
                    None if exact_reference is None else exact_reference.prompt,
                ),
                sigma=scale["sigma"],
            )
        )
    return found


def _scale(job: Job, trait: int) -> dict[str, float]:
    """The size of each unit of a cut."""
    vector, layer = job.vectors[trait], job.probe.layer(trait)
    return {
        "projection": 1.0,
        "sigma": float(vector.neutral_response_mean[layer, 1]),
        "norm": float(vector.residual_norm[layer]),
    }
