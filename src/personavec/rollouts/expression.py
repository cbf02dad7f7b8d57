"""How strongly rollouts express a trait: means with intervals, and paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from personavec.results import Estimate
from personavec.rollouts.rollout import Rollout
from personavec.stats import clustered_bootstrap

Measure = Literal["mean", "share_above_50", "log_odds", "coherence"]
#: The value of one rollout; None where it was not scored.
_ReadRollout: TypeAlias = Callable[[Rollout], float | None]

#: What is reported of rollouts; `mean` is the trait score.
MEASURES: dict[Measure, _ReadRollout] = {
    "mean": lambda r: r.trait_score,
    "share_above_50": lambda r: None if r.trait_score is None else float(r.trait_score > 50),
    "log_odds": lambda r: r.log_odds,
    "coherence": lambda r: r.coherence,
}


@dataclass(frozen=True, kw_only=True)
class Expression:
    """How strongly a group of rollouts shows a trait.

    Bounds are those of 95% intervals clustered by question. A value is None where fewer than two
    questions have it.
    """

    mean: float | None
    """Mean trait score, 0 to 100."""
    low: float | None
    high: float | None
    share_above_50: float | None
    """Share of responses with a trait score above 50, 0 to 1."""
    share_above_50_low: float | None
    share_above_50_high: float | None
    log_odds: float | None
    """Mean log-odds of the contrast judge, in nats; None under other judges."""
    log_odds_low: float | None
    log_odds_high: float | None
    coherence: float | None
    """Mean coherence, 0 to 100."""
    coherence_low: float | None
    coherence_high: float | None
    refusals: int | None
    """Responses that the judge called refusals; None for a judge that reports none."""
    n: int
    """Responses that were scored."""
    of: int
    """All responses."""
    states: dict[str, int]
    """Responses by state."""
    questions: int
    """Distinct questions."""
    questions_for_half_width: int
    """Questions that would halve the interval's width: four times as many."""

    def estimate(self, measure: Measure) -> Estimate:
        """One measure with its interval."""
        prefix = "" if measure == "mean" else f"{measure}_"
        bounds = (getattr(self, f"{prefix}{end}") for end in ("low", "high"))
        return Estimate(getattr(self, measure), *bounds)

    @property
    def lost(self) -> dict[str, int]:
        """Responses without a score by state, refusals excepted."""
        return {k: n for k, n in self.states.items() if k not in ("scored", "refusal")}


@dataclass(frozen=True, kw_only=True)
class ExpressionDifference:
    """Differences of two groups of rollouts, paired by question, with 95% intervals."""

    mean: Estimate
    """Of trait scores."""
    share_above_50: Estimate
    """Of shares of responses with a trait score above 50."""
    log_odds: Estimate
    """Of log-odds, in nats."""
    coherence: Estimate
    questions: int
    """Questions with a trait score on both sides."""
    questions_for_half_width: int
    """Questions that would halve the interval's width."""


def summarise(rollouts: Sequence[Rollout], *, refusals: bool, seed: int = 0) -> Expression:
    """One trait's means with 95% intervals clustered by question, and how many of each state.

    `refusals` says whether the judge reports refusals. An interval's width falls with the square
    root of the number of questions, so halving it takes four times as many.
    """
    numbers: dict[str, float | None] = {}
    for name, measure in MEASURES.items():
        values = [(measure(r), r.question) for r in rollouts]
        found = _estimate([(v, q) for v, q in values if v is not None], seed)
        prefix = "" if name == "mean" else f"{name}_"
        numbers |= {name: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}
    states = Counter(r.state for r in rollouts)
    questions = len({r.question for r in rollouts})
    return Expression(
        **numbers,
        refusals=states["refusal"] if refusals else None,
        n=sum(r.trait_score is not None for r in rollouts),
        of=len(rollouts),
        states=dict(states),
        questions=questions,
        questions_for_half_width=4 * questions,
    )


def paired(
    ours: Sequence[Rollout], theirs: Sequence[Rollout], seed: int = 0
) -> ExpressionDifference:
    """Ours minus theirs, question by question; a question scored on one side only is left out."""
    pairs = {name: _pairs(ours, theirs, measure) for name, measure in MEASURES.items()}
    questions = len(pairs["mean"])
    return ExpressionDifference(
        **{name: _estimate(found, seed) for name, found in pairs.items()},
        questions=questions,
        questions_for_half_width=4 * questions,
    )


def _pairs(
    ours: Sequence[Rollout], theirs: Sequence[Rollout], measure: _ReadRollout
) -> list[tuple[float, str]]:
    """The difference of every question's means, with the question."""
    mine, other = _by_question(ours, measure), _by_question(theirs, measure)
    return [(mine[q] - other[q], q) for q in mine if q in other]


def _by_question(rollouts: Sequence[Rollout], measure: _ReadRollout) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        if (value := measure(rollout)) is not None:
            values.setdefault(rollout.question, []).append(value)
    return {question: sum(found) / len(found) for question, found in values.items()}


def _estimate(pairs: Sequence[tuple[float, str]], seed: int) -> Estimate:
    """The mean of the values, of (value, question) pairs of at least two questions."""
    if len({question for _, question in pairs}) < 2:
        return Estimate()
    return Estimate.of(clustered_bootstrap([v for v, _ in pairs], [q for _, q in pairs], seed=seed))
