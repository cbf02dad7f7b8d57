"""Rules as they are typed."""

import re

import pytest

from personavec.errors import UsageError
from personavec.screen import Cut, FlagRule


def test_cuts_are_read_and_wrong_ones_refused() -> None:
    assert Cut.parse("evil>3") == Cut("evil", 3.0, "sigma")
    assert Cut.parse("evil>-0.5norm") == Cut("evil", -0.5, "norm")
    for text in (
        "evil",
        "evil>",
        "evil<3",
        "evil>3nats",
        ">3",
        "evil>.",
        "evil>1.2.3",
        "evil>1e999",
    ):
        with pytest.raises(UsageError, match=re.escape(text)):
            Cut.parse(text)
    with pytest.raises(UsageError, match="choose one"):
        FlagRule(top=1, bottom=1)
    with pytest.raises(UsageError, match="two --cut are of the trait 'evil'"):
        FlagRule(cuts=(Cut.parse("evil>3"), Cut.parse("evil>1norm")))
