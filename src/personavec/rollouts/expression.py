"""How strongly rollouts express a trait: means with intervals, and paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from personavec.rollouts.rollout import Rollout
from personavec.stats import Interval, clustered_bootstrap

#: What is reported of a rollout, by its key in the results; None where it was not scored.
MEASURES: dict[str, Callable[[Rollout], float | None]] = {
    "mean": lambda r: r.trait_score,
    "share_above_50": lambda r: None if r.trait_score is None else float(r.trait_score > 50),
    "log_odds": lambda r: r.log_odds,
    "coherence": lambda r: r.coherence,
}


def summarise(rollouts: Sequence[Rollout], *, refusals: bool, seed: int = 0) -> dict[str, Any]:
    """One trait's means with 95% intervals clustered by question, and how many of each state.

    `n` of `of` responses were scored; `mean`, with `low` and `high`, is the mean trait score, and
    the other measures carry their bounds as `NAME_low` and `NAME_high`. `refusals` is None where
    the judge does not tell refusals. Halving the width of an interval takes four times the
    questions, since its width falls with the root of their number.
    """
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        values = [(measure(r), r.question) for r in rollouts]
        estimate = bounds(_interval([(v, q) for v, q in values if v is not None], seed))
        prefix = "" if name == "mean" else f"{name}_"
        found |= {name: estimate["value"], **{prefix + k: estimate[k] for k in ("low", "high")}}
    states = Counter(r.state for r in rollouts)
    questions = len({r.question for r in rollouts})
    return {
        **found,
        "refusals": states["refusal"] if refusals else None,
        "n": sum(r.trait_score is not None for r in rollouts),
        "of": len(rollouts),
        "states": dict(states),
        "questions": questions,
        "questions_for_half_width": 4 * questions,
    }


def paired(ours: Sequence[Rollout], theirs: Sequence[Rollout], seed: int = 0) -> dict[str, Any]:
    """Differences by question, ours minus theirs, of every measure, with 95% intervals.

    A question without a score on one side is left out; `questions` says how many are left.
    """
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        mine, other = _by_question(ours, measure), _by_question(theirs, measure)
        pairs = [(mine[q] - other[q], q) for q in mine if q in other]
        found[name] = bounds(_interval(pairs, seed))
        if name == "mean":
            found["questions"] = len(pairs)
            found["questions_for_half_width"] = 4 * len(pairs)
    return found


def _by_question(
    rollouts: Sequence[Rollout], measure: Callable[[Rollout], float | None]
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        if (value := measure(rollout)) is not None:
            values.setdefault(rollout.question, []).append(value)
    return {question: sum(found) / len(found) for question, found in values.items()}


def _interval(pairs: Sequence[tuple[float, str]], seed: int) -> Interval | None:
    if len({question for _, question in pairs}) < 2:
        return None
    return clustered_bootstrap([v for v, _ in pairs], [q for _, q in pairs], seed=seed)


def bounds(interval: Interval | None) -> dict[str, float | None]:
    """As JSON; all null where fewer than two questions or items were left to measure on."""
    if interval is None:
        return {"value": None, "low": None, "high": None}
    return {"value": interval.value, "low": interval.low, "high": interval.high}
