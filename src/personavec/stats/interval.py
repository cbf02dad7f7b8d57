"""An estimate with its interval, and checks of the values that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError

FloatArray: TypeAlias = npt.NDArray[np.float64]

#: Of all intervals.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of the statistic."""

    value: float
    """The statistic of the data as observed."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""


def monotone_within_intervals(intervals: Sequence[Interval]) -> bool:
    """Whether a curve that never falls fits through the intervals, in order.

    False only if a later interval lies wholly below an earlier one, or one is missing (NaN). Wide
    intervals pass easily, so read it together with their width.
    """
    highest_low = -np.inf
    for interval in intervals:
        if np.isnan([interval.low, interval.high]).any() or interval.high < highest_low:
            return False
        highest_low = max(highest_low, interval.low)
    return True


def finite(values: npt.ArrayLike, name: str) -> FloatArray:
    """The values as a float array. Raises DataError for none, missing or infinite values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name}: a non-empty list of numbers is needed, got shape {array.shape}")
    n_missing = int(np.count_nonzero(~np.isfinite(array)))
    if n_missing:
        raise DataError(
            f"{name}: {n_missing} of {array.size} are missing or infinite; "
            "leave them out and count them"
        )
    return array
