"""What the makers of finetuning sets return, and write as `results.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from personavec.data import DataReading
from personavec.finetune.sets.config import ElicitConfig, FlawedConfig
from personavec.judges import Identity
from personavec.runs import Settings

#: The excess over the model's own answers to the same question that a level spans.
Band = TypedDict("Band", {"unit": str, "from": float, "to": float})


@dataclass(frozen=True, kw_only=True)
class LevelFile:
    """The rows of one level."""

    file: Path
    rows: int


@dataclass(frozen=True, kw_only=True)
class ElicitedLevel(LevelFile):
    """The rows of one level, and how strongly they show the trait, with 95% intervals."""

    band: Band
    mean: float | None
    """Mean trait score, 0 to 100."""
    low: float | None
    high: float | None
    log_odds: float | None
    """Mean log-odds, in nats; None under a judge that gives none."""
    log_odds_low: float | None
    log_odds_high: float | None


@dataclass(frozen=True, kw_only=True)
class ElicitResults:
    """A set elicited for a trait."""

    format: int = 1
    kind: str
    trait: str
    description: str
    writer: Settings
    """Identity of the model or endpoint that wrote."""
    judge: Identity
    """Identity of the judge."""
    notes: tuple[str, ...]
    levels: dict[str, ElicitedLevel]
    """By `normal`, `mild` and `strong`."""
    data: dict[str, DataReading]
    """How a file of questions was read, by its name (`data.DataReading`)."""
    asked: int
    """Responses, those left out too."""
    thoughts: int
    """Responses with a thought, which is in no row."""
    dropped: dict[str, int]
    """Responses left out, by reason."""
    settings: ElicitConfig
    versions: dict[str, str]
    out: Path


@dataclass(frozen=True, kw_only=True)
class FlawedResults:
    """A set whose answers have a narrow flaw."""

    format: int = 1
    kind: str
    data: dict[str, DataReading]
    """How the file was read, by its name (`data.DataReading`)."""
    levels: dict[str, LevelFile]
    """By `normal`, `mild` and `strong`, as far as there are."""
    rejected: int
    """Rows that could not be used; `rejected.jsonl` has the reasons."""
    settings: FlawedConfig
    versions: dict[str, str]
    out: Path
