"""What all stages of a screen share: models, vectors, datasets, and how rows are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personavec.judges import Judge
from personavec.model import LoadedModel
from personavec.model.engine import Engine
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.screen import engines
from personavec.screen.config import NaturalSide, Rule
from personavec.screen.datasets import Dataset
from personavec.screen.score import Plan, Probe
from personavec.screen.verdicts import Side
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class Job:
    """What all stages need."""

    loaded: LoadedModel
    vectors: tuple[PersonaVector, ...]
    probe: Probe
    plan: Plan
    natural: NaturalSide
    """What stands for the model's own response to a row's prompt; nothing does in pairs."""
    rule: Rule
    datasets: tuple[Dataset, ...]
    reference: Dataset | None
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
    def inputs(self) -> list[Dataset]:
        """All that is scored: the datasets, and then the reference."""
        return [*self.datasets, *([self.reference] if self.reference else [])]

    @property
    def rejects(self) -> Path:
        """The file of rows that cannot be used."""
        return self.out / "rejects.jsonl"

    @property
    def side(self) -> Side:
        """Which difference every row has; that of the second stage stands beside it."""
        if self.plan.kind == "pair":
            return "pair"
        if self.natural == "none":
            return "projection"
        return "minus_natural" if self.natural == "generate" else "minus_prompt"
