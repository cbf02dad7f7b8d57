"""Does screening find what it should? Rows of known label, planted into clean ones.

For every trait, in this order: rows that show it, elicited from the model itself and written by
people; clean rows that share their prompts, and clean rows of a dataset; every row scored as a
screen scores it; baselines fitted on other rows; detection figures at every rate, and the order of
three datasets whose strength is known (paper, section 6).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from personavec.data import fingerprint, source_name
from personavec.errors import DataError, UsageError
from personavec.finetune.sets import excess, usual_strengths
from personavec.judges import ContrastJudge, chat_formats, spec_notes
from personavec.model import LoadedModel
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.results import versions, write
from personavec.rollouts import (
    Naturals,
    Rollout,
    Task,
    collect,
    keep,
    neutral_tasks,
    say_estimate,
)
from personavec.runs import Settings, claim, lock
from personavec.studies.validate_screen.baselines import Baselines, Labelled, fit
from personavec.studies.validate_screen.config import ValidateScreenConfig
from personavec.studies.validate_screen.figures import (
    MIN_PLANTED,
    detection_figures,
    method_names,
    order_figures,
)
from personavec.studies.validate_screen.job import PlantedTrait, ValidationJob
from personavec.studies.validate_screen.planting import (
    STYLES,
    Drawn,
    as_rows,
    draw,
    planting_tasks,
    written_rows,
)
from personavec.studies.validate_screen.report import write_detection_report
from personavec.studies.validate_screen.results import (
    StudyData,
    TrainingRows,
    ValidatedTrait,
    ValidateScreenResults,
)
from personavec.studies.validate_screen.scoring import score
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, other_model_notes


def run(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    data: str | Path,
    out: Path,
    config: ValidateScreenConfig | None = None,
    *,
    naturals: Path | None = None,
    progress: Progress | None = None,
) -> ValidateScreenResults:
    """Detection figures of every method for every trait; `specs` has one for each vector.

    Writes `results.json`, `report.html` and, in `run/`, all rows and their scores as they come,
    from which a killed run continues when called again with the same settings. `naturals` is a
    folder in which natural responses are kept between runs.

    Raises DataError when the data has too few usable rows, or when no trait has enough planted
    ones; SettingsMismatchError when `out` was begun with other settings; VectorMismatchError.
    """
    config = config or ValidateScreenConfig()
    if not vectors or [v.trait for v in vectors] != [s.name for s in specs]:
        raise UsageError("a validation needs vectors, and each one's trait spec in the same order")
    if len({s.name for s in specs}) < len(specs):
        raise UsageError("two of the vectors are of the same trait; give each trait once")
    for vector in vectors:
        vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    kept = naturals or out / "run" / "natural"
    several = config.natural_samples
    job = ValidationJob(
        loaded=loaded,
        judge=ContrastJudge(loaded, wrote_answers=True),
        naturals=Naturals(loaded, kept, max_tokens=config.max_tokens),
        sampled=Naturals(loaded, kept, max_tokens=config.max_tokens, samples=several)
        if several > 1
        else None,
        config=config,
        out=out,
        progress=progress or Progress(),
    )
    with lock(out):
        # Before the folder is tied to these settings: data that cannot be used tie nothing.
        drawn = draw(
            data,
            config.clean_rows,
            chat_format=loaded.chat,
            max_tokens=config.max_tokens,
            columns=config.columns,
            split=config.split,
            seed=config.seed,
        )
        claim(out, _settings(job, vectors, specs, data))
        return _run(job, vectors, specs, data, drawn)


def _settings(
    job: ValidationJob,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    data: str | Path,
) -> Settings:
    """What a continued run must share."""
    return {
        "command": "validate-screen",
        "model": job.loaded.identity.as_dict(),
        "vectors": {v.trait: v.identity for v in vectors},
        "specs": {spec.name: _hash(spec.model_dump_json().encode()) for spec in specs},
        "data": fingerprint(data, split=job.config.split),
        "config": asdict(job.config),
    }


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _run(
    job: ValidationJob,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    data: str | Path,
    drawn: Drawn,
) -> ValidateScreenResults:
    names = [spec.name for spec in specs]
    job.progress.stages(
        *(f"rows that show {name}" for name in names),
        *(f"scoring {name}" for name in ("clean rows", *names)),
        "methods, report",
    )
    _say_estimate(job, specs, drawn)
    # 1. Rows that show a trait, and clean ones with the same prompts.
    planted = [_plant(job, v, s, drawn) for v, s in zip(vectors, specs, strict=True)]
    too_few = {trait.spec.name: why for trait in planted if (why := _too_few(trait))}
    traits = [trait for trait in planted if trait.spec.name not in too_few]
    if not traits:
        raise DataError(f"nothing to plant: {'; '.join(f'{t}: {w}' for t, w in too_few.items())}")

    # 2. Scores, as a screen gives them: the data's rows once for all traits, each trait's own rows.
    clean = score(job, "clean rows", drawn.test, traits, job.out / "run" / "clean.jsonl")
    own = {
        t.spec.name: score(job, t.spec.name, t.rows, [t], _folder(job, t.spec) / "scores.jsonl")
        for t in traits
    }

    # 3. Every method's ranking of planted among clean rows, and the order of datasets.
    baselines = {t.spec.name: fit(t.training, job.config.seed) for t in traits}
    rates, seed = job.config.rates, job.config.seed
    results = ValidateScreenResults(
        model=job.loaded.identity,
        data=_data(data, drawn),
        rates=tuple(rates),
        methods=method_names(job.config.natural_samples),
        traits={t.spec.name: _describe(t, baselines[t.spec.name]) for t in traits},
        not_measured=too_few,
        styles={
            style: detection_figures(style, clean, own, baselines, rates, seed) for style in STYLES
        },
        order={name: order_figures(rows, name, seed) for name, rows in own.items()},
        notes=tuple(_notes(job, vectors, specs)),
        settings=job.config,
        versions=versions(),
        out=str(job.out),
    )
    write(job.out / "results.json", results)
    write_detection_report(results, job.out / "report.html")
    return results


def _too_few(trait: PlantedTrait) -> str | None:
    """Why a trait has too few planted rows; None where it has enough."""
    if min(trait.n("elicited"), sum(trait.training.planted)) >= MIN_PLANTED:
        return None
    return (
        f"only {trait.n('elicited')} of {trait.elicited} elicited responses show more of the trait "
        f"than the model's own, or too few to train on; {MIN_PLANTED} are needed"
    )


def _data(data: str | Path, drawn: Drawn) -> StudyData:
    return StudyData(
        name=source_name(data),
        clean=len(drawn.test),
        training=len(drawn.training),
        rejected=drawn.rejected,
        told=drawn.reading.record(),
    )


# Rows


def _plant(
    job: ValidationJob, vector: PersonaVector, spec: TraitSpec, drawn: Drawn
) -> PlantedTrait:
    """A trait's rows: evaluation questions to test on, extraction questions to train baselines."""
    n_tasks = len(planting_tasks(spec, spec.questions.evaluation))
    elicited, neutral = _responses(job, spec, "evaluation")
    shown, plain = _responses(job, spec, "extraction")
    training = [*as_rows(shown, "elicited"), *as_rows(plain, "neutral"), *drawn.training]
    return PlantedTrait(
        vector=vector,
        spec=spec,
        rows=(
            *as_rows(elicited, "elicited"),
            *as_rows(neutral, "neutral"),
            *written_rows(spec),
        ),
        training=Labelled(
            responses=tuple(row.response for row in training),
            planted=tuple(row.kind == "elicited" for row in training),
            questions=tuple(row.question for row in training),
            n_tokens=tuple(len(job.loaded.chat.response_ids(row.response)) for row in training),
        ),
        elicited=n_tasks,
    )


