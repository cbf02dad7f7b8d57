"""What decides an evaluation's result; its fields are the options of `personavec evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from personavec.errors import UsageError
from personavec.options import MODEL, Count, Names, between, options, panel

ANSWERS = panel("Questions and answers")
CAPABILITY = panel("Capability")

#: Fewer questions than this allow no interval.
MIN_QUESTIONS = 2


@options()
@dataclass(frozen=True)
class EvaluateConfig:
    """Everything that decides an evaluation's result, beside the models and the specs."""

    samples: Annotated[Count, ANSWERS] = 1
    """Responses per question."""
    questions: Annotated[int | None, ANSWERS, between(MIN_QUESTIONS)] = None
    """Only the last N evaluation questions of a trait: an extraction selects a vector's layer on
    the first ones. Default: all."""
    system: Annotated[str | None, ANSWERS] = None
    """System prompt before every question."""
    max_tokens: Annotated[Count, ANSWERS] = 64
    """Longest response, in tokens."""
    temperature: Annotated[float, ANSWERS, between(0)] = 0.7
    """0 is greedy."""
    top_p: Annotated[float, ANSWERS, between(0, 1)] = 1.0
    """Sample from the likeliest tokens of this total probability."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    capability: Annotated[Names, CAPABILITY] = ()
    """Tasks of lm-evaluation-harness, separated by commas; `packaged` comes with this package."""
    capability_items: Annotated[int | None, CAPABILITY, between(2)] = None
    """Only the first items of each task; default: all."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.samples < 1 or self.batch_tokens < 1:
            raise UsageError("max_tokens, samples and batch_tokens must be at least 1")
        if self.questions is not None and self.questions < MIN_QUESTIONS:
            raise UsageError(f"an interval needs at least {MIN_QUESTIONS} questions")
