"""The forecast: a linear fit of expression on the prompt's projection, fitted and tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError
from personavec.model.engine import SPANS
from personavec.monitor.calibration_tasks import CalibrationTask
from personavec.results import Estimate
from personavec.rollouts import Rollout, load_activations
from personavec.stats import clustered_bootstrap, correlation_interval
from personavec.vectors import COVERAGE, PersonaVector
from personavec.vectors.calibration import AnswerCounts, ConditionMeans, Correlation
from personavec.wording import plural

Floats = npt.NDArray[np.float64]

#: Least number of scored answers for a calibration.
_MIN_ANSWERS = 10


@dataclass(frozen=True, eq=False)
class ScoredAnswers:
    """The answers that could be scored; every array is [answer]."""

    projection: Floats
    """Projection of the last prompt token, in units of the residual stream."""
    expression: Floats
    """Judged expression of the trait, in `unit`."""
    question: npt.NDArray[Any]
    condition: npt.NDArray[Any]
    fits: npt.NDArray[np.bool_]
    """True if the forecast is fitted on the answer, False if it is tested on it."""
    unit: Literal["log_odds", "score"]
    unscored: int
    """Number of other answers, which could not be scored."""

    def of(self, chosen: npt.NDArray[np.bool_]) -> ScoredAnswers:
        """The chosen answers."""
        return ScoredAnswers(
            self.projection[chosen],
            self.expression[chosen],
            self.question[chosen],
            self.condition[chosen],
            self.fits[chosen],
            self.unit,
            0,
        )

    def counts(self) -> AnswerCounts:
        return AnswerCounts(answers=len(self.expression), questions=len({*self.question}))


def scored_answers(
    vector: PersonaVector,
    asked: Sequence[CalibrationTask],
    answers: Sequence[Rollout],
    activations: Path,
) -> ScoredAnswers:
    """The answers that could be scored, with their prompts' projections.

    Raises DataError for fewer than ten.
    """
    unit = "log_odds" if any(answer.log_odds is not None for answer in answers) else "score"
    rows = []
    for task, answer in zip(asked, answers, strict=True):
        value = answer.log_odds if unit == "log_odds" else answer.trait_score
        if value is not None:
            rows.append((answer, task, value))
    if len(rows) < _MIN_ANSWERS:
        raise DataError(
            f"{len(rows)} of {plural(len(answers), 'answer')} for '{vector.trait}' could be "
            "scored, too few to calibrate with"
        )
    states = load_activations(activations, [answer.id for answer, *_ in rows])
    last = states[:, SPANS.index("prompt_last"), vector.layer]
    return ScoredAnswers(
        projection=vector.project(last).double().numpy(),
        expression=np.array([value for *_, value in rows], np.float64),
        question=np.array([answer.question for answer, *_ in rows]),
        condition=np.array([task.condition for _, task, _ in rows]),
        fits=np.array([task.fits for _, task, _ in rows]),
        unit=unit,
        unscored=len(answers) - len(rows),
    )


@dataclass(frozen=True)
class Line:
    """A linear forecast of expression from a projection, with its interval."""

    slope: float
    intercept: float
    below: float
    """Lower end of the interval, relative to the line."""
    above: float
    """Upper end of the interval, relative to the line."""

    @classmethod
    def fitted(cls, answers: ScoredAnswers) -> Line:
        """Fit by least squares; the interval comes from leave-one-question-out residuals."""
        slope, intercept = _least_squares(answers.projection, answers.expression)
        tails = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
        below, above = np.quantile(_residuals(answers), tails).tolist()
        return cls(slope, intercept, below, above)

    def coverage(self, answers: ScoredAnswers, seed: int) -> Estimate:
        """The share of these answers that lies within the forecast's interval."""
        residuals = answers.expression - (self.intercept + self.slope * answers.projection)
        held = ((residuals >= self.below) & (residuals <= self.above)).astype(np.float64)
        return Estimate.of(clustered_bootstrap(held, answers.question.tolist(), seed=seed))


def correlations(answers: ScoredAnswers, seed: int) -> dict[str, Correlation]:
    """Correlations over all conditions, over prompts, and over numbers of examples.

    A family with fewer than two conditions is left out.
    """
    families = {
        "all": np.ones(len(answers.expression), bool),
        "prompts": np.char.startswith(answers.condition, "prompt"),
        "examples": np.char.endswith(answers.condition, "examples"),
    }
    return {
        name: _correlation(answers.of(chosen), seed)
        for name, chosen in families.items()
        if len(set(answers.condition[chosen])) > 1
    }


def condition_means(answers: ScoredAnswers, seed: int) -> tuple[ConditionMeans, ...]:
    """Mean projection and expression under every condition."""
    names = dict.fromkeys(answers.condition.tolist())
    return tuple(_means(name, answers.of(answers.condition == name), seed) for name in names)


def _means(name: str, answers: ScoredAnswers, seed: int) -> ConditionMeans:
    questions = answers.question.tolist()
    interval = (
        Estimate.of(clustered_bootstrap(answers.expression, questions, seed=seed))
        if len(set(questions)) > 1
        else Estimate()
    )
    return ConditionMeans(
        condition=name,
        n=len(answers.expression),
        projection=float(answers.projection.mean()),
        expression=float(answers.expression.mean()),
        low=interval.low,
        high=interval.high,
    )


def _least_squares(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and intercept; a flat line where x does not vary."""
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def _residuals(answers: ScoredAnswers) -> Floats:
    """Leave-one-question-out residuals."""
    residuals = np.empty_like(answers.expression)
    for question in set(answers.question.tolist()):
        own = answers.question == question
        slope, intercept = _least_squares(answers.projection[~own], answers.expression[~own])
        residuals[own] = answers.expression[own] - (intercept + slope * answers.projection[own])
    return residuals


def _correlation(answers: ScoredAnswers, seed: int) -> Correlation:
    """The correlation of projection and expression, with intervals over questions."""
    values = (answers.projection, answers.expression, answers.question.tolist())
    within = correlation_interval(*values, within=answers.condition.tolist(), seed=seed)
    return Correlation(
        overall=Estimate.of(correlation_interval(*values, seed=seed)),
        within=Estimate.of(within),
        n=len(answers.expression),
    )
