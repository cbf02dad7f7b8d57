"""Steered answers to evaluation questions, as they are collected, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from personavec.extract.config import MIN_QUESTIONS
from personavec.extract.results import DoseResponse, RandomDose, SteeredDose
from personavec.judges import COHERENCE_FLOOR
from personavec.model import Steering
from personavec.results import Estimate
from personavec.rollouts import Rollout, Task
from personavec.stats import Interval, clustered_bootstrap
from personavec.vectors import Estimator

Collect: TypeAlias = Callable[[Sequence[Task], str], list[Rollout]]
#: A direction by name, and a coefficient.
Cell: TypeAlias = tuple[str, float]
#: The vector's name in a cell; random directions are `random0` and so on.
VECTOR = "dose"


def steered_tasks(
    prefix: str,
    questions: Sequence[str],
    direction: Float[Tensor, " hidden"],
    layer: int,
    coefficient: float,
    samples: Iterable[int] = (0,),
) -> list[Task]:
    """Every question under one steering configuration, without a system prompt."""
    steering = (Steering(layer, direction, coefficient),) if coefficient else ()
    samples = tuple(samples)
    return [
        Task(
            id=f"{prefix}-l{layer}-c{coefficient:g}-q{number}-s{sample}",
            question=question,
            sample=sample,
            steering=steering,
        )
        for number, question in enumerate(questions)
        for sample in samples
    ]


class SteeredRollouts:
    """Answers to the same questions by cell, at one layer; cells can get more of them."""

    def __init__(
        self,
        layer: int,
        direction: Float[Tensor, " hidden"],
        random: Float[Tensor, "direction hidden"],
        questions: Sequence[str],
        collect: Collect,
    ):
        self.questions, self._layer, self._collect = questions, layer, collect
        self._random = {f"random{i}": found for i, found in enumerate(random)}
        self._directions = {VECTOR: direction, **self._random}
        self._found: dict[Cell, list[Rollout]] = {}

    def add(self, cells: Iterable[Cell], samples: int, label: str) -> None:
        """Collect so many more answers to every question, of all cells in one batch."""
        tasks = {cell: self._tasks(cell, samples) for cell in cells}
        if not tasks:
            return
        all_tasks = [task for own in tasks.values() for task in own]
        rollouts = {r.id: r for r in self._collect(all_tasks, label)}
        for cell, own in tasks.items():
            self._found.setdefault(cell, []).extend(rollouts[task.id] for task in own)

    def _tasks(self, cell: Cell, samples: int) -> list[Task]:
        (name, coefficient), first = cell, self._samples(cell)
        return steered_tasks(
            name,
            self.questions,
            self._directions[name],
            self._layer,
            coefficient,
            range(first, first + samples),
        )

    def _samples(self, cell: Cell) -> int:
        """Answers of a cell to each question."""
        return len(self._found.get(cell, ())) // len(self.questions)

    def controls(self, coefficients: Iterable[float]) -> list[Cell]:
        """Every random direction at every coefficient but 0, which steers by none."""
        return [(name, c) for name in self._random for c in coefficients if c]

    def fewer_than(self, samples: int, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the cells that have fewer answers to a question."""
        return [cell for cell in cells if self._samples(cell) < samples]

    def by_dose(self) -> dict[float, list[Rollout]]:
        """The vector's answers by coefficient."""
        return {c: found for (name, c), found in self._found.items() if name == VECTOR}

    def doses(self, residual_norm: Float[Tensor, " layer"], seed: int) -> list[DoseResponse]:
        """What the vector did by coefficient."""
        size = float(self._directions[VECTOR].norm() / residual_norm[self._layer])
        return [
            DoseResponse(
                relative_dose=abs(c) * size, **vars(summarise(found, self._layer, c, seed))
            )
            for c, found in self.by_dose().items()
        ]

    def control(self, coefficients: Set[float], seed: int) -> list[RandomDose]:
        """What the random directions did at these coefficients."""
        return [
            RandomDose(direction=i, **vars(summarise(self._found[name, c], self._layer, c, seed)))
            for i, name in enumerate(self._random)
            for c in sorted(coefficients)
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
