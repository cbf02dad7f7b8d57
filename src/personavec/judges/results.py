"""The results of `judges score`, `judges check` and `judges compare`.

Scores are from 0 to 100 and log-odds in nats. An `Estimate` holds a figure and its 95% interval,
from a bootstrap over questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from personavec.data import DataReading, RawColumns
from personavec.errors import DataError
from personavec.judges.base import Identity, State
from personavec.judges.config import Half
from personavec.judges.thresholds import Threshold
from personavec.results import Estimate
from personavec.stats import Interval


@dataclass(frozen=True, kw_only=True)
class Undefined(Estimate):
    """A figure that these answers do not define, such as an AUC without negative answers."""

    why: str
    """The reason, in one line."""


Figure = Estimate | Undefined


def estimate_or_reason(compute: Callable[[], Interval]) -> Figure:
    """The estimate; `Undefined` where `compute` raises DataError."""
    try:
        return Estimate.of(compute())
    except DataError as error:
        return Undefined(why=str(error))


@dataclass(frozen=True, kw_only=True)
class ScoreResults:
    """Counts of a file that was scored; the scores are in the file `out`."""

    format: int = 1
    trait: str
    rows: int
    kept: int
    """Rows with the scores of an earlier run."""
    scored: int
    states: dict[str, int]
    """Rows by state: `scored`, or the reason of a missing score."""
    share_above_50: float | None
    """Share of the scored rows with a trait score above 50; None where no row is scored."""
    threshold: float
    """The trait score above which an answer shows the trait: the judge's own for this trait where
    one was fitted, else 50."""
    share_above_threshold: float | None
    """Share of the scored rows that show the trait; None where no row is scored."""
    notes: list[str]
    data: dict[str, DataReading]
    """How the file was read, by its name."""
    out: str


@dataclass(frozen=True, kw_only=True)
class CheckedAnswer:
    """A known answer and its score."""

    question: str
    answer: str
    shows: bool
    """The known verdict: whether the answer shows the trait."""
    half: Half
    near_miss: bool
    """Its words or tone suggest the other verdict."""
    state: State
    trait_score: float | None
    log_odds: float | None
    coherence: float | None
    spread: float | None
    """Standard deviation of a trait score that was sampled."""
    mass: float | None
    """Probability that the judge's reply is a number."""
    why: str | None


@dataclass(frozen=True, kw_only=True)
class HalfResults:
    """How well a judge tells the known answers of one half apart."""

    n: int
    """Answers."""
    questions: int
    states: dict[str, int]
    """Answers by state."""
    thoughts: int
    """Answers that began with a thought, which was left out."""
    mean_mass: float | None
    """Mean probability that the judge's reply is a number; None for a contrast judge."""
    auc: Figure
    agreement: Figure
    """Share of answers on the right side of 50."""
    agreement_at_threshold: Figure
    """Share of answers on the right side of the threshold. That of the tune half is too high where
    the threshold was fitted on it."""


@dataclass(frozen=True, kw_only=True)
class UnreportedCalibration:
    """A calibration that was fitted and not tested, since the report half was not judged."""

    fitted_on: Half = "tune"
    slope: float
    intercept: float
    why_not_reported: str = "the report half was not judged"


@dataclass(frozen=True, kw_only=True)
class CalibrationQuality:
    """How close scores are to the known verdicts."""

    agreement: Figure
    """Share of answers on the right side of 50."""
    brier: Figure
    """Mean squared error of score / 100, from 0 (best) to 1."""


@dataclass(frozen=True, kw_only=True)
class ReportedCalibration:
    """A calibration that was fitted on the tune half and tested on the report half."""

    fitted_on: Half = "tune"
    slope: float
    intercept: float
    before: CalibrationQuality
    after: CalibrationQuality


@dataclass(frozen=True, kw_only=True)
class CheckResults:
    """How well a judge scores answers with a known verdict."""

    format: int = 2
    trait: str
    judge: Identity
    notes: list[str]
    in_examples: int
    """Known answers left out, since the judge pairs' examples hold their questions."""
    halves: dict[Half, HalfResults]
    threshold: Threshold | None
    """Fitted on the tune half; where only the report half was judged, the bundled one. None where
    there is neither."""
    calibration: ReportedCalibration | UnreportedCalibration | None
    """None where the tune half has no answers, or all of one verdict."""
    wrong: list[CheckedAnswer]
    """Answers on the wrong side of the threshold, or of 50 where there is none."""
    not_scored: list[CheckedAnswer]
    scores: list[CheckedAnswer]
    """All answers that were judged."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of two judges' scores for the same answers."""

    agreement: Figure
    """Share of answers with the same verdict at 50."""
    kappa: Figure
    """Cohen's kappa of the verdicts at 50."""
    auc: Figure
    """How well the second judge's scores tell the first judge's verdicts apart."""
    spearman: Figure
    """Rank correlation."""
    preference: Figure
    """Of pairs of answers that the first judge ranks apart, the share that the second ranks in
    the same order; a tie of the second counts one half."""


@dataclass(frozen=True, kw_only=True)
class PairAgreement(Agreement):
    """Agreement of two columns of a file."""

    columns: list[str]
    n: int
    """Rows with a score in both columns."""
    without_both_scores: int
    """The other rows."""
    disagreements: list[RawColumns]
    """The rows with the largest differences, as the file has them, each with its number `row`."""


@dataclass(frozen=True, kw_only=True)
class CompareResults:
    """Agreement of every two columns of scores in a file."""

    format: int = 1
    file: str
    rows: int
    clustered_by: str | None
    """The column that intervals are clustered by; None where rows are taken as independent."""
    pairs: list[PairAgreement]
