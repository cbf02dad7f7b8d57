"""How well a score finds planted rows: AUC, and precision at equal removal, at any rate.

Plain numbers in and out: knows nothing of models or files. A rate is set by weights, not by
leaving planted rows out: planted rows weigh as much together as makes them that share of the
whole. The figures are thus those to expect of a large dataset of which that share is planted,
and every row counts at every rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError

FloatArray = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curve:
    """ROC curves of one score: one for each set of weights, over the same thresholds.

    Both arrays are [resample, threshold], from 0 (nothing flagged) to 1 (everything). Rows of
    equal score pass a threshold together.
    """

    planted: FloatArray
    """The share of planted rows that is flagged, by weight."""
    clean: FloatArray
    """The share of clean rows that is flagged, by weight."""


def curve(scores: npt.ArrayLike, planted: npt.ArrayLike, weights: Weights | None = None) -> Curve:
    """The ROC curves of `scores`, of which the higher ones should be `planted` (true or false).

    `weights` [resample, row] says how often each row counts; without it there is one curve, of
    every row once. Resamples without rows on either side have NaN. Raises DataError when a score
    is missing, or a side empty.
    """
    values, is_planted = np.asarray(scores, np.float64), np.asarray(planted, bool)
    if not np.isfinite(values).all():
        raise DataError("a row without a score cannot be ranked; leave it out and count it")
    if is_planted.all() or not is_planted.any():
        raise DataError("detection needs planted rows and clean ones")
    weights = np.ones((1, len(values)), np.int64) if weights is None else weights
    order = np.argsort(-values, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(values[order], append=-np.inf))
    sides = []
    for side in (is_planted, ~is_planted):
        flagged = np.cumsum((weights * side)[:, order], axis=1)[:, last_of_ties].astype(np.float64)
        total = flagged[:, -1:]
        share = np.divide(flagged, total, out=np.full_like(flagged, np.nan), where=total > 0)
        sides.append(np.hstack([np.zeros((len(share), 1)), share]))
    return Curve(*sides)


def auc(found: Curve) -> FloatArray:
    """The chance that a planted row scores above a clean one, a tie counting one half."""
    heights = (found.planted[:, 1:] + found.planted[:, :-1]) / 2
    return (np.diff(found.clean, axis=1) * heights).sum(1)


def precision(found: Curve, rate: float) -> FloatArray:
    """Precision at equal removal: as many rows are flagged as were planted.

    Recall is the same number then. Where the last rows to be flagged are of equal score, it is
    what to expect when some of them are picked at random.
    """
    flagged = rate * found.planted + (1 - rate) * found.clean
    # The line is drawn between the last threshold that flags too little and the next one.
    after = np.argmax(flagged >= rate, axis=1)[:, None]
    few, many = (np.take_along_axis(found.planted, i, 1)[:, 0] for i in (after - 1, after))
    below, above = (np.take_along_axis(flagged, i, 1)[:, 0] for i in (after - 1, after))
    return few + (many - few) * (rate - below) / (above - below)


def average_precision(found: Curve, rate: float) -> FloatArray:
    """The mean, over the planted rows, of the precision at each one's own score."""
    hits = rate * found.planted[:, 1:]
    flagged = hits + (1 - rate) * found.clean[:, 1:]
    # A resample may hold none of the first rows.
    at_each = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return (np.diff(found.planted, axis=1) * at_each).sum(1)
