"""The numbers of a reading against counts by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from personavec.judges.coherence_features import (
    NAMES,
    Reading,
    Typical,
    features,
    repeated_share,
    typical,
    worst_run,
)

USUAL = Typical(own=-1.0, alone=-2.0)
LOGPROBS = st.lists(st.floats(-20, 0), min_size=1, max_size=64)


def reading(own: list[float], alone: list[float] | None = None, **more) -> Reading:
    values = np.array(own), np.array(own if alone is None else alone)
    return Reading(more.pop("ids", tuple(range(len(own)))), *values, **more)


@given(LOGPROBS, st.integers(1, 20))
def test_the_worst_run_is_the_lowest_mean_of_neighbours(own: list[float], length: int) -> None:
    """Of all runs of the length, or of all there are; two usual tokens are added."""
    starts = range(max(1, len(own) - length + 1))
    runs = [[*own[start : start + length], -1.0, -1.0] for start in starts]
    expected = min(sum(run) / len(run) for run in runs)
    assert worst_run(np.array(own), length, -1.0) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 3))
def test_repeated_shares_count_what_was_seen_before(ids: list[int], n: int) -> None:
    """Against a count by hand."""
    seen: list[tuple[int, ...]] = []
    again = 0
    for i in range(len(ids) - n + 1):
        again += tuple(ids[i : i + n]) in seen
        seen.append(tuple(ids[i : i + n]))
    assert repeated_share(ids, n) == pytest.approx(again / (len(seen) + 4) if seen else 0)


@given(LOGPROBS)
def test_a_short_response_is_near_the_usual(own: list[float]) -> None:
    """Four usual tokens are added to the means, so that one odd token alone decides little."""
    found = features(reading(own), USUAL)
    assert set(found) == set(NAMES)
    assert all(map(math.isfinite, found.values()))
    assert found["own"] == pytest.approx((sum(own) - 4) / (len(own) + 4))
    assert found["gain"] == pytest.approx(4 / (len(own) + 4))
    assert found["length"] == pytest.approx(math.log(len(own)))


def test_an_end_counts_only_where_it_is_known_and_out_of_place() -> None:
    """Down to -10 nats an end is one that sound answers have; the rest is bounded."""
    ends = [None, -0.1, -9.9, -12.5, -80.0]
    found = [features(reading([-1.0], end=end), USUAL)["unended"] for end in ends]
    assert found == pytest.approx([0, 0, 0, -2.5, -12])


def test_usual_tokens_are_weighted_by_number() -> None:
    """The mean over tokens, not over responses."""
    found = typical([reading([-1.0, -1.0, -4.0], [-2.0, -2.0, -2.0]), reading([-2.0], [-6.0])])
    assert found == Typical(own=-2.0, alone=-3.0)
