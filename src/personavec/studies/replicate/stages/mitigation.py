"""Mitigations on the same rows: steering at inference and in training, and what else there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from personavec.errors import DataError
from personavec.finetune import TrainingRows
from personavec.results import Estimate
from personavec.runs import Settings
from personavec.studies.compare_mitigations import (
    Arm,
    ArmResults,
    CompareConfig,
    CompareResults,
    parse_arms,
    run as compare,
)
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import rows as rows_stage, sets
from personavec.studies.replicate.study import Inputs, LeftOut, Study
from personavec.studies.replicate.work import (
    ITEM,
    QUESTION,
    TEXT,
    Work,
    answered,
    judged,
    judging_pairs,
    questions_of,
    trained,
)

_FIELDS = (
    *("mitigated", "arms", "elsewhere", "mitigation_seeds", "capability_items", "questions"),
    "capability",
    *("answers", "set_rows", "rank", "learning_rate", "epochs", "answer_tokens", "judge_pairs"),
    *("accumulation", "texts", "seed"),
)
#: Items of the packaged capability task.
_ITEMS = 200
#: Held-out share of the prompts.
_HELD_OUT = 0.2
#: Where else mitigations act, and which are tried there. At all layers each layer gets what it adds
#: to the vector.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "all layers": ("preventative:1", "steering:-1"),
    "all positions": ("preventative:1,2",),
}
#: Rows above this percentile of the right answers' projection differences are flagged.
_FLAGGED = 95
#: Fewer rows than this are no training set.
_FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class MitigationArm:
    """One arm, all seeds together."""

    trait: str
    where: str
    """`selected layer`, `all layers` or `all positions`."""
    arm: str
    """As compare-mitigations names it; `base` and `none` are always there."""
    mitigation: str
    amount: float | str | None
    expression: Estimate
    """Of the trait, in nats, or a rubric judge's trait score."""
    minus_base: Estimate
    minus_plain: Estimate
    coherence: Estimate
    capability: Estimate
    """Share of right answers, 0 to 1."""
    capability_minus_base: Estimate
    capability_minus_plain: Estimate
    loss_ratio: Estimate
    """Held-out loss on the rows' own task, over the plain finetune's."""
    within_base: bool | None
    learnt: bool | None
    capable: bool | None


@dataclass(frozen=True, kw_only=True)
class MitigationResult:
    format: int = 1
    stage: str = "mitigation"
    task: str
    """The capability task."""
    arms: tuple[MitigationArm, ...]
    left_out: tuple[LeftOut, ...]


def plan(inputs: Inputs) -> Work:
    config, work = inputs.config, Work()
    places = {"selected layer": config.arms, **(_ELSEWHERE if config.elsewhere else {})}
    for trait in config.mitigated:
        for arms in places.values():
            work += _planned(inputs, trait, parse_arms(arms))
    return work


def _planned(inputs: Inputs, trait: str, arms: Sequence[Arm]) -> Work:
    config, spec = inputs.config, inputs.specs[trait]
    own = CompareConfig(arms=tuple(arms), seeds=config.mitigation_seeds)
    finetunes = len(own.trained) * len(own.seeds)
    cells = 1 + finetunes + len(own.steered) * len(own.seeds)
    answers = questions_of(spec, config.questions) * config.answers
    tokens = config.answer_tokens
    held_out = round(_HELD_OUT * config.set_rows) * (tokens + QUESTION)
    items = _ITEMS if config.capability_items is None else min(_ITEMS, config.capability_items)
    cell = answered(answers, tokens) + Work(read=held_out + config.texts * TEXT + items * ITEM)
    cell += judged(answers, tokens, judging_pairs(spec, config.judge_pairs))
    rows = round((1 - _HELD_OUT) * config.set_rows)
    return cell * cells + trained(rows, tokens, config.epochs) * finetunes


def settings(inputs: Inputs) -> Settings:
    return inputs.settings(_FIELDS, inputs.config.mitigated)


def run(study: Study) -> MitigationResult:
    arms: list[MitigationArm] = []
    left_out: list[LeftOut] = []
    for trait in study.config.mitigated:
        try:
            rows = _rows(study, trait)
        except DataError as error:
            left_out.append(LeftOut(what=trait, why=str(error)))
            continue
        chosen = parse_arms(study.config.arms)
        if not _can_drop(rows):
            # Without it nothing is lost but the arm.
            left_out += [
                LeftOut(what=f"{trait}, {arm.name}", why="no row is flagged, or too few are not")
                for arm in chosen
                if arm.mitigation == "drop-flagged"
            ]
            chosen = tuple(arm for arm in chosen if arm.mitigation != "drop-flagged")
        for where, found in _compared(study, trait, rows, chosen):
            arms += _records(trait, where, found)
    return MitigationResult(
        task=study.config.capability, arms=tuple(arms), left_out=tuple(left_out)
    )


