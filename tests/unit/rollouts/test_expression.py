"""How strongly rollouts express a trait: what is averaged, counted and paired."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from personavec.results import Estimate
from personavec.rollouts import Rollout, paired, summarise


def rollout(question: str, score: float | None, state: str = "scored") -> Rollout:
    return tiny_models.rollout(
        f"{question}{score}",
        question,
        state=state,
        trait_score=score,
        coherence=None if score is None else 90.0,
    )


def test_a_summary_counts_every_state_and_averages_what_was_scored() -> None:
    """A refusal, an empty and a failed response are counted and are never a 0."""
    found = summarise(
        [
            rollout("a", 40.0),
            rollout("a", 80.0),
            rollout("b", 60.0),
            rollout("b", None, "refusal"),
            rollout("c", None, "empty"),
            rollout("c", None, "failed"),
        ],
        refusals=True,
    )
    assert (found.mean, found.n, found.of, found.refusals) == (60.0, 3, 6, 1)
    assert found.share_above_50 == pytest.approx(2 / 3)
    assert found.states == {"scored": 3, "refusal": 1, "empty": 1, "failed": 1}
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 60.0 <= found.high
    assert found.estimate("mean") == Estimate(60.0, found.low, found.high)
    assert found.lost == {"empty": 1, "failed": 1}
    assert found.log_odds is None
    assert summarise([rollout("a", 40.0)], refusals=False).refusals is None


def test_one_question_alone_has_no_interval() -> None:
    found = summarise([rollout("a", 40.0), rollout("a", 50.0)], refusals=True)
    assert (found.mean, found.low, found.n) == (None, None, 2)


def test_paired_differences_are_taken_by_question() -> None:
    """Question b, unscored on one side, is left out; the mean is of questions, not rollouts."""
    ours = [rollout("a", 50.0), rollout("a", 70.0), rollout("b", 99.0), rollout("c", 30.0)]
    theirs = [rollout("a", 20.0), rollout("b", None, "empty"), rollout("c", 40.0)]
    found = paired(ours, theirs)
    assert found.mean.value == pytest.approx(((60 - 20) + (30 - 40)) / 2)
    assert (found.questions, found.questions_for_half_width) == (2, 8)
    assert paired(ours, ours).mean == Estimate(0, 0, 0)


def test_pairing_removes_what_questions_have_in_common() -> None:
    """Scores vary by question from 0 to 100, and one side is 2 higher each time."""
    theirs = [rollout(str(i), 98.0 * i / 20) for i in range(21)]
    ours = [replace(r, trait_score=(r.trait_score or 0) + 2.0) for r in theirs]
    found = paired(ours, theirs).mean
    assert found.low == pytest.approx(2) == found.high


def test_half_the_width_takes_about_the_questions_that_are_promised() -> None:
    """With four times as many questions the interval is half as wide, within a quarter."""
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, 400).clip(0, 100)

    def width(n: int) -> float:
        found = summarise([rollout(str(i), v) for i, v in enumerate(values[:n])], refusals=True)
        assert found.high is not None
        assert found.low is not None
        return found.high - found.low

    hundred = summarise([rollout(str(i), 1.0) for i in range(100)], refusals=True)
    assert hundred.questions_for_half_width == 400
    assert width(100) / width(400) == pytest.approx(2, rel=0.25)
