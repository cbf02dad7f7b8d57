"""Intervals and comparisons over rollouts, which are not independent of each other.

Rollouts of one question resemble each other, so intervals resample questions (clusters), not
rollouts. Every function is deterministic in its seed. Missing values are refused: leave them out
and count them before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from personavec.errors import DataError

FloatArray: TypeAlias = npt.NDArray[np.float64]
Clusters: TypeAlias = Sequence[Hashable] | npt.NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of the statistic."""

    value: float
    """The statistic of the data as observed."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""


def mean(values: FloatArray) -> float:
    """The arithmetic mean, in the unit of the values."""
    return float(np.mean(values))


def clustered_bootstrap(
    values: npt.ArrayLike,
    clusters: Clusters,
    statistic: Callable[[FloatArray], float] = mean,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The statistic with its percentile interval over `n` resamples of whole clusters.

    `values` and `clusters` run in parallel: one number and one cluster (the question) per rollout.
    A cluster drawn twice brings all its values twice. The interval is too narrow for fewer than
    about ten clusters. Resamples for which the statistic is NaN, undefined, are left out.

    Raises DataError for no or missing values, unequal lengths, or fewer than two clusters.
    """
    array = _finite(values, "values")
    codes, n_clusters = _encode_clusters([clusters], [array])
    weights = _resampled_weights(n_clusters, n, seed)
    if statistic is mean:  # a ratio of sums over clusters: no loop over resamples
        sums = np.bincount(codes[0], array, minlength=n_clusters)
        counts = np.bincount(codes[0], minlength=n_clusters)
        resampled = (weights @ sums) / (weights @ counts)
    else:
        resampled = np.array([statistic(np.repeat(array, w[codes[0]])) for w in weights])
        resampled = resampled[~np.isnan(resampled)]
    return _percentile_interval(float(statistic(array)), resampled, confidence)


def auc(pos: npt.ArrayLike, neg: npt.ArrayLike) -> float:
    """The chance, 0 to 1, that a value of `pos` exceeds one of `neg`; a tie counts one half.

    0.5 is no separation. Raises DataError if either is empty or has missing values.
    """
    pos_values, neg_values = _finite(pos, "pos"), _finite(neg, "neg")
    return float(np.mean(_wins(pos_values, neg_values)) / len(neg_values))


