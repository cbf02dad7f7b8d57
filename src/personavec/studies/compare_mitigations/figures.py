"""From measured cells to figures: what every arm shows, keeps and costs, beside plain and base.

Knows nothing of models. All comparisons are paired: by question, by item, by held-out text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from personavec.evaluate import TaskScore, capability
from personavec.results import Estimate
from personavec.rollouts import Expression, Measure, Rollout, paired, summarise
from personavec.stats import Interval, clustered_bootstrap, resampled
from personavec.studies import Measured, pooled_surprise
from personavec.studies.compare_mitigations.results import (
    ArmMeasures,
    CapabilityEstimate,
    ShiftEstimate,
    ShownAnswer,
    Transcript,
)
from personavec.vectors import PersonaVector

#: The cells of every arm, one for each seed; the base has one.
ByArm = Mapping[str, Sequence[Measured]]

#: Held-out loss may end so much above the plain finetune's.
LOSS_MARGIN = 0.10
#: Standard errors in half of a 95% interval.
_HALF = 1.96
_SHOWN = 4


def arm_figures(
    name: str,
    by_arm: ByArm,
    vector: PersonaVector,
    parts: Sequence[str] = (),
    seed: int = 0,
) -> ArmMeasures:
    """One arm's trait expression, capability, loss and shift, with differences and verdicts.

    `parts` says which part of the data each held-out text is of, where that is known.
    """
    cells, base, plain = by_arm[name], by_arm["base"], by_arm["none"]
    trait = vector.trait
    shown = _answers(cells, trait)
    cued, base_cued = _answers(cells, trait, "cue"), _answers(base, trait, "cue")
    expression = summarise(shown, refusals=False, seed=seed)
    loss_ratio = _ratio(cells, plain, seed)
    capability_, minus_base, minus_plain = _capability(cells, base, plain, seed)
    return ArmMeasures(
        expression=expression,
        by_seed=tuple(_mean_log_odds(cell.of(trait)) for cell in cells),
        minus_base=paired(shown, _answers(base, trait), seed),
        minus_plain=paired(shown, _answers(plain, trait), seed),
        expression_under_cues=summarise(cued, refusals=False, seed=seed) if cued else None,
        minus_base_under_cues=paired(cued, base_cued, seed) if cued else None,
        held_out_loss=_mean_over_texts([cell.held_out for cell in cells], seed),
        loss_ratio=loss_ratio,
        loss_ratio_by={
            part: _ratio(cells, plain, seed, [part == each for each in parts])
            for part in dict.fromkeys(parts)
        },
        perplexity=_perplexity(cells, seed),
        perplexity_ratio=_perplexity_ratio(cells, base, seed),
        shift=_shift(cells, base, vector, seed),
        capability=capability_,
        capability_minus_base=minus_base,
        capability_minus_plain=minus_plain,
        within_base=_within_base(expression, _answers(base, trait), seed),
        learnt=None if loss_ratio.value is None else loss_ratio.value <= 1 + LOSS_MARGIN,
        capable=_capable(minus_plain),
    )


def _answers(cells: Sequence[Measured], trait: str, variant: str = "plain") -> list[Rollout]:
    return [rollout for cell in cells for rollout in cell.of(trait, variant)]


def _mean_log_odds(rollouts: Sequence[Rollout]) -> float | None:
    """The mean trait score stands in where the judge gives no log-odds."""
    values = [r.trait_score if r.log_odds is None else r.log_odds for r in rollouts]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _within_base(expression: Expression, base: Sequence[Rollout], seed: int) -> bool | None:
    """Whether the trait is at or below the upper limit of the base; None if not measured."""
    before = summarise(base, refusals=False, seed=seed)
    measure: Measure = "mean" if before.log_odds is None else "log_odds"
    value, limit = expression.estimate(measure).value, before.estimate(measure).high
    return None if value is None or limit is None else value <= limit


def _capable(minus_plain: Estimate) -> bool | None:
    """Whether capability is at most one standard error below the plain finetune's."""
    value, low, high = minus_plain.value, minus_plain.low, minus_plain.high
    if value is None or low is None or high is None:
        return None
    return value >= -(high - low) / (2 * _HALF)


