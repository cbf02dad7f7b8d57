"""Which files a screen leaves of every dataset, and what is added to the rows in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personavec.data import files_of, is_saved_dataset
from personavec.screening.cluster import cluster
from personavec.screening.job import Job
from personavec.screening.outputs import Added, Files, Format, write_outputs
from personavec.screening.second_stage import Stage
from personavec.screening.table import Scores
from personavec.screening.trait_scores import TraitScores
from personavec.wording import plural


def write_files(
    job: Job,
    scores: Scores,
    traits: Sequence[TraitScores],
    stage: Stage | None,
    *,
    format: Format | None,
    swap: bool,
    subsets: int,
    seed: int,
) -> tuple[dict[str, Any], list[str]]:
    """Write every dataset's files; their paths, and those of the rejects; and what is to be told.

    Without a `format`, that of the dataset. `subsets` is how many rows are in each of a trait's,
    the random ones drawn by `seed`. Raises DataError as `write_outputs` does.
    """
    flagged = np.any([own.verdict.flagged for own in traits], axis=0)
    chosen = _subsets(job, scores, traits, subsets, seed)
    added_columns = _columns(job, scores, traits, stage)
    files: dict[str, Any] = {}
    notes: list[str] = []
    for number, dataset in enumerate(job.datasets):
        own = scores.of(number)
        added = Added(
            index=scores.index[own],
            columns={n: v[own] for n, v in added_columns.items()},
            flagged=flagged[own],
            subsets={name: rows[own] for name, rows in chosen.items()},
            content=scores.content[number],
        )
        wanted = Files(
            dataset.source,
            job.out if len(job.datasets) == 1 else job.out / dataset.name,
            format or ("parquet" if job.workers else _format(dataset.source)),
            verdict=bool(job.rule),
            swap=job.plan.columns if swap else None,
        )
        names = wanted.names(added)
        if job.workers is None:
            told = write_outputs(dataset.rows, added, wanted)
            files[dataset.name] = {name: str(wanted.path(name)) for name in names}
        else:
            told = Counter[str]()
            with job.progress.bar(f"writing {dataset.name}", len(added.index)) as bar:
                for n, own_told in cluster().write_parts(added, wanted, split=dataset.split):
                    bar.advance(n)
                    told += own_told
            files[dataset.name] = {name: str(wanted.folder / name) for name in names}
        notes += [f"{dataset.name}, {plural(n, 'row')}: {note}." for note, n in told.items()]
    files["rejects"] = str(job.rejects) if job.rejects.exists() else None
    return files, notes


def added_names(job: Job) -> list[str]:
    """The columns that are added to every row, known before any is scored."""
    judged = ("log_odds", "combined") if job.judge is not None else ()
    paired = ("rejected_projection",) if job.plan.kind == "pair" else ()
    staged = ("exact_difference",) if job.natural == "two-stage" else ()
    kinds = ("projection", "sigma", "difference", *paired, *staged, *judged, "flag")
    return [*(f"{trait}_{kind}" for trait in job.probe.traits for kind in kinds), "any_flag"]


def _format(source: str) -> Format:
    """Parquet for Parquet files and what `datasets` keeps, JSONL for others."""
    path = Path(source)
    if not path.exists() or is_saved_dataset(path):
        return "parquet"
    parquet = all(file.suffix.lower() == ".parquet" for file in files_of(path))
    return "parquet" if parquet else "jsonl"


def _columns(
    job: Job, scores: Scores, traits: Sequence[TraitScores], stage: Stage | None
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
    job: Job, scores: Scores, traits: Sequence[TraitScores], n: int, seed: int
) -> dict[str, np.ndarray]:
    """Which rows are in each trait's high, random and low subset, by file name."""
    found: dict[str, np.ndarray] = {}
    for own, trait in zip(traits, job.probe.traits, strict=True):
        known = np.flatnonzero(np.isfinite(own.value))
        if not n or len(known) < n:
            continue
        order = known[np.argsort(own.value[known], kind="stable")]
        drawn = np.random.default_rng(seed).permutation(known)[:n]
        for name, places in (("high", order[-n:]), ("random", drawn), ("low", order[:n])):
            chosen = np.zeros(len(scores), bool)
            chosen[places] = True
            found[f"subsets/{trait}/{name}"] = chosen
    return found
