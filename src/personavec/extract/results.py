"""What an extraction measured, as `results.json` holds it; the report and `--json` read it.

Log-odds are in nats, coherence is 0 to 100, and intervals are 95%. None stands for what could not
be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personavec.data import DataReading
from personavec.extract.config import ExtractConfig
from personavec.in_notebooks import InNotebooks
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.model.engine import EngineRecord
from personavec.results import Estimate, dump
from personavec.runs import Settings
from personavec.stats import Interval
from personavec.traits import Origin, Polarity, TraitSpec
from personavec.vectors import Estimator, StoredVerdict, Verdict, said_check


@dataclass(frozen=True, kw_only=True)
class ExtractedTrait:
    """The trait, and where its spec came from."""

    name: str
    description: str
    origin: Origin


@dataclass(frozen=True, kw_only=True)
class SpecSizes:
    """A spec's hash, and how many of its parts were used."""

    hash: str
    pairs: int
    judge_pairs: int
    extraction_questions: int
    evaluation_questions: int

    @classmethod
    def of(cls, spec: TraitSpec, whole: str) -> SpecSizes:
        """The sizes of the part that was used, with the hash of the whole."""
        return cls(
            hash=whole,
            pairs=len(spec.instruction),
            judge_pairs=len(spec.judge_instruction),
            extraction_questions=len(spec.questions.extraction),
            evaluation_questions=len(spec.questions.evaluation),
        )


@dataclass(frozen=True, kw_only=True)
class RolloutCounts:
    """Rollouts of one polarity: how many, how many were kept, and why the others were not."""

    of: int
    kept: int
    dropped: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class MeanLogOdds:
    """Mean log-odds with its interval over questions."""

    log_odds: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> MeanLogOdds:
        found = Estimate.of(interval)
        return cls(log_odds=found.value, low=found.low, high=found.high)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.log_odds, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class SteeredDose:
    """What steering at one layer with one coefficient did, over all its questions."""

    layer: int
    estimator: Estimator = "mean"
    coefficient: float
    """Multiple of the direction as extracted."""
    log_odds: float | None
    low: float | None
    high: float | None
    coherence: float | None
    coherence_low: float | None
    coherence_high: float | None
    coherent: bool
    """Whether mean coherence is at or above the floor."""
    n: int
    """Scored responses."""
    empty: int
    """Responses without a score."""

    @property
    def log_odds_estimate(self) -> Estimate:
        return Estimate(self.log_odds, self.low, self.high)

    @property
    def coherence_estimate(self) -> Estimate:
        return Estimate(self.coherence, self.coherence_low, self.coherence_high)

    @property
    def log_odds_interval(self) -> Interval:
        """Log-odds with their interval, NaN for what could not be measured."""
        found = (self.log_odds, self.low, self.high)
        return Interval(*(math.nan if value is None else value for value in found))


@dataclass(frozen=True, kw_only=True)
class DoseResponse(SteeredDose):
    """A point of the dose-response curve."""

    relative_dose: float | None
    """Norm of what is added, over the mean norm of the residual stream."""


@dataclass(frozen=True, kw_only=True)
class RandomDose(SteeredDose):
    """What a random direction of the vector's norm did: the control."""

    direction: int


@dataclass(frozen=True, kw_only=True)
class WrongWay:
    """Share of questions whose mean log-odds do not rise with the coefficient."""

    share: float | None
    low: float | None
    high: float | None
    coefficients: tuple[float, float]
    """Those that are compared: 0, and the upper end of the coherent range."""

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.share, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class MassiveActivation:
    """The coordinate that holds most of the squared norm of the difference of means."""

    layer: int
    coordinate: int
    share: float | None
    warning: bool
    """The share is so large that the direction may follow the coordinate and not the trait."""
    share_in_use: float | None
    """Largest share of one coordinate in the vector in use."""


@dataclass(frozen=True, kw_only=True)
class SteeredAnswer:
    """A steered response to a question of a transcript."""

    coefficient: float
    response: str
    log_odds: float | None
    coherence: float | None


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One question's responses: steered, unsteered, and under system prompts."""

    question: str
    answers: tuple[SteeredAnswer, ...]
    prompted: dict[Polarity, str]


@dataclass(frozen=True, kw_only=True)
class ValidationCheck:
    """A test of the vector; `detail` has its figures."""

    name: str
    verdict: Verdict
    detail: str

    @property
    def said(self) -> str:
        """What it found, in words."""
        return said_check(self.name, self.verdict)


@dataclass(frozen=True, kw_only=True)
class ValidationVerdict:
    """Whether the vector can be relied on: steering with it works, and it is stable.

    Failed where a check failed, else not decided where one is not, else passed.
    """

    verdict: Verdict
    checks: tuple[ValidationCheck, ...]

    @classmethod
    def of(cls, checks: Sequence[ValidationCheck]) -> ValidationVerdict:
        found = StoredVerdict.of((check.name, check.verdict) for check in checks)
        return cls(verdict=found.value, checks=tuple(checks))

    @property
    def words(self) -> str:
        """As every report, command and page prints it."""
        return StoredVerdict.of((check.name, check.verdict) for check in self.checks).words

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


