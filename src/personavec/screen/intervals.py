"""Estimates of a screen's values, clustered by prompt; None where too few rows are left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from personavec.errors import DataError
from personavec.stats import (
    Interval,
    cluster_mean,
    clustered_share,
    mean_difference_interval,
    rank_correlation_interval,
)


def mean(values: np.ndarray, prompts: np.ndarray) -> Interval | None:
    """The mean of the values that are not missing; of one prompt, without an interval."""
    known = np.isfinite(values)
    found = attempt(lambda: cluster_mean(values[known], prompts[known]))
    if found is None and known.any():
        return Interval(float(values[known].mean()), np.nan, np.nan)
    return found


def mean_difference(
    values: np.ndarray, prompts: np.ndarray, reference: np.ndarray, reference_prompts: np.ndarray
) -> Interval | None:
    """The values' mean minus the reference's."""
    mine, theirs = np.isfinite(values), np.isfinite(reference)
    return attempt(
        lambda: mean_difference_interval(
            values[mine], prompts[mine], reference[theirs], reference_prompts[theirs]
        )
    )


def share(flags: np.ndarray, prompts: np.ndarray) -> Interval | None:
    """The share of rows that is flagged."""
    return attempt(lambda: clustered_share(flags, prompts))


def rank_correlation(value: np.ndarray, other: np.ndarray, prompts: np.ndarray) -> Interval | None:
    """Spearman's rank correlation."""
    found = attempt(lambda: rank_correlation_interval(value, other, prompts))
    return found if found is not None and np.isfinite(found.value) else None


def attempt(call: Callable[[], Interval]) -> Interval | None:
    """The interval; None where its rows are too few."""
    try:
        return call()
    except DataError:
        return None
