"""Compare what data say before training with what training on them does.

1. Every dataset's rows are scored along every trait: mean projection difference, raw projection,
   judge and length.
2. The model is finetuned on each dataset once, and its finetuning shift and trait expression are
   measured.
3. Both are correlated over datasets, for the trait that a dataset is about and for the others
   (paper, section 6).

`parts` does the same at the level of rows: the high, random and low part of one mixed set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from personavec import results as base_results
from personavec.errors import UsageError
from personavec.model import LoadedModel
from personavec.progress import Progress
from personavec.results import versions
from personavec.rollouts import paired
from personavec.runs import claim, lock
from personavec.stats import clustered_bootstrap
from personavec.studies import Measured, judge_cells, measure
from personavec.studies.predict.bench import prediction_bench
from personavec.studies.predict.config import PredictionConfig, PredictionDataset
from personavec.studies.predict.correlations import PREDICTORS, correlations
from personavec.studies.predict.results import DatasetRecord, PredictionRecord, PredictionResults
from personavec.studies.predict.row_scores import RowScores
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


def run(
    loaded: LoadedModel,
    datasets: Sequence[PredictionDataset],
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: PredictionConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PredictionResults:
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
    settings = {
        "command": "prediction",
        "model": loaded.identity.as_dict(),
        "specs": {spec.name: spec.hash for spec in specs},
        "vectors": {v.trait: v.identity for v in vectors},
        "config": asdict(config),
    }
    with lock(out):
        claim(out, settings)
        bench = prediction_bench(loaded, vectors, specs, out, config, progress)
        drawn = [dataset.drawn(config.rows, config.seed) for dataset in datasets]
        scores = {dataset.name: bench.scores(dataset) for dataset in drawn}
        cells = {"base": measure(bench.cells, loaded, out / "base")}
        cells |= {dataset.name: bench.trained(dataset) for dataset in drawn}
        cells = judge_cells(cells, specs, bench.judge, out / "run" / "judged", progress)
        records = [
            prediction_record(d, scores[d.name], cells[d.name], cells["base"], v, config.seed)
            for d in drawn
            for v in vectors
        ]
        found = PredictionResults(
            model=loaded.identity,
            judge=bench.judge.identity(),
            datasets=tuple(
                DatasetRecord(name=d.name, trait=d.trait, rows=len(d.rows.rows)) for d in drawn
            ),
            records=tuple(records),
            correlations=tuple(correlations(records, config.seed)),
            settings=config,
            versions=versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        base_results.write(out / "results.json", found)
    return found


def prediction_record(
    dataset: PredictionDataset,
    scores: Sequence[RowScores],
    after: Measured,
    before: Measured,
    vector: PersonaVector,
    seed: int,
) -> PredictionRecord:
    """The predictors' means over rows, and what training did, for one trait."""
    trait = vector.trait
    usable = [each.traits[trait] for each in scores if each.reason is None]
    means: dict[str, float | None] = {}
    for name in PREDICTORS:
        values = [value for row in usable if (value := getattr(row, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    change = np.array(after.projections[trait]) - np.array(before.projections[trait])
    # In the vector's own units, so that traits can be put side by side.
    change = change / float(vector.neutral_prompt_last[vector.layer, 1])
    shift = clustered_bootstrap(change, list(range(len(change))), seed=seed)
    # Paired by question, since the base's answers are a sample, too.
    expression = paired(after.of(trait), before.of(trait), seed).log_odds
    return PredictionRecord(
        dataset=dataset.name,
        trait=trait,
        own=dataset.trait == trait,
        **means,
        rows=len(usable),
        shift=shift.value,
        shift_low=shift.low,
        shift_high=shift.high,
        expression=expression.value,
        expression_low=expression.low,
        expression_high=expression.high,
    )
