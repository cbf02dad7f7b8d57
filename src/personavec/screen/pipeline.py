"""Screen training data: how far it would push a model along each trait, and which rows do it.

The paper's way to see a shift before training (section 6): the mean projection of a row's response
minus that of the model's own natural response to the same prompt. The steps of `_run` are those of
docs/screen.md; a row is scored in `score.py`.

The data are read at most three times: by the survey, for scoring, and for the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from personavec.data import source_name
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.judges import Judge
from personavec.model import LoadedModel
from personavec.model.engine import Engine, TransformersEngine
from personavec.progress import Progress
from personavec.results import write
from personavec.rollouts import Naturals
from personavec.runs import Settings, claim, lock, read_as
from personavec.screen.cluster import cluster
from personavec.screen.config import ScreenConfig
from personavec.screen.datasets import (
    LOOKED_AT,
    OpenedDataset,
    ScreenDataset,
    Survey,
    check_grouped,
    check_reference,
    common_kind,
    named,
    survey,
)
from personavec.screen.files import added_names, output_format, write_files
from personavec.screen.flagging import check_cuts, rule_record
from personavec.screen.job import ScreenJob
from personavec.screen.ranked import explanations, rank, reading_texts
from personavec.screen.report import write_screening_report
from personavec.screen.results import ScreenResults
from personavec.screen.score import Plan, probe
from personavec.screen.score_windows import Clock, score_dataset
from personavec.screen.second_stage import second_stage
from personavec.screen.summary import Scored, results_of
from personavec.screen.table import load_scores
from personavec.screen.trait_scores import trait_scores
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


def run(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    data: Sequence[str | Path],
    out: Path,
    config: ScreenConfig | None = None,
    *,
    reference: str | Path | None = None,
    naturals: Path | None = None,
    judge: Judge | None = None,
    specs: Sequence[TraitSpec] = (),
    ray: str | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> ScreenResults:
    """Screen datasets for the vectors' traits.

    Writes into `out`: `rows`, `clean` and `flagged` files (in a folder for each dataset if there
    are several), `rejects.jsonl`, `results.json`, `report.html`, and `run/`, from which a killed
    run continues when called again with the same settings. `reference` is a clean dataset to
    compare with; `naturals` a folder that keeps natural responses between runs. `judge` scores
    every row for the `specs`, one for each vector. `ray` is the address of a Ray cluster that
    scores the rows, or `auto` or `local`; see `screen.cluster`. `engine` scores the rows and
    generates natural responses; default: the transformers model.

    Raises SettingsMismatchError if `out` was begun with other inputs or settings, StorageError
    if another process writes to it, VectorMismatchError, and DataError for more bad rows than
    allowed, or none that can be used.
    """
    config = _checked(config or ScreenConfig(), vectors, data, reference, judge, ray, engine)
    datasets = [OpenedDataset(each) for each in named(data, out / "run", config.split)]
    clean = None if reference is None else OpenedDataset(_reference(reference, out))
    job = _job(loaded, vectors, datasets, clean, out, config, naturals, judge, specs, engine)
    job = replace(job, progress=progress or Progress())
    opened = [*datasets, *([clean] if clean else [])]
    surveys = [_survey(job, each, config, on_cluster=ray is not None) for each in opened]
    if ray is None:  # On a cluster only the first rows were looked at.
        check_grouped(config.by, surveys[: len(datasets)])
    with ExitStack() as stack:
        stack.enter_context(lock(out))
        claim(out, _settings(job, config, reference) | {"ray": ray is not None})
        _check_one_engine(job)
        if ray is not None:
            job = replace(job, workers=_workers(job, config, naturals))
            stack.enter_context(cluster().connected(ray))
        return _run(job, config, surveys)


def _run(job: ScreenJob, config: ScreenConfig, surveys: Sequence[Survey]) -> ScreenResults:
    clock, notes = Clock(), list[str]()
    job.progress.stages(
        *(f"scoring {dataset.name}" for dataset in job.inputs),
        "natural responses" if config.natural == "two-stage" else "",
        *(f"writing {dataset.name}" for dataset in job.datasets),
        "report",
    )

    # 1. Every row's projections, and its natural side if that is cheap or asked for.
    for dataset, found in zip(job.inputs, surveys, strict=True):
        notes += score_dataset(
            job,
            dataset,
            clock,
            total=found.total,
            content=found.content,
            max_rejects=config.max_rejects,
        )
    scores = load_scores([d.folder for d in job.datasets], job.side, config.by)
    if not len(scores):
        raise DataError(f"no row of the data could be scored; {job.rejects} says why")
    reference = load_scores([job.reference.folder], job.side, ()) if job.reference else None

    # 2. With two stages: the exact natural side of the top slice and of a random sample.
    stage = second_stage(
        job, scores, top_share=config.top_share, sample=config.sample, seed=config.seed
    )

    # 3. The line of each trait, and the rows over it.
    traits = trait_scores(job, scores, reference, stage)
    ranks = [rank(own, config.ranked) for own in traits]

    # 4. The files, and the texts of the rows that a person should read.
    types = [found.types for found in surveys]
    with reading_texts(job, traits, ranks, explained=config.explain) as texts:
        paths, written = write_files(job, scores, traits, stage, config, types, texts)

    # 5. What it says of the whole.
    results = results_of(
        job,
        Scored(scores, reference, traits, stage, ranks, texts.found),
        config,
        files={**paths, "rejects": _path(job.rejects), "explained": _path(explanations(job))},
        notes=[*notes, *written],
        seconds=clock.seconds(),
        tokens_per_second=clock.tokens_per_second,
    )
    write(job.out / "results.json", results)
    write_screening_report(results, job.out / "report.html")
    return results


def _path(file: Path) -> str | None:
    return str(file) if file.exists() else None


# Before any scoring


def _checked(
    config: ScreenConfig,
    vectors: Sequence[PersonaVector],
    data: Sequence[str | Path],
    reference: str | Path | None,
    judge: Judge | None,
    ray: str | None,
    engine: Engine | None,
) -> ScreenConfig:
    """The config with the line of a reference set. Raises UsageError for what does not fit."""
    if ray is not None and engine is not None:
        raise UsageError("a Ray cluster's workers run the transformers engine: use no other one")
    if not vectors or not data:
        raise UsageError("a screen needs at least one vector and one dataset")
    if len({vector.trait for vector in vectors}) < len(vectors):
        raise UsageError("two of the vectors are of the same trait; give each trait once")
    if reference is not None:
        rule = replace(config.rule, percentile=95) if not config.rule else config.rule
        config = replace(config, rule=rule)
    check_cuts(config.rule, [vector.trait for vector in vectors])
    if judge is not None and config.rule.cuts:
        raise UsageError(
            "--cut is in units of the projection, and with --judge rows are ranked by projection "
            "and judge together, which has none; use --reference, --top or --bottom"
        )
    return config


def _reference(reference: str | Path, out: Path) -> ScreenDataset:
    name = f"{source_name(reference)} (reference)"
    return ScreenDataset(name, str(reference), out / "run" / "reference", None)


def _job(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    datasets: Sequence[OpenedDataset],
    reference: OpenedDataset | None,
    out: Path,
    config: ScreenConfig,
    naturals: Path | None,
    judge: Judge | None,
    specs: Sequence[TraitSpec],
    engine: Engine | None,
) -> ScreenJob:
    """The screen, once data and settings are found to fit each other."""
    kind = common_kind(datasets, config.columns)
    if reference is not None:
        check_reference(reference, config.columns)
    if kind == "row" and config.swap:
        raise UsageError("only preference pairs have labels to swap")
    if kind == "pair" and config.natural == "two-stage":
        raise UsageError("preference pairs are compared with each other: they have no two stages")
    generated = kind == "row" and config.natural in ("generate", "two-stage")
    return ScreenJob(
        loaded=loaded,
        vectors=tuple(vectors),
        probe=probe(
            vectors, loaded, layer=config.layer, random=config.random_directions, seed=config.seed
        ),
        plan=Plan(kind, config.columns, config.turns, config.by, config.batch_tokens),
        natural=config.natural,
        rule=config.rule,
        datasets=tuple(opened.dataset for opened in datasets),
        reference=None if reference is None else reference.dataset,
        naturals=_naturals(loaded, naturals, out, config, engine) if generated else None,
        judge=judge,
        specs=tuple(specs),
        out=out,
        engine=engine,
    )


def _naturals(
    loaded: LoadedModel,
    folder: Path | None,
    out: Path,
    config: ScreenConfig,
    engine: Engine | None,
) -> Naturals:
    return Naturals(
        loaded,
        folder or out / "run" / "natural",
        max_tokens=config.natural_tokens,
        samples=config.natural_samples,
        engine=engine,
    )


def _survey(
    job: ScreenJob, opened: OpenedDataset, config: ScreenConfig, *, on_cluster: bool
) -> Survey:
    """A dataset before any scoring. Raises DataError as `survey` does."""
    dataset = opened.dataset
    if dataset is job.reference:
        return survey(opened, (), to_parquet=False, first=LOOKED_AT if on_cluster else None)
    # On a cluster workers alone read the whole: a column that comes later is renamed.
    return survey(
        opened,
        added_names(job),
        to_parquet=output_format(dataset, config, on_cluster=on_cluster) == "parquet",
        first=LOOKED_AT if on_cluster else None,
    )


def _settings(job: ScreenJob, config: ScreenConfig, reference: str | Path | None) -> Settings:
    """What a continued run must share. Batches change results only by rounding."""
    settings = asdict(config)
    for name in ("batch_tokens", "max_rejects"):
        del settings[name]
    return {
        "command": "screen",
        "model": job.loaded.identity.as_dict(),
        "vectors": {v.trait: v.identity for v in job.vectors},
        "specs": {spec.name: spec.hash for spec in job.specs},
        # By name alone: rows are compared with their scores by content.
        "inputs": [{"source": source_name(d.source), "split": d.split} for d in job.datasets],
        "kind": job.plan.kind,
        "reference": None if reference is None else source_name(reference),
        "judge": None if job.judge is None else job.judge.identity(),
        "engine": (job.engine or TransformersEngine(job.loaded)).name,
        "config": {**settings, "rule": rule_record(config.rule)},
    }


def _check_one_engine(job: ScreenJob) -> None:
    """Refuse a run in which an earlier version scored with another engine than it generated with.

    Raises SettingsMismatchError.
    """
    kept = job.out / "run" / "engine.json"
    if job.engine is None or not kept.exists():
        return
    remedy = "use another --out, or delete this folder"
    scored = read_as(kept, dict[str, Any], remedy).get("engine")
    if scored != job.engine.name:
        raise SettingsMismatchError(
            f"{job.out} holds a screen of an earlier version that scored with {scored} and "
            f"generated with {job.engine.name}, and now one engine does both; {remedy}"
        )


def _workers(job: ScreenJob, config: ScreenConfig, naturals: Path | None) -> Any:
    """What a cluster's workers are told of the job."""
    kept = None if job.naturals is None else naturals or job.out / "run" / "natural"
    return cluster().worker_setup(
        job.loaded,
        job.probe,
        job.plan,
        natural_folder=kept,
        natural_tokens=config.natural_tokens,
        natural_samples=config.natural_samples,
        judge=job.judge,
        specs=job.specs,
    )
