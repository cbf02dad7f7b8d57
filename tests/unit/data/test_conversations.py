"""Conversations in rows: every form, and a reason for each row without one."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conversation_rows import ANSWER, USER, A, Q, S, good, read, said

from personavec.data import ColumnMap, DataRow, RawRow, Reject, check_columns, kind_of, parse_row
from personavec.errors import DataError, UsageError

SAID = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})


def _row(**columns: Any) -> RawRow:
    return RawRow(0, "data.jsonl", 1, columns)


SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": list(SAID)},
        {"messages": json.dumps(list(SAID))},
        {
            "messages": [
                SAID[0],
                {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            ]
        },
        {"messages": [*SAID, {"role": "user", "content": "unanswered"}]},
        {"conversations": SHAREGPT},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"prompt": [SAID[0]], "completion": [SAID[1]]},
        {"question": "Hi", "answer": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ],
)
def test_every_form_of_a_conversation(columns: dict[str, Any]) -> None:
    parsed = parse_row(_row(**columns))
    assert isinstance(parsed, DataRow)
    assert parsed.messages == SAID
    assert parsed.id == "data.jsonl:1"


def test_system_prompts_inputs_and_mapped_columns() -> None:
    parsed = parse_row(_row(system="Be brief.", instruction="Add", input="1 2", output="3"))
    assert isinstance(parsed, DataRow)
    assert [m["content"] for m in parsed.messages] == ["Be brief.", "Add\n\n1 2", "3"]
    columns = ColumnMap.parse("prompt=q, response=a,id=key")
    parsed = parse_row(_row(q="Hi", a="Hello", key=7), columns)
    assert isinstance(parsed, DataRow)
    assert (parsed.id, parsed.messages) == ("7", SAID)
    with pytest.raises(UsageError, match="--columns"):
        ColumnMap.parse("question=q")


def test_preference_pairs() -> None:
    other = {"role": "assistant", "content": "Go away"}
    forms = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"chosen": list(SAID), "rejected": [SAID[0], other]},
        {"prompt": "Hi", "chosen": [SAID[1]], "rejected": [other]},
    ]
    for columns in forms:
        parsed = parse_row(_row(**columns))
        assert isinstance(parsed, DataRow)
        assert parsed.messages == SAID
        assert parsed.rejected == (SAID[0], other)
    assert kind_of(iter([_row(x=1), _row(**forms[0])])) == "pair"
    assert kind_of(iter([_row(prompt="a", completion="b")])) == "row"


def _bad_rows() -> Iterator[tuple[dict[str, Any], str]]:
    user, assistant = SAID
    yield {"messages": [user]}, "no assistant turn"
    yield {"messages": []}, "'messages' is empty"
    yield {"messages": "Hi"}, "no list of messages"
    yield {"messages": 3}, "no list of messages"
    yield {"messages": ["Hi", "Hello"]}, "texts without roles"
    yield {"messages": [user, {"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"
    yield {"messages": [user, {"role": ["assistant"], "content": "x"}]}, "unknown role a list"
    yield {"messages": [user, {"content": "x"}]}, "message 2 has no role"
    yield {"messages": [user, {"role": "tool", "content": "x"}]}, "no assistant turn"
    yield {"messages": [user, {"role": "assistant", "content": None}]}, "no text"
    yield {"messages": [user, {"role": "assistant", "content": " \n"}]}, "empty response"
    yield {"messages": [user, {"role": "assistant", "content": "\ud800"}]}, "surrogate"
    yield {"prompt": "Hi", "completion": ""}, "empty response"
    yield {"prompt": "Hi", "completion": None}, "no text in column 'completion'"
    yield {"prompt": 3, "completion": "x"}, "no text in column 'prompt'"
    yield {"text": "Hi"}, "no conversation in columns text"
    yield {}, r"no conversation in columns \(none\)"
    yield (
        {"chosen": list(SAID), "rejected": [{**user, "content": "Bye"}, assistant]},
        "different prompts",
    )
    more = [user, {"role": "assistant", "content": "No"}, user, assistant]
    yield {"chosen": [*SAID, user, assistant], "rejected": more}, "differ at message 2, before"
    yield {"chosen": "Hello", "rejected": "No"}, "answer no prompt"
    yield {"prompt": "Hi", "response_0": "a", "response_1": "b"}, "no column says which"
    yield {"messages": list(SAID), "image": "cat.png"}, "the row holds an image in 'image'"


@pytest.mark.parametrize(("columns", "reason"), list(_bad_rows()))
def test_bad_rows_have_a_reason(columns: dict[str, Any], reason: str) -> None:
    parsed = parse_row(_row(**columns))
    assert isinstance(parsed, Reject)
    assert re.search(reason, parsed.reason), parsed.reason


def test_rows_and_pairs_do_not_mix() -> None:
    pair = _row(prompt="Hi", chosen="a", rejected="b")
    row = _row(prompt="Hi", completion="a")
    for raw, kind in ((pair, "row"), (row, "pair")):
        assert isinstance(parse_row(raw, kind=kind), Reject)
    with pytest.raises(DataError, match=r"none of the first.*no conversation"):
        kind_of(iter([_row(x=1)]))


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
