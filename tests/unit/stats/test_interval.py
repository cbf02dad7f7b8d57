"""Intervals that rise with a coefficient."""

import pytest

from personavec.stats import (
    Interval,
    monotone_within_intervals,
)


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
