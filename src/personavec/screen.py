"""Screen training data: how far it would push a model along each trait, and which rows do it.

The paper's way to see a shift before training (section 6): the mean projection of a row's
response minus that of the model's own natural response to the same prompt. Score every row, draw
a line, write the clean set, and say what the figures do not show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from personavec.conversations import (
    ColumnMap,
    Kind,
    RawRow,
    fingerprint,
    kind_of,
    raw_rows,
    source_name,
)
from personavec.errors import DataError, UsageError, missing_extra
from personavec.judges.base import Judge
from personavec.model.engine.base import Engine
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.progress import Progress
from personavec.report.screening import write_screening_report
from personavec.runs import append_records, atomic_write, claim, lock
from personavec.screening import engines, parts, summary, two_stage
from personavec.screening.encode import Encoded
from personavec.screening.explain import explain
from personavec.screening.natural import Naturals
from personavec.screening.outputs import Added, Files, Format, write_outputs
from personavec.screening.score import (
    Plan,
    Prepared,
    Probe,
    Turns,
    natural_projections,
    prepare,
    probe,
    score,
    text_ids,
)
from personavec.screening.stretches import stretches, windows
from personavec.screening.table import Scores, load_scores
from personavec.screening.verdicts import (
    NaturalSide,
    Rule,
    Side,
    check_cuts,
    combined,
    describe,
    judge_trait,
)
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


@dataclass(frozen=True, eq=False)
class _Dataset:
    """One input: where it is, what it is called, and where its scores go."""

    name: str
    source: str
    folder: Path
    split: str | None

    def rows(self) -> Iterator[RawRow]:
        return raw_rows(self.source, split=self.split)


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
    job = _job(
        loaded, vectors, data, out, config, reference, naturals, judge, specs, engine, progress
    )
    with ExitStack() as stack:
        stack.enter_context(lock(out))
        claim(out, _settings(job, reference) | {"ray": ray is not None})
        if engine is not None:
            job = replace(job, scoring=_scoring(job, engine))
        if ray is not None:
            job = replace(job, workers=_workers(job, naturals))
            stack.enter_context(_on_ray().connected(ray))
        return _run(job)


def _on_ray() -> Any:
    """What screens on a Ray cluster, where its packages are installed."""
    try:
        from personavec.screening import on_ray
    except ImportError:
        raise missing_extra("ray") from None
    return on_ray


def _workers(job: _Job, naturals: Path | None) -> Any:
    """What a cluster's workers are told of the job."""
    kept = None if job.naturals is None else naturals or job.out / "run" / "natural"
    return _on_ray().setup(
        job.loaded,
        job.probe,
        job.plan,
        natural_folder=kept,
        natural_tokens=job.config.natural_tokens,
        natural_samples=job.config.natural_samples,
        judge=job.judge,
        specs=job.specs,
    )


