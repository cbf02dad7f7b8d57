"""The verdict of a validation: what intervals show, and what they leave open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from personavec.extract.results import RandomDose, SteeredDose, ValidationCheck, ValidationVerdict
from personavec.extract.verdict import Reliability, verdict
from personavec.results import Estimate
from personavec.stats import times_as_many
from personavec.vectors import STABLE, TELLS_APART, Verdict, said_check

ENDS = (-1.0, 1.0)
CHECKS = ("coherent", "rises", "positive", "negative", "stable", "apart")
RELIABLE = Reliability(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 1.0), 200)


def dose(c: float, value: float, half: float = 0.5, coherence: float = 90, by: float = 2):
    return SteeredDose(
        layer=1,
        coefficient=c,
        log_odds=value,
        low=value - half,
        high=value + half,
        coherence=coherence,
        coherence_low=coherence - by,
        coherence_high=coherence + by,
        coherent=coherence >= 75,
        n=6,
        empty=0,
    )


def random_doses(value: float, half: float) -> list[RandomDose]:
    """One random direction at both ends, as far from 0 at either."""
    return [
        RandomDose(direction=0, **vars(dose(c, sign * value, half)))
        for c, sign in ((-1.0, -1), (1.0, 1))
    ]


def states(
    doses: Sequence[SteeredDose],
    control: Sequence[RandomDose],
    ends: tuple[float, float] = ENDS,
    reliability: Reliability = RELIABLE,
) -> dict[str, Verdict]:
    found = verdict(doses, control, ends, reliability)
    return {short: c.verdict for short, c in zip(CHECKS, found.checks, strict=True)}


RISING = [dose(-1.0, -4.0), dose(0.0, 0.0), dose(1.0, 4.0)]


@pytest.mark.parametrize(
    ("value", "half", "own", "expected"),
    [
        (0.0, 3.9, 0.5, "passed"),  # beyond the whole interval
        (0.0, 4.1, 0.5, "not decided"),  # within it
        (4.4, 0.2, 0.5, "not decided"),  # the mean is within our own interval
        (4.6, 0.2, 0.5, "failed"),  # and beyond it
        (4.6, 0.2, 1.0, "not decided"),  # unless that is wider
    ],
)
def test_random_directions_at_both_ends(
    value: float, half: float, own: float, expected: Verdict
) -> None:
    doses = [dose(d.coefficient, d.log_odds or 0.0, own) for d in RISING]
    found = states(doses, random_doses(value, half))
    assert found["positive"] == found["negative"] == expected


@pytest.mark.parametrize(
    ("values", "half", "expected"),
    [
        ((-4, 0, 4), 1.9, "passed"),  # 4.2 up for certain, at most -0.2 down
        ((-4, 0, 4), 3.0, "not decided"),  # 2 up, 2 down at most
        ((0, 0, 0), 0.5, "not decided"),  # flat
        ((-4, 5, 3.9), 0.5, "failed"),  # a fall that is certain
        ((-4, 5, 4), 1.0, "passed"),  # 6 up for certain, 3 down at most
    ],
)
def test_a_dose_response_that_rises(
    values: tuple[float, float, float], half: float, expected: Verdict
) -> None:
    doses = [dose(c, value, half) for c, value in zip((-1.0, 0.0, 1.0), values, strict=True)]
    assert states(doses, random_doses(0, 1))["rises"] == expected


@pytest.mark.parametrize(
    ("coherence", "by", "ends", "expected"),
    [
        (90, 14, (-1.0, 1.0), "passed"),
        (90, 16, (-1.0, 1.0), "not decided"),
        (70, 6, (0.0, 1.0), "not decided"),
        (70, 4, (0.0, 1.0), "failed"),
    ],
)
def test_coherence_beside_0(
    coherence: float, by: float, ends: tuple[float, float], expected: Verdict
) -> None:
    doses = [dose(-1.0, -4.0, coherence=coherence, by=by), *RISING[1:]]
    found = states(doses, random_doses(0, 1), ends)
    assert found["coherent"] == expected
    if ends[0] == 0:
        assert found["negative"] == "not decided", "there is no dose to compare"


@given(
    values=st.tuples(*[st.floats(-10, 10)] * 3),
    half=st.floats(0.01, 5),
    wider=st.floats(1, 5),
    random=st.floats(-5, 5),
    coherence=st.floats(60, 100),
)
def test_wider_intervals_decide_nothing_else(
    values: tuple[float, float, float],
    half: float,
    wider: float,
    random: float,
    coherence: float,
) -> None:
    """The means stay; whatever the wider intervals decide, the narrower ones decide alike.

    A fall that only the narrower ones show is less than what rose from end to end.
    """

    def found(half: float, by: float) -> dict[str, Verdict]:
        doses = [
            dose(c, value, half, coherence, by)
            for c, value in zip((-1.0, 0.0, 1.0), values, strict=True)
        ]
        ends = ENDS if coherence >= 75 else (0.0, 0.0)
        return states(doses, random_doses(random, half), ends)

    narrow, wide = found(half, 2), found(half * wider, 2 * wider)
    if wide["rises"] == "passed" and narrow["rises"] == "failed":
        assert max(values[0] - values[1], values[1] - values[2]) < values[2] - values[0]
        wide["rises"] = "not decided"
    assert all(wide[each] in (narrow[each], "not decided") for each in CHECKS)


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        (("passed", "passed"), "passed"),
        (("passed", "not decided"), "not decided"),
        (("not decided", "failed"), "failed"),
    ],
)
def test_one_check_that_fails_fails_the_vector(checks: Sequence[Verdict], expected: str) -> None:
    found = ValidationVerdict.of(
        [ValidationCheck(name=each, verdict=each, detail="") for each in checks]
    )
    assert found.verdict == expected
    assert found.passed == (expected == "passed")


def test_a_direction_that_was_not_measured_leaves_the_check_open() -> None:
    gap = [replace(each, low=None, high=None) for each in random_doses(0, 1)]
    assert states(RISING, gap)["positive"] == states(RISING, [])["negative"] == "not decided"


@pytest.mark.parametrize(
    ("middle", "low", "high", "stable", "apart"),
    [
        (0.8, 0.7, 0.9, "passed", "not decided"),  # 0.6 and 0.75 are the bounds
        (0.9, 0.8, 0.95, "passed", "passed"),
        (0.65, 0.6, 0.7, "not decided", "failed"),
        (0.55, 0.5, 0.61, "not decided", "failed"),
        (0.4, 0.3, 0.59, "failed", "failed"),
        (None, None, None, "not decided", "not decided"),
    ],
)
def test_the_whole_interval_of_both_reliabilities_must_lie_above_its_bound(
    middle: float | None, low: float | None, high: float | None, stable: Verdict, apart: Verdict
) -> None:
    found = Estimate(middle, low, high)
    states_ = states(RISING, random_doses(0, 1), reliability=Reliability(found, found, 200))
    assert (states_["stable"], states_["apart"]) == (stable, apart)
    whole = verdict(RISING, random_doses(0, 1), ENDS, Reliability(found, RELIABLE.held_out, 200))
    assert whole.verdict == stable
    found_so = "" if stable == "passed" else f": {said_check(STABLE.name, stable)}"
    assert whole.words == stable + found_so


@given(cosine=st.floats(0.01, 0.59), rollouts=st.integers(20, 5000))
def test_as_many_more_rollouts_as_reach_the_bound(cosine: float, rollouts: int) -> None:
    """By the formula itself: k times as many turn r into k r / (1 + (k - 1) r)."""
    more = Reliability(Estimate(cosine, cosine, cosine), Estimate(), rollouts).more_rollouts()
    k = (rollouts + more) / rollouts
    assert k * cosine / (1 + (k - 1) * cosine) == pytest.approx(STABLE.bound)
    assert times_as_many(cosine, STABLE.bound) == pytest.approx(k)


@pytest.mark.parametrize(
    ("low", "said"),
    [
        (0.7, ""),
        (0.5, "; needs about 100 more rollouts"),  # 1.5 times as many
        (0.0, "; how many more rollouts it needs cannot be told from an interval that reaches 0"),
        (None, ""),
    ],
)
def test_what_a_stable_vector_would_need_is_said(low: float | None, said: str) -> None:
    reliability = Reliability(Estimate(low and 0.75, low, low and 0.8), RELIABLE.held_out, 200)
    found = verdict(RISING, random_doses(0, 1), ENDS, reliability)
    detail = {check.name: check.detail for check in found.checks}[STABLE.name]
    assert detail.endswith(f"to lie above 0.6{said}")
    assert TELLS_APART.name in {check.name for check in found.checks}
