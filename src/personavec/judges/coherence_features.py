"""What a model's two readings of a response say about its coherence, as a few numbers.

A judge reads the response after its own prompt and after a question that says nothing. Word salad,
invented words and changes of language are unlikely both times, loops are likely and repeat, and an
answer to another question gains nothing from its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

#: Tokens of the model's typical likelihood that are added to a response, so that a short one is
#: judged with care.
_TYPICAL_TOKENS = 4
#: Above this log-probability a token counts as sure, below the other as a shock (nats).
_SURE, _SHOCK = -0.3, -9.0
#: Sound answers end with a log-probability above this (nats); below, up to a further `_MOST`
#: nats count.
_ENDS, _MOST = -10.0, 12.0

Values = Float[np.ndarray, " token"]


@dataclass(frozen=True, eq=False)
class Reading:
    """A response of at least one token, with its log-probabilities in nats.

    `own` are those after the response's own prompt, `alone` after a question that says nothing.
    `end` is that of the end of the turn after the response; None where it is not known that the
    response ended by itself.
    """

    ids: tuple[int, ...]
    own: Values
    alone: Values
    end: float | None = None


@dataclass(frozen=True)
class Typical:
    """Mean log-probabilities of a token of the model's neutral responses, in nats."""

    own: float
    alone: float


def typical(readings: Sequence[Reading]) -> Typical:
    """The means over all tokens of the readings."""
    return Typical(
        float(np.concatenate([reading.own for reading in readings]).mean()),
        float(np.concatenate([reading.alone for reading in readings]).mean()),
    )


def repeated_share(ids: Sequence[int], n: int) -> float:
    """The share of token n-grams that occurred earlier in the response, 0 to 1."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return (len(grams) - len(set(grams))) / (len(grams) + _TYPICAL_TOKENS)


def worst_run(values: Values, length: int, usual: float) -> float:
    """The lowest mean of `length` tokens in a row, with two more of the usual value."""
    if len(values) <= length:
        return float(values.sum() + 2 * usual) / (len(values) + 2)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return float((sums[length:] - sums[:-length]).min() + 2 * usual) / (length + 2)


def same_at(ids: Sequence[int], distance: int) -> float:
    """The share of tokens that equal the one `distance` before."""
    pairs = zip(ids, ids[distance:], strict=False)
    return sum(a == b for a, b in pairs) / (len(ids) + _TYPICAL_TOKENS)


def features(reading: Reading, usual: Typical) -> dict[str, float]:
    """The numbers of a reading by name, not yet standardised."""
    own, alone = np.minimum(reading.own, 0.0), np.minimum(reading.alone, 0.0)
    gain, usual_gain = own - alone, usual.own - usual.alone
    found = {
        "own": _mean(own, usual.own),
        "alone": _mean(alone, usual.alone),
        "gain": _mean(gain, usual_gain),
        "gain_run": worst_run(gain, 16, usual_gain),
        "sure": _share(own > _SURE),
        "sure_alone": _share(alone > _SURE),
        "shock": _share(own < _SHOCK),
        "repeated_2": repeated_share(reading.ids, 2),
        "repeated_3": repeated_share(reading.ids, 3),
        "length": float(np.log(len(own))),
    }
    found |= {f"run_{n}": worst_run(own, n, usual.own) for n in (4, 8, 16)}
    found |= {f"same_{n}": same_at(reading.ids, n) for n in (1, 2)}
    end = 0.0 if reading.end is None else reading.end
    return found | {"unended": max(-_MOST, min(0.0, end - _ENDS))}


def _mean(values: Values, usual: float) -> float:
    return float(values.sum() + _TYPICAL_TOKENS * usual) / (len(values) + _TYPICAL_TOKENS)


def _share(hits: np.ndarray) -> float:
    return float(hits.sum()) / (len(hits) + _TYPICAL_TOKENS)


#: The names of the numbers.
NAMES = tuple(features(Reading((0,), np.zeros(1), np.zeros(1)), Typical(0.0, 0.0)))
