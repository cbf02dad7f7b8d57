"""Judge rollouts, and keep those that show the trait, or its opposite, coherently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from personavec.errors import DataError
from personavec.judges import Answer, Judge, Score
from personavec.progress import Progress
from personavec.rollouts.rollout import REMADE, Rollout
from personavec.runs import append_records, read_records, why_invalid
from personavec.traits import TraitSpec

_SCORE = TypeAdapter(Score)


def _scores(path: Path) -> dict[str, Score]:
    """The scores that a run's folder keeps, by rollout. Raises DataError as `_generated` does."""
    try:
        return {str(r["id"]): _SCORE.validate_python(r) for r in read_records(path)}
    except (KeyError, ValidationError) as error:
        why = why_invalid(error) if isinstance(error, ValidationError) else f"no {error}"
        raise DataError(f"{path} is damaged ({why}); {REMADE}") from error


def judged(
    judge: Judge,
    rollouts: Sequence[Rollout],
    spec: TraitSpec,
    folder: Path,
    *,
    label: str,
    progress: Progress,
) -> list[Rollout]:
    """The rollouts with their scores for `spec`; scores in the folder's `scores.jsonl` are kept."""
    scores = _judge(judge, rollouts, spec, folder, label, progress)
    return [_with_score(rollout, scores[rollout.id], judge.name) for rollout in rollouts]


def _judge(
    judge: Judge,
    rollouts: Sequence[Rollout],
    spec: TraitSpec,
    folder: Path,
    label: str,
    progress: Progress,
) -> dict[str, Score]:
    """The scores by rollout: those that the folder holds, and those that were missing."""
    path = folder / "scores.jsonl"
    found = _scores(path)
    # A failed call left no score: ask again.
    done = {id for id, score in found.items() if score.state != "failed"}
    # Responses to one question share the judge's prompts, so they are judged together.
    todo = sorted((r for r in rollouts if r.id not in done), key=lambda r: r.question)
    with progress.bar(f"{label}: judging", len(rollouts)) as bar:
        bar.found(len(rollouts) - len(todo))
        for start in range(0, len(todo), judge.group):
            group = todo[start : start + judge.group]
            scores = judge.score(spec, [_answer(rollout) for rollout in group])
            new = [{"id": r.id, **s.__dict__} for r, s in zip(group, scores, strict=True)]
            append_records(path, new)
            found |= {str(record["id"]): _SCORE.validate_python(record) for record in new}
            bar.advance(len(group))
    return found


def _answer(rollout: Rollout) -> Answer:
    return Answer(
        question=rollout.question,
        response=rollout.response,
        system=rollout.system,
        pair=rollout.pair,
        response_ids=rollout.response_ids,
        thinking_ids=rollout.thinking_ids,
        logprobs=rollout.logprobs,
        earlier=rollout.earlier,
        ended=rollout.ended,
        thought=rollout.thinking,
    )


def _with_score(rollout: Rollout, score: Score, judge: str) -> Rollout:
    if rollout.state in _STATES:  # how generation ended tells more than the judge's "empty"
        return rollout
    return replace(
        rollout,
        state=score.state,
        judge=judge,
        log_odds=score.log_odds,
        log_odds_per_token=score.log_odds_per_token,
        trait_score=score.trait_score,
        coherence=score.coherence,
    )


def keep(
    rollouts: Sequence[Rollout], *, trait_threshold: float = 50, coherence_floor: float = 50
) -> list[Rollout]:
    """Rollouts with `kept` and `why_dropped` filled in.

    A positive rollout at or below the trait threshold is dropped, a negative one at or above it,
    and an incoherent, empty or unscored one on either side (paper, section 2.2).
    """
    return [_verdict(r, trait_threshold, coherence_floor) for r in rollouts]


_STATES = {
    "empty": "empty response",
    "unfinished_thought": "unfinished thought",
    "failed": "request failed",
}


def _verdict(rollout: Rollout, threshold: float, floor: float) -> Rollout:
    why = None
    if rollout.trait_score is None:
        why = _STATES.get(rollout.state, rollout.state)
    elif rollout.coherence is None:
        why = "coherence unscored"
    elif rollout.coherence < floor:
        why = "incoherent"
    elif rollout.polarity == "pos" and rollout.trait_score <= threshold:
        why = "does not show the trait"
    elif rollout.polarity == "neg" and rollout.trait_score >= threshold:
        why = "shows the trait"
    return replace(rollout, kept=why is None, why_dropped=why)
