"""Steering as a test of a persona vector: layer selection, dose-response, controls.

The model answers evaluation questions without a system prompt while it is steered. Figures are
means over the answers with intervals clustered by question (paper, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from personavec.errors import TooFewRolloutsError
from personavec.extract.config import MIN_QUESTIONS
from personavec.extract.extraction import Extraction, PromptedRollouts
from personavec.extract.results import (
    DoseResponse,
    RandomDose,
    SteeredDose,
)
from personavec.judges import COHERENCE_FLOOR
from personavec.model import Steering
from personavec.results import Estimate
from personavec.rollouts import Rollout, Task
from personavec.stats import Interval, clustered_bootstrap
from personavec.vectors import Estimator, random_directions
from personavec.wording import decimal

Collect = Callable[[Sequence[Task], str], list[Rollout]]


def steered_tasks(
    prefix: str,
    questions: Sequence[str],
    direction: Float[Tensor, " hidden"],
    layer: int,
    coefficient: float,
    samples: int = 1,
) -> list[Task]:
    """Every question under one steering configuration, without a system prompt."""
    steering = (Steering(layer, direction, coefficient),) if coefficient else ()
    return [
        Task(
            id=f"{prefix}-l{layer}-c{coefficient:g}-q{number}-s{sample}",
            question=question,
            sample=sample,
            steering=steering,
        )
        for number, question in enumerate(questions)
        for sample in range(samples)
    ]


def summarise(
    rollouts: Sequence[Rollout],
    layer: int,
    coefficient: float,
    seed: int,
    estimator: Estimator = "mean",
) -> SteeredDose:
    """Mean log-odds and coherence with 95% intervals clustered by question.

    An empty response is counted and has no log-odds.
    """
    scored = [r for r in rollouts if r.state == "scored"]
    log_odds = Estimate.of(mean_log_odds(rollouts, seed))
    coherence = Estimate.of(_mean([(r.coherence, r.question) for r in rollouts], seed))
    return SteeredDose(
        layer=layer,
        estimator=estimator,
        coefficient=coefficient,
        log_odds=log_odds.value,
        low=log_odds.low,
        high=log_odds.high,
        coherence=coherence.value,
        coherence_low=coherence.low,
        coherence_high=coherence.high,
        coherent=coherence.value is not None and coherence.value >= COHERENCE_FLOOR,
        n=len(scored),
        empty=len(rollouts) - len(scored),
    )


def mean_log_odds(rollouts: Sequence[Rollout], seed: int) -> Interval:
    """Mean log-odds of the scored rollouts with its 95% interval; NaN without two questions."""
    return _mean([(r.log_odds, r.question) for r in rollouts], seed)


def _mean(pairs: Sequence[tuple[float | None, str]], seed: int) -> Interval:
    values = [value for value, _ in pairs if value is not None]
    questions = [question for value, question in pairs if value is not None]
    if len(set(questions)) < MIN_QUESTIONS:
        return Interval(float("nan"), float("nan"), float("nan"))
    return clustered_bootstrap(values, questions, seed=seed)


def sweep_layers(
    vectors: Mapping[Estimator, Float[Tensor, "layer hidden"]],
    layers: Sequence[int],
    coefficients: Sequence[float],
    questions: Sequence[str],
    collect: Collect,
    *,
    seed: int,
) -> list[SteeredDose]:
    """Steer by every estimator, layer and coefficient in one mixed batch."""
    cells: list[tuple[Estimator, int, float, list[Task]]] = [
        (estimator, layer, c, steered_tasks(_prefix(estimator), questions, found[layer], layer, c))
        for estimator, found in vectors.items()
        for layer in layers
        for c in coefficients
    ]
    answers = _collected([tasks for *_, tasks in cells], "layer sweep", collect)
    return [
        summarise(found, layer, c, seed, estimator)
        for (estimator, layer, c, _), found in zip(cells, answers, strict=True)
    ]


def _prefix(estimator: Estimator) -> str:
    """What the ids of an estimator's tasks begin with."""
    return "sweep" if estimator == "mean" else f"sweep-{estimator}"


def _collected(
    cells: Sequence[Sequence[Task]], label: str, collect: Collect
) -> list[list[Rollout]]:
    """The rollouts of each group of tasks, all collected in one batch."""
    rollouts = {r.id: r for r in collect([task for tasks in cells for task in tasks], label)}
    return [[rollouts[task.id] for task in tasks] for tasks in cells]


def select(sweep: Sequence[SteeredDose]) -> SteeredDose:
    """The configuration of the strongest trait expression at acceptable coherence.

    Where none is coherent enough, the most coherent one. Raises TooFewRolloutsError where none
    could be measured.
    """
    measured = [dose for dose in sweep if dose.log_odds is not None]
    if not measured:
        raise TooFewRolloutsError(
            f"no layer can be selected: under none of {len(sweep)} settings were steered answers "
            f"to {MIN_QUESTIONS} questions scored; give the spec more evaluation questions, or "
            "steer by smaller coefficients"
        )
    acceptable = [dose for dose in measured if dose.coherent]
    if acceptable:
        return max(acceptable, key=lambda dose: dose.log_odds or 0.0)
    return max(measured, key=lambda dose: dose.coherence or 0.0)


