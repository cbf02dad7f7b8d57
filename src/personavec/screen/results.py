"""What a screen returns: the schema of its `results.json`, which the report and `--json` read."""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import TypedDict

from personavec.data import DataReading, Kind, Message
from personavec.in_notebooks import InNotebooks
from personavec.judges import Identity
from personavec.model import ModelIdentity
from personavec.model.engine import EngineRecord
from personavec.results import OPTIONAL, Dump, Estimate, dump
from personavec.runs import Settings
from personavec.screen.config import ScoredTurns
from personavec.stats import Interval


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with its 95% interval, robust to rows that share a prompt; None where unknown."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, found: Interval | None) -> Mean:
        """The record of an interval."""
        return cls(**mean_fields(found))

    @property
    def estimate(self) -> Estimate:
        """The same under the name that texts and charts know."""
        return Estimate(self.mean, self.low, self.high)


def mean_fields(found: Interval | None) -> dict[str, float | None]:
    """The fields of a `Mean`, for the records that hold more than these."""
    own = Estimate.of(found)
    return {"mean": own.value, "low": own.low, "high": own.high}


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """What stands in place of a control that could not be measured."""

    why: str


@dataclass(frozen=True, kw_only=True)
class GroupMean(Mean):
    """The rows of one value of a column, in units of the projection."""

    group: str
    n: int
    flagged: int | None
    """None where no line was drawn."""
    mean_without: float | None
    """The mean of all other rows: what dropping the group would leave."""
    rank: int
    """1 for the group of the highest mean."""


@dataclass(frozen=True, kw_only=True)
class ReferenceMean(Mean):
    """The reference set's rows."""

    n: int


@dataclass(frozen=True, kw_only=True)
class MatchedMean(Mean):
    """The rows' mean minus that of reference rows of like length."""

    n: int
    """Rows that have reference rows of like length."""
    without_match: int
    """Rows left out, whose lengths the reference set lacks."""


#: The share of rows that is flagged among those of `from` to `to` response tokens.
FlaggedByLength = TypedDict(
    "FlaggedByLength",
    {
        "from": int,
        "to": int,
        "n": int,
        "mean": float | None,
        "low": float | None,
        "high": float | None,
    },
)


@dataclass(frozen=True, kw_only=True)
class LengthControl:
    """How far the values follow the length of the response."""

    spearman: Estimate
    """Rank correlation of the value with the number of response tokens."""
    flags_by_length: tuple[FlaggedByLength, ...] | None = field(default=None, metadata=OPTIONAL)
    """Shares by fifths of the length; where a line was drawn."""
    matched: MatchedMean | NotMeasured | None = field(default=None, metadata=OPTIONAL)
    """Where there is a reference set."""


@dataclass(frozen=True, kw_only=True)
class DirectionEffect:
    """How far the rows lie along one direction."""

    effect: float | None
    """Their mean, minus the reference's if there is one, in standard deviations of the rows."""
    share_over: float | None
    """Share of rows over the reference's 95th percentile; None without a reference."""


@dataclass(frozen=True, kw_only=True)
class RandomControl:
    """The trait's effect beside those of random directions at its layer."""

    trait: DirectionEffect
    directions: tuple[DirectionEffect, ...]


@dataclass(frozen=True, kw_only=True)
class ScreenControls:
    """Whether it is only length, or any direction."""

    length: LengthControl | NotMeasured
    random: RandomControl | NotMeasured


@dataclass(frozen=True, kw_only=True)
class ValueHistogram:
    """Counts of rows in bins of their value; the outermost bins hold what lies beyond."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    reference: tuple[int, ...] | None
    """The reference set's rows in the same bins."""


@dataclass(frozen=True, kw_only=True)
class TwoStageMean:
    """What the exact differences of some rows say of the whole."""

    cheap_mean: float
    """Mean of the cheap differences of all rows."""
    top: int
    """Rows of the top slice."""
    sample: int
    """Rows drawn at random from the others."""
    without_natural: int
    """Of both, those whose prompts have no natural response."""
    recall: Mean
    """Share of the rows over the line that the top slice holds."""
    of: int
    """All rows."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a response's text."""

    text: str
    projection: float
    """Mean over its tokens."""
    span: bool
    """Whether it is one of the stretches that project highest."""
    message: int
    """Place of the response among the row's messages."""


