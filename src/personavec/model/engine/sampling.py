"""Choose each row's next token, with the row's own sampling settings and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from personavec.model.engine.base import Sampling
from personavec.model.engine.noise import gumbel, row_keys, uniform_bits

#: Size of a first, partial sort. Most nuclei are smaller, so a full sort is rarely needed.
_LIKELY = 256
#: Tokens of a group, of which one is chosen before one of its tokens.
_GROUP = 256
#: Numbers that a processor's caches hold while noise is drawn for them.
_CACHED = 2**19


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
    low, high = logits.amin(-1), logits.amax(-1)  # many times as fast as aminmax
    return torch.isfinite(high) & (low < high)


def choose(logits: Float[Tensor, "row token"], draws: Sequence[Draw]) -> Int[Tensor, " row"]:
    """The next token of every row, on the logits' device; -1 for a row that is not usable.

    The row's own Gumbel noise, added to logits, makes their arg-max a sample from the softmax. A
    rounding difference in the logits changes the choice only if two candidates nearly tie.
    Temperature 0 adds no noise.
    """
    size = len(draws)
    if logits.device.type == "cpu":
        size = max(1, _CACHED // logits.shape[1])
    parts = [(logits[i : i + size], draws[i : i + size]) for i in range(0, len(draws), size)]
    return torch.cat([_choose(*part) for part in parts])


def _choose(logits: Float[Tensor, "row token"], draws: Sequence[Draw]) -> Int[Tensor, " row"]:
    device, found = logits.device, usable(logits)
    sampled = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not sampled:
        return torch.where(found, logits.argmax(-1), -1)
    rows = [draws[i] for i in sampled]
    scaled = _scaled(logits if len(rows) == len(draws) else logits[sampled], rows)
    keys = row_keys([(draw.sampling.seed, draw.noise_key, draw.step) for draw in rows])
    tokens = _sample(scaled, keys.to(device))
    if len(rows) < len(draws):
        tokens = logits.argmax(-1).index_copy(0, torch.tensor(sampled, device=device), tokens)
    return torch.where(found, tokens, -1)


def _sample(scaled: Float[Tensor, "row token"], keys: Int[Tensor, "row 2"]) -> Int[Tensor, " row"]:
    """A token of each row, from the softmax: first a group by its probability, then one of it.

    So few numbers need noise. Token t is in group t mod the number of groups. Groups have the
    counters -1, -2, ...; tokens have their ids.
    """
    groups = -(-scaled.shape[1] // _GROUP)
    if rest := groups * _GROUP - scaled.shape[1]:
        scaled = functional.pad(scaled, (0, rest), value=-math.inf)
    shares = scaled.softmax(-1).unflatten(1, (_GROUP, groups)).sum(1).log()
    numbers = torch.arange(groups, device=scaled.device)
    group = (shares + gumbel(uniform_bits(keys, -1 - numbers[None]))).argmax(-1)
    members = group[:, None] + groups * torch.arange(_GROUP, device=scaled.device)
    noisy = scaled.gather(1, members) + gumbel(uniform_bits(keys, members))
    return members.gather(1, noisy.argmax(-1)[:, None])[:, 0]


def _scaled(logits: Float[Tensor, "row token"], rows: Sequence[Draw]) -> Float[Tensor, "row token"]:
    """The logits over the temperatures, with minus infinity outside the nuclei."""
    temperatures = [draw.sampling.temperature for draw in rows]
    if set(temperatures) != {1.0}:
        logits = logits / _column(temperatures, logits.device)
    narrow = [i for i, draw in enumerate(rows) if draw.sampling.top_p < 1]
    if narrow:
        top_p = _column([rows[i].sampling.top_p for i in narrow], logits.device)
        inside = within_top_p(logits[narrow], top_p)
        logits = logits.index_copy(0, torch.tensor(narrow, device=logits.device), inside)
    return logits


def _column(values: Sequence[float], device: torch.device) -> Float[Tensor, "row 1"]:
    return torch.tensor(values, device=device)[:, None]


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