def _folder(job: ValidationJob, spec: TraitSpec) -> Path:
    return job.out / "run" / "traits" / spec.name


def _responses(
    job: ValidationJob, spec: TraitSpec, half: str
) -> tuple[list[Rollout], list[Rollout]]:
    """Elicited responses that show the trait, and neutral ones, to one half of the questions.

    Shown is what exceeds the model's own responses to the same question, on average.
    """
    questions = getattr(spec.questions, half)

    def responses(tasks: Sequence[Task], what: str) -> list[Rollout]:
        label = f"{spec.name}, {what} ({half})"
        return _writer(job, spec, half, what)(tasks=tasks, spec=spec, label=label)

    elicited = keep(
        responses(planting_tasks(spec, questions), "elicited"),
        trait_threshold=job.config.trait_threshold,
        coherence_floor=job.config.coherence_floor,
    )
    neutral = responses(neutral_tasks(questions, job.config.neutral_samples), "neutral")
    usual = usual_strengths(r for r in neutral if r.log_odds is not None)
    return [r for r in elicited if r.kept and excess(r, usual) > 0], neutral


def _writer(job: ValidationJob, spec: TraitSpec, half: str, what: str) -> partial[list[Rollout]]:
    """Writes responses to one half of the questions; judges them if it is given a spec."""
    # The halves share ids, which key the sampling: another seed keeps them independent.
    seed = job.config.seed + (half == "extraction")
    return partial(
        collect,
        job.loaded,
        sampling=Sampling(job.config.max_tokens, job.config.temperature, seed=seed),
        folder=_folder(job, spec) / f"{what}-{half}",
        judge=job.judge,
        batch_tokens=job.config.batch_tokens,
        progress=job.progress,
    )


