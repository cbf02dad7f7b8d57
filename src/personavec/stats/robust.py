"""Cluster-robust intervals without resampling, for very many values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from personavec.errors import DataError
from personavec.stats.interval import CONFIDENCE, FloatArray, Interval, finite


def cluster_mean(values: npt.ArrayLike, clusters: npt.ArrayLike) -> Interval:
    """The mean with a cluster-robust interval, without resampling: for very many values.

    The mean is a ratio of sums over clusters; its variance is that of the linearised ratio, and
    the interval a Student's t with one degree of freedom less than there are clusters. Agrees
    with `clustered_bootstrap`, in memory that does not grow with resamples. `clusters` are
    integers. Raises DataError for no or missing values, unequal lengths, or one cluster.
    """
    array = finite(values, "values")
    error, n_clusters = _cluster_error(array, np.asarray(clusters))
    reach = float(special.stdtrit(n_clusters - 1, (1 + CONFIDENCE) / 2)) * error
    middle = float(array.mean())
    return Interval(middle, middle - reach, middle + reach)


def mean_difference_interval(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    reference: npt.ArrayLike,
    reference_clusters: npt.ArrayLike,
) -> Interval:
    """Mean of the values minus mean of the reference, each with its cluster-robust error.

    The two are taken as independent, which is cautious where they share clusters. The interval
    is normal. Raises what `cluster_mean` raises.
    """
    a, b = finite(values, "values"), finite(reference, "reference")
    errors = (
        _cluster_error(a, np.asarray(clusters))[0],
        _cluster_error(b, np.asarray(reference_clusters))[0],
    )
    reach = float(special.ndtri((1 + CONFIDENCE) / 2)) * float(np.hypot(*errors))
    middle = float(a.mean() - b.mean())
    return Interval(middle, middle - reach, middle + reach)


def quantile_interval(
    values: npt.ArrayLike,
    share: float,
    clusters: npt.ArrayLike | None = None,
) -> Interval:
    """A quantile with the distribution-free interval between order statistics.

    Values count as independent unless `clusters` (integers) group them; then the interval is that
    of the effective number of independent values, estimated for the share below the quantile.
    `low` or `high` is an extreme of the data if too few values lie beyond the quantile.
    """
    # Importing all of scipy.stats would cost a second, and only this is needed.
    from scipy.stats import binom as binomial

    array = finite(values, "values")
    ordered = np.sort(array)
    n, tail = len(ordered), (1 - CONFIDENCE) / 2
    value = float(np.quantile(ordered, share))
    # The number of independent values; each stands for `each` of these.
    alike = n
    if clusters is not None:
        alike = max(1, int(_independent(array <= value, np.asarray(clusters))))
    each = n / alike
    low = int(binomial.ppf(tail, alike, share))
    high = int(binomial.ppf(1 - tail, alike, share))
    return Interval(
        value,
        float(ordered[max(0, int(each * low) - 1)]),
        float(ordered[min(n - 1, int(np.ceil(each * high)))]),
    )


def share_interval(hits: int, of: int) -> Interval:
    """A share with its exact (Clopper-Pearson) interval. Raises DataError if `of` is 0."""
    if of < 1:
        raise DataError("a share of nothing has no value")
    return _exact_share(hits, of)


def clustered_share(hits: npt.ArrayLike, clusters: npt.ArrayLike) -> Interval:
    """A share with the exact interval for the effective number of independent values.

    Korn and Graubard (1998): the Clopper-Pearson interval with the effective number of values,
    which follows from the cluster-robust error of the share. If no value or every value is a hit,
    it is the number of clusters. If no two values share a cluster, the result is that of
    `share_interval`. `clusters` are integers. Raises DataError for no values.
    """
    array = np.asarray(hits, dtype=np.float64)
    if not array.size:
        raise DataError("a share of nothing has no value")
    share = float(array.mean())
    n = _independent(array, np.asarray(clusters))
    found = _exact_share(n * share, n)
    return Interval(share, min(share, found.low), max(share, found.high))


def rank_correlation_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, clusters: npt.ArrayLike
) -> Interval:
    """Spearman's rank correlation with a cluster-robust interval, without resampling.

    The influence of each value on the correlation, directly and through the others' ranks, is
    summed over clusters; the interval is Student's t on Fisher's scale. `clusters` are integers.
    The value is NaN if a side does not vary. Raises DataError for missing values, unequal lengths,
    or fewer than three clusters.
    """
    from scipy.stats import rankdata

    left, right = finite(x, "x"), finite(y, "y")
    if len(left) != len(right):
        raise DataError(f"{len(left)} values of x but {len(right)} of y; each needs its partner")
    n = len(left)
    ranks = [(rankdata(side) - 0.5) / n - 0.5 for side in (left, right)]
    own = [float(np.square(side).mean()) for side in ranks]
    if not min(own) > 0:
        return Interval(np.nan, np.nan, np.nan)
    spread = float(np.sqrt(own[0] * own[1]))
    value = float((ranks[0] * ranks[1]).mean()) / spread
    moves = ranks[0] * ranks[1] + _moved(left, ranks[1]) + _moved(right, ranks[0])
    # Without ties what a value adds to a side's own variance is the same for all, and drops out.
    scales = [
        (np.square(side) + 2 * _moved(values, side)) / variance
        for values, side, variance in zip((left, right), ranks, own, strict=True)
    ]
    influence = moves / spread - value / 2 * (scales[0] + scales[1])
    error, n_clusters = _cluster_error(influence, np.asarray(clusters))
    if n_clusters < 3:
        raise DataError(f"a correlation's interval needs at least 3 clusters, got {n_clusters}")
    # Kept off -1 and 1, where Fisher's scale is infinite.
    centre = float(np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)))
    slope = 1 / max(1 - value**2, 1e-9)
    reach = float(special.stdtrit(n_clusters - 1, (1 + CONFIDENCE) / 2)) * error * slope
    return Interval(value, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)))


def _moved(values: FloatArray, others: FloatArray) -> FloatArray:
    """For every value, the mean of `others` over the values above it, with half weight at ties.

    It is the value's influence on the correlation through the ranks of the values above it.
    """
    order = np.argsort(values, kind="stable")
    from_here = np.append(np.cumsum(others[order][::-1])[::-1], 0.0)
    ordered = values[order]
    first = np.searchsorted(ordered, values, side="left")
    after = np.searchsorted(ordered, values, side="right")
    return (from_here[first] + from_here[after]) / 2 / len(values)


def _exact_share(hits: float, of: float) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(hits, of - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0
    return Interval(hits / of, low, high)


def _independent(hits: npt.NDArray[Any], clusters: npt.NDArray[Any]) -> float:
    """The effective number of independent values of a share, with the clusters' t quantile."""
    array = hits.astype(np.float64)
    n, share = len(array), float(array.mean())
    n_clusters = len(np.unique(clusters))
    if n_clusters == n or n_clusters < 2:
        return n_clusters
    if not 0 < share < 1:
        return n_clusters
    error, _ = _cluster_error(array, clusters)
    if not error:  # every cluster has the same share
        return n
    upper = (1 + CONFIDENCE) / 2
    wider = special.stdtrit(n - 1, upper) / special.stdtrit(n_clusters - 1, upper)
    return float(min(n, share * (1 - share) / error**2 * wider**2))


def _cluster_error(array: FloatArray, clusters: npt.NDArray[Any]) -> tuple[float, int]:
    """The standard error of the mean over clusters, and how many there are."""
    if len(clusters) != len(array):
        raise DataError(f"{len(array)} values but {len(clusters)} clusters; each needs its own")
    _, codes = np.unique(clusters, return_inverse=True)
    n = int(codes.max()) + 1
    if n < 2:
        raise DataError("an interval needs at least 2 clusters (prompts), got 1; use more prompts")
    residuals = np.bincount(codes, array - array.mean(), minlength=n)
    return float(np.sqrt(n / (n - 1) * np.square(residuals).sum()) / len(array)), n
