"""What is measured of finetuned models, beside the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from personavec.model import tuned_model
from personavec.results import Estimate
from personavec.rollouts import Expression, Rollout, paired, summarise
from personavec.stats import clustered_bootstrap
from personavec.studies import Bench, Measured, answer_tasks, is_measured, judge_cells, measure
from personavec.studies.replicate.study import Inputs, Study
from personavec.studies.replicate.work import (
    QUESTION,
    Work,
    answered,
    judged,
    judging_pairs,
    questions_of,
)
from personavec.vectors import PersonaVector

#: The cell of the model before any finetune.
BASE = "base"


def work(inputs: Inputs, traits: Sequence[str], models: int, at_most: int | None) -> Work:
    """To measure so many models, the base included, by so many questions of each trait."""
    config, found = inputs.config, Work()
    for trait in traits:
        spec = inputs.specs[trait]
        questions = questions_of(spec, at_most)
        answers = questions * config.answers
        found += answered(answers, config.answer_tokens)
        pairs = judging_pairs(spec, config.judge_pairs)
        found += judged(answers, config.answer_tokens, pairs)
        found += Work(read=questions * QUESTION)
    return found * models


def bench_of(study: Study, traits: Sequence[str], at_most: int | None) -> Bench:
    """The last questions of all traits, with the vectors of those that have one."""
    config = study.config
    specs = [study.spec(trait) for trait in traits]
    questions = {spec.name: spec.questions.evaluation[-(at_most or 0) :] for spec in specs}
    tasks = [
        task for spec in specs for task in answer_tasks(spec, questions[spec.name], config.answers)
    ]
    return Bench(
        base=study.loaded,
        vectors=tuple(study.vectors(traits)),
        questions=questions,
        tasks=tuple(tasks),
        sampling=study.sampling,
        batch_tokens=config.batch_tokens,
        progress=study.progress,
    )


def measured(
    study: Study,
    stage: str,
    traits: Sequence[str],
    models: Mapping[str, Path],
    at_most: int | None,
) -> dict[str, Measured]:
    """The judged cells of the base and of each model, whose folders are by name."""
    bench, folder = bench_of(study, traits, at_most), study.folder(stage)
    cells = {BASE: measure(bench, study.loaded, folder / BASE)}
    for name, model in models.items():
        cell = folder / name
        if is_measured(cell, bench):
            cells[name] = measure(bench, study.loaded, cell)
            continue
        with tuned_model(study.loaded, str(model)) as tuned:
            cells[name] = measure(bench, tuned, cell)
    specs = [study.spec(trait) for trait in traits]
    return judge_cells(cells, specs, study.judge_of_tuned, folder / "judged", study.progress)


def level_of(rollouts: Sequence[Rollout], seed: int = 0) -> Estimate:
    """Mean log-odds, or the mean trait score where the judge gives no log-odds."""
    found = summarise(list(rollouts), refusals=False, seed=seed)
    return found.estimate("mean" if found.log_odds is None else "log_odds")


def coherence_of(rollouts: Sequence[Rollout], seed: int = 0) -> Estimate:
    found: Expression = summarise(list(rollouts), refusals=False, seed=seed)
    return found.estimate("coherence")


def difference(ours: Sequence[Rollout], theirs: Sequence[Rollout], seed: int = 0) -> Estimate:
    """Ours minus theirs, paired by question: log-odds, or trait scores where there are none."""
    found = paired(ours, theirs, seed)
    return found.mean if found.log_odds.value is None else found.log_odds


def shift(after: Measured, before: Measured, vector: PersonaVector, seed: int = 0) -> Estimate:
    """The finetuning shift, in standard deviations of neutral prompts' last tokens."""
    change = np.array(after.projections[vector.trait]) - np.array(before.projections[vector.trait])
    if len(change) < 2:
        return Estimate()
    spread = float(vector.neutral_prompt_last[vector.layer, 1])
    return Estimate.of(clustered_bootstrap(change / spread, list(range(len(change))), seed=seed))


@dataclass(frozen=True, kw_only=True)
class Expressed:
    """How strongly one model shows one trait."""

    model: str
    """`base`, or the set and level that it was finetuned on, and the seed."""
    set: str | None
    level: str | None
    taught: str | None
    """The trait that the set shows."""
    seed: int | None
    trait: str
    expression: Estimate
    """Log-odds in nats, or a rubric judge's trait score."""
    change: Estimate
    """From the base, paired by question."""
    coherence: Estimate
    """0 to 100."""
    shift: Estimate
    """In standard deviations of neutral prompts' last tokens."""
    n: int


def expressed(
    cells: Mapping[str, Measured], name: str, trait: str, vector: PersonaVector | None, seed: int
) -> dict[str, Estimate]:
    """The measures of one cell and trait, as the fields of `Expressed`."""
    own, base = cells[name].of(trait), cells[BASE].of(trait)
    moved = Estimate() if vector is None else shift(cells[name], cells[BASE], vector, seed)
    return {
        "expression": level_of(own, seed),
        "change": Estimate() if name == BASE else difference(own, base, seed),
        "coherence": coherence_of(own, seed),
        "shift": Estimate() if name == BASE else moved,
    }
