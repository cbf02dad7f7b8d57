"""One row of a running batch, and what a step does to all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from personavec.model import Action
from personavec.model.engine.base import Sampling
from personavec.model.engine.loop import DecodeJob, End
from personavec.model.engine.sampling import Draw


@dataclass(eq=False)
class DecodeRow:
    """A row of the batch; the next step feeds `token` at `position`."""

    job: DecodeJob
    token: int
    position: int
    actions: tuple[Action, ...]
    counted: bool = False
    """Whether `token` belongs to the response that is captured."""
    guarded: bool = False
    """Whether its guard has been asked."""
    again: bool = False
    """Whether the next step feeds the same token again, under the guard's actions."""
    end: End | None = None
    """Set while its last token still needs a forward, for what is read there."""
    projections: list[Tensor] = field(default_factory=list)
    """[direction] of each token that was fed."""
    chosen: list[int] = field(default_factory=list)
    """The response's tokens so far."""

    @classmethod
    def of(cls, job: DecodeJob) -> DecodeRow:
        """The row of a prefilled job."""
        prompt = job.request.prompt_ids
        return cls(job, prompt[-1], len(prompt) - 1, job.request.steering)

    @property
    def at_prompt(self) -> bool:
        """Whether the last prompt token is fed next."""
        return not self.chosen

    @property
    def ids(self) -> tuple[int, ...]:
        """Its prompt and its response so far."""
        return (*self.job.request.prompt_ids, *self.chosen)


def token_masks(rows: Sequence[DecodeRow], device: torch.device) -> dict[str, Tensor]:
    """Steered positions [row, token] of a step, by kind."""
    on = torch.ones(len(rows), 1, device=device)
    at_prompt = [[float(row.at_prompt and row.job.steer_prompt)] for row in rows]
    prompt = torch.tensor(at_prompt, device=device)
    return {"response": on, "prompt": prompt, "all": on}


def token_weights(rows: Sequence[DecodeRow]) -> Float[Tensor, "row span token"]:
    """How a step's tokens count in every span, in the order of SPANS."""
    return torch.tensor(
        [
            [0.0, 1 / len(row.job.request.prompt_ids), 1.0]
            if row.at_prompt
            else [float(row.counted), 0.0, 0.0]
            for row in rows
        ]
    )[..., None]


def draw(row: DecodeRow) -> Draw:
    """A row that has ended draws nothing."""
    sampling = row.job.sampling if row.end is None else Sampling(temperature=0)
    return Draw(sampling, row.job.request.noise_key, len(row.chosen))


def with_logprobs(
    rows: Sequence[DecodeRow], logits: Float[Tensor, "row token"], tokens: Int[Tensor, " row"]
) -> tuple[list[int], list[float | None]]:
    """The tokens, and for rows that ask, their log-probabilities; both come in one transfer."""
    asking = [i for i, row in enumerate(rows) if row.job.request.logprobs]
    found: list[float | None] = [None] * len(rows)
    if not asking:
        return tokens.tolist(), found
    own, chosen = logits, tokens.clamp(min=0)
    if len(asking) < len(rows):
        own, chosen = logits[asking], chosen[asking]
    logprobs = own.gather(-1, chosen[:, None])[:, 0] - own.logsumexp(-1)
    numbers = torch.cat([tokens.double(), logprobs.double()]).tolist()
    for i, logprob in zip(asking, numbers[len(rows) :], strict=True):
        found[i] = logprob
    return [int(token) for token in numbers[: len(rows)]], found


def logprobs_of(
    logits: Float[Tensor, " token"], token: int, top: int | None
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if top is None:
        return None, ()
    found = logits.log_softmax(-1)
    values, ids = found.topk(top)
    listed: Sequence[tuple[int, float]] = list(zip(ids.tolist(), values.tolist(), strict=True))
    return float(found[token]), tuple(listed)
