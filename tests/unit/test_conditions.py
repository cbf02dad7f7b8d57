import math

import pytest
from hypothesis import given, strategies as st

from personavec.conditions import UNITS, Condition, parse_condition
from personavec.errors import UsageError

TRAITS = ("evil", "sycophantic")


@given(
    st.sampled_from(TRAITS),
    st.sampled_from("<>"),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from(UNITS),
)
def test_what_is_spelled_is_read_back(trait, side, threshold, unit):
    written = f"{trait} {side} {threshold!r}{unit}"
    assert parse_condition(written, traits=TRAITS) == Condition(trait, side, threshold, unit)


def test_sigma_is_the_unit_where_none_is_named():
    assert parse_condition("evil>3", traits=TRAITS).unit == "sigma"


def test_a_condition_is_met_beyond_its_threshold_alone():
    above, below = (parse_condition(f"evil{side}3", traits=TRAITS) for side in "><")
    readings = [{"evil": value} for value in (2.0, 3.0, 4.0)]
    assert [above.met(reading) for reading in readings] == [False, False, True]
    assert [below.met(reading) for reading in readings] == [True, False, False]


def test_no_reading_meets_no_condition():
    above = parse_condition("evil>3", traits=TRAITS)
    for readings in ({}, {"evil": math.nan}, {"evil": math.inf * -1}):
        assert not above.met(readings)
        assert not above.measured(readings)
    assert above.measured({"evil": 0.0})


def test_a_trait_may_have_spaces_in_its_name():
    found = parse_condition(" very rude <-2 norm", traits=["very rude"])
    assert found == Condition("very rude", "<", -2.0, "norm")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("evil", "TRAIT>NUMBER"),
        ("evil>", "TRAIT>NUMBER"),
        ("evil>three", "TRAIT>NUMBER"),
        ("evil>1.2.3", "not a number"),
        ("evil>1e999", "finite"),
        ("cruel>3", "evil, sycophantic"),
        ("evil>3percent", "sigma, log_odds, score, norm"),
    ],
)
def test_what_is_wrong_is_named(text, says):
    with pytest.raises(UsageError, match=says):
        parse_condition(text, traits=TRAITS)


def test_where_no_trait_is_read_the_error_says_so() -> None:
    with pytest.raises(UsageError, match=r"there are none$"):
        parse_condition("evil>1sigma", traits=[])