def _say_estimate(job: ValidationJob, specs: Sequence[TraitSpec], drawn: Drawn) -> None:
    """Say how long the whole will take, unless some of it is done.

    Natural responses count as if none were kept from another run; one costs what another does.
    """
    spec, config = specs[0], job.config
    if (_folder(job, spec) / "elicited-evaluation" / "generated.jsonl").exists():
        return
    halves = [(s, q) for s in specs for q in (s.questions.evaluation, s.questions.extraction)]
    neutral = sum(len(questions) for _, questions in halves) * config.neutral_samples
    planted = sum(len(planting_tasks(s, questions)) for s, questions in halves)
    written = [row for s in specs for row in written_rows(s)]
    prompts = {row.question for row in (*drawn.test, *written)}
    prompts.update(*(s.questions.evaluation for s in specs))
    naturals = len(prompts) * (1 + (config.natural_samples if job.sampled else 0))
    write = partial(_writer(job, spec, "evaluation", "elicited"), label="first answers")
    say_estimate(
        planting_tasks(spec, spec.questions.evaluation),
        write,
        partial(write, spec=spec),
        to_write=planted + neutral + naturals,
        to_judge=planted + neutral + len(drawn.test) * len(specs) + len(written),
        progress=job.progress,
    )


# What a reader must know


def _describe(trait: PlantedTrait, baselines: Baselines) -> ValidatedTrait:
    planted = sum(trait.training.planted)
    return ValidatedTrait(
        layer=trait.vector.layer,
        elicited=trait.elicited,
        kept=trait.n("elicited"),
        neutral=trait.n("neutral"),
        written=trait.n("written"),
        training=TrainingRows(planted=planted, clean=len(trait.training.planted) - planted),
        tfidf=baselines.classifier.about(),
        longer=baselines.length_sign > 0,
    )


def _notes(
    job: ValidationJob, vectors: Sequence[PersonaVector], specs: Sequence[TraitSpec]
) -> list[str]:
    return [
        *job.loaded.chat.notes,
        *spec_notes(specs, chat_formats(job.judge, job.loaded)),
        *other_model_notes(vectors, job.loaded.identity.lineage),
        "The judge chose which elicited rows were planted, which favours it, and what is combined "
        "with it, on that style; the written rows were chosen by people.",
        "That the data's rows are clean is taken for granted; a row among them that shows a trait "
        "counts as a false alarm.",
    ]