@dataclass(frozen=True, kw_only=True)
class RankedRow:
    """One of a trait's highest or lowest rows, with its texts."""

    dataset: str
    index: int
    """Place in the dataset, counted from 0."""
    id: str
    messages: tuple[Message, ...]
    rejected: str | None
    """A preference pair's other response."""
    natural: str | None
    """The model's own response, where one was generated."""
    pieces: tuple[Piece, ...] | None
    """The response in stretches, where it was explained."""
    value: float | None
    """What rows are ranked by."""
    difference: float | None
    projection: float | None
    log_odds: float | None
    """The judge's, in nats."""
    n_tokens: int
    flagged: bool
    groups: dict[str, str | None]
    """Its values of the columns that rows are grouped by."""


@dataclass(frozen=True, kw_only=True)
class RankedRows:
    """The rows that push toward a trait most, and those that push away from it."""

    high: tuple[RankedRow, ...]
    low: tuple[RankedRow, ...]


@dataclass(frozen=True, kw_only=True)
class ScreenedTrait(Mean):
    """One trait over all rows; the mean is that of their differences.

    Values are in units of the projection on the trait's unit vector at `layer`.
    """

    layer: int
    n: int
    """Rows with a value."""
    missing: int
    """Rows without a natural response to compare with."""
    sigma: float
    """Standard deviation of projections on neutral prompts."""
    sd: float | None
    """Standard deviation of the rows' values."""
    projection: Mean
    threshold: float | None
    """The line above which rows are flagged; None where none was drawn."""
    threshold_low: float | None
    threshold_high: float | None
    flagged: int | None
    share_flagged: Mean | None
    histogram: ValueHistogram
    ranked: RankedRows
    groups: dict[str, tuple[GroupMean, ...]]
    """By column: its groups, the highest mean first."""
    reference: ReferenceMean | None = field(default=None, metadata=OPTIONAL)
    against_reference: Mean | None = field(default=None, metadata=OPTIONAL)
    """The rows' mean minus the reference's."""
    controls: ScreenControls
    two_stage: TwoStageMean | None = field(default=None, metadata=OPTIONAL)
    left_above: int | None = field(default=None, metadata=OPTIONAL)
    """Rows above 0 that no trait flagged, where rows are flagged by their number, not by a line."""


@dataclass(frozen=True, kw_only=True)
class DatasetCounts:
    """How many rows of a dataset were scored, and how many could not be."""

    name: str
    rows: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class ScreenEngines:
    """The engine that generated natural responses, and the one that scored: one does both."""

    generating: EngineRecord
    scoring: EngineRecord


@dataclass(frozen=True, kw_only=True)
class ScreenResults(InNotebooks):
    """What a screen found; `results.json` is its dump."""

    format: int = 1
    command: str = "screen"
    model: ModelIdentity
    engine: ScreenEngines
    kind: Kind
    natural: str
    """What responses were compared with; `rejected` in preference pairs."""
    turns: ScoredTurns
    rows: int
    rejected: int
    datasets: tuple[DatasetCounts, ...]
    reference: DatasetCounts | None
    data: dict[str, DataReading]
    """By dataset: how it was read."""
    judge: Identity | None
    rule: Settings | None
    flagged_any: int | None
    """Rows flagged for at least one trait; None where no line was drawn."""
    traits: dict[str, ScreenedTrait]
    notes: tuple[str, ...]
    settings: Settings
    versions: dict[str, str]
    out: str
    files: dict[str, dict[str, str] | str | None]
    """By dataset: the paths of its files by name; and `rejects` and `explained`."""
    seconds: float
    tokens_per_second: float | None
    """None where a continued run found everything scored."""


#: What `screen --json` prints of a trait, and of the whole.
_TRAIT_KEYS = ("layer", "mean", "low", "high", "threshold", "flagged", "missing")
_KEYS = (
    *("format", "rows", "rejected", "natural", "engine", "kind", "traits", "flagged_any", "data"),
    *("notes", "out", "files", "report", "tokens_per_second"),
)


def summarised(results: ScreenResults) -> Dump:
    """The object that `screen --json` prints."""
    found = dump(results)
    found["report"] = f"{results.out}/report.html"
    found["traits"] = {
        trait: {name: record[name] for name in _TRAIT_KEYS}
        for trait, record in found["traits"].items()
    }
    return {name: found[name] for name in _KEYS}
