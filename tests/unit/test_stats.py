"""Each statistic recomputed by another route, and the intervals' coverage on known truth."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from personavec.errors import DataError
from personavec.stats import (
    Interval,
    auc,
    auc_interval,
    clustered_bootstrap,
    clustered_share,
    mean,
    monotone_within_intervals,
    quantile_interval,
    rank_correlation_interval,
    share_interval,
)

# Few distinct values, so that ties are common.
scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def clustered_data(
    rng: np.random.Generator, n_clusters: int, per_cluster: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values of true mean 0, half of whose variance is shared within a cluster."""
    clusters = np.repeat(np.arange(n_clusters), per_cluster)
    shared = rng.normal(size=n_clusters)[clusters]
    return shared + rng.normal(size=len(clusters)), clusters


def test_mean_interval_equals_the_literal_resampling() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=30)
    clusters = [f"question {i}" for i in rng.integers(0, 7, size=30)]
    fast = clustered_bootstrap(values, clusters, seed=3)
    slow = clustered_bootstrap(values, clusters, lambda x: float(np.mean(x)), seed=3)
    assert fast.value == mean(values)
    np.testing.assert_allclose([fast.low, fast.high], [slow.low, slow.high], rtol=1e-12)

    # The other route: draw names, concatenate their values. Other draws, so only close: the ends
    # of 20,000 resamples vary by about 1% of the width; 5% is never met by chance.
    by_name = [values[[c == name for c in clusters]] for name in sorted(set(clusters))]
    means = [
        np.concatenate([by_name[i] for i in rng.integers(0, len(by_name), len(by_name))]).mean()
        for _ in range(20_000)
    ]
    expected = np.quantile(means, [0.025, 0.975])
    many = clustered_bootstrap(values, clusters, n=20_000)
    assert np.abs(np.array([many.low, many.high]) - expected).max() < 0.05 * np.ptp(expected)


def test_coverage_is_near_nominal_where_ignoring_clusters_is_not() -> None:
    rng = np.random.default_rng(0)
    n_trials, covered, covered_ignoring = 300, 0, 0
    for trial in range(n_trials):
        values, clusters = clustered_data(rng, n_clusters=40, per_cluster=8)
        honest = clustered_bootstrap(values, clusters, n=400, seed=trial)
        naive = clustered_bootstrap(values, np.arange(len(values)), n=400, seed=trial)
        covered += honest.low <= 0 <= honest.high
        covered_ignoring += naive.low <= 0 <= naive.high
    # True coverage is about 0.94; the standard error over 300 trials is 0.014. The seed is fixed,
    # and another would leave these bounds less than once in a thousand.
    assert 0.89 < covered / n_trials < 0.985
    assert covered_ignoring / n_trials < 0.8


def test_seed_decides_the_interval_and_confidence_its_width() -> None:
    values, clusters = clustered_data(np.random.default_rng(2), 10, 3)
    first = clustered_bootstrap(values, clusters, seed=1)
    assert first == clustered_bootstrap(values, clusters, seed=1)
    assert first != clustered_bootstrap(values, clusters, seed=2)
    half = clustered_bootstrap(values, clusters, seed=1, confidence=0.5)
    assert first.low < half.low < half.value < half.high < first.high


def test_other_statistics_see_repeated_values() -> None:
    interval = clustered_bootstrap([0, 1, 2, 3], list("abcd"), lambda x: float(len(x)))
    assert interval == Interval(4.0, 4.0, 4.0)


@given(pos=scores, neg=scores)
def test_auc_equals_scikit_learn(pos: list[float], neg: list[float]) -> None:
    expected = roc_auc_score([1] * len(pos) + [0] * len(neg), pos + neg)
    assert auc(pos, neg) == pytest.approx(expected)
    assert auc(pos, neg) + auc(neg, pos) == pytest.approx(1)


def test_auc_interval_equals_the_literal_resampling() -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(8), 3)
    pos, neg = rng.normal(1, 1, 24).round(1), rng.normal(0, 1, 24).round(1)
    got = auc_interval(pos, neg, clusters, clusters, seed=5)
    # The same draws, spelled out: this repeats the values of the drawn clusters.
    draws = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), size=2000)
    literal = [auc(np.repeat(pos, w[clusters]), np.repeat(neg, w[clusters])) for w in draws]
    np.testing.assert_allclose([got.low, got.high], np.quantile(literal, [0.025, 0.975]))
    assert got.value == auc(pos, neg)


def test_auc_interval_with_clusters_that_lack_a_side() -> None:
    got = auc_interval([2, 3, 4], [0, 1], ["a", "a", "b"], ["b", "c"])
    assert got == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], True),
        ([(0, 1)], True),
        ([(0, 1), (2, 3), (4, 5)], True),
        ([(0, 2), (-1, 0)], True),  # they touch
        ([(0, 1), (-2, -1)], False),
        ([(5, 6), (0, 9), (3, 4)], False),  # against the first, not only the neighbour
        ([(0, 4), (-1, 3), (-2, 2), (-3, 1)], True),  # falling, but within the intervals
    ],
)
def test_monotone_cases(intervals: list[tuple[int, int]], expected: bool) -> None:
    points = [Interval((low + high) / 2, float(low), float(high)) for low, high in intervals]
    assert monotone_within_intervals(points) is expected
    every_pair = all(
        later.high >= earlier.low for i, earlier in enumerate(points) for later in points[i + 1 :]
    )
    assert every_pair is expected


def test_nothing_that_is_missing_is_monotone() -> None:
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    assert not monotone_within_intervals([nothing] * 3)
    assert not monotone_within_intervals([Interval(0, -1, 1), nothing, Interval(2, 1, 3)])


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


@pytest.mark.parametrize(
    ("values", "clusters", "named"),
    [
        ([], [], "non-empty"),
        ([1.0, None], ["a", "b"], "1 of 2 are missing"),
        ([1.0, float("inf")], ["a", "b"], "infinite"),
        ([1.0, 2.0], ["a"], "2 values but 1 clusters"),
        ([1.0, 2.0], ["a", "a"], "at least 2 clusters"),
    ],
)
def test_unusable_input_is_refused(
    values: list[float | None], clusters: list[str], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        clustered_bootstrap(np.array(values, dtype=float), clusters)
