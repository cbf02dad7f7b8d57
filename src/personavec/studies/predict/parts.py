"""Finetune on the high, random and low part of one mixed set, by projection difference."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from personavec import results as base_results
from personavec.data import DataRow
from personavec.errors import DataError
from personavec.finetune import TrainingRows
from personavec.model import LoadedModel
from personavec.progress import Progress
from personavec.results import versions
from personavec.rollouts import Expression, summarise
from personavec.runs import claim, lock
from personavec.studies import Measured, judge_cells, measure
from personavec.studies.predict.bench import prediction_bench
from personavec.studies.predict.config import PredictionConfig, PredictionDataset
from personavec.studies.predict.results import Part, PartResult, PartsResults
from personavec.studies.predict.row_scores import RowScores
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector
from personavec.wording import plural

#: Parts of fewer rows are too small to finetune on.
MIN_PART = 10
#: Which rows parts are drawn from: those whose log-odds by the judge are below this, or all.
_DRAWN_FROM: dict[str, float | None] = {"all": None, "not flagged by the judge": 0.0}


@dataclass(frozen=True)
class RowsPart:
    """Rows of a mixed set to finetune on."""

    rows: str
    """Which rows it was drawn from."""
    part: Part
    kept: tuple[DataRow, ...]

    @property
    def name(self) -> str:
        return f"{self.part}, {self.rows}"

    @property
    def dataset(self) -> PredictionDataset:
        folder = self.name.replace(", ", "-").replace(" ", "-")
        return PredictionDataset(folder, TrainingRows.of(self.kept))


def run_parts(
    loaded: LoadedModel,
    data: TrainingRows,
    vector: PersonaVector,
    spec: TraitSpec,
    out: Path,
    config: PredictionConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PartsResults:
    """Finetune on the high, random and low part of one mixed set, twice; expression after each.

    Once from all rows, once from those whose log-odds by the judge are below 0, which shows
    whether projection finds what the judge does not. Each part has `config.rows` rows, or a third
    of what there is; where that is fewer than 10 it is left out, and a note says so.
    """
    config = config or PredictionConfig()
    progress = progress or Progress()
    settings = {
        "command": "prediction, parts",
        "model": loaded.identity.as_dict(),
        "data": data.source,
        "spec": spec.hash,
        "vector": vector.identity,
        "config": asdict(config),
    }
    with lock(out):
        claim(out, settings)
        bench = prediction_bench(loaded, [vector], [spec], out, config, progress)
        scores = bench.scores(PredictionDataset("mixed", data, spec.name))
        made, notes = _made(data.rows, scores, spec.name, config)
        cells = {"base": measure(bench.cells, loaded, out / "base")}
        cells |= {part.name: bench.trained(part.dataset) for part in made}
        cells = judge_cells(cells, [spec], bench.judge, out / "run" / "judged", progress)
        expressed = _expressions(cells, spec.name, config.seed)
        found = PartsResults(
            trait=spec.name,
            model=loaded.identity,
            base=expressed["base"],
            parts=tuple(_result(part, scores, spec.name, expressed[part.name]) for part in made),
            notes=tuple(notes),
            settings=config,
            versions=versions(),
        )
        base_results.write(out / "results.json", found)
    return found


def parts(
    rows: Sequence[DataRow],
    scores: Sequence[RowScores],
    trait: str,
    n: int,
    *,
    seed: int = 0,
    judged_below: float | None = None,
) -> dict[Part, tuple[DataRow, ...]]:
    """The `n` rows of highest, of random and of lowest projection difference along a trait.

    With `judged_below`, rows whose log-odds by the judge are at or above it are removed first.
    Raises DataError for fewer than 2n usable rows.
    """
    usable = [
        (row, difference)
        for row, each in zip(rows, scores, strict=True)
        if (difference := each.traits[trait].projection_difference) is not None
        and _judged_below(each, trait, judged_below)
    ]
    if len(usable) < 2 * n:
        raise DataError(f"{plural(len(usable), 'usable row')} for two parts of {n}; give more rows")
    ordered = sorted(usable, key=lambda pair: pair[1])
    drawn = random.Random(seed).sample(usable, n)
    chosen: dict[Part, list[tuple[DataRow, float]]] = {
        "high": ordered[-n:],
        "random": drawn,
        "low": ordered[:n],
    }
    return {name: tuple(row for row, _ in pairs) for name, pairs in chosen.items()}


def _judged_below(scores: RowScores, trait: str, line: float | None) -> bool:
    """Whether the judge leaves a row; one that was not judged counts as flagged."""
    judged = scores.traits[trait].judge
    return line is None or (math.inf if judged is None else judged) < line


def _made(
    rows: Sequence[DataRow], scores: Sequence[RowScores], trait: str, config: PredictionConfig
) -> tuple[list[RowsPart], list[str]]:
    """The parts that are large enough, and a note for those that are not."""
    made: list[RowsPart] = []
    notes: list[str] = []
    for which, line in _DRAWN_FROM.items():
        usable = sum(_judged_below(each, trait, line) for each in scores)
        n = min(config.rows or usable // 3, usable // 3)
        if n < MIN_PART:
            notes.append(f"Rows {which}: {usable}, too few for parts of {MIN_PART}.")
            continue
        chosen = parts(rows, scores, trait, n, seed=config.seed, judged_below=line)
        made += [RowsPart(which, part, kept) for part, kept in chosen.items()]
    return made, notes


def _expressions(cells: Mapping[str, Measured], trait: str, seed: int) -> dict[str, Expression]:
    return {
        name: summarise(cell.of(trait), refusals=False, seed=seed) for name, cell in cells.items()
    }


def _result(
    part: RowsPart, scores: Sequence[RowScores], trait: str, expression: Expression
) -> PartResult:
    ids = {row.id for row in part.kept}
    differences = [
        difference
        for each in scores
        if each.row in ids and (difference := each.traits[trait].projection_difference) is not None
    ]
    return PartResult(
        rows=part.rows,
        part=part.part,
        name=part.name,
        n=len(part.kept),
        projection_difference=float(np.mean(differences)),
        expression=expression,
    )
