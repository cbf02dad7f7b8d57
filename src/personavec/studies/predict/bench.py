"""What all datasets of a study are scored, finetuned on and measured with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from personavec.finetune import FinetuneConfig, run as finetune
from personavec.judges import ContrastJudge
from personavec.model import LoadedModel, tuned_model
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.runs import claim
from personavec.studies import Bench, Measured, answer_tasks, is_measured, measure
from personavec.studies.predict.config import PredictionConfig, PredictionDataset
from personavec.studies.predict.row_scores import RowScores, scored_rows
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class PredictionBench:
    """The bench of cells, with what rows are scored by."""

    cells: Bench
    specs: tuple[TraitSpec, ...]
    judge: ContrastJudge
    naturals: Naturals
    config: PredictionConfig
    out: Path

    def scores(self, dataset: PredictionDataset) -> list[RowScores]:
        """What the rows say before training. Raises SettingsMismatchError for changed rows."""
        rows, folder = dataset.rows.rows, self.out / dataset.name
        messages = json.dumps([row.messages for row in rows])
        data = hashlib.blake2b(messages.encode(), digest_size=16).hexdigest()
        claim(folder, {"command": "prediction, one dataset", "data": data})
        return scored_rows(
            self.cells,
            self.specs,
            self.judge,
            self.naturals,
            rows,
            folder / "scores.jsonl",
            label=dataset.name,
        )

    def trained(self, dataset: PredictionDataset) -> Measured:
        """What is measured of the model after finetuning on the rows."""
        base, folder = self.cells.base, self.out / dataset.name
        training = replace(self.config.training, seed=self.config.seed)
        found = finetune(
            base,
            dataset.rows,
            folder / "finetune",
            FinetuneConfig(training=training),
            progress=self.cells.progress,
        )
        cell = folder / "cell"
        if is_measured(cell, self.cells):
            return measure(self.cells, base, cell)
        with tuned_model(base, str(found.model)) as tuned:
            return measure(self.cells, tuned, cell)


def prediction_bench(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    specs: Sequence[TraitSpec],
    out: Path,
    config: PredictionConfig,
    progress: Progress,
) -> PredictionBench:
    """The bench of a study in `out`."""
    questions = {spec.name: spec.questions.evaluation[-(config.questions or 0) :] for spec in specs}
    tasks = [
        task for spec in specs for task in answer_tasks(spec, questions[spec.name], config.samples)
    ]
    cells = Bench(
        base=loaded,
        vectors=tuple(vectors),
        questions=questions,
        tasks=tuple(tasks),
        sampling=Sampling(config.max_tokens, config.temperature, seed=config.seed),
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    naturals = Naturals(loaded, out / "run" / "natural", max_tokens=config.max_tokens)
    return PredictionBench(cells, tuple(specs), ContrastJudge(loaded), naturals, config, out)
