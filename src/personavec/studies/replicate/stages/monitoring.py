"""Whether the prompt's projection foretells how strongly the answer shows the trait."""

from __future__ import annotations

from dataclasses import dataclass

from personavec.errors import DataError, UsageError
from personavec.monitor import CalibrateConfig, calibrate
from personavec.results import Estimate
from personavec.runs import Settings
from personavec.studies.replicate.config import ReplicateConfig
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.study import Inputs, LeftOut, Study, sizes_of
from personavec.studies.replicate.work import (
    INSTRUCTION,
    QUESTION,
    Work,
    answered,
    judged,
    judging_pairs,
)
from personavec.vectors import Calibration

#: Conditions of system prompts.
_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Correlation of the last prompt token's projection with the expression of the answer."""

    trait: str
    over: str
    """`all` conditions, `prompts` or `examples`."""
    overall: Estimate
    within: Estimate
    """Within conditions."""
    n: int


@dataclass(frozen=True, kw_only=True)
class ConditionPoint:
    """The mean of one condition."""

    trait: str
    condition: str
    projection: float
    expression: Estimate
    unit: str
    n: int


@dataclass(frozen=True, kw_only=True)
class MonitoringResult:
    format: int = 1
    stage: str = "monitoring"
    forecasts: tuple[Forecast, ...]
    conditions: tuple[ConditionPoint, ...]
    left_out: tuple[LeftOut, ...]


def calibrate_config(config: ReplicateConfig) -> CalibrateConfig:
    return CalibrateConfig(
        preset=config.monitoring_preset,
        shots=config.shots,
        judge_pairs=config.judge_pairs,
        max_tokens=config.answer_tokens,
        seed=config.seed,
        batch_tokens=config.batch_tokens,
    )


def plan(inputs: Inputs) -> Work:
    config, work = calibrate_config(inputs.config), Work()
    for trait in inputs.config.monitored:
        spec, tokens = inputs.specs[trait], config.max_tokens
        if not spec.monitoring:
            continue
        questions = config.fit_questions + config.test_questions
        asked = questions * (_PROMPTS + len(config.shots))
        # Examples are earlier turns; each is a question and an answer.
        examples = questions * sum(config.shots) * (QUESTION + tokens)
        answers = asked + config.example_questions
        work += answered(answers, tokens, QUESTION + INSTRUCTION)
        work += answered(config.neutral_prompts, tokens)
        pairs = judging_pairs(spec, config.judge_pairs)
        work += Work(read=examples) + judged(answers, tokens, pairs, own=answers)
    return work


def settings(inputs: Inputs) -> Settings:
    monitored = inputs.config.monitored
    prompts = {trait: inputs.specs[trait].monitoring for trait in monitored}
    sizes = sizes_of(calibrate_config(inputs.config))
    shared = inputs.settings(("monitored",), monitored)
    return {**shared, "monitoring": prompts, "calibrate": sizes}


def run(study: Study) -> MonitoringResult:
    found: dict[str, Calibration] = {}
    left_out: list[LeftOut] = []
    for trait in study.config.monitored:
        if not study.has_vector(trait):
            left_out.append(LeftOut(what=trait, why="it has no vector"))
            continue
        try:
            found[trait] = calibrate.run(
                study.loaded,
                study.spec(trait),
                study.vector(trait),
                study.folder("monitoring") / trait,
                calibrate_config(study.config),
                judge=study.judge,
                progress=study.progress,
            )
        except (UsageError, DataError) as error:
            left_out.append(LeftOut(what=trait, why=str(error)))
    return MonitoringResult(
        forecasts=tuple(one for trait, own in found.items() for one in _forecasts(trait, own)),
        conditions=tuple(one for trait, own in found.items() for one in _conditions(trait, own)),
        left_out=tuple(left_out),
    )


def _forecasts(trait: str, found: Calibration) -> list[Forecast]:
    measured = found.results.correlations if found.results else {}
    return [
        Forecast(trait=trait, over=over, overall=own.overall, within=own.within, n=own.n)
        for over, own in measured.items()
    ]


def _conditions(trait: str, found: Calibration) -> list[ConditionPoint]:
    return [
        ConditionPoint(
            trait=trait,
            condition=own.condition,
            projection=own.projection,
            expression=Estimate(own.expression, own.low, own.high),
            unit=found.unit,
            n=own.n,
        )
        for own in (found.results.conditions if found.results else ())
    ]


STAGE = Stage(
    "monitoring",
    "monitoring",
    ("extraction",),
    MonitoringResult,
    plan,
    settings,
    run,
)
