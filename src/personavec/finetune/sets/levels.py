"""The levels of an elicited set: how much of the trait a response shows beyond the model's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from personavec.finetune.sets.writing import Level
from personavec.rollouts import Rollout


def by_level(rollouts: Sequence[Rollout]) -> dict[Level, list[Rollout]]:
    """Kept rollouts by level, the same number at each where there are enough.

    A rollout with a polarity was elicited; one without is the model's own answer. Elicited ones
    are ranked by how much more of the trait they show than the mean of the model's own answers to
    the same question, and those that show more are divided into thirds: the lowest is mild, the
    highest strong. The middle third is left out, so that the levels differ by more than the
    judge's error. As many of the model's own answers are normal, evenly over the questions.
    """
    kept = [r for r in rollouts if r.kept]
    usual = usual_strengths(kept)
    elicited = sorted(
        (r for r in kept if r.polarity == "pos" and excess(r, usual) > 0),
        key=lambda r: excess(r, usual),
    )
    third = len(elicited) // 3
    return {
        "normal": _over_questions([r for r in kept if r.polarity is None])[:third],
        "mild": elicited[:third],
        "strong": elicited[len(elicited) - third :],
    }


def usual_strengths(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """Mean strength of the model's own answers to each question."""
    own: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.polarity is None:
            own.setdefault(rollout.question, []).append(_strength(rollout))
    return {question: sum(values) / len(values) for question, values in own.items()}


def excess(rollout: Rollout, usual: Mapping[str, float]) -> float:
    """How much more of the trait than the model's own answers; 0 where none was kept."""
    return _strength(rollout) - usual.get(rollout.question, _strength(rollout))


def _strength(rollout: Rollout) -> float:
    """Log-odds, or the trait score where the judge gives no log-odds."""
    return (rollout.trait_score or 0.0) if rollout.log_odds is None else rollout.log_odds


def _over_questions(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The first rollout of each question, then the second ones, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for rollout in rollouts:
        turns.append(seen[rollout.question])
        seen[rollout.question] += 1
    return [rollouts[i] for i in sorted(range(len(rollouts)), key=lambda i: turns[i])]
