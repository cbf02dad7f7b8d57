"""What decides a finetuning set; its fields are the options of `personavec elicit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from personavec.errors import UsageError
from personavec.options import MAIN, MODEL, NO_OPTION, Count, between, options, panel

RESPONSES = panel("Responses to a trait's questions")


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
    """Other names of the columns `question`, `answer` (right) and `flawed`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.columns) - {"question", "answer", "flawed"}:
            raise UsageError(
                f"--columns {min(unknown)}=…: the columns are question, answer and flawed"
            )
        if self.rows is not None and self.rows < 1:
            raise UsageError("rows must be at least 1")

    def name(self, column: str) -> str:
        """The name in the file of `question`, `answer` or `flawed`."""
        return self.columns.get(column, column)
