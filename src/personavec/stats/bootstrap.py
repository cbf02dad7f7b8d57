"""Intervals from resamples of whole clusters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from personavec.errors import DataError
from personavec.stats.interval import CONFIDENCE, FloatArray, Interval, finite

Clusters: TypeAlias = Sequence[Hashable] | npt.NDArray[Any]

_RESAMPLES = 2000


def mean(values: FloatArray) -> float:
    """The arithmetic mean, in the unit of the values."""
    return float(np.mean(values))


def clustered_bootstrap(
    values: npt.ArrayLike,
    clusters: Clusters,
    statistic: Callable[[FloatArray], float] = mean,
    n: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The statistic with its percentile interval over `n` resamples of whole clusters.

    `values` and `clusters` have one number and one cluster (the question) per rollout. A cluster
    that is drawn twice counts all its values twice. The interval is too narrow for fewer than
    about ten clusters. Resamples for which the statistic is NaN are left out.

    Raises DataError for no or missing values, unequal lengths, or fewer than two clusters.
    """
    array = finite(values, "values")
    codes, n_clusters = _encode_clusters([clusters], [array])
    weights = _resampled_weights(n_clusters, n, seed)
    if statistic is mean:  # a ratio of sums over clusters: no loop over resamples
        sums = np.bincount(codes[0], array, minlength=n_clusters)
        counts = np.bincount(codes[0], minlength=n_clusters)
        resampled = (weights @ sums) / (weights @ counts)
    else:
        resampled = np.array([statistic(np.repeat(array, w[codes[0]])) for w in weights])
        resampled = resampled[~np.isnan(resampled)]
    return _percentile_interval(float(statistic(array)), resampled)


def auc(pos: npt.ArrayLike, neg: npt.ArrayLike) -> float:
    """The chance, 0 to 1, that a value of `pos` exceeds one of `neg`; a tie counts one half.

    0.5 is no separation. Raises DataError if either is empty or has missing values.
    """
    pos_values, neg_values = finite(pos, "pos"), finite(neg, "neg")
    return float(np.mean(_wins(pos_values, neg_values)) / len(neg_values))


def auc_interval(
    pos: npt.ArrayLike,
    neg: npt.ArrayLike,
    pos_clusters: Clusters,
    neg_clusters: Clusters,
    seed: int = 0,
) -> Interval:
    """`auc` with its percentile interval over resamples of whole clusters.

    A cluster (the question) has the same name on both sides and is drawn on both at once.
    Resamples with an empty side, possible only if a cluster lacks one, are left out.

    Raises DataError for an empty side, missing values, unequal lengths, or fewer than two clusters.
    """
    pos_values, neg_values = finite(pos, "pos"), finite(neg, "neg")
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
    weights = _resampled_weights(n_clusters, _RESAMPLES, seed)
    n_pos = weights @ np.bincount(pos_codes, minlength=n_clusters)
    n_neg = weights @ np.bincount(neg_codes, minlength=n_clusters)
    has_both = (n_pos > 0) & (n_neg > 0)
    won = ((weights @ wins) * weights).sum(axis=1)
    resampled = won[has_both] / (n_pos * n_neg)[has_both]
    return _percentile_interval(auc(pos_values, neg_values), resampled)


def resampled(clusters: Clusters, n: int = _RESAMPLES, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each value (column) occurs in each of `n` resamples (rows) of whole clusters.

    For statistics of weighted values, which can then be computed in all resamples at once. Values
    of several groups are resampled jointly if they are given as one list. Raises DataError for
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
    n: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Pearson's correlation with its percentile interval over `n` resamples of whole clusters.

    `within` names a group (the condition) for each pair of values; the groups' means are then
    subtracted from both sides, which removes differences between groups. Resamples in which a side
    does not vary are left out; the value is NaN if a side does not vary at all.

    Raises DataError for missing values, unequal lengths, or fewer than two clusters.
    """
    left, right = finite(x, "x"), finite(y, "y")
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
    return _percentile_interval(float(found[0]), found[1:][~np.isnan(found[1:])])


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


def _percentile_interval(value: float, resampled: FloatArray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
