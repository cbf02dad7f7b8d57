"""Screen training data: how far it would push a model along each trait, and which rows do it.

The paper's way to see a shift before training (section 6): the mean projection of a row's
response minus that of the model's own natural response to the same prompt. Score every row, draw
a line, write the clean set, and say what the figures do not show.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from personavec.data import ColumnMap, check_columns, raw_rows, source_name
from personavec.errors import DataError, UsageError
from personavec.judges.base import Judge
from personavec.model.engine.base import Engine
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.progress import Progress
from personavec.report.screening import write_screening_report
from personavec.runs import atomic_write, claim, lock
from personavec.screening import engines
from personavec.screening.cluster import cluster
from personavec.screening.datasets import Dataset, Survey, check_grouped, common_kind, named, survey
from personavec.screening.files import added_names, write_files
from personavec.screening.job import Job
from personavec.screening.natural import Naturals
from personavec.screening.outputs import Format
from personavec.screening.ranked import read_ranked
from personavec.screening.results import results_of
from personavec.screening.score import Plan, Turns, prepare, probe, text_ids
from personavec.screening.score_windows import Clock, score_dataset
from personavec.screening.second_stage import second_stage
from personavec.screening.table import load_scores
from personavec.screening.trait_scores import trait_scores
from personavec.screening.verdicts import NaturalSide, Rule, check_cuts, describe
from personavec.summaries import versions, without_nan
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True)
class ScreenConfig:
    """Everything that decides a screen's result, beside the model, the vectors and the data."""

    natural: NaturalSide = "last-prompt"
    """What stands for the model's own response: `generate` generates it, `last-prompt` takes the
    prompt's last token, `none` nothing, `two-stage` the second for all and the first for some."""
    natural_tokens: int = 64
    """Longest natural response, in tokens."""
    natural_samples: int = 1
    """Natural responses to a prompt; more than one are sampled, and their means averaged."""
    turns: Turns = "all"
    layer: int | None = None
    """Default: each vector's selected layer."""
    columns: ColumnMap = field(default_factory=ColumnMap)
    split: str | None = None
    by: tuple[str, ...] = ()
    """Columns to give totals and ranks by."""
    rule: Rule = field(default_factory=Rule)
    swap: bool = False
    """Exchange a flagged pair's chosen and rejected responses in the clean file, not drop it."""
    subsets: int = 0
    """Rows of the high, random and low subsets of every trait; 0 for none."""
    explain: bool = False
    """Name the spans that carry the trait in flagged rows."""
    format: Format | None = None
    """Default: Parquet for Parquet and datasets, JSONL for the others."""
    ranked: int = 10
    """Rows of every trait that the report shows with their texts."""
    top_share: float = 0.1
    """Two stages: the share of rows, highest by the cheap score, that get the exact one …"""
    sample: int = 200
    """… and the number of random others that do."""
    random_directions: int = 5
    seed: int = 0
    batch_tokens: int | None = None
    max_rejects: int | None = None
    """More bad rows than this stop the run; default: any number may be bad."""

    def __post_init__(self) -> None:
        if not 0 < self.top_share <= 1 or self.sample < 0 or self.ranked < 1 or self.subsets < 0:
            raise UsageError(
                "top_share lies within 0 and 1, sample and subsets are 0 or more, ranked 1 or more"
            )
        if self.natural_tokens < 1 or self.natural_samples < 1:
            raise UsageError("natural_tokens and natural_samples are at least 1")


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
) -> dict[str, Any]:
    """Screen datasets for the vectors' traits; returns the results that the report draws.

    Writes into `out`: `rows`, `clean` and `flagged` files (in a folder for each dataset where
    there are several), `rejects.jsonl`, `results.json`, `report.html`, and `run/`, from which a
    killed run continues when called again with the same settings. `reference` is a clean dataset
    to compare with; `naturals` a folder in which natural responses are kept between runs.
    `judge` scores every row for the `specs`, one for each vector. `ray` is the address of a Ray
    cluster that scores the rows, or `auto` or `local`; see `screening.on_ray`. `engine`, if it is
    given, generates natural responses, and scores rows too where it is faster than the
    transformers model on the first of them.

    Raises SettingsMismatchError when `out` was begun with other inputs or settings, StorageError
    when another process writes to it, VectorMismatchError, and DataError for more bad rows than
    allowed, or none that can be used.
    """
    config = config or ScreenConfig()
    progress = progress or Progress()
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
    job = _job(
        loaded, vectors, data, out, config, reference, naturals, judge, specs, engine, progress
    )
    surveys = [_survey(job, dataset, on_cluster=ray is not None) for dataset in job.inputs]
    if ray is None:  # whose surveys are of the first rows alone
        check_grouped(config.by, surveys[: len(job.datasets)])
    with ExitStack() as stack:
        stack.enter_context(lock(out))
        claim(out, _settings(job, config, reference) | {"ray": ray is not None})
        if engine is not None:
            job = replace(job, scoring=_scoring(job, engine))
        if ray is not None:
            job = replace(job, workers=_workers(job, config, naturals))
            stack.enter_context(cluster().connected(ray))
        return _run(job, config, surveys)


