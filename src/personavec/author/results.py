"""Where a written spec came from, as its `provenance` holds it, and what `author --json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from personavec.errors import SpecError
from personavec.runs import Settings, why_invalid
from personavec.traits import TraitSpec


@dataclass(frozen=True, kw_only=True)
class ElicitedCounts:
    """Rollouts kept of either polarity, of `of` generated for each."""

    pos: int
    neg: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ElicitedByQuestion(ElicitedCounts):
    """The counts of one extraction question, over the pairs."""

    question: str


@dataclass(frozen=True, kw_only=True)
class ProbeCounts:
    """What a spec elicited; counts of what was tried, without an interval."""

    kept: ElicitedCounts
    pairs: tuple[ElicitedCounts, ...]
    questions: tuple[ElicitedByQuestion, ...]


@dataclass(frozen=True, kw_only=True)
class ProbeResult(ProbeCounts):
    """The last probe, and how the subject model was asked."""

    model: Settings
    judge: str
    tokens: int
    """Longest response, in tokens."""
    temperature: float
    seed: int
    min_share: float


#: An entry that a round replaced; its texts are a question, or a pair without its examples.
Replacement = TypedDict(
    "Replacement",
    {
        "part": str,
        "index": int,
        "was": str | dict[str, str],
        "is": str | dict[str, str],
        "why": list[str],
    },
)


@dataclass(frozen=True, kw_only=True)
class RewritingRound:
    """The entries that a round replaced."""

    round: int
    replaced: tuple[Replacement, ...]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a written spec came from; a spec's user may have edited it."""

    author: str | None = None
    endpoint: str | None = None
    date: str | None = None
    personavec: str | None = None
    prompts: tuple[dict[str, str], ...] = ()
    rounds: tuple[RewritingRound, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is still wrong after the last round."""
    probe: ProbeResult | None = None

    @classmethod
    def of(cls, spec: TraitSpec, path: Path) -> Provenance:
        """The provenance in a spec's file. Raises SpecError."""
        try:
            return TypeAdapter(cls).validate_python(spec.provenance)
        except ValidationError as error:
            raise SpecError(
                f"trait spec {path}: provenance: {why_invalid(error)}; restore it, or delete it"
            ) from error


@dataclass(frozen=True, kw_only=True)
class SpecAuthor:
    """The model that wrote a spec, and the endpoint that it is behind."""

    model: str | None
    endpoint: str | None


@dataclass(frozen=True, kw_only=True)
class AuthorResult:
    """A written spec in short."""

    format: int = 1
    trait: str
    spec: Path
    """The spec's file."""
    hash: str
    author: SpecAuthor
    rounds: int
    """Rounds of rewriting."""
    replaced: int
    """Entries replaced in all rounds."""
    warnings: tuple[str, ...]
    probe: ProbeResult | None
