"""What all stages of a screen share: model, vectors, datasets, and how rows are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personavec.judges import Judge
from personavec.model import LoadedModel
from personavec.model.engine import Engine
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.screen.config import FlagRule, NaturalSide
from personavec.screen.datasets import ScreenDataset
from personavec.screen.score import Plan, Probe
from personavec.screen.table import Side
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class ScreenJob:
    """One screen: what is scored, by which model, along which vectors, and where it is written."""

    loaded: LoadedModel
    vectors: tuple[PersonaVector, ...]
    probe: Probe
    plan: Plan
    natural: NaturalSide
    """What stands for the model's own response to a row's prompt; not used for pairs."""
    rule: FlagRule
    datasets: tuple[ScreenDataset, ...]
    reference: ScreenDataset | None
    naturals: Naturals | None
    judge: Judge | None
    specs: tuple[TraitSpec, ...]
    out: Path
    progress: Progress = field(default_factory=Progress)
    engine: Engine | None = None
    """What scores rows and generates natural responses; None: the transformers model."""
    workers: Any = None
    """`on_ray.WorkerSetup` for a Ray cluster's workers; None if this process scores."""

    @property
    def inputs(self) -> list[ScreenDataset]:
        """All that is scored: the datasets, and then the reference."""
        return [*self.datasets, *([self.reference] if self.reference else [])]

    @property
    def two_stage(self) -> bool:
        """Whether some rows get an exact difference beside the cheap one."""
        return self.natural == "two-stage" and self.plan.kind == "row"

    def is_exact(self, dataset: ScreenDataset) -> bool:
        """Whether every row of a dataset is compared with its natural response.

        With two stages the reference is too: exact differences are held against its line.
        """
        return self.natural == "generate" or (self.two_stage and dataset is self.reference)

    def keeps_prompts(self, dataset: ScreenDataset) -> bool:
        """Whether the dataset's prompts are kept with the scores, for the second stage."""
        return self.two_stage and dataset is not self.reference

    @property
    def rejects(self) -> Path:
        """The file of rows that cannot be used."""
        return self.out / "rejects.jsonl"

    @property
    def side(self) -> Side:
        """Which difference every row has; two stages add an exact one to some rows."""
        if self.plan.kind == "pair":
            return "pair"
        if self.natural == "none":
            return "projection"
        return "minus_natural" if self.natural == "generate" else "minus_prompt"