def auc_interval(
    pos: npt.ArrayLike,
    neg: npt.ArrayLike,
    pos_clusters: Clusters,
    neg_clusters: Clusters,
    seed: int = 0,
    n: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """`auc` with its percentile interval over `n` resamples of whole clusters.

    A cluster (the question) has the same name on both sides and is drawn with both. Resamples with
    an empty side, possible only where a cluster lacks one, are left out.

    Raises DataError for an empty side, missing values, unequal lengths, or fewer than two clusters.
    """
    pos_values, neg_values = _finite(pos, "pos"), _finite(neg, "neg")
    (pos_codes, neg_codes), n_clusters = _encode_clusters(
        [pos_clusters, neg_clusters], [pos_values, neg_values]
    )
    # wins[c, d]: pairs of a pos in cluster c above a neg in cluster d. A resample weights them.
    wins = np.stack(
        [
            np.bincount(
                pos_codes, _wins(pos_values, neg_values[neg_codes == d]), minlength=n_clusters
            )
            for d in range(n_clusters)
        ],
        axis=1,
    )
    weights = _resampled_weights(n_clusters, n, seed)
    n_pos = weights @ np.bincount(pos_codes, minlength=n_clusters)
    n_neg = weights @ np.bincount(neg_codes, minlength=n_clusters)
    has_both = (n_pos > 0) & (n_neg > 0)
    won = ((weights @ wins) * weights).sum(axis=1)
    resampled = won[has_both] / (n_pos * n_neg)[has_both]
    return _percentile_interval(auc(pos_values, neg_values), resampled, confidence)


def cluster_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Interval:
    """The mean with a cluster-robust interval, without resampling: for very many values.

    The mean is a ratio of sums over clusters; its variance is that of the linearised ratio, and
    the interval a Student's t with one degree of freedom less than there are clusters. Agrees
    with `clustered_bootstrap`, in memory that does not grow with resamples. `clusters` are
    integers. Raises DataError for no or missing values, unequal lengths, or one cluster.
    """
    array = _finite(values, "values")
    error, n_clusters = _cluster_error(array, np.asarray(clusters))
    reach = float(special.stdtrit(n_clusters - 1, (1 + confidence) / 2)) * error
    middle = float(array.mean())
    return Interval(middle, middle - reach, middle + reach)


def mean_difference_interval(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    reference: npt.ArrayLike,
    reference_clusters: npt.ArrayLike,
    confidence: float = 0.95,
) -> Interval:
    """Mean of the values minus mean of the reference, each with its cluster-robust error.

    The two are taken as independent, which is cautious where they share clusters. The interval
    is normal. Raises what `cluster_mean` raises.
    """
    a, b = _finite(values, "values"), _finite(reference, "reference")
    errors = (
        _cluster_error(a, np.asarray(clusters))[0],
        _cluster_error(b, np.asarray(reference_clusters))[0],
    )
    reach = float(special.ndtri((1 + confidence) / 2)) * float(np.hypot(*errors))
    middle = float(a.mean() - b.mean())
    return Interval(middle, middle - reach, middle + reach)


def quantile_interval(
    values: npt.ArrayLike,
    share: float,
    clusters: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> Interval:
    """A quantile with the distribution-free interval between order statistics.

    Values are taken as independent, unless `clusters` (integers) say which belong together: then it
    is that of as many independent values as tell as much of the share below the quantile. `low` or
    `high` is an extreme of the data where too few values lie beyond the quantile.
    """
    # All of scipy.stats costs a second to import, and all that it is needed for is this.
    from scipy.stats import binom as binomial

    array = _finite(values, "values")
    ordered = np.sort(array)
    n, tail = len(ordered), (1 - confidence) / 2
    value = float(np.quantile(ordered, share))
    # So many independent values, each of which stands for `each` of these.
    alike = n
    if clusters is not None:
        alike = max(1, int(_independent(array <= value, np.asarray(clusters), confidence)))
    each = n / alike
    low = int(binomial.ppf(tail, alike, share))
    high = int(binomial.ppf(1 - tail, alike, share))
    return Interval(
        value,
        float(ordered[max(0, int(each * low) - 1)]),
        float(ordered[min(n - 1, int(np.ceil(each * high)))]),
    )


def share_interval(hits: int, of: int, confidence: float = 0.95) -> Interval:
    """A share with its exact (Clopper-Pearson) interval. Raises DataError if `of` is 0."""
    if of < 1:
        raise DataError("a share of nothing has no value")
    return _exact_share(hits, of, confidence)


def clustered_share(
    hits: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Interval:
    """A share with the exact interval of as many independent values as tell as much.

    Korn and Graubard's (1998): Clopper and Pearson's with the effective number of values, from the
    cluster-robust error of the share; where no value, or every one, is a hit, that is the number
    of clusters. Where no two values share a cluster it is `share_interval`. `clusters` are
    integers. Raises DataError for no values.
    """
    array = np.asarray(hits, dtype=np.float64)
    if not array.size:
        raise DataError("a share of nothing has no value")
    share = float(array.mean())
    n = _independent(array, np.asarray(clusters), confidence)
    found = _exact_share(n * share, n, confidence)
    return Interval(share, min(share, found.low), max(share, found.high))


def rank_correlation_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Interval:
    """Spearman's rank correlation with a cluster-robust interval, without resampling.

    What each value adds to the correlation of ranks, by its own and by moving the others' ranks, is
    summed over clusters; the interval is Student's t on Fisher's scale. `clusters` are integers.
    The value is NaN where a side does not vary. Raises DataError for missing values, unequal
    lengths, or fewer than three clusters.
    """
    from scipy.stats import rankdata

    left, right = _finite(x, "x"), _finite(y, "y")
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
    # Within the ends, where Fisher's scale has none.
    centre = float(np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)))
    slope = 1 / max(1 - value**2, 1e-9)
    reach = float(special.stdtrit(n_clusters - 1, (1 + confidence) / 2)) * error * slope
    return Interval(value, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)))


def _moved(values: FloatArray, others: FloatArray) -> FloatArray:
    """For every value, the mean over all of `others` where the value is below theirs, half at ties.

    What a value adds to all ranks above it, times the other side's.
    """
    order = np.argsort(values, kind="stable")
    from_here = np.append(np.cumsum(others[order][::-1])[::-1], 0.0)
    ordered = values[order]
    first = np.searchsorted(ordered, values, side="left")
    after = np.searchsorted(ordered, values, side="right")
    return (from_here[first] + from_here[after]) / 2 / len(values)