@dataclass(frozen=True, eq=False)
class Validation:
    """What steering did on evaluation questions that selected nothing, beside its controls."""

    questions: Sequence[str]
    by_dose: dict[float, list[Rollout]]
    """Steered answers by coefficient; 0 is unsteered."""
    doses: tuple[DoseResponse, ...]
    ends: tuple[float, float]
    """The coherent range of coefficients."""
    control: tuple[RandomDose, ...]
    prompted: PromptedRollouts


def validate(
    extraction: Extraction,
    directions: Float[Tensor, "layer hidden"],
    layer: int,
    residual_norm: Float[Tensor, " layer"],
    questions: Sequence[str],
) -> Validation:
    """Steer by every coefficient at one layer, and compare with two controls.

    Controls are random directions of the same norm, at both ends of the coherent range, and the
    system prompts alone, without steering.
    """
    config, direction = extraction.config, directions[layer]
    by_dose = dose_response(
        direction,
        layer,
        config.coefficients,
        questions,
        extraction.collect_steered,
        samples=config.validation_samples,
    )
    size = float(direction.norm() / residual_norm[layer])
    doses = tuple(
        DoseResponse(relative_dose=abs(c) * size, **vars(summarise(found, layer, c, config.seed)))
        for c, found in by_dose.items()
    )
    ends = coherent_range(doses)
    extraction.progress.say(first_pair(by_dose, ends[1]))
    control = random_controls(
        random_directions(direction, config.random_directions, seed=config.seed),
        layer,
        [end for end in ends if end],
        questions,
        extraction.collect_steered,
        samples=config.validation_samples,
        seed=config.seed,
    )
    prompted = extraction.prompted(questions)
    return Validation(questions, by_dose, doses, ends, tuple(control), prompted)


def dose_response(
    direction: Float[Tensor, " hidden"],
    layer: int,
    coefficients: Sequence[float],
    questions: Sequence[str],
    collect: Collect,
    *,
    samples: int,
) -> dict[float, list[Rollout]]:
    """Answers to the evaluation questions, steered by each coefficient."""
    cells = [steered_tasks("dose", questions, direction, layer, c, samples) for c in coefficients]
    return dict(zip(coefficients, _collected(cells, "dose-response", collect), strict=True))


def first_pair(by_dose: Mapping[float, Sequence[Rollout]], end: float) -> str:
    """The first question with an answer unsteered and one steered towards the trait, as text.

    Steered at `end`, the upper end of the coherent range, or else by the smallest dose.
    """
    steered = end or min((c for c in by_dose if c > 0), default=0.0)
    pairs = zip(by_dose[0], by_dose[steered], strict=True)
    found = next(((a, b) for a, b in pairs if a.response and b.response), None)
    if found is None or not steered:
        return "no question was answered both unsteered and steered towards the trait"
    plain, towards = (" ".join(rollout.response.split()) for rollout in found)
    by = decimal(steered, "+g")
    return f"{found[0].question}\n  unsteered: {plain}\n  steered by {by}: {towards}"


def coherent_range(doses: Sequence[SteeredDose]) -> tuple[float, float]:
    """The widest run of coherent coefficients around 0."""
    ordered = sorted(doses, key=lambda dose: dose.coefficient)
    zero = next(i for i, dose in enumerate(ordered) if dose.coefficient == 0)
    low = high = zero
    while low > 0 and ordered[low - 1].coherent:
        low -= 1
    while high + 1 < len(ordered) and ordered[high + 1].coherent:
        high += 1
    return ordered[low].coefficient, ordered[high].coefficient


def random_controls(
    directions: Float[Tensor, "direction hidden"],
    layer: int,
    ends: Sequence[float],
    questions: Sequence[str],
    collect: Collect,
    *,
    samples: int,
    seed: int,
) -> list[RandomDose]:
    """Random directions of the vector's norm, steered at both ends of the range."""
    cells = [
        (i, c, steered_tasks(f"random{i}", questions, direction, layer, c, samples))
        for i, direction in enumerate(directions)
        for c in ends
    ]
    answers = _collected([tasks for *_, tasks in cells], "random directions", collect)
    return [
        RandomDose(direction=i, **vars(summarise(found, layer, c, seed)))
        for (i, c, _), found in zip(cells, answers, strict=True)
    ]


def wrong_way(
    baseline: Sequence[Rollout], steered: Sequence[Rollout], seed: int
) -> Interval | None:
    """The share of questions whose mean log-odds fall when steering towards the trait."""
    before, after = _by_question(baseline), _by_question(steered)
    questions = sorted(before.keys() & after.keys())
    if len(questions) < 2:
        return None
    moved = [float(after[q] <= before[q]) for q in questions]
    return clustered_bootstrap(moved, questions, seed=seed)


def _by_question(rollouts: Sequence[Rollout]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.log_odds is not None:
            values.setdefault(rollout.question, []).append(rollout.log_odds)
    return {question: sum(found) / len(found) for question, found in values.items()}
