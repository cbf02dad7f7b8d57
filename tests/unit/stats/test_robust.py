"""Cluster-robust intervals: recomputed by another route, and their coverage of a known truth."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from personavec.errors import DataError
from personavec.stats import (
    cluster_mean,
    clustered_bootstrap,
    clustered_share,
    quantile_interval,
    rank_correlation_interval,
    share_interval,
)


# In 300 simulations a nominal 95% interval holds the truth in 274 or fewer about once in 200 times.
@pytest.mark.parametrize(("n_clusters", "per_cluster"), [(60, 5), (30, 20), (300, 1)])
def test_intervals_of_shares_and_ranks_hold_the_truth_where_values_share_clusters(
    n_clusters: int, per_cluster: int
) -> None:
    rng = np.random.default_rng(n_clusters)
    clusters = np.repeat(np.arange(n_clusters), per_cluster)

    def normal() -> np.ndarray:
        own, shared = rng.normal(size=len(clusters)), rng.normal(size=n_clusters)[clusters]
        return own if per_cluster == 1 else (own + shared) / 2**0.5

    line, shared, rank = 1.2816, 0.6, 6 / np.pi * np.arcsin(0.3)  # of normal variables
    held = {"share": 0, "quantile": 0, "ranks": 0, "share alone": 0}
    for _ in range(300):
        x = normal()
        y = shared * x + (1 - shared**2) ** 0.5 * normal()
        found = {
            "share": (clustered_share(x > line, clusters), 0.1),
            "quantile": (quantile_interval(x, 0.9, clusters), line),
            "ranks": (rank_correlation_interval(x, y, clusters), rank),
            "share alone": (share_interval(int((x > line).sum()), len(x)), 0.1),
        }
        for name, (interval, truth) in found.items():
            held[name] += interval.low <= truth <= interval.high
        assert found["ranks"][0].value == pytest.approx(spearmanr(x, y).statistic)
    assert min(held["share"], held["quantile"], held["ranks"]) >= 274, held
    if per_cluster > 1:
        assert held["share alone"] < 270, held
    else:
        assert found["share"][0] == found["share alone"][0]


def test_a_share_of_none_tells_no_more_than_its_clusters() -> None:
    """Twenty rows of one prompt each tell what one row does."""
    clusters = np.repeat(np.arange(10), 20)
    assert clustered_share(np.zeros(200), clusters).high == share_interval(0, 10).high
    # Clusters that all have the same share tell as much as values alone, and no more.
    even = clustered_share(np.tile([0, 1], 10), np.repeat(np.arange(10), 2))
    assert even == share_interval(10, 20)
    assert clustered_share(np.ones(200), clusters).low == share_interval(10, 10).low
    with pytest.raises(DataError, match="share of nothing"):
        clustered_share([], [])


def test_ranks_with_ties_and_without_variation() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, 80).astype(float), rng.integers(0, 3, 80).astype(float)
    found = rank_correlation_interval(x, y, np.arange(80) // 2)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    assert np.isnan(rank_correlation_interval(np.ones(80), y, np.arange(80)).value)
    perfect = rank_correlation_interval(x, x, np.arange(80))
    assert (perfect.low, perfect.high) == pytest.approx((1, 1), abs=1e-3)


def test_the_cluster_mean_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(150), rng.integers(1, 12, 150))
    values = rng.normal(size=150)[clusters] + rng.normal(size=len(clusters))
    plain, resampled = cluster_mean(values, clusters), clustered_bootstrap(values, clusters)
    assert plain.value == pytest.approx(resampled.value)
    assert plain.high - plain.low == pytest.approx(resampled.high - resampled.low, rel=0.1)
    alone = cluster_mean(values, np.arange(len(values)))
    assert alone.high - alone.low < 0.7 * (plain.high - plain.low)
    with pytest.raises(DataError, match="at least 2 clusters"):
        cluster_mean([1.0, 2.0], [1, 1])


def test_quantiles_and_shares_have_known_intervals() -> None:
    """Against tables: 3 of 20 is 0.150 [0.032, 0.379]; none of 10 reaches up to 0.308."""
    found = share_interval(3, 20)
    assert (found.value, found.low, found.high) == pytest.approx((0.15, 0.0321, 0.3789), abs=1e-4)
    assert share_interval(0, 10).high == pytest.approx(0.3085, abs=1e-4)
    assert share_interval(10, 10).high == 1.0
    rng = np.random.default_rng(0)
    covered = sum(
        found.low <= 1.6449 <= found.high
        for found in (quantile_interval(rng.normal(size=300), 0.95) for _ in range(300))
    )
    assert covered >= 275
