"""Counts of what was read and told."""

from conversation_rows import ANSWER, USER, A, Q, read

from personavec.data import (
    ReadingCounts,
    Reject,
)
from personavec.data.terminal import reading_lines


def test_what_is_told_is_counted_by_its_kind() -> None:
    rows = [read({"messages": [USER, ANSWER] * n + [{"role": "x"}]}) for n in (1, 2, 3)]
    rows += [Reject(0, "a", f"{n} tokens, more than the 512 allowed") for n in (600, 700)]
    rows += [read({"prompt": Q, "completion": A, f"column_{i}x": "text"}) for i in range(300)]
    told = ReadingCounts.of(rows).record()
    (unknown, n), (long, m) = told.rejected.items()
    assert unknown.startswith("message N has the unknown role 'x'")
    assert (long, n, m) == ("N tokens, more than the 512 allowed", 3, 2)
    assert len(told.ignored_columns) == 101
    assert told.ignored_columns["200 others"] == 200
    lines = reading_lines({"logs": told})
    assert lines[0] == "logs: read as prompt and response (300)"
    assert lines[2].startswith("logs: rejected: message N has the unknown role")
    assert lines[2].endswith("; N tokens, more than the 512 allowed (2)")
