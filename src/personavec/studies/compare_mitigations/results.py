"""What a comparison of mitigations returns, and writes as `results.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from personavec.data import DataReading
from personavec.finetune import PreventativeDose
from personavec.in_notebooks import InNotebooks
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.results import OPTIONAL, Estimate
from personavec.rollouts import Expression, ExpressionDifference
from personavec.runs import Settings


@dataclass(frozen=True)
class CapabilityEstimate(Estimate):
    """The share of right answers, 0 to 1."""

    n: int | None = field(default=None, metadata=OPTIONAL)
    """Items."""
    chance: float | None = field(default=None, metadata=OPTIONAL)
    """The share that guessing gets."""


@dataclass(frozen=True)
class ShiftEstimate(Estimate):
    """The finetuning shift along the vector, in units of the residual stream."""

    sigma: float | None = None
    """The same in standard deviations of neutral prompts."""


@dataclass(frozen=True, kw_only=True)
class ArmMeasures:
    """What was measured of one arm, all seeds together, beside the base and the plain finetune."""

    expression: Expression
    by_seed: tuple[float | None, ...]
    """Mean log-odds of each seed, or the mean trait score under a judge without log-odds."""
    minus_base: ExpressionDifference
    minus_plain: ExpressionDifference
    expression_under_cues: Expression | None
    minus_base_under_cues: ExpressionDifference | None
    held_out_loss: Estimate
    """Nats a token."""
    loss_ratio: Estimate
    """Held-out loss over the plain finetune's."""
    loss_ratio_by: dict[str, Estimate]
    """The same for each part of the data."""
    perplexity: Estimate
    perplexity_ratio: Estimate
    """Perplexity over the base's."""
    shift: ShiftEstimate
    capability: CapabilityEstimate
    capability_minus_base: Estimate
    capability_minus_plain: Estimate
    within_base: bool | None
    """Expression is at or below the upper limit of the base's interval."""
    learnt: bool | None
    """Held-out loss is at most 10% above the plain finetune's."""
    capable: bool | None
    """Capability is at most one standard error below the plain finetune's."""


@dataclass(frozen=True, kw_only=True)
class ArmResults(ArmMeasures):
    """One arm: what it is, what was measured of it, and what its finetunes used, by seed."""

    mitigation: str
    amount: float | str | None
    coefficients: tuple[float | str | None, ...]
    training_loss: tuple[float, ...]
    training_seconds: tuple[float, ...]
    dose: PreventativeDose | None


@dataclass(frozen=True, kw_only=True)
class ComparedRows:
    """How many rows were used for what."""

    trained_on: int
    held_out: int
    """Texts held out."""
    rejected: int
    source: Settings
    """Identity of the data by content."""


@dataclass(frozen=True, kw_only=True)
class ShownAnswer:
    """One arm's answer to a question that the report shows."""

    arm: str
    variant: str
    """`plain`, or `cue` under a cue of the training data."""
    response: str
    trait_score: float | None
    log_odds: float | None
    coherence: float | None


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One question with the answers of all arms."""

    question: str
    answers: tuple[ShownAnswer, ...]


@dataclass(frozen=True, kw_only=True)
class CompareResults(InNotebooks):
    """Every arm's figures on the same rows, questions and seeds."""

    format: int = 1
    command: str = "compare-mitigations"
    trait: dict[str, str]
    """Its `name` and `description`."""
    model: ModelIdentity
    """Identity of the base model."""
    judge: Identity
    """Identity of the judge."""
    layer: int | str
    """Layer at which mitigations act, or `all`."""
    rows: ComparedRows
    data: dict[str, DataReading]
    """How the rows were read, by dataset (`data.DataReading`)."""
    seeds: tuple[int, ...]
    questions: tuple[str, ...]
    arms: dict[str, ArmResults]
    """By name; `base` and `none` are always there."""
    transcripts: tuple[Transcript, ...]
    notes: tuple[str, ...]
    settings: Settings
    versions: dict[str, str]
    out: Path
    seconds: float
