"""What a replication found; `results.json` holds these fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.results import Estimate
from personavec.studies.replicate.config import ReplicateConfig, StageName

#: Finished now or before, read from kept evidence, or not run.
StageState = Literal["finished", "from evidence", "not run"]
Outcome = Literal["replicates", "does not replicate", "not decided", "not run"]


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    """What became of one stage."""

    name: StageName
    title: str
    state: StageState
    why: str | None
    """Why it was not run."""
    seconds: float
    """In all calls that were not killed within it."""
    forwards: int
    """Token-forwards that were planned."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One figure that a verdict rests on."""

    of: str
    """A trait, or a set and a trait."""
    outcome: Outcome
    ours: Estimate
    null: str
    """What it is compared with, in words with its numbers."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of the paper, and whether it holds here."""

    number: int
    title: str
    claim: str
    """In our words."""
    source: str
    """The paper's section."""
    papers: str | None
    """What the paper gives in the same unit; None where it gives no figure for the whole."""
    rule: str
    """When it counts as replicated."""
    outcome: Outcome
    ours: str
    """Our figure in words."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True)
class ReplicateResults:
    """The nine statements with their verdicts, and what became of the stages."""

    format: int = 1
    command: str = "replicate"
    model: ModelIdentity
    judge: Identity
    statements: tuple[Statement, ...]
    stages: tuple[StageOutcome, ...]
    not_done: tuple[str, ...]
    """What could not be done, and why."""
    settings: ReplicateConfig
    versions: dict[str, str]
    out: Path
    seconds: float
