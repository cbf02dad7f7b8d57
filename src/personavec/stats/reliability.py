"""How much a measure's reliability gains from more of what it is measured on."""

from __future__ import annotations

import math


def times_as_many(reliability: float, wanted: float) -> float:
    """How many times as many parallel measurements bring a reliability to `wanted`.

    Spearman and Brown's formula: k times as many turn a reliability r into k·r / (1 + (k - 1)·r).
    Infinite where `reliability` is not above 0. Both below 1.
    """
    if reliability <= 0:
        return math.inf
    return wanted * (1 - reliability) / (reliability * (1 - wanted))
