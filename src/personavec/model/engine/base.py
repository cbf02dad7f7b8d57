"""What an engine takes and gives. The transformers engine is `hf.py`, vLLM's is `vllm.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypedDict

from personavec.errors import ActivationError, UsageError
from personavec.model import Action, Directions, ModelIdentity, TokenIds
from personavec.runs import Settings
from personavec.wording import plural

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
    """One response to generate. `id` must be unique in a run.

    `noise` keys its sampling, together with the seed; if empty, `id` does. Requests that share it
    draw the same noise, so that their responses differ only by prompt and steering.
    """

    id: str
    prompt_ids: tuple[int, ...]
    steering: tuple[Action, ...] = ()
    noise: str = ""

    @property
    def noise_key(self) -> str:
        return self.noise or self.id


@dataclass(frozen=True, eq=False)
class Generation:
    """A finished response: its own tokens, without thinking and without the end-of-turn token.

    `finished` is False when the length limit cut it off. `activations` holds the means over
    `SPANS` at every layer, if capture was asked for and the response is not empty. A response that
    ended within its thinking is empty and has `unfinished_thought`. One whose logits or activations
    overflowed is empty and has `failed`.
    """

    id: str
    response_ids: tuple[int, ...]
    finished: bool
    activations: Float[Tensor, "span layer hidden"] | None = None
    thinking_ids: tuple[int, ...] = ()
    unfinished_thought: bool = False
    failed: bool = False


class EngineRecord(TypedDict):
    """What a result says about the engine it came from."""

    name: str
    version: str
    """Of transformers or vLLM."""
    arguments: NotRequired[Settings]
    """Given with `--engine-arg`."""


@runtime_checkable
class Engine(Protocol):
    """Runs one model: generates responses, and reads the residual stream of given texts."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    def describe(self) -> EngineRecord:
        """What a result says about the engine it came from."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool = False,
        include_thinking: bool = False,
        done: Collection[str] = (),
    ) -> Iterator[list[Generation]]:
        """Generate responses, yielding them in groups as they finish, so that each can be kept.

        Requests whose ids are in `done` were finished before. An engine skips them, or generates
        them again if that keeps the other responses as they would have been. Thinking is cut off a
        response and stays out of its captured mean, unless `include_thinking` takes it in.

        A response whose activations overflow has failed, and the others go on. Raises UsageError
        when a prompt leaves no room for a response in the model's context or a layer does not
        exist, ActivationError when unsteered responses fail and none was finite, ModelError when
        the engine fails on the way; groups that were yielded remain valid.
        """
        ...

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Float[Tensor, "token direction"]]:
        """Every token's projection h.u at each direction's layer, in units of the residual stream.

        Raises ActivationError on NaN or infinite activations.
        """
        ...


def stopping_if_all_fail(
    identity: ModelIdentity,
    requests: Sequence[Request],
    groups: Iterator[list[Generation]],
) -> Iterator[list[Generation]]:
    """The groups of these requests' responses, as they come.

    Raises ActivationError when the second unsteered response has failed and none was finite.
    """
    unsteered = {request.id for request in requests if not request.steering}
    failed = finite = 0
    for group in groups:
        own = [generation for generation in group if generation.id in unsteered]
        failed += sum(generation.failed for generation in own)
        finite += sum(not generation.failed for generation in own)
        if failed > 1 and not finite:
            raise ActivationError(
                f"'{identity.name}' in {identity.dtype} produced NaN or infinite activations; load "
                "it in another precision, e.g. --dtype float32"
            )
        yield group


def check_room(requests: Sequence[Request], max_tokens: int, context: int) -> None:
    """Raise UsageError unless every prompt leaves room for its response in the model's context."""
    for request in requests:
        if len(request.prompt_ids) + max_tokens > context:
            raise UsageError(
                f"request {request.id}: {plural(len(request.prompt_ids), 'prompt token')} and "
                f"{plural(max_tokens, 'new one')} exceed the model's context of {context}; "
                "shorten the prompt or lower --max-tokens"
            )
