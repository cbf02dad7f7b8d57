"""Detection figures equal scikit-learn's and literal planting, and studies count what they drop."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from personavec.errors import DataError
from personavec.studies.validate_screen import detection

# Few distinct values, so that most examples have ties.
scored_rows = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=12
).filter(lambda rows: len({planted for _, planted, weight in rows if weight}) == 2)


def rate_weights(planted: np.ndarray, weights: np.ndarray, rate: float) -> np.ndarray:
    """Weights that make the planted rows `rate` of the whole."""
    sides = np.where(planted, rate / weights[planted].sum(), (1 - rate) / weights[~planted].sum())
    return weights * sides


@given(rows=scored_rows, rate=st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_figures_equal_scikit_learn_on_weighted_rows(
    rows: list[tuple[int, bool, int]], rate: float
) -> None:
    scores, planted, weights = (np.array(column) for column in zip(*rows, strict=True))
    curve = detection.curve(scores, planted, weights[None])
    theirs = rate_weights(planted, weights, rate)
    assert detection.auc(curve)[0] == pytest.approx(
        roc_auc_score(planted, scores, sample_weight=theirs)
    )
    assert detection.average_precision(curve, rate)[0] == pytest.approx(
        average_precision_score(planted, scores, sample_weight=theirs)
    )


@given(rows=scored_rows, rate=st.sampled_from([0.05, 0.2, 0.5]))
def test_equal_removal_flags_the_rate_and_picks_among_ties_at_random(
    rows: list[tuple[int, bool, int]], rate: float
) -> None:
    """Flag whole scores from the top; of the last one, the share that still fits."""
    scores, planted, weights = (np.array(column) for column in zip(*rows, strict=True))
    weight = rate_weights(planted, weights, rate)
    room, hits = rate, 0.0
    for score in sorted(set(scores.tolist()), reverse=True):
        tied = scores == score
        share = min(1.0, room / weight[tied].sum()) if weight[tied].sum() else 0.0
        hits += share * weight[tied & planted].sum()
        room -= share * weight[tied].sum()
    found = detection.precision(detection.curve(scores, planted, weights[None]), rate)
    assert found[0] == pytest.approx(hits / rate, abs=1e-9)


def test_weights_give_what_literal_planting_gives_on_average() -> None:
    """Plant 20 random rows of 200 among 380 clean ones, flag 20, many times over."""
    rng = np.random.default_rng(0)
    shown, clean = rng.normal(1.5, 1, 200), rng.normal(0, 1, 380)
    precisions = []
    for _ in range(2000):
        drawn = rng.choice(shown, 20, replace=False)
        line = np.sort(np.concatenate([drawn, clean]))[-20]
        precisions.append((drawn >= line).mean())
    planted = np.repeat([True, False], [200, 380])
    curve = detection.curve(np.concatenate([shown, clean]), planted)
    # The mean over plantings of 0.45 or so has a standard error of 0.002.
    assert detection.precision(curve, 0.05)[0] == pytest.approx(np.mean(precisions), abs=0.02)


def test_a_perfect_score_finds_all_and_a_constant_one_finds_the_rate() -> None:
    planted = np.repeat([True, False], [5, 15])
    perfect, constant = detection.curve(planted, planted), detection.curve(np.ones(20), planted)
    for rate in (0.01, 0.2):
        assert detection.precision(perfect, rate)[0] == pytest.approx(1)
        assert detection.average_precision(perfect, rate)[0] == pytest.approx(1)
        assert detection.precision(constant, rate)[0] == pytest.approx(rate)
        assert detection.average_precision(constant, rate)[0] == pytest.approx(rate)
    assert detection.auc(constant)[0] == pytest.approx(0.5)


def test_a_resample_without_planted_rows_has_no_figures() -> None:
    curve = detection.curve([3, 2, 1], [True, False, False], np.array([[0, 1, 1], [1, 1, 0]]))
    for values in (detection.auc(curve), detection.precision(curve, 0.1)):
        assert math.isnan(values[0])
        assert values[1] == pytest.approx(1)


def test_missing_scores_and_empty_sides_are_refused() -> None:
    with pytest.raises(DataError, match="without a score"):
        detection.curve([1.0, math.nan], [True, False])
    with pytest.raises(DataError, match="planted rows and clean ones"):
        detection.curve([1.0, 2.0], [True, True])


# Figures from records


# Baselines
