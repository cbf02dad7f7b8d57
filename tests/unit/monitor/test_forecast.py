"""Figures of a calibration, from answers whose projections and expressions are known."""

import numpy as np

from personavec.monitor.forecast import ScoredAnswers, condition_means
from personavec.stats import clustered_bootstrap


def test_a_conditions_mean_has_its_interval_over_questions() -> None:
    """Of one question there is none."""
    expression = np.array([1.0, 3.0, 5.0, 7.0, 2.0, 4.0])
    questions = np.array(["a", "b", "c", "d", "a", "a"])
    condition = np.array(["prompt1"] * 4 + ["0 examples"] * 2)
    answers = ScoredAnswers(
        np.arange(6.0), expression, questions, condition, np.zeros(6, bool), "log_odds", 0
    )
    four, one = condition_means(answers, seed=3)
    found = clustered_bootstrap(expression[:4], ["a", "b", "c", "d"], seed=3)
    assert (four.expression, four.low, four.high) == (4.0, found.low, found.high)
    assert four.low is not None
    assert 1.0 <= four.low < 4.0
    assert (one.expression, one.low, one.high) == (3.0, None, None)
