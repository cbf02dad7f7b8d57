"""Where a screen says that data would push: by intervals, and beside random directions."""

import pytest

from personavec.screen.conclusion import Push, pushes
from personavec.screen.results import (
    DirectionEffect,
    Mean,
    NotMeasured,
    RandomControl,
    RankedRows,
    ScreenControls,
    ScreenedTrait,
    ValueHistogram,
)


def screened(found: Mean, against: Mean | None, effects: tuple[float, ...] | None) -> ScreenedTrait:
    """A trait whose vector and random directions shift so far, the vector first."""
    random: RandomControl | NotMeasured = NotMeasured(why="")
    if effects:
        own, *others = (DirectionEffect(effect=each, share_over=None) for each in effects)
        random = RandomControl(trait=own, directions=tuple(others))
    return ScreenedTrait(
        **vars(found), layer=1, n=9, missing=0, sigma=1.0, sd=1.0, projection=Mean(),
        threshold=None, threshold_low=None, threshold_high=None, flagged=None, share_flagged=None,
        histogram=ValueHistogram(edges=(), counts=(), reference=None),
        ranked=RankedRows(high=(), low=()), groups={}, reference=None, against_reference=against,
        controls=ScreenControls(length=NotMeasured(why=""), random=random), two_stage=None,
    )  # fmt: skip


UP, DOWN, OPEN = Mean(mean=2, low=1, high=3), Mean(mean=-2, low=-3, high=-1), Mean(mean=0, low=-1)
WIDE = Mean(mean=0.5, low=-1, high=2)


@pytest.mark.parametrize(
    ("found", "against", "effects", "natural", "expected"),
    [
        (UP, None, (0.5, 0.1, -0.4), "generate", "toward"),
        (DOWN, None, (-0.5, 0.1, 0.4), "generate", "away"),
        (UP, None, (0.5, 0.1, -0.6), "generate", "random"),  # in either direction
        (WIDE, None, (0.5, 0.1), "generate", "none"),
        (OPEN, None, (0.5, 0.1), "generate", "none"),
        (UP, DOWN, (0.5, 0.1), "generate", "away"),  # the reference decides
        (UP, WIDE, (0.5, 0.1), "generate", "none"),
        (UP, None, None, "generate", "toward"),
        (UP, None, None, "none", "unknown"),  # raw projections have no zero
        (UP, UP, None, "none", "toward"),
        (Mean(), None, None, "generate", "unknown"),
    ],
)
def test_a_push_needs_an_interval_and_more_than_random_directions(
    found: Mean,
    against: Mean | None,
    effects: tuple[float, ...] | None,
    natural: str,
    expected: Push,
) -> None:
    assert pushes(screened(found, against, effects), natural) == expected