@dataclass(frozen=True, eq=False)
class _Job:
    """What all stages need."""

    loaded: LoadedModel
    vectors: tuple[PersonaVector, ...]
    probe: Probe
    plan: Plan
    config: ScreenConfig
    datasets: tuple[_Dataset, ...]
    reference: _Dataset | None
    naturals: Naturals | None
    judge: Judge | None
    specs: tuple[TraitSpec, ...]
    out: Path
    progress: Progress
    engine: Engine | None = None
    """What generates natural responses; None: the transformers model."""
    scoring: engines.Choice | None = None
    """What scores rows, where there was a choice."""
    workers: Any = None
    """What a Ray cluster's workers are told (`on_ray.Setup`); None where this process scores."""

    @property
    def rejects(self) -> Path:
        return self.out / "rejects.jsonl"

    @property
    def side(self) -> Side:
        """Which difference every row has; that of the second stage stands beside it."""
        if self.plan.kind == "pair":
            return "pair"
        if self.config.natural == "none":
            return "projection"
        return "minus_natural" if self.config.natural == "generate" else "minus_prompt"


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
) -> _Job:
    names = _names([source_name(source) for source in data])
    datasets = tuple(
        _Dataset(name, str(source), out / "run" / f"{number}-{name}", config.split)
        for number, (name, source) in enumerate(zip(names, data, strict=True))
    )
    for dataset in datasets:
        _check_names(dataset, [vector.trait for vector in vectors])
    kinds: dict[str, Kind] = {d.name: kind_of(d.rows(), config.columns) for d in datasets}
    if len(set(kinds.values())) > 1:
        pairs = next(name for name, kind in kinds.items() if kind == "pair")
        raise UsageError(f"{pairs} holds preference pairs and other data do not: screen it alone")
    kind = kinds[datasets[0].name]
    if kind == "row" and config.swap:
        raise UsageError("only preference pairs have labels to swap")
    if kind == "pair" and config.natural == "two-stage":
        raise UsageError("preference pairs are compared with each other: they have no two stages")
    needs = kind == "row" and config.natural in ("generate", "two-stage")
    return _Job(
        loaded=loaded,
        vectors=tuple(vectors),
        probe=probe(
            vectors, loaded, layer=config.layer, random=config.random_directions, seed=config.seed
        ),
        plan=Plan(kind, config.columns, config.turns, config.by, config.batch_tokens),
        config=config,
        datasets=datasets,
        reference=None
        if reference is None
        else _Dataset(
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


def _check_names(dataset: _Dataset, traits: Sequence[str]) -> None:
    """Refuse, before any scoring, data that has a column of a name that would be added."""
    first = next(dataset.rows()).columns
    for trait in traits:
        if f"{trait}_projection" in first or f"{trait}_flag" in first:
            raise DataError(
                f"{dataset.source} has a column '{trait}_projection' or '{trait}_flag' already: "
                "rename it, or screen the original file"
            )


def _scoring(job: _Job, engine: Engine) -> engines.Choice:
    """The faster of the engine and the transformers model, on the first rows of the data."""
    raws = list(islice(job.datasets[0].rows(), 64))
    return engines.faster(
        [TransformersEngine(job.loaded), engine],
        text_ids(prepare(job.loaded, raws, job.plan)),
        job.probe.directions,
        job.out / "run" / "engine.json",
        batch_tokens=job.plan.batch_tokens,
    )


def _names(names: Sequence[str]) -> list[str]:
    """Names made unlike each other by a number."""
    return [
        name if names.count(name) == 1 else f"{name}-{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def _settings(job: _Job, reference: str | Path | None) -> dict[str, Any]:
    """What a continued run must share; how rows are batched changes results by rounding alone."""
    config = asdict(job.config)
    for name in ("batch_tokens", "max_rejects"):
        del config[name]
    return {
        "command": "screen",
        "model": job.loaded.identity.as_dict(),
        "vectors": {v.trait: v.hash for v in job.vectors},
        "inputs": [fingerprint(d.source, split=d.split) for d in job.datasets],
        "reference": None if reference is None else fingerprint(reference),
        "judge": None if job.judge is None else job.judge.identity(),
        "engine": (job.engine or TransformersEngine(job.loaded)).name,
        "config": {**config, "rule": describe(job.config.rule)},
    }


def _run(job: _Job) -> dict[str, Any]:
    clock = _Clock()
    # Every row's projections, and its natural side as far as it is cheap or asked for.
    datasets = [*job.datasets, *([job.reference] if job.reference else [])]
    for dataset in datasets:
        _score(job, dataset, clock)
    scores = load_scores([d.folder for d in job.datasets], job.side, job.config.by)
    if not len(scores):
        raise DataError(f"no row of the data could be scored; {job.rejects} says why")
    reference = (
        load_scores([job.reference.folder], job.side, ()) if job.reference is not None else None
    )

    # The exact natural side for the top slice and a random sample, where there are two stages.
    stage = _second_stage(job, scores)

    # Verdicts, and what they say of the whole.
    traits = _traits(job, scores, reference, stage)
    results = _results(job, scores, reference, traits, stage)

    # The files to take away, and the texts of the rows that a person should read.
    results["files"] = _write(job, scores, traits, stage)
    _read_ranked(job, scores, traits, results)
    results["seconds"] = clock.seconds()
    results["tokens_per_second"] = clock.tokens_per_second
    results = without_nan(results)
    atomic_write(job.out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    write_screening_report(results, job.out / "report.html")
    return results


# Scoring


def _score(job: _Job, dataset: _Dataset, clock: _Clock) -> None:
    """Score what has no scores yet, window by window; tokenising runs ahead in a thread."""
    if job.workers is not None:
        _score_on_ray(job, dataset, clock)
        return
    done = len(parts.parts(dataset.folder))
    rejects = parts.forget_rejects(job.rejects, dataset.name, done * parts.WINDOW)
    complete = dataset.folder / "complete"
    if complete.exists():
        return
    exact = _is_exact(job, dataset)

    def prepared() -> Iterator[tuple[int, Prepared]]:
        for number, raws in enumerate(windows(dataset.rows(), parts.WINDOW)):
            if number >= done:
                yield number, prepare(job.loaded, raws, job.plan)

    total = _total(dataset)
    with job.progress.bar(f"scoring {dataset.name}", total) as bar:
        bar.advance(min(total, done * parts.WINDOW))
        for number, window in parts.ahead(prepared()):
            start = time.monotonic()
            columns = score(
                job.loaded,
                window,
                job.probe,
                job.plan,
                naturals=job.naturals if exact else None,
                judge=job.judge,
                specs=job.specs,
                engine=job.scoring.engine if job.scoring else None,
            )
            clock.scored(int(columns.sequence_tokens.sum()), time.monotonic() - start)
            rejects += parts.keep_rejects(
                job.rejects, window.raws, columns.id, columns.reason, dataset.name
            )
            parts.write_part(parts.part(dataset.folder, number), parts.to_table(columns))
            bar.advance(len(columns))
            _check_rejects(job, dataset, rejects)
    atomic_write(complete, "")


def _score_on_ray(job: _Job, dataset: _Dataset, clock: _Clock) -> None:
    """The same on a cluster, whose workers finish windows in any order."""
    complete = dataset.folder / "complete"
    if complete.exists():
        return
    on_ray = _on_ray()
    work = job.workers if _is_exact(job, dataset) else replace(job.workers, natural_folder=None)
    done, rejects = on_ray.finished(dataset.folder)
    todo, total = stretches(dataset.source, split=dataset.split, size=parts.WINDOW, done=done)
    left = sum(min(s.size, total - n * s.size) for s in todo for n in s.numbers)
    try:
        with job.progress.bar(f"scoring {dataset.name}", total) as bar:
            bar.advance(total - left)
            since = time.monotonic()
            for scored in on_ray.score_stretches(work, todo, dataset.folder, dataset.name):
                now = time.monotonic()
                clock.scored(scored.tokens, now - since)
                since = now
                bar.advance(scored.rows)
                rejects += scored.rejects
                _check_rejects(job, dataset, rejects)
    finally:
        on_ray.gather_rejects(dataset.folder, dataset.name, job.rejects)
    atomic_write(complete, "")


def _is_exact(job: _Job, dataset: _Dataset) -> bool:
    """Is every row held against its natural response, and not against its prompt?

    In two stages, the line that exact differences are held against needs exact ones too.
    """
    two = job.config.natural == "two-stage"
    return job.config.natural == "generate" or (two and dataset is job.reference)


def _check_rejects(job: _Job, dataset: _Dataset, rejects: int) -> None:
    if job.config.max_rejects is not None and rejects > job.config.max_rejects:
        raise DataError(
            f"{rejects} rows of {dataset.name} cannot be used, more than --max-rejects "
            f"{job.config.max_rejects}; {job.rejects} says why; mend them, or allow more"
        )


def _total(dataset: _Dataset) -> int:
    """Rows to come, for the progress bar; counted by reading, which costs little beside scoring."""
    return sum(1 for _ in dataset.rows())


@dataclass(frozen=True, eq=False)
class _Stage:
    """The second stage: which rows, and their exact differences [row, direction], NaN elsewhere."""

    chosen: two_stage.Chosen
    exact: np.ndarray


def _second_stage(job: _Job, scores: Scores) -> _Stage | None:
    if job.config.natural != "two-stage" or job.plan.kind == "pair":
        return None
    traits = len(job.probe.traits)
    cheap = scores.value[:, :traits].astype(np.float64)
    chosen = two_stage.choose(
        cheap,
        top=max(1, round(job.config.top_share * len(scores))),
        sample=job.config.sample,
        seed=job.config.seed,
    )
    places = np.sort(np.concatenate([chosen.top, chosen.sample]))
    exact = np.full(scores.value.shape, np.nan)
    with job.progress.bar("natural responses", len(places)) as bar:
        for number, dataset in enumerate(job.datasets):
            own = places[scores.dataset[places] == number]
            if job.workers is not None:
                # What the cluster has generated is only read below.
                filled = _on_ray().fill_naturals(
                    job.workers, dataset.source, scores.index[own], split=dataset.split
                )
                with job.progress.bar("generating on the cluster", len(own)) as generated:
                    for n in filled:
                        generated.advance(n)
            for group, raws in _at(dataset, scores.index[own], own):
                window = prepare(job.loaded, raws, job.plan)
                assert job.naturals is not None
                natural = natural_projections(window, job.probe, job.naturals)
                exact[group] = scores.projection[group] - natural
                bar.advance(len(raws))
    return _Stage(chosen, exact)


def _at(
    dataset: _Dataset, index: np.ndarray, places: np.ndarray, size: int = 128
) -> Iterator[tuple[np.ndarray, list[RawRow]]]:
    """The rows at the given places of a dataset, in groups, with where they stand in the scores."""
    wanted = dict(zip(index.tolist(), places.tolist(), strict=True))
    found = (raw for raw in dataset.rows() if raw.index in wanted)
    while group := list(islice(found, size)):
        yield np.array([wanted[raw.index] for raw in group]), group


# Verdicts


def _traits(
    job: _Job, scores: Scores, reference: Scores | None, stage: _Stage | None
) -> list[summary.TraitScores]:
    """Every trait's values and verdict."""
    exact_reference = reference
    if stage is not None and job.reference is not None:
        exact_reference = load_scores([job.reference.folder], "minus_natural", ())
    found = []
    for i, trait in enumerate(job.probe.traits):
        value = scores.value[:, i].astype(np.float64)
        ranking = value if stage is None else stage.exact[:, i]
        line = None if exact_reference is None else exact_reference.value[:, i].astype(np.float64)
        if job.judge is not None:
            judged = scores.judged[:, i].astype(np.float64)
            base = None
            if exact_reference is not None and line is not None:
                base = (line, exact_reference.judged[:, i].astype(np.float64))
                line = combined(*base, base)
            ranking = combined(ranking, judged, base)
        scale = _scale(job, i)
        found.append(
            summary.TraitScores(
                trait=i,
                value=value,
                ranking=ranking,
                reference=None if reference is None else reference.value[:, i].astype(np.float64),
                verdict=judge_trait(job.config.rule, trait, ranking, line, scale),
                sigma=scale["sigma"],
            )
        )
    return found


def _scale(job: _Job, trait: int) -> dict[str, float]:
    """The size of each unit of a cut."""
    vector, layer = job.vectors[trait], job.probe.layer(trait)
    return {
        "projection": 1.0,
        "sigma": float(vector.neutral_response_mean[layer, 1]),
        "norm": float(vector.residual_norm[layer]),
    }


# Results


def _results(
    job: _Job,
    scores: Scores,
    reference: Scores | None,
    traits: Sequence[summary.TraitScores],
    stage: _Stage | None,
) -> dict[str, Any]:
    names = [dataset.name for dataset in job.datasets]
    records: dict[str, Any] = {}
    for own, trait in zip(traits, job.probe.traits, strict=True):
        records[trait] = summary.summarise(
            scores,
            reference,
            own,
            job.probe,
            names,
            ranked=job.config.ranked,
            comparable=job.side != "projection",
        )
        if stage is not None:
            records[trait] |= _two_stages(own, stage, len(scores))
    flagged = np.any([own.verdict.flagged for own in traits], axis=0)
    return {
        "command": "screen",
        "model": job.loaded.identity.as_dict(),
        "engine": _described(job),
        "kind": job.plan.kind,
        "natural": "rejected" if job.plan.kind == "pair" else job.config.natural,
        "turns": job.config.turns,
        "rows": len(scores),
        "rejected": sum(scores.rejects),
        "datasets": [
            {"name": name, "rows": len(scores.of(i)), "rejected": scores.rejects[i]}
            for i, name in enumerate(names)
        ],
        "reference": None
        if reference is None or job.reference is None
        else {
            "name": job.reference.name,
            "rows": len(reference),
            "rejected": sum(reference.rejects),
        },
        "judge": None if job.judge is None else job.judge.identity(),
        "rule": describe(job.config.rule) if job.config.rule else None,
        "flagged_any": int(flagged.sum()) if job.config.rule else None,
        "traits": records,
        "notes": _notes(job),
        "settings": {**asdict(job.config), "rule": describe(job.config.rule)},
        "versions": versions(),
        "out": str(job.out),
    }


def _two_stages(own: summary.TraitScores, stage: _Stage, n: int) -> dict[str, Any]:
    """The dataset's mean corrected by the exact differences, and what the top slice misses."""
    exact = stage.exact[:, own.trait]
    mean = two_stage.corrected_mean(own.value, exact, stage.chosen)
    threshold = own.verdict.threshold
    n_rest = int(np.isfinite(own.value).sum()) - len(stage.chosen.top)
    recall = (
        None
        if threshold is None
        else two_stage.recall(own.ranking, stage.chosen, n_rest, threshold)
    )
    return {
        **summary.interval(mean),
        "two_stage": {
            "cheap_mean": float(np.nanmean(own.value)),
            "top": len(stage.chosen.top),
            "sample": len(stage.chosen.sample),
            "without_natural": int(
                np.isnan(exact[np.concatenate([stage.chosen.top, stage.chosen.sample])]).sum()
            ),
            "recall": summary.interval(recall),
            "of": n,
        },
    }


def _described(job: _Job) -> dict[str, Any]:
    """The engine that generated natural responses, and the one that scored."""
    own = TransformersEngine(job.loaded)
    scoring = job.scoring or own
    return {"generating": (job.engine or own).describe(), "scoring": scoring.describe()}


def _notes(job: _Job) -> list[str]:
    found = list(job.loaded.chat.notes)
    if job.scoring is not None:
        found.append(job.scoring.note())
    identity = job.loaded.identity
    for vector in job.vectors:
        if warning := vector.other_model_warning(identity.name, identity.declared_base):
            found.append(f"{warning[0].upper()}{warning[1:]}.")
    if not job.config.rule:
        found.append(
            "No line was drawn, so no row is flagged: give a clean --reference, or --top, "
            "--bottom or --cut."
        )
    return found


# Files


def _write(
    job: _Job, scores: Scores, traits: Sequence[summary.TraitScores], stage: _Stage | None
) -> dict[str, Any]:
    """Write every dataset's files; their paths, and those of the rejects."""
    flagged = np.any([own.verdict.flagged for own in traits], axis=0)
    subsets = _subsets(job, scores, traits)
    files: dict[str, Any] = {}
    for number, dataset in enumerate(job.datasets):
        own = scores.of(number)
        added = Added(
            index=scores.index[own],
            columns={n: v[own] for n, v in _columns(job, scores, traits, stage).items()},
            flagged=flagged[own],
            subsets={name: chosen[own] for name, chosen in subsets.items()},
        )
        columns = job.plan.columns
        wanted = Files(
            dataset.source,
            job.out if len(job.datasets) == 1 else job.out / dataset.name,
            job.config.format or ("parquet" if job.workers else _format(dataset.source)),
            verdict=bool(job.config.rule),
            swap=(columns.chosen or "chosen", columns.rejected or "rejected")
            if job.config.swap
            else None,
        )
        names = wanted.names(added)
        if job.workers is None:
            write_outputs(dataset.rows, added, wanted)
            files[dataset.name] = {name: str(wanted.path(name)) for name in names}
        else:
            with job.progress.bar(f"writing {dataset.name}", len(added.index)) as bar:
                for n in _on_ray().write_parts(added, wanted, split=dataset.split):
                    bar.advance(n)
            files[dataset.name] = {name: str(wanted.folder / name) for name in names}
    files["rejects"] = str(job.rejects) if job.rejects.exists() else None
    return files


def _format(source: str) -> Format:
    path = Path(source)
    if path.is_file():
        return "parquet" if path.suffix.lower() == ".parquet" else "jsonl"
    files = sorted(path.rglob("*.parquet"))
    return "parquet" if files or not any(path.rglob("*.[jc]s*")) else "jsonl"


def _columns(
    job: _Job, scores: Scores, traits: Sequence[summary.TraitScores], stage: _Stage | None
) -> dict[str, np.ndarray]:
    """What is added to every row: a projection, a difference and a flag for each trait."""
    added: dict[str, np.ndarray] = {}
    for i, (trait, own) in enumerate(zip(job.probe.traits, traits, strict=True)):
        layer = job.probe.layer(i)
        mean, spread = job.vectors[i].neutral_response_mean[layer].tolist()
        projection = scores.projection[:, i].astype(np.float64)
        added[f"{trait}_projection"] = projection
        if spread > 0:
            added[f"{trait}_sigma"] = (projection - mean) / spread
        if job.plan.kind == "pair":
            added[f"{trait}_rejected_projection"] = scores.rejected_projection[:, i]
        difference = np.full(len(scores), np.nan) if job.side == "projection" else own.value
        added[f"{trait}_difference"] = difference
        if stage is not None:
            added[f"{trait}_exact_difference"] = stage.exact[:, i]
        if job.judge is not None:
            added[f"{trait}_log_odds"] = scores.judged[:, i]
            added[f"{trait}_combined"] = own.ranking
        added[f"{trait}_flag"] = _flags(
            own.verdict.flagged, known=own.verdict.threshold is not None
        )
    ruled = any(own.verdict.threshold is not None for own in traits)
    together = np.any([own.verdict.flagged for own in traits], axis=0)
    added["any_flag"] = _flags(together, known=ruled)
    return added


def _flags(flagged: np.ndarray, *, known: bool) -> np.ndarray:
    return flagged if known else np.full(len(flagged), None, dtype=object)


def _subsets(
    job: _Job, scores: Scores, traits: Sequence[summary.TraitScores]
) -> dict[str, np.ndarray]:
    """Which rows are in each trait's high, random and low subset, by file name."""
    n = job.config.subsets
    found: dict[str, np.ndarray] = {}
    for own, trait in zip(traits, job.probe.traits, strict=True):
        known = np.flatnonzero(np.isfinite(own.value))
        if not n or len(known) < n:
            continue
        order = known[np.argsort(own.value[known], kind="stable")]
        drawn = np.random.default_rng(job.config.seed).permutation(known)[:n]
        for name, places in (("high", order[-n:]), ("random", drawn), ("low", order[:n])):
            chosen = np.zeros(len(scores), bool)
            chosen[places] = True
            found[f"subsets/{trait}/{name}"] = chosen
    return found


def _read_ranked(
    job: _Job, scores: Scores, traits: Sequence[summary.TraitScores], results: dict[str, Any]
) -> None:
    """Put the ranked rows' texts into the results, and explain the flagged rows if asked to."""
    records = results["traits"]
    shown = {p for r in records.values() for side in r["ranked"].values() for p in side}
    wanted = set(shown)
    if job.config.explain:
        flagged = np.any([own.verdict.flagged for own in traits], axis=0)
        wanted |= set(np.flatnonzero(flagged).tolist())
    target = job.out / "explained.jsonl"
    target.unlink(missing_ok=True)
    places = np.array(sorted(wanted), dtype=np.int64)
    texts: dict[int, dict[str, Any]] = {}
    for number, dataset in enumerate(job.datasets):
        own = places[scores.dataset[places] == number]
        for group, raws in _at(dataset, scores.index[own], own, size=64):
            rows = prepare(job.loaded, raws, job.plan).encoded
            pieces: list[dict[str, Any]] = [{} for _ in rows]
            if job.config.explain:
                pieces = explain(
                    job.loaded,
                    rows,
                    job.probe.traits,
                    job.probe.directions,
                    batch_tokens=job.config.batch_tokens,
                )
                append_records(
                    target,
                    [
                        _explained(row, dataset.name, spans, traits, int(place))
                        for row, spans, place in zip(rows, pieces, group, strict=True)
                    ],
                )
            for row, spans, place in zip(rows, pieces, group.tolist(), strict=True):
                if place in shown:
                    texts[place] = _shown(job, row, dataset.name, spans)
    for i, (own, trait) in enumerate(zip(traits, job.probe.traits, strict=True)):
        for side, ranked in records[trait]["ranked"].items():
            records[trait]["ranked"][side] = [
                {
                    **texts[place],
                    "pieces": texts[place]["pieces"].get(trait),
                    "value": float(own.ranking[place]),
                    "difference": float(own.value[place]),
                    "projection": float(scores.projection[place, i]),
                    "log_odds": float(scores.judged[place, i]),
                    "n_tokens": int(scores.n_tokens[place]),
                    "flagged": bool(own.verdict.flagged[place]),
                    "groups": {name: values[place] for name, values in scores.groups.items()},
                }
                for place in ranked
            ]
    results["files"]["explained"] = str(target) if target.exists() else None


def _explained(
    row: Encoded,
    dataset: str,
    pieces: dict[str, list[dict[str, Any]]],
    traits: Sequence[summary.TraitScores],
    place: int,
) -> dict[str, Any]:
    """A flagged row's spans, for the traits that it is flagged for."""
    over = [own.verdict.flagged[place] for own in traits]
    return {
        "dataset": dataset,
        "index": row.row.index,
        "id": row.row.id,
        "spans": {
            trait: [{k: p[k] for k in ("text", "projection")} for p in found if p["span"]]
            for (trait, found), flagged in zip(pieces.items(), over, strict=True)
            if flagged or not any(over)
        },
    }


def _shown(
    job: _Job, row: Encoded, dataset: str, pieces: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    text, turn = row.texts[-1], row.texts[-1].turns[-1]
    natural = None
    if job.naturals is not None:
        natural = job.naturals.response(text.ids[: turn.prompt_last + 1].tolist())
    return {
        "dataset": dataset,
        "index": row.row.index,
        "id": row.row.id,
        "messages": list(row.row.messages),
        "rejected": row.row.rejected[-1]["content"] if row.row.rejected else None,
        "natural": natural.response if natural else None,
        "pieces": pieces,
    }


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
        "notes": results["notes"],
        "out": results["out"],
        "files": results["files"],
        "report": str(Path(results["out"]) / "report.html"),
        "tokens_per_second": results["tokens_per_second"],
    }


class _Clock:
    """Seconds in all, and how fast tokens were scored."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._tokens, self._scoring = 0, 0.0

    def scored(self, tokens: int, seconds: float) -> None:
        self._tokens += tokens
        self._scoring += seconds

    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 1)

    @property
    def tokens_per_second(self) -> float | None:
        """None where a continued run found everything scored."""
        return round(self._tokens / self._scoring, 1) if self._scoring else None
