"""What an engine takes and gives. The transformers engine is `hf.py`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from personavec.model.steering import Action

#: The spans an engine captures for a response, in this order.
SPANS = ("response_mean", "prompt_mean", "prompt_last")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """One response to generate. `id` keys its sampling noise and must be unique in a run."""

    id: str
    prompt_ids: tuple[int, ...]
    steering: tuple[Action, ...] = ()


@dataclass(frozen=True, eq=False)
class Generation:
    """A finished response: its own tokens, without thinking and without the end-of-turn token.

    `finished` is False when the length limit cut it off. `activations` holds the means over
    `SPANS` at every layer, where capture was asked for and the response is not empty. A response
    that ended inside its thought is empty, and `unfinished_thought` says why.
    """

    id: str
    response_ids: tuple[int, ...]
    finished: bool
    activations: Float[Tensor, "span layer hidden"] | None = None
    thinking_ids: tuple[int, ...] = ()
    unfinished_thought: bool = False
