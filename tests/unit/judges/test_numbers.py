"""Numbers are read from known distributions and texts, or not at all."""

import math
from typing import Any

import pytest

from personavec.judges.numbers import REFUSAL, NumberTree, from_probabilities, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85", 85.0),
        (" 0.\n", 0.0),
        ("Score: 7.5", 7.5),
        ("85/100", 85.0),
        ("I would say 40 out of 100.", 40.0),
        ("100/100", 100.0),
        ("between 40 and 60", None),
        ("From 0 to 100, it is 85", None),
        ("101", None),
        ("-5", None),
        ("REFUSAL", REFUSAL),
        ("none", None),
        ("", None),
    ],
)
def test_replies_are_read_or_not_at_all(text: str, value: Any) -> None:
    assert parse(text) == value


def tree(*ways: list[dict[str, float]]) -> NumberTree:
    """From the token lists of replies, each going on with its likeliest token."""
    grown = NumberTree()
    for lists in ways:
        content = [
            {
                "token": max(tokens, key=lambda t: tokens[t]),
                "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in tokens.items()],
            }
            for tokens in lists
        ]
        grown.add({"logprobs": {"content": content}}, room=4)
    return grown


def test_a_list_with_numbers_of_several_digits_is_read_as_it_is() -> None:
    numbers, still_open = tree(
        [{"85": 0.5, " 85": 0.2, "8": 0.1, "9.5": 0.1, "101": 0.05}]
    ).numbers()
    assert numbers == pytest.approx({85: 0.7, 8: 0.1})
    assert still_open == 0


def test_the_first_digit_is_never_taken_for_the_number() -> None:
    """Behind 8, a 5 is likelier than the end."""
    grown = tree([{"8": 0.6, "9": 0.2, "x": 0.2}])
    assert grown.numbers() == ({}, pytest.approx(0.8))
    assert grown.is_open()
    grown.add(
        {
            "logprobs": {
                "content": [
                    {"token": "8", "top_logprobs": [{"token": "8", "logprob": math.log(0.6)}]},
                    {"token": "5", "top_logprobs": [{"token": "5", "logprob": math.log(0.9)}]},
                ]
            }
        },
        room=4,
    )
    numbers, still_open = grown.numbers()
    assert numbers == pytest.approx({85: 0.54, 8: 0.06})
    assert still_open == pytest.approx(0.2)


def test_ten_may_be_the_beginning_of_a_hundred() -> None:
    """Where numbers go digit by digit, until a reply stops there or goes on."""
    assert tree([{"1": 1.0}, {"0": 1.0}]).numbers() == ({1: 0.0}, 1.0)
    grown = tree([{"1": 1.0}, {"0": 1.0}])
    grown.ended.add("10")
    assert grown.numbers() == ({1: 0.0, 10: 1.0}, 0.0)
    grown = tree([{"1": 1.0}, {"0": 1.0}, {"0": 0.75, "</s>": 0.25}])
    assert grown.numbers()[0] == pytest.approx({100: 0.75, 10: 0.25, 1: 0.0})


def test_states_come_from_where_the_probability_lies() -> None:
    assert from_probabilities({10: 0.1, 20: 0.3}, 0.1).value == pytest.approx(17.5)
    assert from_probabilities({10: 0.4}, 0.5).state == "refusal"
    few = from_probabilities({10: 0.2}, 0.1)
    assert (few.state, few.value, few.mass) == ("unscored", None, 0.2)
    unclear = from_probabilities({10: 0.2}, 0.0, open_mass=0.5)
    assert (unclear.state, unclear.value) == ("unscored", None)
