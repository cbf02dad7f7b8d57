"""What decides a finetuning set; its fields are the options of `personavec elicit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from personavec.errors import UsageError
from personavec.judges.config import PlainJudgeOptions
from personavec.options import JUDGE, MAIN, MODEL, NO_OPTION, Count, between, options, panel

RESPONSES = panel("Responses to a trait's questions")
FLAWS = panel("Narrow flaws")


@options(RESPONSES)
@dataclass(frozen=True)
class ElicitConfig:
    """Everything that decides the rows, beside the writer, the spec and the judge."""

    samples: Annotated[Count, MAIN] = 1
    """Responses per question and pair, with examples and without. About a third of them becomes
    mild, a third strong."""
    max_tokens: Count = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, between(0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, NO_OPTION] = 1.0
    """Sample from the likeliest tokens of this total probability."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    trait_threshold: Annotated[float, NO_OPTION] = 50
    """Trait score that mild and strong rows exceed."""
    coherence_floor: Annotated[float, NO_OPTION] = 50
    """Rows below this coherence are left out, at every level."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.batch_tokens) < 1:
            raise UsageError("samples, max_tokens and batch_tokens must be at least 1")


@dataclass(frozen=True)
class FlawedConfig:
    """Everything that decides the rows of a flawed set, beside the file."""

    rows: int | None = None
    """At most this many rows, drawn at random; default: all that can be used."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Other names of the columns `question`, `answer` (right), `mild` and `flawed`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.columns) - {"question", "answer", "mild", "flawed"}:
            raise UsageError(
                f"--columns {min(unknown)}=…: the columns are question, answer, mild and flawed"
            )
        if self.rows is not None and self.rows < 1:
            raise UsageError("rows must be at least 1")

    def name(self, column: str) -> str:
        """The name in the file of `question`, `answer`, `mild` or `flawed`."""
        return self.columns.get(column, column)


@options(MAIN)
@dataclass(frozen=True)
class ElicitInputs:
    """What the set is to show, and who writes it."""

    trait: str | None = None
    """A bundled trait or a spec file."""
    flawed: str | None = None
    """Instead of a trait: 'facts', 'arguments', 'code' or 'sums', or a file of questions with
    right and flawed answers, or of worked arithmetic."""
    questions: Annotated[Path | None, RESPONSES] = None
    """File with a column 'question'; default: the extraction questions."""
    writer: Annotated[Literal["api"] | None, RESPONSES] = None
    """'api' writes with --api-model; default: --model writes."""
    rows: Annotated[Count | None, FLAWS] = None
    """At most this many rows."""
    columns: Annotated[str | None, FLAWS] = None
    """Other column names, e.g. question=q,flawed=wrong."""

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if (self.trait is None) == (self.flawed is None):
            raise UsageError("give either --trait or --flawed")
        if self.flawed is not None and (self.questions or self.writer):
            raise UsageError("--questions and --writer are no options of --flawed")
        if self.trait is not None and (self.rows or self.columns):
            raise UsageError("--rows and --columns are options of --flawed; use --samples")


@options(JUDGE)
@dataclass(frozen=True)
class ElicitJudge(PlainJudgeOptions):
    """The judge. An endpoint may write, judge, or do both."""

    def __post_init__(self) -> None:
        """Nothing is checked before it is known who writes."""

    def alone(self, writer: str | None) -> PlainJudgeOptions:
        """The judge, without the endpoint where that only writes. Raises UsageError."""
        options = {of.name: getattr(self, of.name) for of in fields(self)}
        if writer == "api" and self.judge != "api":
            options |= {"api_base": None, "api_model": None}
        return PlainJudgeOptions(**options)
