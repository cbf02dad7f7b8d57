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
from personavec.extract.config import MIN_QUESTIONS, ExtractConfig
from personavec.extract.extraction import Extraction, PromptedRollouts
from personavec.extract.results import DoseResponse, RandomDose, SteeredDose
from personavec.extract.steered import (
    VECTOR,
    Collect,
    SteeredRollouts,
    coherent_range,
    steered_tasks,
    summarise,
)
from personavec.extract.verdict import undecided
from personavec.rollouts import Rollout, Task
from personavec.stats import Interval, clustered_bootstrap
from personavec.vectors import Estimator, random_directions
from personavec.wording import decimal


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


@dataclass(frozen=True)
class SteeringFigures:
    """What steering did on evaluation questions that selected nothing, beside random directions."""

    doses: tuple[DoseResponse, ...]
    ends: tuple[float, float]
    """The coherent range of coefficients."""
    control: tuple[RandomDose, ...]
    added: int
    """Answers that were added where a check was not decided."""


@dataclass(frozen=True, eq=False)
class Validation(SteeringFigures):
    """The same, with the answers, and beside what system prompts alone do."""

    questions: Sequence[str]
    by_dose: dict[float, list[Rollout]]
    """Steered answers by coefficient; 0 is unsteered."""
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
    random = random_directions(direction, config.random_directions, seed=config.seed)
    steered = SteeredRollouts(layer, direction, random, questions, extraction.collect_steered)
    measured = measure(steered, residual_norm, config, extraction.progress.say)
    prompted = extraction.prompted(questions)
    return Validation(
        **vars(measured), questions=questions, by_dose=steered.by_dose(), prompted=prompted
    )


def measure(
    steered: SteeredRollouts,
    residual_norm: Float[Tensor, " layer"],
    config: ExtractConfig,
    say: Callable[[str], None],
) -> SteeringFigures:
    """Collect the answers that the checks of steering need, and what they come to.

    Where a check is not decided, the doses that it rests on get another answer to every question,
    up to `end_samples` times, and the coherent range is found again.
    """
    samples, at_most = config.validation_samples, config.validation_samples + config.end_samples
    steered.add([(VECTOR, c) for c in config.coefficients], samples, "dose-response")
    doses = steered.doses(residual_norm, config.seed)
    ends = coherent_range(doses)
    say(first_pair(steered.by_dose(), ends[1]))
    added = 0
    while True:
        controls = steered.controls(ends)
        steered.add(steered.fewer_than(samples, controls), samples, "random directions")
        control = steered.control({end for end in ends if end}, config.seed)
        open_at = undecided(doses, control, ends)
        cells = [(VECTOR, c) for c in open_at.vector] + steered.controls(open_at.controls)
        more = steered.fewer_than(at_most, cells)
        if not more:
            return SteeringFigures(tuple(doses), ends, tuple(control), added)
        steered.add(more, 1, "added answers")
        added += len(more) * len(steered.questions)
        doses = steered.doses(residual_norm, config.seed)
        ends = coherent_range(doses)


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
