"""What decides a written spec; its fields are the options of `personavec author`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from personavec.errors import UsageError
from personavec.options import ENDPOINT, MODEL, Count, between, options, panel

SIZES = panel("Sizes")
PROBE = panel("Probe and rewriting")


@options(SIZES)
@dataclass(frozen=True)
class Sizes:
    """How many entries a spec has."""

    pairs: int = 5
    """Instruction pairs."""
    judge_pairs: int = 3
    """Judge pairs."""
    examples: Annotated[int, between(0)] = 2
    """Examples in every pair; small models need them to follow a system prompt."""
    questions: int = 40
    """Questions; every other one is for evaluation."""


@options()
@dataclass(frozen=True)
class AuthorConfig:
    """Everything that decides a written spec, beside the author and the subject model."""

    sizes: Sizes = field(default_factory=Sizes)
    rounds: Annotated[int, between(0)] = 2
    """Rounds of rewriting flawed entries, at most."""
    min_share: Annotated[float, PROBE, between(0, 1)] = 0.1
    """Rewrite a pair or question that keeps less than this share of its rollouts, or none, on
    either side."""
    probe_tokens: Annotated[Count, PROBE] = 64
    """Longest response of the probe, in tokens."""
    temperature: Annotated[float, PROBE, between(0)] = 0.7
    """Of the probe; 0 is greedy."""
    seed: Annotated[int, MODEL] = 0
    """Seed of all sampling."""
    tries: Annotated[Count, ENDPOINT] = 3
    """Unusable answers before giving up, for each request to the author."""
    answer_tokens: Annotated[Count, ENDPOINT] = 8192
    """Longest answer of the author, in tokens."""
    batch_tokens: Annotated[Count, MODEL] = 16384
    """Tokens in a batch; bounds memory."""

    def __post_init__(self) -> None:
        sizes = self.sizes
        if sizes.pairs < 1 or sizes.judge_pairs < 1 or sizes.questions < 4 or sizes.examples < 0:
            raise UsageError("a spec needs at least 1 pair, 1 judge pair and 4 questions")
        if self.rounds < 0 or self.tries < 1 or self.answer_tokens < 1 or self.probe_tokens < 1:
            raise UsageError("rounds must be at least 0, tries and numbers of tokens at least 1")
