"""What a prediction study found; `results.json` holds these fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict

from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.rollouts import Expression
from personavec.studies.predict.config import PredictionConfig

Predictor = Literal["projection_difference", "projection", "judge", "length"]
Outcome = Literal["shift", "expression"]
Part = Literal["high", "random", "low"]


@dataclass(frozen=True, kw_only=True)
class PredictionRecord:
    """One dataset and one trait: means over rows before training, and what training did."""

    dataset: str
    trait: str
    own: bool
    """Whether the dataset was made to induce this trait."""
    projection_difference: float | None
    """In units of the residual stream."""
    projection: float | None
    """In units of the residual stream."""
    judge: float | None
    """Log-odds, in nats."""
    length: float | None
    """Tokens of a response."""
    rows: int
    """Rows that could be scored."""
    shift: float
    """The finetuning shift, in standard deviations of neutral prompts' last tokens."""
    shift_low: float
    shift_high: float
    expression: float | None
    """The change of log-odds, tuned minus base, in nats."""
    expression_low: float | None
    expression_high: float | None


#: Pearson's r over datasets, with its 95% interval that resamples them. Functional, since `with`
#: is no name of a field.
Correlation = TypedDict(
    "Correlation",
    {
        "over": str,  # `own` traits, `other` ones, or one trait's name
        "of": str,
        "with": str,
        "r": float | None,  # None for fewer than 3 datasets, or where a side does not vary
        "low": float | None,
        "high": float | None,
        "n": int,  # pairs of values
        "datasets": int,
    },
)


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """A dataset that was finetuned on."""

    name: str
    trait: str | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class PredictionResults:
    """What data predict, over several datasets."""

    format: int = 1
    command: str = "prediction"
    model: ModelIdentity
    judge: Identity
    """The judge's identity."""
    datasets: tuple[DatasetRecord, ...]
    records: tuple[PredictionRecord, ...]
    correlations: tuple[Correlation, ...]
    settings: PredictionConfig
    versions: dict[str, str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """One part of a mixed set, and what the model expresses after finetuning on it."""

    rows: str
    """Which rows the part was drawn from: all, or those that the judge did not flag."""
    part: Part
    name: str
    n: int
    """Rows."""
    projection_difference: float
    """Mean over rows, in units of the residual stream."""
    expression: Expression


@dataclass(frozen=True, kw_only=True)
class PartsResults:
    """What the parts of one mixed set do."""

    format: int = 1
    command: str = "prediction, parts"
    trait: str
    model: ModelIdentity
    base: Expression
    """Before finetuning."""
    parts: tuple[PartResult, ...]
    notes: tuple[str, ...]
    settings: PredictionConfig
    versions: dict[str, str]
