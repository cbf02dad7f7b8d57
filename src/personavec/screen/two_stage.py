"""Two-stage estimates: cheap scores for every row, exact scores for some of them.

There are two strata. All rows of the top slice by cheap score get an exact score; of the rest, a
simple random sample does. The mean of the top slice is known, and that of the rest is the
regression estimator of survey sampling (Särndal, Swensson and Wretman 1992, chapter 6). The
estimate is design-based: it relies on random sampling, not on how cheap and exact scores relate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from personavec.stats import CONFIDENCE, Interval, share_interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Which rows get an exact score, as positions in the arrays of scores."""

    top: IntArray
    sample: IntArray


def choose(cheap: FloatArray, *, top: int, sample: int, seed: int) -> Chosen:
    """Choose the `top` highest rows of every trait, and `sample` random rows of the rest.

    `cheap` is [row, trait]. Rows without a cheap score for every trait are not chosen.
    """
    usable = np.flatnonzero(np.isfinite(cheap).all(1))
    highest = [usable[np.argsort(-column, kind="stable")[:top]] for column in cheap[usable].T]
    slice_ = np.unique(np.concatenate(highest))
    rest = np.setdiff1d(usable, slice_)
    drawn = np.random.default_rng(seed).permutation(rest)[:sample]
    return Chosen(slice_, np.sort(drawn))


def corrected_mean(cheap: FloatArray, exact: FloatArray, chosen: Chosen) -> Interval | None:
    """Estimate one trait's mean exact score over all rows; `cheap` and `exact` are [row].

    Chosen rows without an exact score, because their prompts have no natural response, are treated
    as missing at random. Returns None if fewer than three sampled rows have an exact score.
    """
    top = exact[chosen.top][np.isfinite(exact[chosen.top])]
    drawn = chosen.sample[np.isfinite(exact[chosen.sample])]
    sample = exact[drawn]
    rest = np.setdiff1d(np.flatnonzero(np.isfinite(cheap)), chosen.top)
    if not len(rest) and len(top):
        mean = float(top.mean())
        return Interval(mean, mean, mean)
    if len(sample) < 3:
        return None
    x = cheap[drawn]
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * sample).sum()) / spread if spread else 0.0
    residual = sample - sample.mean() - slope * (x - x.mean())
    rest_mean = float(sample.mean() + slope * (cheap[rest].mean() - x.mean()))
    finite_correction = 1 - len(sample) / len(rest)
    residual_variance = float(np.square(residual).sum()) / (len(sample) - 2)
    variance = finite_correction * residual_variance / len(sample)
    share = len(rest) / (len(rest) + len(top))
    mean = share * rest_mean + float(top.sum()) / (len(rest) + len(top))
    t = float(student_t.ppf((1 + CONFIDENCE) / 2, len(sample) - 2))
    half_width = share * t * variance**0.5
    return Interval(mean, mean - half_width, mean + half_width)


def recall(exact: FloatArray, chosen: Chosen, n_rest: int, threshold: float) -> Interval | None:
    """Of the rows whose exact score is over the threshold, the share that is in the top slice.

    `exact` is [row] and `n_rest` is the number of rows outside the top slice. The rows missed there
    are estimated from the random sample, with the exact binomial interval. Returns None if no exact
    score is over the threshold, or if there is a rest but no sample of it.
    """
    found = int((exact[chosen.top] > threshold).sum())
    if not n_rest:
        return Interval(1.0, 1.0, 1.0) if found else None
    known = exact[chosen.sample][np.isfinite(exact[chosen.sample])]
    if not len(known):
        return None
    over = int((known > threshold).sum())
    if not found and not over:
        return None
    missed = share_interval(over, len(known))
    # At least the sampled rows over the threshold are missed.
    low, high = n_rest * missed.high, max(n_rest * missed.low, over)
    return Interval(
        found / (found + n_rest * missed.value), found / (found + low), found / (found + high)
    )
