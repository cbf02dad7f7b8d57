"""What a judge takes and gives. Judges: `contrast.py`, later ones beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from personavec.traits import TraitSpec

State = Literal["scored", "refusal", "unscored", "empty", "failed"]


@dataclass(frozen=True)
class Answer:
    """A response to judge: what was asked, under which system prompt, and what came.

    `response_ids` are the ids that the answering model wrote, which a judge that is the same
    model reads in place of the text. `pair` is the index of the eliciting pair it was generated
    under, if any, and `earlier` its examples; `thinking_ids` what the model thought before it.
    """

    question: str
    response: str
    system: str | None = None
    pair: int | None = None
    response_ids: tuple[int, ...] | None = None
    thinking_ids: tuple[int, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Score:
    """What a judge says of one answer. A value that is missing is None, and `state` says why.

    `log_odds`, in nats, is the contrast judge's alone; `trait_score` and `coherence` go from 0
    to 100. `spread` is the standard deviation of the trait score where it was sampled. `why`
    holds a failure's reason.
    """

    state: State
    log_odds: float | None = None
    log_odds_per_token: tuple[float, ...] | None = None
    trait_score: float | None = None
    coherence: float | None = None
    spread: float | None = None
    why: str | None = None


@runtime_checkable
class Judge(Protocol):
    """Scores answers for a trait; `name` goes into every record it scores."""

    @property
    def name(self) -> str: ...

    def identity(self) -> dict[str, Any]:
        """What decides its scores, for manifests and reports; never a key."""
        ...

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        """One score an answer, in their order."""
        ...