def _exact_share(hits: float, of: float, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(hits, of - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0
    return Interval(hits / of, low, high)


def _independent(
    hits: npt.NDArray[Any], clusters: npt.NDArray[Any], confidence: float = 0.95
) -> float:
    """How many independent values would tell as much of a share, the few clusters' t included."""
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
    upper = (1 + confidence) / 2
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


def resampled(clusters: Clusters, n: int = 2000, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each value (column) occurs in each of `n` resamples (rows) of whole clusters.

    For statistics that can be computed of weighted values, in all resamples at once. Values of
    several groups are resampled jointly when they are given as one list. Raises DataError for
    fewer than two clusters.
    """
    (codes,), n_clusters = _encode_clusters([clusters], [np.zeros(len(clusters))])
    return _resampled_weights(n_clusters, n, seed)[:, codes]


def correlation_interval(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    clusters: Clusters,
    *,
    within: Clusters | None = None,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Pearson's correlation with its percentile interval over `n` resamples of whole clusters.

    `within`, one group (the condition) per pair of values, takes the groups' own means off both
    sides first: what is left says nothing of differences between groups. Resamples in which a side
    does not vary are left out; the value is NaN where it does not vary at all.

    Raises DataError for missing values, unequal lengths, or fewer than two clusters.
    """
    left, right = _finite(x, "x"), _finite(y, "y")
    if len(left) != len(right):
        raise DataError(f"{len(left)} values of x but {len(right)} of y; each needs its partner")
    groups = [0] * len(left) if within is None else list(within)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    member = np.eye(len(numbers))[[numbers[group] for group in groups]]
    weights = np.vstack([np.ones(len(left)), resampled(clusters, n, seed)])
    counts = np.maximum(weights @ member, 1)

    def centred(values: FloatArray) -> FloatArray:
        means = (weights * values) @ member / counts
        return values - means @ member.T

    a, b = centred(left), centred(right)
    together = (weights * a * b).sum(1)
    apart = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    found = np.divide(together, apart, out=np.full(len(apart), np.nan), where=apart > 1e-12)
    if np.isnan(found[0]):
        return Interval(np.nan, np.nan, np.nan)
    return _percentile_interval(float(found[0]), found[1:][~np.isnan(found[1:])], confidence)


def monotone_within_intervals(intervals: Sequence[Interval]) -> bool:
    """Whether the intervals, in order, leave room for a curve that never falls.

    False only if some later interval lies wholly below an earlier one, or one is missing (NaN).
    Wide intervals pass easily: read it together with their width.
    """
    highest_low = -np.inf
    for interval in intervals:
        if np.isnan([interval.low, interval.high]).any() or interval.high < highest_low:
            return False
        highest_low = max(highest_low, interval.low)
    return True


def _finite(values: npt.ArrayLike, name: str) -> FloatArray:
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


def _encode_clusters(
    groups: Sequence[Clusters], arrays: Sequence[FloatArray]
) -> tuple[list[npt.NDArray[np.intp]], int]:
    """Clusters as integers, numbered jointly in order of appearance, and how many there are."""
    numbers: dict[Hashable, int] = {}
    codes: list[npt.NDArray[np.intp]] = []
    for clusters, array in zip(groups, arrays, strict=True):
        if len(clusters) != len(array):
            raise DataError(f"{len(array)} values but {len(clusters)} clusters; each needs its own")
        codes.append(np.array([numbers.setdefault(c, len(numbers)) for c in clusters], np.intp))
    if len(numbers) < 2:
        raise DataError(
            "an interval needs at least 2 clusters (questions), got 1; use more questions"
        )
    return codes, len(numbers)


def _resampled_weights(n_clusters: int, n: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each cluster (column) is drawn in each resample (row)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n)


def _wins(pos: FloatArray, neg: FloatArray) -> FloatArray:
    """For each value of `pos`, how many of `neg` it exceeds; a tie counts one half."""
    ordered = np.sort(neg)
    below = np.searchsorted(ordered, pos, side="left")
    not_above = np.searchsorted(ordered, pos, side="right")
    return (below + not_above) / 2


def _percentile_interval(value: float, resampled: FloatArray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
