"""Which files a screen leaves of every dataset, and which columns it adds to their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from personavec.data import files_of, is_saved_dataset
from personavec.screen.arrow_types import Types
from personavec.screen.cluster import cluster
from personavec.screen.config import Format, ScreenConfig
from personavec.screen.datasets import ScreenDataset
from personavec.screen.job import ScreenJob
from personavec.screen.outputs import Added, Files, write_outputs
from personavec.screen.ranked import TextReader
from personavec.screen.second_stage import SecondStage
from personavec.screen.table import Scores
from personavec.screen.trait_scores import TraitScores, any_flagged
from personavec.wording import plural


def write_files(
    job: ScreenJob,
    scores: Scores,
    traits: Sequence[TraitScores],
    stage: SecondStage | None,
    config: ScreenConfig,
    types: Sequence[Types | None],
    texts: TextReader,
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Write every dataset's files, and show its rows to `texts`; the files' paths, and notes.

    `types` are those of the datasets' columns, where they are known. Raises DataError as
    `write_outputs` does.
    """
    flagged = any_flagged(traits)
    chosen = _subsets(job, scores, traits, config.subsets, config.seed)
    columns = _columns(job, scores, traits, stage)
    paths: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for number, dataset in enumerate(job.datasets):
        own = scores.of(number)
        added = Added(
            index=scores.index[own],
            columns={name: values[own] for name, values in columns.items()},
            flagged=flagged[own],
            subsets={name: rows[own] for name, rows in chosen.items()},
            content=scores.content[number],
        )
        wanted = Files(
            dataset.source,
            job.out if len(job.datasets) == 1 else job.out / dataset.name,
            output_format(dataset, config, on_cluster=job.workers is not None),
            split_flagged=bool(job.rule),
            swap=job.plan.columns if config.swap else None,
        )
        if job.workers is None:
            counts = _write_here(dataset, added, wanted, own, types[number], texts)
        else:
            counts = _write_on_cluster(job, dataset, added, wanted, own, texts)
        paths[dataset.name] = _paths(wanted, added, in_parts=job.workers is not None)
        notes += [f"{dataset.name}, {plural(n, 'row')}: {note}." for note, n in counts.items()]
    return paths, notes


def _write_here(
    dataset: ScreenDataset,
    added: Added,
    wanted: Files,
    places: np.ndarray,
    types: Types | None,
    texts: TextReader,
) -> Counter[str]:
    return write_outputs(
        dataset.rows,
        added,
        wanted,
        types=types,
        on_row=lambda place, raw: texts.add(dataset.name, int(places[place]), raw),
    )


def _write_on_cluster(
    job: ScreenJob,
    dataset: ScreenDataset,
    added: Added,
    wanted: Files,
    places: np.ndarray,
    texts: TextReader,
) -> Counter[str]:
    """Workers write the files; this process reads the ranked rows' texts."""
    counts = Counter[str]()
    with job.progress.bar(f"writing {dataset.name}", len(added.index)) as bar:
        for n, noted in cluster().write_parts(added, wanted, split=dataset.split):
            bar.advance(n)
            counts += noted
    shown = np.isin(places, list(texts.places))
    for place, raw in dataset.rows_at(added.index[shown], places[shown], added.content):
        texts.add(dataset.name, place, raw)
    return counts


def _paths(wanted: Files, added: Added, *, in_parts: bool) -> dict[str, str]:
    return {
        name: str(wanted.folder / name if in_parts else wanted.path(name))
        for name in wanted.names(added)
    }


def output_format(dataset: ScreenDataset, config: ScreenConfig, *, on_cluster: bool) -> Format:
    """Parquet for Parquet files and what `datasets` keeps, JSONL for others; Parquet on a cluster.

    The config's format, if it names one, goes before.
    """
    if config.format or on_cluster:
        return config.format or "parquet"
    path = Path(dataset.source)
    if not path.exists() or is_saved_dataset(path):
        return "parquet"
    parquet = all(file.suffix.lower() == ".parquet" for file in files_of(path))
    return "parquet" if parquet else "jsonl"


def added_names(job: ScreenJob) -> list[str]:
    """The columns that are added to every row, known before any is scored."""
    judged = ("log_odds", "combined") if job.judge is not None else ()
    paired = ("rejected_projection",) if job.plan.kind == "pair" else ()
    staged = ("exact_difference",) if job.natural == "two-stage" else ()
    kinds = (
        "projection",
        "sigma",
        "difference",
        "difference_sigma",
        *paired,
        *staged,
        *judged,
        "flag",
    )
    return [*(f"{trait}_{kind}" for trait in job.probe.traits for kind in kinds), "any_flag"]


def _columns(
    job: ScreenJob, scores: Scores, traits: Sequence[TraitScores], stage: SecondStage | None
) -> dict[str, np.ndarray]:
    """The columns that are added, [row] each."""
    added: dict[str, np.ndarray] = {}
    for trait, own in zip(job.probe.traits, traits, strict=True):
        for kind, values in _trait_columns(job, scores, own, stage).items():
            added[f"{trait}_{kind}"] = values
    ruled = any(own.flags.threshold is not None for own in traits)
    added["any_flag"] = _flags(any_flagged(traits), known=ruled)
    return added


def _trait_columns(
    job: ScreenJob, scores: Scores, own: TraitScores, stage: SecondStage | None
) -> Mapping[str, np.ndarray]:
    i = own.trait
    mean, spread = job.vectors[i].neutral_response_mean[job.probe.layer(i)].tolist()
    projection = scores.projection[:, i].astype(np.float64)
    added: dict[str, np.ndarray] = {"projection": projection}
    if spread > 0:
        added["sigma"] = (projection - mean) / spread
    if job.plan.kind == "pair":
        added["rejected_projection"] = scores.rejected_projection[:, i]
    raw = job.side == "projection"
    added["difference"] = np.full(len(scores), np.nan) if raw else own.value
    if spread > 0:
        added["difference_sigma"] = added["difference"] / spread
    if stage is not None:
        added["exact_difference"] = stage.exact[:, i]
    if job.judge is not None:
        added["log_odds"] = scores.judged[:, i]
        added["combined"] = own.ranking
    added["flag"] = _flags(own.flags.flagged, known=own.flags.threshold is not None)
    return added


def _flags(flagged: np.ndarray, *, known: bool) -> np.ndarray:
    """True or False; None for all rows where no line was drawn."""
    return flagged if known else np.full(len(flagged), None, dtype=object)


def _subsets(
    job: ScreenJob, scores: Scores, traits: Sequence[TraitScores], n: int, seed: int
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