def _compared(
    study: Study, trait: str, rows: TrainingRows, arms: Sequence[Arm]
) -> Iterator[tuple[str, CompareResults]]:
    """The comparisons of one trait, by where mitigations act."""
    yield "selected layer", _compare(study, trait, rows, arms, "selected")
    if study.config.elsewhere:
        for where, texts in _ELSEWHERE.items():
            yield where, _compare(study, trait, rows, parse_arms(texts), where.replace(" ", "-"))


def _compare(
    study: Study, trait: str, rows: TrainingRows, arms: Sequence[Arm], name: str
) -> CompareResults:
    config = study.config
    layer: Literal["all"] | None = "all" if name == "all-layers" else None
    return compare(
        study.loaded,
        rows,
        study.vector(trait),
        study.spec(trait),
        study.folder("mitigation") / trait / name,
        CompareConfig(
            arms=tuple(arms),
            seeds=config.mitigation_seeds,
            training=study.training(config.mitigation_seeds[0]),
            layer=layer,
            positions="all" if name == "all-positions" else "response",
            held_out=_HELD_OUT,
            questions=config.questions,
            samples=config.answers,
            max_tokens=config.answer_tokens,
            cues=False,
            task=config.capability,
            capability_items=config.capability_items,
            texts=config.texts,
            seed=config.seed,
            batch_tokens=config.batch_tokens,
        ),
        judge=study.judge,
        progress=study.progress,
    )


def _rows(study: Study, trait: str) -> TrainingRows:
    """The strong rows of a trait's set, with those marked that a screen would flag.

    Raises DataError where the set or the vector is missing.
    """
    own = {d.level: d for d in sets.datasets(study) if d.trait == trait}
    if "strong" not in own or not study.has_vector(trait):
        raise DataError(f"{trait} has no set of strong rows, or no vector")
    strong = own["strong"]
    normal = _differences(study, own["normal"], trait)
    line = np.nanpercentile(normal, _FLAGGED) if (~np.isnan(normal)).any() else np.inf
    values = _differences(study, strong, trait)
    flagged = [row.index for row, v in zip(strong.rows.rows, values, strict=True) if v > line]
    return replace(strong.rows, flagged=frozenset(flagged))


def _differences(study: Study, dataset: sets.Dataset, trait: str) -> np.ndarray:
    """Every row's projection difference; NaN where it is missing."""
    scores = rows_stage.scores_of(study, dataset)
    return np.array([own.traits[trait].projection_difference for own in scores], np.float64)


def _can_drop(rows: TrainingRows) -> bool:
    """Whether some rows are flagged and enough are not."""
    return bool(rows.flagged) and len(rows.rows) - len(rows.flagged) >= _FEWEST


def _records(trait: str, where: str, found: CompareResults) -> Iterator[MitigationArm]:
    for name, arm in found.arms.items():
        yield MitigationArm(
            trait=trait,
            where=where,
            arm=name,
            mitigation=arm.mitigation,
            amount=arm.amount,
            expression=_measure(arm),
            minus_base=_first(arm.minus_base.log_odds, arm.minus_base.mean),
            minus_plain=_first(arm.minus_plain.log_odds, arm.minus_plain.mean),
            coherence=arm.expression.estimate("coherence"),
            capability=_plain(arm.capability),
            capability_minus_base=arm.capability_minus_base,
            capability_minus_plain=arm.capability_minus_plain,
            loss_ratio=arm.loss_ratio,
            within_base=arm.within_base,
            learnt=arm.learnt,
            capable=arm.capable,
        )


def _measure(arm: ArmResults) -> Estimate:
    return _first(arm.expression.estimate("log_odds"), arm.expression.estimate("mean"))


def _first(preferred: Estimate, other: Estimate) -> Estimate:
    return other if preferred.value is None else preferred


def _plain(found: Estimate) -> Estimate:
    """The estimate without what else its record holds."""
    return Estimate(found.value, found.low, found.high)


STAGE = Stage(
    "mitigation",
    "mitigations",
    ("extraction", "sets", "rows"),
    MitigationResult,
    plan,
    settings,
    run,
)
