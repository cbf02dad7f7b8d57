"""Steering as a test of a persona vector: layer selection, dose-response, controls, verdict.

Everything here is a set of steered rollouts on evaluation questions without a system prompt,
summarised with intervals clustered by question (paper, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from personavec.errors import TooFewRolloutsError
from personavec.judges import COHERENCE_FLOOR
from personavec.model import Steering
from personavec.rollouts import Rollout, Task
from personavec.stats import Interval, clustered_bootstrap, monotone_within_intervals
from personavec.vectors import Estimator

#: Of fewer questions there is no interval, which is over questions.
MIN_QUESTIONS = 2

_SWEEP: dict[Estimator, str] = {"mean": "sweep", "logistic": "sweep-logistic"}

Collect = Callable[[Sequence[Task], str], list[Rollout]]


@dataclass(frozen=True)
class Dose:
    """What steering at one layer with one coefficient did, over all its questions."""

    layer: int
    coefficient: float
    log_odds: Interval
    coherence: Interval
    n: int
    empty: int
    estimator: Estimator = "mean"

    @property
    def coherent(self) -> bool:
        return self.coherence.value >= COHERENCE_FLOOR

    def as_dict(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "estimator": self.estimator,
            "coefficient": self.coefficient,
            "log_odds": self.log_odds.value,
            "low": self.log_odds.low,
            "high": self.log_odds.high,
            "coherence": self.coherence.value,
            "coherence_low": self.coherence.low,
            "coherence_high": self.coherence.high,
            "coherent": self.coherent,
            "n": self.n,
            "empty": self.empty,
        }


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


def summarise(rollouts: Sequence[Rollout], layer: int, coefficient: float, seed: int) -> Dose:
    """Mean log-odds and coherence with 95% intervals clustered by question.

    An empty response is counted, and has no log-odds; where all are empty the values are NaN.
    """
    scored = [r for r in rollouts if r.state == "scored"]
    return Dose(
        layer=layer,
        coefficient=coefficient,
        log_odds=mean_log_odds(rollouts, seed),
        coherence=_mean([(r.coherence, r.question) for r in rollouts], seed),
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
) -> list[Dose]:
    """Steer by every estimator, layer and coefficient in one mixed batch."""
    cells = [
        (layer, c, steered_tasks(_SWEEP[estimator], questions, found[layer], layer, c))
        for estimator, found in vectors.items()
        for layer in layers
        for c in coefficients
    ]
    doses = _collect_cells(cells, "layer sweep", collect, seed)
    each = len(layers) * len(coefficients)
    by = [estimator for estimator in vectors for _ in range(each)]
    return [replace(dose, estimator=which) for dose, which in zip(doses, by, strict=True)]


def _collect_cells(
    cells: Sequence[tuple[int, float, list[Task]]], label: str, collect: Collect, seed: int
) -> list[Dose]:
    rollouts = {r.id: r for r in collect([t for *_, tasks in cells for t in tasks], label)}
    return [
        summarise([rollouts[task.id] for task in tasks], layer, coefficient, seed)
        for layer, coefficient, tasks in cells
    ]


def select(sweep: Sequence[Dose]) -> Dose:
    """The configuration of the strongest trait expression at acceptable coherence.

    Where none is coherent enough, the most coherent one. Raises TooFewRolloutsError where none
    could be measured.
    """
    measured = [dose for dose in sweep if math.isfinite(dose.log_odds.value)]
    if not measured:
        raise TooFewRolloutsError(
            f"no layer can be selected: under none of {len(sweep)} settings were steered answers "
            f"to {MIN_QUESTIONS} questions scored; give the spec more evaluation questions, or "
            "steer by smaller coefficients"
        )
    acceptable = [dose for dose in measured if dose.coherent]
    if acceptable:
        return max(acceptable, key=lambda dose: dose.log_odds.value)
    return max(measured, key=lambda dose: dose.coherence.value)


def dose_response(
    direction: Float[Tensor, " hidden"],
    layer: int,
    coefficients: Sequence[float],
    questions: Sequence[str],
    collect: Collect,
    *,
    samples: int,
    seed: int,
) -> tuple[list[Dose], dict[float, list[Rollout]]]:
    """Steer the evaluation questions over a range of coefficients; also the rollouts by dose."""
    cells = [
        (layer, c, steered_tasks("dose", questions, direction, layer, c, samples))
        for c in coefficients
    ]
    rollouts = {r.id: r for r in collect([t for *_, ts in cells for t in ts], "dose-response")}
    by_dose = {c: [rollouts[task.id] for task in tasks] for _, c, tasks in cells}
    return [summarise(by_dose[c], layer, c, seed) for _, c, _ in cells], by_dose


def coherent_range(doses: Sequence[Dose]) -> tuple[float, float]:
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
) -> list[dict[str, Any]]:
    """Random directions of the vector's norm, steered at both ends of the range."""
    cells = [
        (layer, c, steered_tasks(f"random{i}", questions, direction, layer, c, samples))
        for i, direction in enumerate(directions)
        for c in ends
    ]
    found = _collect_cells(cells, "random directions", collect, seed)
    which = [i for i in range(len(directions)) for _ in ends]
    return [{"direction": i, **d.as_dict()} for i, d in zip(which, found, strict=True)]


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


def verdict(
    doses: Sequence[Dose], control: Sequence[dict[str, Any]], ends: tuple[float, float]
) -> dict[str, Any]:
    """Did steering work? Three checks over the coherent range, each with its figures."""
    ordered = sorted(doses, key=lambda dose: dose.coefficient)
    inside = [d for d in ordered if ends[0] <= d.coefficient <= ends[1]]
    by_coefficient = {d.coefficient: d for d in inside}
    low, high = by_coefficient[ends[0]], by_coefficient[ends[1]]
    checks = [
        {
            "name": "coherent over a range on both sides of 0",
            "passed": ends[0] < 0 < ends[1],
            "detail": f"coefficients {ends[0]:g} to {ends[1]:g} keep mean coherence at or above "
            f"{COHERENCE_FLOOR:g}",
        },
        {
            "name": "dose-response monotone within its intervals",
            "passed": len(inside) > 1 and monotone_within_intervals([d.log_odds for d in inside]),
            "detail": ", ".join(f"{d.coefficient:+g}: {d.log_odds.value:.1f}" for d in inside),
        },
    ]
    for name, dose, sign, end in (("positive", high, 1, "high"), ("negative", low, -1, "low")):
        others = [c for c in control if c["coefficient"] == dose.coefficient]
        bound = (
            # Unlike Python's, NumPy's of what holds a NaN is NaN, which nothing is beyond.
            float(np.max([sign * c[end] for c in others])) * sign if others else float("nan")
        )
        value = dose.log_odds.value
        checks.append(
            {
                "name": f"beyond every random direction's interval at the {name} end",
                "passed": sign * dose.coefficient > 0 and sign * value > sign * bound,
                "detail": f"log-odds {value:.1f} at {dose.coefficient:+g}; the random directions' "
                f"intervals reach {bound:.1f}",
            }
        )
    return {"passed": all(check["passed"] for check in checks), "checks": checks}
