"""What data say before training, against what training on them does.

Over a set of datasets, each finetuned on once: the mean projection difference of the rows along
every trait's vector, beside raw projection, judge and length, against the finetuning shift and the
trait expression afterwards, for the trait that a dataset is about and for the others (paper,
section 6). And at the level of rows: the high, random and low part of one mixed set, by projection
difference.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from personavec.data import DataRow, RawRow
from personavec.errors import DataError, UsageError
from personavec.finetune import FinetuneConfig, TrainingConfig, TrainingRows, pipeline as finetune
from personavec.judges import ContrastJudge
from personavec.model import LoadedModel, tuned_model
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.results import dump, versions, without_nan
from personavec.rollouts import Naturals, paired, summarise
from personavec.runs import append_records, atomic_write, claim, lock, read_scores
from personavec.screen import Plan, judge_rows, prepare, probe, score_prepared
from personavec.stats import clustered_bootstrap
from personavec.studies import Bench, Measured, answer_tasks, is_measured, judge_cells, measure
from personavec.studies.compare_mitigations import SMALL
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector
from personavec.wording import plural

#: What is said of data before training, by its key in a row's scores.
PREDICTORS = ("projection_difference", "projection", "judge", "length")
#: What training did, by its key in a finetune's record.
OUTCOMES = ("shift", "expression")

#: Rows scored between two writes to disk.
_GROUP = 64
#: Parts of fewer rows are no finetuning sets.
MIN_PART = 10


@dataclass(frozen=True)
class Dataset:
    """Rows to finetune on, and the trait that they were made to induce, if any."""

    name: str
    rows: TrainingRows
    trait: str | None = None


@dataclass(frozen=True)
class PredictionConfig:
    """Everything that decides the figures, beside the model, the datasets and the vectors."""

    training: TrainingConfig = SMALL
    rows: int | None = 96
    """At most so many rows of a dataset, drawn at random; None for all."""
    questions: int | None = 12
    samples: int = 1
    max_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.batch_tokens) < 1:
            raise UsageError("samples, max_tokens and batch_tokens must be at least 1")


@dataclass(frozen=True, eq=False)
class _Job:
    bench: Bench
    specs: tuple[TraitSpec, ...]
    judge: ContrastJudge
    naturals: Naturals
    config: PredictionConfig
    out: Path


def run(
    loaded: LoadedModel,
    datasets: Sequence[Dataset],
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: PredictionConfig | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score, finetune on and measure every dataset; the correlations over them.

    `specs` has one for each vector, in order. Writes `results.json` and a folder for each dataset
    into `out`; a killed run continues, and datasets can be added to a finished one. Raises
    UsageError for fewer than 3 datasets or two of one name, and whatever a finetune raises.
    """
    config = config or PredictionConfig()
    progress = progress or Progress()
    if len(datasets) < 3 or len({d.name for d in datasets}) < len(datasets):
        raise UsageError("a correlation needs at least 3 datasets, each with a name of its own")
    if not vectors or [v.trait for v in vectors] != [s.name for s in specs]:
        raise UsageError("give vectors, and each one's trait spec in the same order")
    started = time.monotonic()
    with lock(out):
        claim(
            out,
            {
                "command": "prediction",
                "model": loaded.identity.as_dict(),
                "specs": {spec.name: spec.hash for spec in specs},
                "vectors": {v.trait: v.identity for v in vectors},
                "config": asdict(config),
            },
        )
        job = _job(loaded, vectors, specs, out, config, progress)
        drawn = [_drawn(each, config) for each in datasets]
        said = {each.name: _said(job, each) for each in drawn}
        cells = {"base": measure(job.bench, loaded, out / "base")}
        for each in drawn:
            cells[each.name] = _trained(job, each)
        cells = judge_cells(cells, specs, job.judge, out / "run" / "judged", progress)
        records = [
            _record(each, said[each.name], cells[each.name], cells["base"], vector, config.seed)
            for each in drawn
            for vector in vectors
        ]
        results = without_nan(
            {
                "command": "prediction",
                "model": loaded.identity.as_dict(),
                "judge": job.judge.identity(),
                "datasets": [
                    {"name": d.name, "trait": d.trait, "rows": len(d.rows.rows)} for d in drawn
                ],
                "records": records,
                "correlations": correlations(records, config.seed),
                "settings": asdict(config),
                "versions": versions(),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    return results


def _job(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: PredictionConfig,
    progress: Progress,
) -> _Job:
    questions = {spec.name: spec.questions.evaluation[-(config.questions or 0) :] for spec in specs}
    bench = Bench(
        base=loaded,
        vectors=tuple(vectors),
        questions=questions,
        tasks=tuple(
            task
            for spec in specs
            for task in answer_tasks(spec, questions[spec.name], config.samples)
        ),
        sampling=Sampling(config.max_tokens, config.temperature, seed=config.seed),
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    naturals = Naturals(loaded, out / "run" / "natural", max_tokens=config.max_tokens)
    return _Job(bench, tuple(specs), ContrastJudge(loaded), naturals, config, out)


def _drawn(dataset: Dataset, config: PredictionConfig) -> Dataset:
    """Up to `rows` rows of a dataset, the same in every run."""
    rows = dataset.rows.rows
    if config.rows is None or len(rows) <= config.rows:
        return dataset
    chosen = random.Random(config.seed).sample(range(len(rows)), config.rows)
    source = {**dataset.rows.source, "drawn": config.rows, "seed": config.seed}
    kept = tuple(rows[i] for i in sorted(chosen))
    return replace(dataset, rows=replace(dataset.rows, rows=kept, source=source))


# Before training


def _said(job: _Job, dataset: Dataset) -> list[dict[str, Any]]:
    messages = [row.messages for row in dataset.rows.rows]
    data = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).hexdigest()
    claim(job.out / dataset.name, {"command": "prediction, one dataset", "data": data})
    return scored_rows(
        job.bench,
        job.specs,
        job.judge,
        job.naturals,
        dataset.rows.rows,
        job.out / dataset.name / "scores.jsonl",
        label=dataset.name,
    )


def scored_rows(
    bench: Bench,
    specs: Sequence[TraitSpec],
    judge: ContrastJudge,
    naturals: Naturals,
    rows: Sequence[DataRow],
    path: Path,
    *,
    label: str,
) -> list[dict[str, Any]]:
    """What is said of every row's last turn: by trait, the predictors; None where there is none."""
    own = probe(list(bench.vectors), bench.base, random=1)
    ids = [row.id for row in rows]

    def kept() -> list[dict[str, Any]]:
        return read_scores(path, ids, id_key="row", by="traits", traits=own.traits)

    done = len(kept())
    plan = Plan(turns="last")
    with bench.progress.bar(f"scoring {label}", len(rows)) as bar:
        bar.advance(done)
        for start in range(done, len(rows), _GROUP):
            group = rows[start : start + _GROUP]
            raws = [
                RawRow(start + i, label, start + i + 1, {"messages": list(row.messages)})
                for i, row in enumerate(group)
            ]
            prepared = prepare(bench.base, raws, plan)
            columns = score_prepared(bench.base, prepared, own, plan, naturals=naturals)
            judged = judge_rows(judge, list(specs), prepared)
            append_records(
                path,
                [
                    without_nan(
                        {
                            "row": row.id,
                            "reason": columns.reason[i],
                            "traits": {
                                trait: {
                                    "projection_difference": float(columns.minus_natural[i, t]),
                                    "projection": float(columns.projection[i, t]),
                                    "judge": float(judged[i, t]),
                                    "length": float(columns.n_tokens[i]),
                                }
                                for t, trait in enumerate(own.traits)
                            },
                        }
                    )
                    for i, row in enumerate(group)
                ],
            )
            bar.advance(len(group))
    return kept()


# After it


def _trained(job: _Job, dataset: Dataset) -> Measured:
    folder = job.out / dataset.name
    found = finetune.run(
        job.bench.base,
        dataset.rows,
        folder / "finetune",
        FinetuneConfig(training=replace(job.config.training, seed=job.config.seed)),
        progress=job.bench.progress,
    )
    cell = folder / "cell"
    if is_measured(cell, job.bench):
        return measure(job.bench, job.bench.base, cell)
    with tuned_model(job.bench.base, str(found.model)) as tuned:
        return measure(job.bench, tuned, cell)


def _record(
    dataset: Dataset,
    said: Sequence[Mapping[str, Any]],
    after: Measured,
    before: Measured,
    vector: PersonaVector,
    seed: int,
) -> dict[str, Any]:
    """One dataset and one trait: the predictors' means over rows, and what training did."""
    trait = vector.trait
    usable = [record["traits"][trait] for record in said if record["reason"] is None]
    means = {}
    for name in PREDICTORS:
        values = [row[name] for row in usable if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    change = np.array(after.projections[trait]) - np.array(before.projections[trait])
    # In the vector's own units, so that traits can be put side by side.
    change = change / float(vector.neutral_prompt_last[vector.layer, 1])
    shift = clustered_bootstrap(change, list(range(len(change))), seed=seed)
    # Question by question: the base's answers are a sample, too.
    expression = dump(paired(after.of(trait), before.of(trait), seed).log_odds)
    return {
        "dataset": dataset.name,
        "trait": trait,
        "own": dataset.trait == trait,
        **means,
        "rows": len(usable),
        "shift": shift.value,
        "shift_low": shift.low,
        "shift_high": shift.high,
        "expression": expression["value"],
        "expression_low": expression["low"],
        "expression_high": expression["high"],
    }


def correlations(records: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Pearson's r of every predictor with every outcome, and of shift with expression.

    For own traits (a dataset's own) and for other ones, where datasets about no trait
    count too, and for each trait over all datasets. Intervals resample datasets. None for fewer
    than 3 datasets.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {
        "own": [r for r in records if r["own"]],
        "other": [r for r in records if not r["own"]],
    }
    for trait in dict.fromkeys(r["trait"] for r in records):
        groups[trait] = [r for r in records if r["trait"] == trait]
    pairs = [("shift", "expression"), *((p, o) for p in PREDICTORS for o in OUTCOMES)]
    return [
        {"over": name, "of": x, "with": y, **correlation(group, x, y, seed)}
        for name, group in groups.items()
        for x, y in pairs
    ]


def correlation(
    records: Sequence[Mapping[str, Any]], x: str, y: str, seed: int = 0, n: int = 2000
) -> dict[str, Any]:
    """Pearson's r with its 95% interval over resampled datasets."""
    usable = [r for r in records if r[x] is not None and r[y] is not None]
    names = sorted({r["dataset"] for r in usable})
    nothing = {"r": None, "low": None, "high": None, "n": len(usable), "datasets": len(names)}
    if len(names) < 3:
        return nothing
    by_dataset = {
        name: np.array([[r[x], r[y]] for r in usable if r["dataset"] == name]) for name in names
    }
    value = _pearson(np.concatenate(list(by_dataset.values())))
    if value is None:
        return nothing
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        drawn = rng.choice(len(names), len(names))
        if (r := _pearson(np.concatenate([by_dataset[names[i]] for i in drawn]))) is not None:
            found.append(r)
    low, high = np.quantile(found, [0.025, 0.975])
    return {**nothing, "r": value, "low": float(low), "high": float(high)}


def _pearson(points: np.ndarray) -> float | None:
    """None where one side does not vary."""
    if len(points) < 3 or min(np.ptp(points, axis=0)) < 1e-12:
        return None
    return float(np.corrcoef(points[:, 0], points[:, 1])[0, 1])


# Parts of one mixed set


def parts(
    rows: Sequence[DataRow],
    said: Sequence[Mapping[str, Any]],
    trait: str,
    n: int,
    *,
    seed: int = 0,
    judged_below: float | None = None,
) -> dict[str, tuple[DataRow, ...]]:
    """The `n` rows of highest, of random and of lowest projection difference along a trait.

    With `judged_below`, rows whose log-odds by the judge are at or above it are removed first.
    Raises DataError for fewer than 2n usable rows.
    """
    usable = [
        (row, record["traits"][trait]["projection_difference"])
        for row, record in zip(rows, said, strict=True)
        if record["traits"][trait]["projection_difference"] is not None
        and (
            judged_below is None
            or (
                record["traits"][trait]["judge"] is not None
                and record["traits"][trait]["judge"] < judged_below
            )
        )
    ]
    if len(usable) < 2 * n:
        raise DataError(f"{plural(len(usable), 'usable row')} for two parts of {n}; give more rows")
    ordered = sorted(usable, key=lambda pair: pair[1])
    drawn = random.Random(seed).sample(usable, n)
    chosen = {"high": ordered[-n:], "random": drawn, "low": ordered[:n]}
    return {name: tuple(row for row, _ in pairs) for name, pairs in chosen.items()}


def run_parts(
    loaded: LoadedModel,
    data: TrainingRows,
    vector: PersonaVector,
    spec: TraitSpec,
    out: Path,
    config: PredictionConfig | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Finetune on the high, random and low part of one mixed set, twice; expression after each.

    Once from all rows, once from those whose log-odds by the judge are below 0: whether projection
    finds what the judge does not. Each part has `config.rows` rows, or a third of what there is;
    where that is fewer than 10 it is left out, and a note says so.
    """
    config = config or PredictionConfig()
    progress = progress or Progress()
    with lock(out):
        claim(
            out,
            {
                "command": "prediction, parts",
                "model": loaded.identity.as_dict(),
                "data": data.source,
                "spec": spec.hash,
                "vector": vector.identity,
                "config": asdict(config),
            },
        )
        job = _job(loaded, [vector], [spec], out, config, progress)
        said = _said(job, Dataset("mixed", data, spec.name))
        cells = {"base": measure(job.bench, loaded, out / "base")}
        made: list[dict[str, Any]] = []
        notes: list[str] = []
        for rows, below in (("all", None), ("not flagged by the judge", 0.0)):
            usable = sum(below is None or _judged(each, spec.name) < below for each in said)
            n = min(config.rows or usable // 3, usable // 3)
            if n < MIN_PART:
                notes.append(f"Rows {rows}: {usable}, too few for parts of {MIN_PART}.")
                continue
            chosen = parts(data.rows, said, spec.name, n, seed=config.seed, judged_below=below)
            for part, kept in chosen.items():
                name = f"{part}, {rows}"
                cells[name] = _trained(
                    job, Dataset(name.replace(", ", "-").replace(" ", "-"), TrainingRows.of(kept))
                )
                ids = {row.id for row in kept}
                differences = [
                    each["traits"][spec.name]["projection_difference"]
                    for each in said
                    if each["row"] in ids
                ]
                made.append(
                    {
                        "rows": rows,
                        "part": part,
                        "name": name,
                        "n": len(kept),
                        "projection_difference": float(np.mean(differences)),
                    }
                )
        cells = judge_cells(cells, [spec], job.judge, out / "run" / "judged", progress)
        for each in made:
            each["expression"] = dump(
                summarise(cells[each["name"]].of(spec.name), refusals=False, seed=config.seed)
            )
        results = {
            "command": "prediction, parts",
            "trait": spec.name,
            "model": loaded.identity.as_dict(),
            "base": dump(summarise(cells["base"].of(spec.name), refusals=False, seed=config.seed)),
            "parts": made,
            "notes": notes,
            "settings": asdict(config),
            "versions": versions(),
        }
        atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
    return results


def _judged(record: Mapping[str, Any], trait: str) -> float:
    """A row's log-odds; one that was not judged counts as flagged."""
    value = record["traits"][trait]["judge"]
    return float("inf") if value is None else value
