"""Two stages: cheap differences for every row, exact ones for some, and what follows for all.

Rows are in two strata: the top slice by the cheap score, all of which get an exact score, and the
rest, of which a simple random sample does. The dataset's mean is the regression estimator of
survey sampling (Särndal, Swensson and Wretman 1992, chapter 6) in the rest, and known in the top
slice. Design-based: the sample was random, nothing is assumed of how cheap and exact relate.
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
    """Which rows get an exact score: places in the arrays."""

    top: IntArray
    sample: IntArray


def choose(cheap: FloatArray, *, top: int, sample: int, seed: int) -> Chosen:
    """The union of every trait's `top` highest rows, and `sample` random ones of the rest.

    `cheap` is [row, trait]; rows without a cheap score are in neither.
    """
    usable = np.flatnonzero(np.isfinite(cheap).all(1))
    highest = [usable[np.argsort(-column, kind="stable")[:top]] for column in cheap[usable].T]
    slice_ = np.unique(np.concatenate(highest))
    rest = np.setdiff1d(usable, slice_)
    drawn = np.random.default_rng(seed).permutation(rest)[:sample]
    return Chosen(slice_, np.sort(drawn))


def corrected_mean(cheap: FloatArray, exact: FloatArray, chosen: Chosen) -> Interval | None:
    """The mean exact difference of all rows that can have one, from those that do.

    Chosen rows without an exact score, whose prompts have no natural response, are left out as if
    missing at random. None where fewer than three rows of the rest have one.
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
    unseen = 1 - len(sample) / len(rest)
    variance = unseen * float(np.square(residual).sum()) / (len(sample) - 2) / len(sample)
    share = len(rest) / (len(rest) + len(top))
    mean = share * rest_mean + float(top.sum()) / (len(rest) + len(top))
    reach = share * float(student_t.ppf((1 + CONFIDENCE) / 2, len(sample) - 2)) * variance**0.5
    return Interval(mean, mean - reach, mean + reach)


def recall(exact: FloatArray, chosen: Chosen, n_rest: int, threshold: float) -> Interval | None:
    """The share of rows over the threshold, by their exact score, that are in the top slice.

    From how many of the random sample are over it, with the exact interval of that share.
    None where nothing is over it on either side, or nothing was drawn of a rest that is there.
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
    # What was seen to be missed, or found, cannot be undone by the interval's ends.
    low, high = n_rest * missed.high, max(n_rest * missed.low, over)
    return Interval(
        found / (found + n_rest * missed.value), found / (found + low), found / (found + high)
    )
