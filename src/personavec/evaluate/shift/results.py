"""What a shift found; `results.json` and `--json` hold these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from personavec.evaluate.shift.config import ShiftConfig
from personavec.in_notebooks import InNotebooks
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.results import OPTIONAL, Dump, Estimate, dump
from personavec.rollouts import Expression, ExpressionDifference


@dataclass(frozen=True, kw_only=True)
class ShiftFigures:
    """The change of the last prompt token's activation along a persona vector.

    Bounds are those of 95% intervals that resample questions.
    """

    layer: int
    shift: float
    """In units of the residual stream."""
    low: float
    high: float
    sigma: float
    """The shift in standard deviations of neutral prompts' last tokens."""
    sigma_low: float
    sigma_high: float
    norm: float
    """The shift in mean residual norms of the layer."""
    norm_low: float
    norm_high: float
    random_largest: float
    """The largest shift, in either direction, along random directions."""
    cosine: float | None
    """The share of the whole mean change that points along the vector; None without a change."""
    questions: int

    @property
    def in_sigma(self) -> Estimate:
        return Estimate(self.sigma, self.sigma_low, self.sigma_high)

    @property
    def in_norm(self) -> Estimate:
        return Estimate(self.norm, self.norm_low, self.norm_high)

    @property
    def projected(self) -> Estimate:
        return Estimate(self.shift, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class TraitShift(ShiftFigures):
    """The tuned model's shift along one trait, and how strongly the models show it."""

    expression_base: Expression
    expression_tuned: Expression
    expression_difference: ExpressionDifference
    """Tuned minus base, paired by question."""
    expression_control: Expression | None = field(default=None, metadata=OPTIONAL)
    control: ShiftFigures | None = field(default=None, metadata=OPTIONAL)
    """The control's own shift."""
    beyond_control: ShiftFigures | None = field(default=None, metadata=OPTIONAL)
    """The tuned model's shift minus the control's, question by question."""
    expression_beyond_control: ExpressionDifference | None = field(default=None, metadata=OPTIONAL)
    """Tuned minus control, paired by question."""

    @property
    def expressed(self) -> tuple[Estimate, Estimate, Estimate]:
        """Base, tuned, and the difference; trait scores where the judge gives no log-odds."""
        base, tuned, moved = self.expression_base, self.expression_tuned, self.expression_difference
        if base.log_odds is None:
            return base.estimate("mean"), tuned.estimate("mean"), moved.mean
        return base.estimate("log_odds"), tuned.estimate("log_odds"), moved.log_odds


@dataclass(frozen=True, kw_only=True)
class ShownAnswers:
    """A question with the first answer of every model."""

    question: str
    answers: dict[str, str]
    """By model: `base`, `tuned`, and perhaps `control`."""


@dataclass(frozen=True, kw_only=True)
class ConditionMet:
    """A condition of `--fail-if` that was met."""

    condition: str
    value: float
    """The reading, in the condition's unit."""
    low: float
    high: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShiftResults(InNotebooks):
    """What a finetune did to a model's traits."""

    format: int = 1
    base: ModelIdentity
    tuned: str
    control: str | None
    """The benign finetune that was measured beside the tuned model."""
    judge: Identity
    """The judge's identity."""
    traits: dict[str, TraitShift]
    met: tuple[ConditionMet, ...]
    unmeasured: tuple[str, ...]
    """Why a condition could not be measured, for each that could not."""
    conditions: tuple[str, ...]
    notes: tuple[str, ...]
    settings: ShiftConfig
    versions: dict[str, str]
    """Versions of the packages that the result depends on."""
    transcripts: dict[str, tuple[ShownAnswers, ...]] = field(default_factory=dict)
    """The first questions' answers, by trait; files of earlier versions have none."""
    seconds: float

    def summary(self) -> Dump:
        """What `shift --json` prints: all but the transcripts."""
        found = dump(self)
        del found["transcripts"]
        return found
