"""The lines that rows are flagged by."""

import numpy as np
import pytest

from personavec.errors import DataError
from personavec.screen import Cut, FlagRule
from personavec.screen.flagging import combined, flag_trait

SCALE = {"sigma": 2.0, "norm": 10.0, "projection": 1.0}


def test_each_rule_flags_what_it_says() -> None:
    values = np.array([0.0, 5.0, np.nan, 3.0, 4.0])
    reference = np.arange(101.0) / 25  # its 95th percentile is 3.8
    found = flag_trait(FlagRule(percentile=95), "t", values, reference, SCALE)
    assert found.threshold == pytest.approx(3.8)
    assert found.flagged.tolist() == [False, True, False, False, True]
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 3.8 <= found.high
    lowest = flag_trait(FlagRule(percentile=0), "t", values, reference, SCALE)
    assert (lowest.threshold, lowest.flagged.sum()) == (0.0, 3)
    top = flag_trait(FlagRule(top=2), "t", values, None, SCALE)
    assert top.flagged.tolist() == [False, True, False, False, True]
    assert top.threshold == 4.0
    bottom = flag_trait(FlagRule(bottom=10), "t", values, None, SCALE)
    assert bottom.flagged.tolist() == [True, True, False, True, True]
    cut = flag_trait(FlagRule(cuts=(Cut.parse("t>1.5"),)), "t", values, None, SCALE)
    assert (cut.threshold, cut.flagged.tolist()) == (3.0, [False, True, False, False, True])
    other = flag_trait(FlagRule(cuts=(Cut.parse("u>1"),)), "t", values, None, SCALE)
    assert (other.threshold, other.flagged.any()) == (None, False)
    assert FlagRule(percentile=0)
    assert not FlagRule()


@pytest.mark.parametrize(
    "rule", [FlagRule(cuts=(Cut.parse("t>1"),)), FlagRule(top=1), FlagRule(bottom=1)]
)
def test_a_rule_with_nothing_to_apply_it_to_is_no_clean_bill(rule: FlagRule) -> None:
    with pytest.raises(DataError, match="no row has a value for 't'"):
        flag_trait(rule, "t", np.full(3, np.nan), None, SCALE)
    cut = FlagRule(cuts=(Cut.parse("t>1"),))
    with pytest.raises(DataError, match="no sigma to measure in"):
        flag_trait(cut, "t", np.zeros(3), None, {**SCALE, "sigma": 0.0})


def test_judge_and_projection_count_alike_when_combined() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 10, 500), rng.normal(-1, 0.1, 500)
    both = combined(a, b)
    assert np.corrcoef(both, a)[0, 1] == pytest.approx(np.corrcoef(both, b)[0, 1], abs=0.02)
    assert np.isnan(combined(np.array([1.0, 2.0, np.nan]), np.array([1.0, 3.0, 2.0]))[2])
    with pytest.raises(DataError, match="do not vary"):
        combined(np.ones(5), b[:5])
