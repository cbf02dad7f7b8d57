"""Readings are standardised by neutral ones, and the model is plain arithmetic on the result."""

import math

import numpy as np
import pytest

from personavec.errors import DataError
from personavec.judges.coherence_features import NAMES, Reading, features
from personavec.judges.coherence_model import (
    FORMAT,
    CoherenceModel,
    bundled_model,
    coherence_model,
    norms,
)

RNG = np.random.default_rng(0)


def random_reading(n: int = 40, shift: float = 0.0) -> Reading:
    own = np.minimum(0, RNG.normal(-1 + shift, 0.5, n))
    alone = np.minimum(0, RNG.normal(-2 + shift, 0.5, n))
    return Reading(tuple(RNG.integers(0, 30, n).tolist()), own, alone)


@pytest.fixture(scope="module")
def neutral() -> list[Reading]:
    return [random_reading(int(n)) for n in RNG.integers(10, 64, 50)]


def test_neutral_readings_are_standard(neutral: list[Reading]) -> None:
    """Mean 0 and spread 1, but for what is taken as it is and the bend towards the bound."""
    of_model = norms(neutral)
    rows = [of_model.standardised(each) for each in neutral]
    for name in set(NAMES) - {"unended"}:
        values = np.array([row[name] for row in rows])
        assert abs(values.mean()) < 0.05
        assert values.std() == pytest.approx(1, abs=0.05) or of_model.spread[name] == 0.01


def test_coherence_is_the_logistic_of_a_weighted_sum(neutral: list[Reading]) -> None:
    """Recomputed from the numbers themselves."""
    of_model, one = norms(neutral), random_reading(shift=-2.0)
    model = CoherenceModel({"own": 0.7, "repeated": -0.4}, 0.3)
    total = 0.3
    for name, weight in model.weights.items():
        z = (features(one, of_model.usual)[name] - of_model.mean[name]) / of_model.spread[name]
        total += weight * 20 * math.tanh(z / 20)
    assert model.coherence(one, of_model) == pytest.approx(100 / (1 + math.exp(-total)))


def test_likelihoods_of_another_scale_score_alike(neutral: list[Reading]) -> None:
    """A model with twice the nats per token everywhere gives the same means the same coherence."""

    def scaled(reading: Reading) -> Reading:
        return Reading(reading.ids, 2 * reading.own, 2 * reading.alone)

    model = CoherenceModel({"own": 0.7, "alone_10": 0.2, "own_run_8": 0.1, "gain": 0.4}, 0.3)
    one, of_one = random_reading(shift=-1.0), norms(neutral)
    of_other = norms([scaled(each) for each in neutral])
    assert model.coherence(scaled(one), of_other) == pytest.approx(model.coherence(one, of_one))


@pytest.mark.parametrize(
    "record", [{"format": FORMAT + 1, "weights": {}}, {"format": FORMAT, "weights": {"tone": 1.0}}]
)
def test_coefficients_of_another_version_are_refused(record: dict) -> None:
    with pytest.raises(DataError, match=r"fit it again with scripts/fit_coherence\.py"):
        coherence_model({"intercept": 0.0, **record})


def test_the_bundled_coefficients_fit_this_version() -> None:
    assert set(bundled_model().weights) <= set(NAMES)
