"""What finetuning did: expression and shift of every trait after every finetune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from personavec.results import Estimate
from personavec.rollouts import Rollout
from personavec.runs import Settings
from personavec.studies import Measured
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import finetunes, measuring
from personavec.studies.replicate.stages.finetunes import Job
from personavec.studies.replicate.stages.measuring import BASE, Expressed, difference, expressed
from personavec.studies.replicate.study import Inputs, Study
from personavec.studies.replicate.work import Work

FIELDS = ("traits", "expression_questions", "answers", "answer_tokens", "judge_pairs", "seed")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One trait's expression after one finetune beside that after another on the same questions."""

    set: str
    taught: str | None
    """The trait that the set shows."""
    trait: str
    what: str
    """`strong` or `mild` beside `normal`, all seeds together; or `seed N` of `normal` beside the
    first seed, which is nothing but noise."""
    difference: Estimate
    """Paired by question, in nats."""


@dataclass(frozen=True, kw_only=True)
class ExpressionResult:
    format: int = 1
    stage: str = "expression"
    expressed: tuple[Expressed, ...]
    contrasts: tuple[Contrast, ...]


def plan(inputs: Inputs) -> Work:
    config = inputs.config
    models = 1 + finetunes.count(inputs)
    return measuring.work(inputs, config.traits, models, config.expression_questions)


def settings(inputs: Inputs) -> Settings:
    return inputs.settings(FIELDS, inputs.config.traits)


def run(study: Study) -> ExpressionResult:
    trained = finetunes.jobs(study)
    traits = [trait for trait in study.config.traits if study.has_vector(trait)]
    models = {job.name: job.folder(study) / "model" for job in trained}
    at_most = study.config.expression_questions
    cells = measuring.measured(study, "expression", traits, models, at_most)
    return ExpressionResult(
        expressed=tuple(_expressed(study, trained, cells, traits)),
        contrasts=tuple(_contrasts(trained, cells, traits, study.config.seed)),
    )


def _expressed(
    study: Study, trained: Sequence[Job], cells: Mapping[str, Measured], traits: Sequence[str]
) -> Iterator[Expressed]:
    jobs: dict[str, Job | None] = {BASE: None, **{job.name: job for job in trained}}
    vectors = {trait: study.vector(trait) for trait in traits}
    for name, job in jobs.items():
        for trait in traits:
            yield Expressed(
                model=name,
                set=job.dataset.set if job else None,
                level=job.dataset.level if job else None,
                taught=job.dataset.trait if job else None,
                seed=job.seed if job else None,
                trait=trait,
                n=len(cells[name].of(trait)),
                **expressed(cells, name, trait, vectors[trait], study.config.seed),
            )


def _contrasts(
    trained: Sequence[Job], cells: Mapping[str, Measured], traits: Sequence[str], seed: int
) -> Iterator[Contrast]:
    for name in dict.fromkeys(job.dataset.set for job in trained):
        own = [job for job in trained if job.dataset.set == name]
        taught = own[0].dataset.trait
        for trait in traits:
            for what, pair in _pairs(own, cells, trait).items():
                yield Contrast(
                    set=name,
                    taught=taught,
                    trait=trait,
                    what=what,
                    difference=difference(*pair, seed),
                )


def _pairs(
    own: Sequence[Job], cells: Mapping[str, Measured], trait: str
) -> dict[str, tuple[list[Rollout], list[Rollout]]]:
    """What is compared within one set: levels with the right answers, and seeds of these."""
    by_level: dict[str, list[Rollout]] = {}
    for job in own:
        by_level.setdefault(job.dataset.level, []).extend(cells[job.name].of(trait))
    normal = by_level.pop("normal", [])
    pairs = {level: (answers, normal) for level, answers in by_level.items() if normal}
    alike = [job for job in own if job.dataset.level == "normal"]
    for job in alike[1:]:
        pairs[f"seed {job.seed}"] = (cells[job.name].of(trait), cells[alike[0].name].of(trait))
    return pairs


STAGE = Stage(
    "expression",
    "expression after finetuning",
    ("extraction", "finetunes"),
    ExpressionResult,
    plan,
    settings,
    run,
)
