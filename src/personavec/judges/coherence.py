"""Coherence without an API: the model's own view of a response, and repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

#: A configuration whose mean coherence falls below this is not acceptable.
COHERENCE_FLOOR = 75.0

#: Two standard errors below this mean log-likelihood (nats per token) a text reads as word salad;
#: a token's own spreads by about 3 nats, so that a short fluent answer can look unlikely …
_SALAD, _SALAD_WIDTH, _TOKEN_SPREAD = -3.0, 0.35, 3.0
#: … and above this one a text of some length is *too* likely: a loop.
_LOOP, _LOOP_WIDTH = -0.12, 0.03
_LOOP_MIN_TOKENS = 24
#: The share of repeated token trigrams at which a text counts as half broken.
_REPEATED, _REPEATED_WIDTH = 0.35, 0.06


def repeated_share(ids: Sequence[int], n: int = 3) -> float:
    """The share of token n-grams that occurred earlier in the response, 0 to 1."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def coherence(logprobs: Tensor, ids: Sequence[int]) -> float:
    """0 to 100, from token log-likelihoods under the response's own prompt and repetition.

    Two-sided: word salad is too unlikely, a loop too likely. 50 is the threshold below which a
    rollout is dropped; the constants were fixed on plain and deliberately broken generations
    (`tests/model/test_coherence.py`) and on answers that people and other models wrote.
    """
    mean = float(logprobs.mean())
    salad = _SALAD - 2 * _TOKEN_SPREAD / math.sqrt(len(ids))
    fluent = _sigmoid((mean - salad) / _SALAD_WIDTH)
    surprising = 1.0
    if len(ids) >= _LOOP_MIN_TOKENS:
        surprising = _sigmoid((_LOOP - mean) / _LOOP_WIDTH)
    varied = _sigmoid((_REPEATED - repeated_share(ids)) / _REPEATED_WIDTH)
    return 100 * fluent * surprising * varied


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
