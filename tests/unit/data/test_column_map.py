"""Columns that the user names."""

import pytest
from conversation_rows import ANSWER, USER, A, Q, S, good, read, said

from personavec.data import (
    ColumnMap,
    RawRow,
    Reject,
    check_columns,
    kind_of,
)
from personavec.errors import DataError, UsageError


def test_a_mapping_is_used_and_checked() -> None:
    columns = {"persona": S, "ask": Q, "say": A, "prompt": "other"}
    row = good(columns, "system=persona,prompt=ask,response=say")
    assert said(row.messages) == [("system", S), ("user", Q), ("assistant", A)]
    assert row.ignored == ("prompt",)
    assert said(good({"log": [USER, ANSWER]}, "messages=log").messages) == said([USER, ANSWER])
    missing = read({"other": 1}, "messages=log")
    assert isinstance(missing, Reject)
    assert missing.reason == "no messages in column 'log'"

    missing = read(columns, "prompt=nowhere,response=say")
    assert isinstance(missing, Reject)
    assert missing.reason == "no text in column 'nowhere'"

    rows = [RawRow(i, "d", i, columns) for i in range(3)]
    assert kind_of(iter(rows), ColumnMap(prompt="ask", response="say", system="persona")) == "row"
    wrong = ColumnMap(prompt="ask", response="say", system="personna")
    for check in (kind_of, check_columns):
        with pytest.raises(
            UsageError, match=r"--columns system=personna: .* they have persona, ask"
        ):
            check(iter(rows), wrong)
    check_columns(iter(rows), ColumnMap())
    with pytest.raises(DataError, match="holds no rows"):
        kind_of(iter(()))
    with pytest.raises(UsageError, match="named twice"):
        ColumnMap.parse("prompt=a,prompt=b")
