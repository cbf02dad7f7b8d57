"""What decides a screen's result; its fields are the options of `personavec screen`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from personavec.conditions import Unit, parse_condition
from personavec.data.conversations import ColumnMap
from personavec.errors import UsageError
from personavec.options import JUDGE, MAIN, MODEL, Count, Specs, between, options, panel, parsed
from personavec.runs import check_writable

NaturalSide = Literal["generate", "last-prompt", "none", "two-stage"]
ScoredTurns = Literal["all", "last"]
Format = Literal["jsonl", "parquet"]

#: Units of a fixed cut.
UNITS: tuple[Unit, ...] = ("sigma", "norm", "projection")

LINE = panel("Which rows are flagged")
NATURAL = panel("Natural responses")
DATA = panel("Data")
FILES = panel("Files and report")
N = Parameter(metavar="N")


@dataclass(frozen=True)
class Cut:
    """A fixed line for one trait; rows above it are flagged."""

    trait: str
    number: float
    unit: Unit = "sigma"

    @classmethod
    def parse(cls, text: str) -> Cut:
        """From `TRAIT>NUMBER[UNIT]`, such as `evil>3` or `evil>0.1norm`. Raises UsageError."""
        found = parse_condition(text, units=UNITS)
        if found.side == "<":
            raise UsageError(f"{text}: rows are flagged above a line; write TRAIT>NUMBER")
        return cls(found.trait, found.threshold, found.unit)


CUTS = parsed(lambda text: [Cut.parse(text)], "TRAIT>NUMBER[UNIT]", many=True, name="--cut")


@options(LINE)
@dataclass(frozen=True)
class FlagRule:
    """How the line is drawn. One of the four, or none: then no row is flagged."""

    percentile: Annotated[float | None, between(0, 100)] = None
    """A percentile of the reference in place of its 95th."""
    top: Annotated[int | None, MAIN, between(1), N] = None
    """Flag each trait's N highest rows, high or not; all others stay in the clean file."""
    bottom: Annotated[int | None, between(1), N] = None
    """Flag each trait's N lowest rows."""
    cuts: Annotated[tuple[Cut, ...], CUTS] = ()
    """Flag above a number of sigma, norm or projection; repeat it."""

    def __post_init__(self) -> None:
        given = [self.percentile is not None, self.top is not None, self.bottom is not None]
        if sum([*given, bool(self.cuts)]) > 1:
            raise UsageError("choose one of --reference, --top, --bottom and --cut")
        traits = [cut.trait for cut in self.cuts]
        if twice := [trait for trait in traits if traits.count(trait) > 1]:
            raise UsageError(f"two --cut are of the trait '{twice[0]}'; give each trait one")

    def __bool__(self) -> bool:
        return bool(self.cuts) or not self.percentile == self.top == self.bottom == None  # noqa: E711


@options()
@dataclass(frozen=True)
class ScreenConfig:
    """Everything that decides a screen's result, beside the model, the vectors and the data."""

    natural: Annotated[NaturalSide, NATURAL] = "last-prompt"
    """What stands for the model's own response: `generate` generates it, `last-prompt` takes the
    prompt's last token, `none` nothing; `two-stage` is `last-prompt` for all rows, then
    `generate` for some."""
    natural_tokens: Annotated[Count, NATURAL] = 64
    """Longest natural response, in tokens."""
    natural_samples: Annotated[Count, NATURAL] = 1
    """Natural responses to a prompt; more than one are sampled, and their means averaged."""
    turns: Annotated[ScoredTurns, DATA] = "all"
    """Assistant turns that are scored."""
    layer: Annotated[int | None, MODEL] = None
    """Default: each vector's selected layer."""
    columns: Annotated[ColumnMap, DATA, parsed(ColumnMap.parse, "NAME=COLUMN,…")] = field(
        default_factory=ColumnMap
    )
    """Other column names, e.g. prompt=q,response=a."""
    split: Annotated[str | None, DATA, Parameter(metavar="NAME")] = None
    """A dataset's split."""
    by: Annotated[tuple[str, ...], MAIN, Parameter(metavar="COLUMN")] = ()
    """Compare the groups of rows in this column, e.g. source; repeat it. It flags no row."""
    rule: FlagRule = field(default_factory=FlagRule)
    remedy: Annotated[Literal["drop", "swap"], FILES] = "drop"
    """For flagged preference pairs, in the clean file."""
    subsets: Annotated[int, FILES, between(0)] = 0
    """Rows of each trait's high, random and low subsets; 0 for none."""
    explain: Annotated[bool, FILES] = False
    """Name the spans that carry the trait in flagged rows."""
    format: Annotated[Format | None, FILES] = None
    """Default: Parquet for Parquet and datasets, JSONL for the others."""
    ranked: Annotated[Count, FILES] = 10
    """Rows of every trait that the report shows with their texts."""
    top_share: Annotated[float, NATURAL] = 0.1
    """Two stages: share of rows, highest by `last-prompt`, that get generated responses."""
    sample: Annotated[int, NATURAL, between(0)] = 200
    """Two stages: random other rows that get them too."""
    random_directions: Annotated[Count, FILES] = 5
    """Random directions that traits are compared with."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    batch_tokens: Annotated[int | None, MODEL, between(1)] = None
    """Tokens in a batch; default: as the memory allows."""
    max_rejects: Annotated[int | None, DATA, between(0)] = None
    """Stop at more unusable rows than this; default: any number may be unusable."""

    def __post_init__(self) -> None:
        if not 0 < self.top_share <= 1 or self.sample < 0 or self.ranked < 1 or self.subsets < 0:
            raise UsageError(
                "top_share lies within 0 and 1, sample and subsets are 0 or more, ranked 1 or more"
            )
        if self.natural_tokens < 1 or self.natural_samples < 1:
            raise UsageError("natural_tokens and natural_samples are at least 1")

    @property
    def swap(self) -> bool:
        """Exchange a flagged pair's chosen and rejected responses, not drop it."""
        return self.remedy == "swap"


@options()
@dataclass(frozen=True)
class ScreenInputs:
    """What rows are compared with, and what scores them."""

    reference: Annotated[str | None, Parameter(metavar="DATA")] = None
    """A clean dataset; its 95th percentile draws the line."""
    natural_cache: Annotated[Path | None, NATURAL] = None
    """Folder that keeps natural responses between runs."""
    judge: Annotated[Literal["contrast"] | None, JUDGE] = None
    """Also score rows with a judge."""
    trait: Annotated[Specs, JUDGE] = ()
    """Spec file of a vector's trait that is not bundled; repeatable."""
    ray: Annotated[str | None, MODEL, Parameter(metavar="[ADDRESS]")] = None
    """Score on a Ray cluster: HOST:PORT, or without it, this machine's."""

    def __post_init__(self) -> None:
        if self.trait and self.judge is None:
            raise UsageError("--trait gives --judge a trait's spec; name the judge")
        if self.natural_cache is not None:
            check_writable("--natural-cache", self.natural_cache, is_file=False)
