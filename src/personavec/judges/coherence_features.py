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
#: Above this log-probability a token counts as sure (nats).
_SURE = -0.3
#: How many tokens come before the late ones.
_LATE = 8
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


def features(reading: Reading, usual: Typical) -> dict[str, float]:
    """The numbers of a reading by name, not yet standardised."""
    own, alone = np.minimum(reading.own, 0.0), np.minimum(reading.alone, 0.0)
    gain, usual_gain = own - alone, usual.own - usual.alone
    found = {
        "own": _mean(own, usual.own),
        "own_late": _mean(own[_LATE:], usual.own),
        "own_75": _quantile(own, 0.75, usual.own),
        "sure": float((own > _SURE).sum()) / (len(own) + _TYPICAL_TOKENS),
        "alone_10": _quantile(alone, 0.10, usual.alone),
        "alone_75": _quantile(alone, 0.75, usual.alone),
        "gain": _mean(gain, usual_gain),
        "gain_50": _quantile(gain, 0.50, usual_gain),
        "repeated": repeated_share(reading.ids, 2),
        "length": float(np.log(len(own))),
    }
    found |= {f"own_run_{n}": worst_run(own, n, usual.own) for n in (4, 8, 24)}
    found |= {f"gain_run_{n}": worst_run(gain, n, usual_gain) for n in (3, 8)}
    end = 0.0 if reading.end is None else reading.end
    return found | {"unended": max(-_MOST, min(0.0, end - _ENDS))}


def _mean(values: Values, usual: float) -> float:
    return float(values.sum() + _TYPICAL_TOKENS * usual) / (len(values) + _TYPICAL_TOKENS)


def _quantile(values: Values, share: float, usual: float) -> float:
    return float(np.quantile(np.concatenate([values, np.full(_TYPICAL_TOKENS, usual)]), share))


#: The names of the numbers.
NAMES = tuple(features(Reading((0,), np.zeros(1), np.zeros(1)), Typical(0.0, 0.0)))
