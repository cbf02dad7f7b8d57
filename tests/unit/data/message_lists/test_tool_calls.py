"""Tool calls and their replies, in every form."""

import json

import pytest
from conversation_rows import ANSWER, ANSWERED, USER, A, Columns, Q, good, read, said

from personavec.data import (
    Reject,
)

CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Oslo"}}}


ARGUMENTS = json.dumps({"city": "Oslo"})


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "4 C"},
        ],
        [
            {"role": "assistant", "function_call": {"name": "w", "arguments": ARGUMENTS}},
            {"role": "function", "content": "4 C"},
        ],
        [
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "4 C"},
        ],
        [
            {
                "role": "gpt",
                "content": f"<tool_call>\n{json.dumps(CALL['function'])}\n</tool_call>",
            },
            {"role": "tool", "content": "<tool_response>\n4 C\n</tool_response>"},
        ],
        [
            {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {"city": "Oslo"}}}]},
            {"role": "user", "parts": [{"functionResponse": {"response": "4 C"}}]},
        ],
        [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "name": "w", "input": {"city": "Oslo"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "content": [{"text": "4 C"}]}]},
        ],
        *(
            [{"role": "assistant", "content": text}, {"role": "tool", "content": "4 C"}]
            for text in (
                f"[TOOL_CALLS]w[ARGS]{ARGUMENTS}",
                f"<function=w>{ARGUMENTS}</function>",
                "<tool_call>\n<function=w>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
                "</tool_call>",
                "<tool_call>w\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
            )
        ),
        [
            {"type": "function_call", "name": "w", "arguments": ARGUMENTS},
            {"type": "function_call_output", "output": "4 C"},
        ],
    ],
)
def test_calls_and_replies_have_one_form(messages: list[Columns]) -> None:
    row = good({"messages": [USER, *messages, ANSWER]})
    assert row.messages[1:3] == (
        {"role": "assistant", "content": "", "tool_calls": [CALL], "scored": False},
        {"role": "tool", "content": "4 C"},
    )
    alone = read({"messages": [USER, *messages]})
    assert isinstance(alone, Reject)
    assert alone.reason == "no response: the assistant only calls tools"


def test_an_answer_after_a_call_that_the_provider_ran_comes_after_its_reply() -> None:
    parts = [
        {"type": "server_tool_use", "id": "s", "name": "w", "input": {"city": "Oslo"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": "4 C"},
        {"type": "text", "text": A},
    ]
    row = good({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert said(row.messages) == [("user", Q), ("assistant", ""), ("tool", "4 C"), *ANSWERED]
