"""The protocol of a running batch, which requests join and leave at any step.

`StepLoop` implements it for transformers, `VllmLoop` for vLLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from personavec.model import Action
from personavec.model.engine.base import Request, Sampling

#: Why a row ended. `refused`: by its guard. `failed`: for the `reason` in its update.
End = Literal["stop", "length", "refused", "failed"]
#: The reason for a row whose logits or projections were NaN or infinite.
NOT_FINITE = "the model's numbers became NaN or infinite"
#: A guard's decision on a forecast: the row's new actions, None for no change, or a refusal.
GuardVerdict = tuple[Action, ...] | Literal["refuse"] | None


@dataclass(frozen=True, eq=False)
class DecodeJob:
    """A request, with its own sampling, readings and guard.

    The request's id must be unique among those that run. `read` asks for projections. `guard` is
    called once with those of the last prompt token, before a token is chosen. `top_logprobs` is
    the number of alternatives given with each token's log-probability; None gives neither.
    `beginnings` are the lengths of what its prompt shares with others, shortest first. Actions at
    positions `prompt` and `all` act before the last prompt token only with `steer_prompt`.
    """

    request: Request
    sampling: Sampling
    read: bool = False
    top_logprobs: int | None = None
    guard: Callable[[Float[Tensor, " direction"]], GuardVerdict] | None = None
    beginnings: tuple[int, ...] = ()
    steer_prompt: bool = False

    @property
    def tokens(self) -> int:
        """The most tokens that its row can hold."""
        return len(self.request.prompt_ids) + self.sampling.max_tokens

    @property
    def prompt_steering(self) -> tuple[Action, ...]:
        """The actions that act before the last prompt token."""
        if not self.steer_prompt:
            return ()
        return tuple(a for a in self.request.steering if a.positions != "response")


@dataclass(frozen=True)
class Update:
    """The outcome of one step for one row: a new token, the row's end, or both.

    Log-probabilities are in nats, under the model's distribution before temperature and top-p.
    """

    id: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    end: End | None = None
    reason: str = ""
    """Why the row failed: `NOT_FINITE`, or an exception's message."""


@runtime_checkable
class Loop(Protocol):
    """A running batch of any engine. Not thread-safe, except `alive`."""

    @property
    def alive(self) -> bool:
        """False once the engine has died; then every further step fails."""
        ...

    @property
    def waiting(self) -> int:
        """Number of jobs that wait to join."""
        ...

    @property
    def running(self) -> int:
        """Number of jobs in the batch."""
        ...

    @property
    def busy(self) -> bool:
        """Whether there are waiting or running jobs."""
        ...

    def submit(self, job: DecodeJob) -> None:
        """Queue a job. Raises UsageError if it cannot run."""
        ...

    def cancel(self, id: str) -> None:
        """Drop a waiting or running job. Does nothing if the job has ended."""
        ...

    def finish(self, id: str) -> bool:
        """End a running job after its current tokens; False if it has no tokens or has ended.

        Its end is reported by a later step, once its last token is read.
        """
        ...

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None:
        """The projections of an ended job: of the last prompt token and every response token.

        They can be fetched once. None if the job did not request them.
        """
        ...

    def step(self) -> list[Update]:
        """Let waiting jobs join, decode a token for every row, and report the updates."""
        ...

    def clear(self) -> None:
        """Drop all jobs, also after an error in a step."""
        ...

    def close(self) -> None:
        """Drop all jobs and release the loop's resources."""
        ...
