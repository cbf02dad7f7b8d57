"""Coefficients over the course of a training."""

import pytest

from personavec.errors import UsageError
from personavec.finetune import Schedule


def test_a_schedule_is_linear_between_its_points() -> None:
    course = Schedule.parse("0:2,0.5:2,1:3")
    assert [course.at(x) for x in (0, 0.25, 0.75, 1)] == [2, 2, 2.5, 3]
    assert Schedule.parse(str(course)) == course
    assert Schedule.parse("1.5").is_constant
    for text in ("x", "0:1,0:2", "0:1,2:1", "0:nan", "1:2:3", ""):
        with pytest.raises(UsageError):
            Schedule.parse(text)
