"""What decides a prediction study's figures: its settings and its datasets."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from personavec.errors import UsageError
from personavec.finetune import TrainingConfig, TrainingRows
from personavec.studies.compare_mitigations import SMALL


@dataclass(frozen=True)
class PredictionConfig:
    """Everything that decides the figures, beside the model, the datasets and the vectors."""

    training: TrainingConfig = SMALL
    rows: int | None = 96
    """At most so many rows of a dataset, drawn at random; None for all."""
    questions: int | None = 12
    """Only the last N evaluation questions of a trait; None for all."""
    samples: int = 1
    """Responses per question."""
    max_tokens: int = 64
    """Longest response, in tokens."""
    temperature: float = 0.7
    seed: int = 0
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.batch_tokens) < 1:
            raise UsageError("samples, max_tokens and batch_tokens must be at least 1")


@dataclass(frozen=True)
class PredictionDataset:
    """Rows to finetune on, and the trait that they were made to induce, if any."""

    name: str
    rows: TrainingRows
    trait: str | None = None

    def drawn(self, n: int | None, seed: int) -> PredictionDataset:
        """Up to `n` rows of it, the same in every run."""
        rows = self.rows.rows
        if n is None or len(rows) <= n:
            return self
        chosen = random.Random(seed).sample(range(len(rows)), n)
        source = {**self.rows.source, "drawn": n, "seed": seed}
        kept = tuple(rows[i] for i in sorted(chosen))
        return replace(self, rows=replace(self.rows, rows=kept, source=source))