@dataclass(frozen=True, kw_only=True)
class ExtractResults(InNotebooks):
    """Everything that an extraction measured, and from what."""

    format: int = 2
    trait: ExtractedTrait
    spec: SpecSizes
    model: ModelIdentity
    engine: EngineRecord
    judge: Identity
    settings: ExtractConfig
    versions: dict[str, str]
    notes: tuple[str, ...]
    rejected: int
    """Rows of adopted files that could not be used."""
    data: dict[str, DataReading]
    """How adopted files were read, by file: counts of readers, columns left out, notes, reasons."""
    rollouts: dict[Polarity, RolloutCounts]
    log_odds: dict[Polarity, tuple[float, ...]]
    """Of every scored extraction rollout."""
    mean_log_odds: dict[Literal["pos", "neg", "unsteered"], MeanLogOdds]
    coherence_dropped_share: dict[Polarity, float | None]
    """Share of the rollouts on the right side of the trait that coherence alone dropped."""
    sweep: tuple[SteeredDose, ...]
    layer: int
    """The selected layer."""
    estimator: Estimator
    coherence_floor: float
    """Mean coherence from which a dose is coherent."""
    dose_response: tuple[DoseResponse, ...]
    control: tuple[RandomDose, ...]
    prompted: dict[Polarity, MeanLogOdds]
    """Under system prompts, without steering."""
    coherent_range: tuple[float, float]
    """Coefficients around 0 that keep responses coherent."""
    wrong_way: WrongWay | None
    split_half_cosine: Estimate | None
    question_agreement: Estimate | None
    separability_auc: Estimate | None
    relative_norm: tuple[float | None, ...]
    """Norm of the vector over the mean norm of the residual stream, by layer from the embedding."""
    massive: MassiveActivation
    transcripts: tuple[Transcript, ...]
    verdict: ValidationVerdict
    seconds: dict[str, float]
    """By stage."""

    def vector_meta(self) -> Settings:
        """What `vector.json` records of it."""
        found = dump(self)
        taken = {
            name: found[name]
            for name in (
                *("model", "settings", "versions", "coherent_range", "dose_response"),
                *("separability_auc", "split_half_cosine"),
            )
        }
        return {
            "description": self.trait.description,
            "spec_hash": self.spec.hash,
            "engine": self.engine["name"],
            "seed": self.settings.seed,
            "kept": {polarity: counts.kept for polarity, counts in self.rollouts.items()},
            "verdict": self.verdict.verdict,
            "checks": {check.name: check.verdict for check in self.verdict.checks},
            **taken,
        }


@dataclass(frozen=True, kw_only=True)
class KeptCounts:
    """Rollouts kept of either polarity, and how many each had."""

    pos: int
    neg: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What `extract --json` prints; its fields are those of `ExtractResults`, in short."""

    format: int = 1
    trait: str
    model: str
    vector: Path
    layer: int
    estimator: Estimator
    kept: KeptCounts
    rejected: int
    data: dict[str, DataReading]
    log_odds: dict[Literal["pos", "neg", "unsteered"], MeanLogOdds]
    dose_response: tuple[DoseResponse, ...]
    control: tuple[RandomDose, ...]
    coherent_range: tuple[float, float]
    wrong_way: WrongWay | None
    separability_auc: Estimate | None
    split_half_cosine: Estimate | None
    passed: bool
    verdict: Verdict
    checks: tuple[ValidationCheck, ...]
    notes: tuple[str, ...]
    report: Path
    seconds: float

    @property
    def words(self) -> str:
        """The verdict as every report, command and page prints it."""
        return StoredVerdict.of((check.name, check.verdict) for check in self.checks).words


def summary(results: ExtractResults, out: Path) -> ExtractSummary:
    """The results in short, with the places of the vector and the report in `out`."""
    pos, neg = results.rollouts["pos"], results.rollouts["neg"]
    return ExtractSummary(
        trait=results.trait.name,
        model=results.model.name,
        vector=out,
        layer=results.layer,
        estimator=results.estimator,
        kept=KeptCounts(pos=pos.kept, neg=neg.kept, of=pos.of),
        rejected=results.rejected,
        data=results.data,
        log_odds=results.mean_log_odds,
        dose_response=results.dose_response,
        control=results.control,
        coherent_range=results.coherent_range,
        wrong_way=results.wrong_way,
        separability_auc=results.separability_auc,
        split_half_cosine=results.split_half_cosine,
        passed=results.verdict.passed,
        verdict=results.verdict.verdict,
        checks=results.verdict.checks,
        notes=results.notes,
        report=out / "report.html",
        seconds=round(sum(results.seconds.values()), 1),
    )
