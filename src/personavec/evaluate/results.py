"""What an evaluation found; `results.json` and `--json` hold these fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from personavec.data import DataReading
from personavec.errors import DataError, UsageError
from personavec.evaluate.config import EvaluateConfig
from personavec.evaluate.subject import Arm, SteeredBy, Subject
from personavec.in_notebooks import InNotebooks
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.results import OPTIONAL, Dump, Estimate, dump
from personavec.rollouts import Expression, ExpressionDifference
from personavec.wording import plural

Variant = Literal["plain", "cue"]


@dataclass(frozen=True, kw_only=True)
class SteeringRecord:
    """A vector that steered."""

    trait: str
    coefficient: float
    """In multiples of the vector as it was extracted."""
    layer: int | Literal["all"]
    vector: str
    """The vector's hash."""
    cap: float | None = field(default=None, metadata=OPTIONAL)
    """Percentile of ordinary tokens that projections were capped at."""
    ceiling: float | None = field(default=None, metadata=OPTIONAL)
    """That percentile as a projection, in units of the residual stream."""

    @classmethod
    def of(cls, steered_by: SteeredBy) -> SteeringRecord:
        vector, cap = steered_by.vector, steered_by.cap
        calibration = vector.calibration if cap is not None else None
        return cls(
            trait=vector.trait,
            coefficient=steered_by.coefficient,
            layer=vector.layer if steered_by.layer is None else steered_by.layer,
            vector=vector.hash,
            cap=cap,
            ceiling=calibration.ceiling(cap) if calibration and cap is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class SubjectRecord:
    """A model and what steers it, as results and manifests name it."""

    identity: ModelIdentity
    engine: str
    steering: tuple[SteeringRecord, ...]

    @classmethod
    def of(cls, subject: Subject) -> SubjectRecord:
        return cls(
            identity=subject.loaded.identity,
            engine=subject.engine_name,
            steering=tuple(map(SteeringRecord.of, subject.steered_by)),
        )


@dataclass(frozen=True, kw_only=True)
class CapabilityResult:
    """How a model did on one task, with the 95% interval resampling items."""

    value: float | None
    """Mean of the metric over items; None for a single item."""
    low: float | None
    high: float | None
    n: int
    """Items."""
    metric: str
    chance: float | None
    """What guessing reaches, where the task has choices."""

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """The model that was compared to; differences are the evaluated model's minus its own."""

    model: str
    identity: ModelIdentity
    engine: str
    steering: tuple[SteeringRecord, ...]
    traits: dict[str, Expression]
    differences: dict[str, ExpressionDifference]
    """By trait, paired by question."""
    capability: dict[str, CapabilityResult]
    """By task."""
    capability_differences: dict[str, Estimate]
    """By task, paired by item."""


@dataclass(frozen=True, kw_only=True)
class ComparedUnderCues:
    """The model that was compared to, under the same cues."""

    traits: dict[str, Expression]
    differences: dict[str, ExpressionDifference]
    """The evaluated model's minus its own, by trait."""


@dataclass(frozen=True, kw_only=True)
class CueResults:
    """What the model showed under the cues of training data."""

    file: str
    rows: int
    rejected: int
    """Rows that hold no conversation."""
    system_prompts: int
    """Distinct cues that are system prompts."""
    opening_turns: int
    """Distinct cues that are a question and its answer."""
    used: int
    """Cues that were put before questions."""
    traits: dict[str, Expression]
    differences: dict[str, ExpressionDifference]
    """With cues minus without, by trait."""
    compare_to: ComparedUnderCues | None


@dataclass(frozen=True, kw_only=True)
class TranscriptAnswer:
    """One answer that the report shows."""

    arm: Arm
    """Who answered: the evaluated model, or the other one."""
    variant: Variant
    """How it was asked: plainly, or under a cue."""
    response: str
    state: str
    trait_score: float | None
    log_odds: float | None
    coherence: float | None


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """A question with the answers of everyone who answered."""

    question: str
    answers: tuple[TranscriptAnswer, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluateResults(InNotebooks):
    """What an evaluation found."""

    format: int = 1
    model: str
    identity: ModelIdentity
    engine: str
    """What generated the answers."""
    steering: tuple[SteeringRecord, ...]
    traits: dict[str, Expression]
    capability: dict[str, CapabilityResult]
    """By task."""
    compare_to: ComparedModel | None
    data: dict[str, DataReading]
    """How the file of cues was read, by its name."""
    cue: CueResults | None
    judge: Identity
    """The judge's identity."""
    settings: EvaluateConfig
    versions: dict[str, str]
    """Versions of the packages that the result depends on."""
    notes: tuple[str, ...]
    """What a reader must know before believing a number."""
    transcripts: dict[str, tuple[Transcript, ...]]
    """The first questions' answers, by trait."""
    seconds: float

    def summary(self, report: Path | None) -> Dump:
        """What `evaluate --json` prints: all but the transcripts, and the place of the report."""
        found = dump(self)
        del found["transcripts"]
        return {**found, "report": str(report) if report else None}

    def difference(self, trait: str) -> ExpressionDifference:
        """The model's expression minus that of the one it was compared to, paired by question.

        Raises UsageError where it was compared to none, or the trait was not asked for.
        """
        if self.compare_to is None or trait not in self.compare_to.differences:
            raise UsageError(f"{self.model} was compared to no other model along '{trait}'")
        return self.compare_to.differences[trait]

    def measured_for(
        self, model: str, other: str, cues: str
    ) -> list[tuple[str, Mapping[str, Expression]]]:
        """Everyone's expression by trait, with what each is called."""
        groups: list[tuple[str, Mapping[str, Expression]]] = [(model, self.traits)]
        if self.compare_to:
            groups.append((other, self.compare_to.traits))
        if self.cue:
            groups.append((f"{model}{cues}", self.cue.traits))
            if self.cue.compare_to:
                groups.append((f"{other}{cues}", self.cue.compare_to.traits))
        return groups

    def check_measured(self) -> None:
        """Raise DataError for traits of which nothing was measured, alone or in comparison."""
        missing = [
            f"none of {plural(of.of, 'answer')}{whose} could be scored for {name} "
            f"({', '.join(f'{n} {state}' for state, n in of.states.items())})"
            for whose, traits in self.measured_for("", " of the other model", " with cues")
            for name, of in traits.items()
            if not of.n
        ]
        if self.compare_to:
            missing += [
                f"no question has a score on both sides for {name}"
                for name, of in self.compare_to.differences.items()
                if not of.questions
            ]
        if missing:
            raise DataError("; ".join(missing))