def _run(job: Job, config: ScreenConfig, surveys: Sequence[Survey]) -> dict[str, Any]:
    clock = Clock()
    # Every row's projections, and its natural side as far as it is cheap or asked for.
    told: list[str] = []
    for dataset, (total, content, _) in zip(job.inputs, surveys, strict=True):
        told += score_dataset(
            job, dataset, clock, total=total, content=content, max_rejects=config.max_rejects
        )
    scores = load_scores([d.folder for d in job.datasets], job.side, config.by)
    if not len(scores):
        raise DataError(f"no row of the data could be scored; {job.rejects} says why")
    reference = (
        load_scores([job.reference.folder], job.side, ()) if job.reference is not None else None
    )

    # The exact natural side for the top slice and a random sample, where there are two stages.
    stage = second_stage(
        job, scores, top_share=config.top_share, sample=config.sample, seed=config.seed
    )

    # Verdicts, and what they say of the whole.
    traits = trait_scores(job, scores, reference, stage)
    results = results_of(job, scores, reference, traits, stage, ranked=config.ranked)
    results["settings"] = {**asdict(config), "rule": describe(config.rule)}
    results["versions"] = versions()
    results["out"] = str(job.out)

    # The files to take away, and the texts of the rows that a person should read.
    results["files"], notes = write_files(
        job,
        scores,
        traits,
        stage,
        format=config.format,
        swap=config.swap,
        subsets=config.subsets,
        seed=config.seed,
    )
    results["notes"] += [*told, *notes]
    read_ranked(job, scores, traits, results, explained=config.explain)
    results["seconds"] = clock.seconds()
    results["tokens_per_second"] = clock.tokens_per_second
    results = without_nan(results)
    atomic_write(job.out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    write_screening_report(results, job.out / "report.html")
    return results


def _survey(job: Job, dataset: Dataset, *, on_cluster: bool) -> Survey:
    """A dataset as it is before any scoring. Raises DataError as `survey` does."""
    added = added_names(job) if dataset is not job.reference else ()
    # On a cluster workers alone read the whole: a column that comes later goes by another name.
    return survey(dataset, added, first=1000 if on_cluster else None)


def summarised(results: dict[str, Any]) -> dict[str, Any]:
    """The keys that `screen --json` promises."""
    kept = ("layer", "mean", "low", "high", "threshold", "flagged", "missing")
    return {
        "rows": results["rows"],
        "rejected": results["rejected"],
        "natural": results["natural"],
        "engine": results["engine"],
        "kind": results["kind"],
        "traits": {
            trait: {name: record[name] for name in kept}
            for trait, record in results["traits"].items()
        },
        "flagged_any": results["flagged_any"],
        "data": results["data"],
        "notes": results["notes"],
        "out": results["out"],
        "files": results["files"],
        "report": str(Path(results["out"]) / "report.html"),
        "tokens_per_second": results["tokens_per_second"],
    }


def _job(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    data: Sequence[str | Path],
    out: Path,
    config: ScreenConfig,
    reference: str | Path | None,
    naturals: Path | None,
    judge: Judge | None,
    specs: Sequence[TraitSpec],
    engine: Engine | None,
    progress: Progress,
) -> Job:
    """What all stages need, once data and settings are found to go together."""
    datasets = named(data, out / "run", config.split)
    kind = common_kind(datasets, config.columns)
    if reference is not None:
        check_columns(raw_rows(reference), config.columns)
    if kind == "row" and config.swap:
        raise UsageError("only preference pairs have labels to swap")
    if kind == "pair" and config.natural == "two-stage":
        raise UsageError("preference pairs are compared with each other: they have no two stages")
    needs = kind == "row" and config.natural in ("generate", "two-stage")
    return Job(
        loaded=loaded,
        vectors=tuple(vectors),
        probe=probe(
            vectors, loaded, layer=config.layer, random=config.random_directions, seed=config.seed
        ),
        plan=Plan(kind, config.columns, config.turns, config.by, config.batch_tokens),
        natural=config.natural,
        rule=config.rule,
        datasets=datasets,
        reference=None
        if reference is None
        else Dataset(
            f"{source_name(reference)} (reference)",
            str(reference),
            out / "run" / "reference",
            None,
        ),
        naturals=Naturals(
            loaded,
            naturals or out / "run" / "natural",
            max_tokens=config.natural_tokens,
            samples=config.natural_samples,
            engine=engine,
        )
        if needs
        else None,
        judge=judge,
        specs=tuple(specs),
        out=out,
        progress=progress,
        engine=engine,
    )


def _settings(job: Job, config: ScreenConfig, reference: str | Path | None) -> dict[str, Any]:
    """What a continued run must share; how rows are batched changes results by rounding alone."""
    settings = asdict(config)
    for name in ("batch_tokens", "max_rejects"):
        del settings[name]
    return {
        "command": "screen",
        "model": job.loaded.identity.as_dict(),
        "vectors": {v.trait: v.identity for v in job.vectors},
        "specs": {spec.name: spec.hash for spec in job.specs},
        # By name alone: rows are held against their scores by content.
        "inputs": [{"source": source_name(d.source), "split": d.split} for d in job.datasets],
        "kind": job.plan.kind,
        "reference": None if reference is None else source_name(reference),
        "judge": None if job.judge is None else job.judge.identity(),
        "engine": (job.engine or TransformersEngine(job.loaded)).name,
        "config": {**settings, "rule": describe(config.rule)},
    }


def _scoring(job: Job, engine: Engine) -> engines.Choice:
    """The faster of the engine and the transformers model, on the first rows of the data."""
    raws = list(islice(job.datasets[0].rows(), 64))
    return engines.faster(
        [TransformersEngine(job.loaded), engine],
        text_ids(prepare(job.loaded, raws, job.plan)),
        job.probe.directions,
        job.out / "run" / "engine.json",
        batch_tokens=job.plan.batch_tokens,
    )


def _workers(job: Job, config: ScreenConfig, naturals: Path | None) -> Any:
    """What a cluster's workers are told of the job."""
    kept = None if job.naturals is None else naturals or job.out / "run" / "natural"
    return cluster().setup(
        job.loaded,
        job.probe,
        job.plan,
        natural_folder=kept,
        natural_tokens=config.natural_tokens,
        natural_samples=config.natural_samples,
        judge=job.judge,
        specs=job.specs,
    )
