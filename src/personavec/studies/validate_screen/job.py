"""What all stages of a validation share, and one trait with its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.judges import ContrastJudge
from personavec.model import LoadedModel
from personavec.progress import Progress
from personavec.rollouts import Naturals
from personavec.studies.validate_screen.baselines import Labelled
from personavec.studies.validate_screen.config import ValidateScreenConfig
from personavec.studies.validate_screen.planting import StudyRow
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class ValidationJob:
    """One validation: the model, its judge and natural responses, and where it is written."""

    loaded: LoadedModel
    judge: ContrastJudge
    naturals: Naturals
    sampled: Naturals | None
    """Several natural responses to a prompt, where they are wanted."""
    config: ValidateScreenConfig
    out: Path
    progress: Progress


@dataclass(frozen=True, eq=False)
class PlantedTrait:
    """One trait with its vector and its rows."""

    vector: PersonaVector
    spec: TraitSpec
    rows: tuple[StudyRow, ...]
    """Planted and clean ones to test on, without those of the data."""
    training: Labelled
    elicited: int
    """Responses that were elicited for `rows`, kept or not."""

    def n(self, kind: str) -> int:
        return sum(row.kind == kind for row in self.rows)
