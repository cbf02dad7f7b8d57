"""The protocol of an engine, its requests and results. `hf.py` and `vllm.py` implement it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypedDict

from personavec.errors import ActivationError, UsageError
from personavec.model import Action, Directions, ModelIdentity, TokenIds
from personavec.runs import Settings
from personavec.wording import plural

#: The spans that an engine captures for a response, in this order.
SPANS = ("response_mean", "prompt_mean", "prompt_last")


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. Temperature 0 is greedy."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """One response to generate. `id` must be unique in a run.

    The sampling noise is determined by the seed and by `noise`, or by `id` if `noise` is empty.
    Requests with the same `noise` draw the same noise, so that their responses differ only because
    of prompt and steering.
    """

    id: str
    prompt_ids: tuple[int, ...]
    steering: tuple[Action, ...] = ()
    noise: str = ""
    logprobs: int = 0
    """Of how many of the response's first tokens the log-probabilities are asked for."""

    @property
    def noise_key(self) -> str:
        return self.noise or self.id


@dataclass(frozen=True, eq=False)
class Generation:
    """A response: its tokens, without its thought and without the end-of-turn token.

    `finished` is False if the length limit cut it off. `activations` are the means over `SPANS` at
    every layer; None without capture or for an empty response. If the response ended inside its
    thought, it is empty and `unfinished_thought` is set. If its logits or activations overflowed,
    it is empty and `failed` is set. `logprobs` are those of the response's first tokens, in nats,
    under the model's distribution before temperature and top-p; none where none were asked for or
    the engine gives none.
    """

    id: str
    response_ids: tuple[int, ...]
    finished: bool
    activations: Float[Tensor, "span layer hidden"] | None = None
    thinking_ids: tuple[int, ...] = ()
    unfinished_thought: bool = False
    failed: bool = False
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Written:
    """A response so far, without its thought: its tokens, and their projections."""

    id: str
    response_ids: tuple[int, ...]
    projections: Float[Tensor, "token direction"]
    """In residual-stream units, with what steering added to the layer."""


@dataclass(frozen=True, eq=False)
class Watch:
    """Who is shown responses while they are written, read along some directions.

    `show` is called after every step with each response that grew, or once with the whole; a token
    comes once it is read, a step after it was chosen.
    """

    directions: Directions
    show: Callable[[Written], None]


class EngineRecord(TypedDict):
    """The record of an engine in results."""

    name: str
    version: str
    """The version of transformers or vLLM."""
    arguments: NotRequired[Settings]
    """The arguments of `--engine-arg`."""


@runtime_checkable
class Engine(Protocol):
    """Runs one model: generates responses, and reads the residual stream of given texts."""

    @property
    def name(self) -> str:
        """The engine's name on the command line."""
        ...

    def describe(self) -> EngineRecord:
        """The engine's record for results."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool = False,
        include_thinking: bool = False,
        done: Collection[str] = (),
        watch: Watch | None = None,
    ) -> Iterator[list[Generation]]:
        """Generate responses; yields them in groups as they finish, so that they can be stored.

        Requests with an id in `done` are already finished. An engine skips them, or generates them
        again if the other responses would otherwise change. A thought is never part of the
        response; it is part of the captured mean only with `include_thinking`. `watch` may be
        shown a thinking model's responses whole.

        A response whose activations overflow fails, while the others go on. Raises UsageError if a
        prompt leaves no room for a response in the model's context or if a layer does not exist,
        ActivationError if all unsteered responses so far have failed and there are at least two,
        and ModelError if the engine itself fails. Groups that were yielded remain valid.
        """
        ...

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Float[Tensor, "token direction"]]:
        """The projection h.u of every token at each direction's layer, in residual-stream units.

        Raises ActivationError for NaN or infinite activations.
        """
        ...


def stopping_if_all_fail(
    identity: ModelIdentity,
    requests: Sequence[Request],
    groups: Iterator[list[Generation]],
) -> Iterator[list[Generation]]:
    """Yield groups of responses unchanged, and stop if all unsteered responses fail.

    Raises ActivationError once two unsteered responses have failed and none has succeeded.
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