def _capability(
    cells: Sequence[Measured], base: Sequence[Measured], plain: Sequence[Measured], seed: int
) -> tuple[CapabilityEstimate, Estimate, Estimate]:
    """The share of right answers, and paired differences to the base and the plain finetune."""
    own, before, unmitigated = (_mean_score(each) for each in (cells, base, plain))
    if own is None or before is None or unmitigated is None:
        return CapabilityEstimate(), Estimate(), Estimate()
    found = Estimate.of(capability.interval(own, seed))
    return (
        CapabilityEstimate(found.value, found.low, found.high, len(own.items), own.chance),
        Estimate.of(capability.difference(own, before, seed)),
        Estimate.of(capability.difference(own, unmitigated, seed)),
    )


def _mean_score(cells: Sequence[Measured]) -> TaskScore | None:
    """The score of one task with each item's mean over the cells."""
    scores = [cell.capability for cell in cells if cell.capability is not None]
    if not scores:
        return None
    values = np.mean([score.values for score in scores], axis=0)
    return replace(scores[0], values=tuple(map(float, values)))


def _mean_over_texts(values: Sequence[Sequence[float]], seed: int) -> Estimate:
    """The mean of texts' values over cells, resampling texts."""
    means = np.mean(values, axis=0) if values and values[0] else np.array([])
    if len(means) < 2:
        return Estimate()
    return Estimate.of(clustered_bootstrap(means, list(range(len(means))), seed=seed))


def _ratio(
    cells: Sequence[Measured],
    plain: Sequence[Measured],
    seed: int,
    chosen: Sequence[bool] | None = None,
) -> Estimate:
    """Held-out loss over the plain finetune's, resampling the (chosen) texts for both together."""
    own, other = (np.mean([cell.held_out for cell in each], axis=0) for each in (cells, plain))
    if chosen is not None:
        own, other = own[list(chosen)], other[list(chosen)]
    if len(own) < 2:
        return Estimate()
    weights = resampled(list(range(len(own))), seed=seed)
    return _bounded(own.mean() / other.mean(), (weights @ own) / (weights @ other))


def _perplexity(cells: Sequence[Measured], seed: int) -> Estimate:
    values, numbers = pooled_surprise(cells)
    if len(set(numbers)) < 2:
        return Estimate()
    found = clustered_bootstrap(values, numbers, seed=seed)
    return Estimate.of(Interval(math.exp(found.value), math.exp(found.low), math.exp(found.high)))


def _perplexity_ratio(cells: Sequence[Measured], base: Sequence[Measured], seed: int) -> Estimate:
    """Perplexity over the base's, token by token, resampling texts."""
    own = np.mean([pooled_surprise([cell])[0] for cell in cells], axis=0)
    before, numbers = pooled_surprise(base)
    if len(set(numbers)) < 2:
        return Estimate()
    found = clustered_bootstrap(own - before, numbers, seed=seed)
    return Estimate.of(Interval(math.exp(found.value), math.exp(found.low), math.exp(found.high)))


def _shift(
    cells: Sequence[Measured], base: Sequence[Measured], vector: PersonaVector, seed: int
) -> ShiftEstimate:
    """The finetuning shift along the vector."""
    after = np.mean([cell.projections[vector.trait] for cell in cells], axis=0)
    change = after - np.array(base[0].projections[vector.trait])
    found = clustered_bootstrap(change, list(range(len(change))), seed=seed)
    spread = float(vector.neutral_prompt_last[vector.layer, 1])
    return ShiftEstimate(found.value, found.low, found.high, found.value / spread)


def _bounded(value: float, values: np.ndarray) -> Estimate:
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def arm_transcripts(by_arm: ByArm, trait: str) -> tuple[Transcript, ...]:
    """The first questions with every arm's answer of the first seed, plain and under a cue."""
    questions = list(dict.fromkeys(r.question for r in by_arm["base"][0].of(trait)))[:_SHOWN]
    return tuple(
        Transcript(
            question=question,
            answers=tuple(
                ShownAnswer(
                    arm=name,
                    variant=variant,
                    response=rollout.response,
                    trait_score=rollout.trait_score,
                    log_odds=rollout.log_odds,
                    coherence=rollout.coherence,
                )
                for name, cells in by_arm.items()
                for variant in ("plain", "cue")
                for rollout in cells[0].of(trait, variant)
                if rollout.question == question and rollout.sample == 0
            ),
        )
        for question in questions
    )
