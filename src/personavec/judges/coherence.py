"""Coherence without an API, from the model's log-likelihood of a response and its repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

#: A steered configuration with a lower mean coherence is not accepted.
COHERENCE_FLOOR = 75.0

#: A text counts as word salad two standard errors below this mean log-likelihood (nats per token).
#: A token's log-likelihood has a standard deviation of about 3 nats, so the mean of a short fluent
#: answer can be low by chance.
_SALAD, _SALAD_WIDTH, _TOKEN_SPREAD = -3.0, 0.35, 3.0
#: Above this mean log-likelihood, a text of at least so many tokens counts as a loop.
_LOOP, _LOOP_WIDTH = -0.12, 0.03
_LOOP_MIN_TOKENS = 24
#: The share of repeated token trigrams that halves the coherence.
_REPEATED, _REPEATED_WIDTH = 0.35, 0.06


def repeated_share(ids: Sequence[int], n: int = 3) -> float:
    """The share of token n-grams that occurred earlier in the response, 0 to 1."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def coherence(logprobs: Tensor, ids: Sequence[int]) -> float:
    """Coherence, 0 to 100, from log-likelihoods [token] under the response's prompt and repetition.

    Word salad is too unlikely, a loop too likely. Rollouts below 50 are dropped. The constants
    were fixed on plain and deliberately broken generations (`tests/model/test_coherence.py`) and
    on answers that people and other models wrote.
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
