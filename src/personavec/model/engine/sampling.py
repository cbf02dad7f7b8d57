"""Choose each row's next token, with the row's own sampling settings and noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personavec.model.engine.base import Sampling

#: Size of a first, partial sort. Most nuclei are smaller, so a full sort is rarely needed.
_LIKELY = 256


@dataclass(frozen=True)
class Draw:
    """How a row samples its next token; its noise depends on seed, `noise_key` and `step`."""

    sampling: Sampling
    noise_key: str
    step: int


def usable(logits: Float[Tensor, "row token"]) -> Bool[Tensor, " row"]:
    """Whether a token can be chosen in each row [row].

    A row is unusable if a logit is NaN or plus infinity, or if all are equal, as when the residual
    stream overflowed in the last norm, whose output is then 0.
    """
    low, high = logits.aminmax(dim=-1)
    return torch.isfinite(high) & (low < high)


def choose(logits: Float[Tensor, "row token"], draws: Sequence[Draw]) -> Int[Tensor, " row"]:
    """The next token of every row: the argmax of the scaled logits plus Gumbel noise.

    This samples from the softmax, and a rounding difference in the logits changes the choice only
    if two candidates nearly tie. With temperature 0 no noise is added.
    """
    sampled = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    chosen = logits.argmax(-1)
    if not sampled:
        return chosen
    rows = [draws[i] for i in sampled]
    scaled = logits[sampled] / torch.tensor([[draw.sampling.temperature] for draw in rows])
    narrow = [i for i, draw in enumerate(rows) if draw.sampling.top_p < 1]
    if narrow:
        scaled[narrow] = within_top_p(
            scaled[narrow], torch.tensor([[rows[i].sampling.top_p] for i in narrow])
        )
    noise = np.stack([_exponential(d, logits.shape[1]) for d in rows])
    # -log of an exponential variable has a Gumbel distribution.
    chosen[sampled] = (scaled - torch.from_numpy(noise).log()).argmax(-1)
    return chosen


def within_top_p(
    logits: Float[Tensor, "row token"], top_p: Float[Tensor, "row 1"]
) -> Float[Tensor, "row token"]:
    """The logits, with minus infinity outside each row's nucleus.

    The nucleus is the smallest set of most probable tokens with a total probability of `top_p`.
    """
    probabilities = logits.softmax(-1)
    for size in (min(_LIKELY, logits.shape[-1]), logits.shape[-1]):
        ordered, order = probabilities.topk(size)
        before = ordered.cumsum(-1) - ordered
        if bool((before[:, -1:] >= top_p).all()) or size == logits.shape[-1]:
            break
    inside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < top_p)
    return logits.masked_fill(~inside, float("-inf"))


def _exponential(draw: Draw, size: int) -> np.ndarray:
    """Exponential variables [token] from a counter-based generator with (seed, noise key, step).

    They are drawn in float64. In float32 one draw in 2^23 is exactly 0, which would force a random
    token; with a whole vocabulary per token this would happen in every third response.
    """
    key = f"{draw.sampling.seed}\0{draw.noise_key}\0{draw.step}"
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return generator.standard_exponential(size).astype(np.float32)
