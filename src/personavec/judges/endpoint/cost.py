"""An estimate of calls, tokens and cost, without asking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from personavec.judges.endpoint.cache import recall
from personavec.judges.endpoint.config import Endpoint, Request

#: Roughly, in English text.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class CostEstimate:
    """Calls and tokens of a run."""

    calls: int
    cached: int
    """Requests whose answers are on disk."""
    prompt_tokens: int
    """Estimated from characters."""
    answer_tokens: int
    """At most."""

    def cost(self, prompt_price: float, answer_price: float) -> float:
        """The cost in the currency of the prices, which are of a million tokens."""
        return (self.prompt_tokens * prompt_price + self.answer_tokens * answer_price) / 1e6


def estimate(endpoint: Endpoint, requests: Sequence[Request]) -> CostEstimate:
    """Count calls and tokens; answers on disk cost nothing."""
    asked = [r for r in requests if recall(endpoint, r) is None]
    characters = sum(len(message["content"]) for r in asked for message in r["messages"])
    return CostEstimate(
        calls=len(asked),
        cached=len(requests) - len(asked),
        prompt_tokens=characters // _CHARACTERS_PER_TOKEN,
        answer_tokens=sum(r.get("max_tokens", 0) for r in asked),
    )


def total(estimates: Iterable[CostEstimate]) -> CostEstimate:
    """The sum of several estimates."""
    each = list(estimates)
    return CostEstimate(
        calls=sum(e.calls for e in each),
        cached=sum(e.cached for e in each),
        prompt_tokens=sum(e.prompt_tokens for e in each),
        answer_tokens=sum(e.answer_tokens for e in each),
    )


def unwritten(n_tokens: int) -> str:
    """A placeholder, in estimates, for a text of so many tokens that is yet to be written."""
    return "x" * (n_tokens * _CHARACTERS_PER_TOKEN)
