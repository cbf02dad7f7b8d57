"""Preference pairs: both sides, the prompt that they share, and their exchange."""

import pytest
from conversation_rows import PAIRS, A, Q, S, good, said

from personavec.data import (
    RawRow,
    swapped,
)


@pytest.mark.parametrize("name", PAIRS)
def test_preference_pairs(name: str) -> None:
    row = good(PAIRS[name])
    assert row.rejected is not None
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert said(row.rejected) == [("user", Q), ("assistant", "Cat.")]
    assert (row.ignored, row.notes) == ((), ())
    if row.sides:
        assert all(side in PAIRS[name] for side in row.sides)
    exchanged = swapped(RawRow(0, "d", 1, PAIRS[name]))
    assert exchanged is not None
    other = good(exchanged)
    assert other.rejected is not None
    assert (said(other.messages), said(other.rejected)) == (said(row.rejected), said(row.messages))
    with_system = good({**PAIRS[name], "system": S})
    assert said(with_system.messages) == [("system", S), *said(row.messages)]
    assert with_system.rejected is not None
    assert said(with_system.rejected) == [("system", S), *said(row.rejected)]
