"""One row of a running batch, and what a step does to all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
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


def token_masks(rows: Sequence[DecodeRow]) -> dict[str, Tensor]:
    """Steered positions [row, token] of a step, by kind."""
    on = torch.ones(len(rows), 1)
    prompt = torch.tensor([[row.at_prompt and row.job.steer_prompt] for row in rows]).float()
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


def logprobs_of(
    logits: Float[Tensor, " token"], token: int, top: int | None
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if top is None:
        return None, ()
    found = logits.log_softmax(-1)
    values, ids = found.topk(top)
    listed: Sequence[tuple[int, float]] = list(zip(ids.tolist(), values.tolist(), strict=True))
    return float(found[token]), tuple(listed)
