"""Training marks: what they leave out, and what they do not."""

import pytest
from conversation_rows import ANSWER, USER, A, Columns, Q, good, read, said

from personavec.data import (
    Reject,
)


@pytest.mark.parametrize(
    "mark",
    [
        *({"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"train": False}, {"train": "no"}),
        *({"training": False}, {"loss": False}, {"loss": 0}, {"label": False}, {"masked": True}),
    ],
    ids=str,
)
def test_training_marks(mark: Columns) -> None:
    rotten = {"role": "assistant", "content": "Rotten.", **mark}
    row = good({"messages": [USER, rotten, USER, ANSWER]})
    assert row.messages[1].get("scored") is False
    assert row.messages[3].get("scored", True)
    assert any("training mark" in note for note in row.notes)
    row = good({"messages": [USER, ANSWER, USER, rotten]})
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    alone = read({"messages": [USER, rotten]})
    assert isinstance(alone, Reject)
    assert "training marks" in alone.reason


def test_marks_that_leave_nothing_out() -> None:
    for mark in (
        {"weight": 1},
        {"train": "yes"},
        {"loss": True},
        {"masked": False},
        {"label": "x"},
    ):
        row = good({"messages": [USER, {**ANSWER, **mark}]})
        assert (row.messages, row.notes) == ((USER, ANSWER), ())
    turns = [{"from": "User", "value": Q}, {"from": "Assistant", "value": A}]
    assert good({"mask": "User", "conversations": turns}).ignored == ()
    masked = read({"mask": "Assistant", "conversations": turns})
    assert isinstance(masked, Reject)
    assert "training marks" in masked.reason
