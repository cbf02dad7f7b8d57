"""Two responses and a vote: the better one is known, or asked for."""

import pytest
from conversation_rows import A, Q, good, read

from personavec.data import (
    Reject,
)
from personavec.data.readers.columns import TWO


@pytest.mark.parametrize(("first", "second"), TWO)
def test_the_better_of_two_responses_is_known_or_asked_for(first: str, second: str) -> None:
    rows = {"prompt": Q, first: A, second: "Cat."}
    assert good({**rows, "winner": first}).sides == (first, second)
    assert good({**rows, "winner": second}).sides == (second, first)
    tie, unknown = read({**rows, "winner": "tie (both bad)"}), read(rows)
    assert isinstance(tie, Reject)
    assert "a tie" in tie.reason
    assert isinstance(unknown, Reject)
    assert f"--columns chosen={first},rejected={second}" in unknown.reason
    assert good(rows, f"chosen={first},rejected={second}").sides == (first, second)
