"""Every trait's values of all rows, and which of them are flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personavec.screen.flagging import TraitFlags, combined, flag_trait
from personavec.screen.job import ScreenJob
from personavec.screen.second_stage import SecondStage
from personavec.screen.table import Scores, load_scores


@dataclass(frozen=True, eq=False)
class TraitScores:
    """One trait's values, and what they are compared with."""

    trait: int
    """Place among the traits."""
    value: np.ndarray
    """[row]: the difference that every row has; NaN where missing."""
    ranking: np.ndarray
    """[row]: what rows are ranked and flagged by: the value, the exact difference of two stages,
    or projection and judge combined."""
    reference: np.ndarray | None
    """The reference's values."""
    flags: TraitFlags
    sigma: float
    """Standard deviation of projections on neutral prompts: the unit in which traits compare."""


def trait_scores(
    job: ScreenJob, scores: Scores, reference: Scores | None, stage: SecondStage | None
) -> list[TraitScores]:
    """Every trait's values and flags. Raises DataError as `flag_trait` does."""
    exact_reference = reference
    if stage is not None and job.reference is not None:
        exact_reference = load_scores([job.reference.folder], "minus_natural", ())
    found = []
    for i, trait in enumerate(job.probe.traits):
        value = scores.value[:, i].astype(np.float64)
        ranking = value if stage is None else stage.exact[:, i]
        line = None if exact_reference is None else exact_reference.value[:, i].astype(np.float64)
        if job.judge is not None:
            ranking, line = _with_judge(ranking, line, scores, exact_reference, i)
        prompts = None if exact_reference is None else exact_reference.prompt
        scale = _scale(job, i)
        found.append(
            TraitScores(
                trait=i,
                value=value,
                ranking=ranking,
                reference=None if reference is None else reference.value[:, i].astype(np.float64),
                flags=flag_trait(job.rule, trait, ranking, line, scale, prompts),
                sigma=scale["sigma"],
            )
        )
    return found


def any_flagged(traits: Sequence[TraitScores]) -> np.ndarray:
    """[row]: flagged for at least one trait."""
    return np.any([own.flags.flagged for own in traits], axis=0)


def _with_judge(
    ranking: np.ndarray,
    line: np.ndarray | None,
    scores: Scores,
    reference: Scores | None,
    trait: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows' and the reference's values, each combined with the judge's."""
    base = None
    if reference is not None and line is not None:
        base = (line, reference.judged[:, trait].astype(np.float64))
        line = combined(*base, base)
    return combined(ranking, scores.judged[:, trait].astype(np.float64), base), line


def _scale(job: ScreenJob, trait: int) -> dict[str, float]:
    """The size of each unit of a cut, in units of the projection."""
    vector, layer = job.vectors[trait], job.probe.layer(trait)
    return {
        "projection": 1.0,
        "sigma": float(vector.neutral_response_mean[layer, 1]),
        "norm": float(vector.residual_norm[layer]),
    }
