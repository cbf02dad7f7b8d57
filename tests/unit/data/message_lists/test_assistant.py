"""Answers and the thoughts before them."""

import pytest
from conversation_rows import ANSWER, THOUGHT, USER, A, Columns, Q, good, read

from personavec.data import (
    Reject,
)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": f"<think>hm</think>\n{A}"},
        {"content": f"<think>hm</think><answer>{A}</answer>"},
        {"content": f"[THINK]hm[/THINK]{A}"},
        {"content": f"hm\n</think>\n\n{A}"},
        {"content": A, "reasoning_content": "hm"},
        {"content": A, "reasoning": "hm"},
        {"content": A, "thinking": "hm"},
        {"content": A, "reasoning": [{"type": "reasoning_text", "text": "hm"}]},
        {"content": f"<think>hm</think>{A}", "reasoning_content": "hm"},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": A}]},
        {"content": [{"reasoningContent": {"reasoningText": {"text": "hm"}}}, {"text": A}]},
        {"parts": [{"text": "hm", "thought": True}, {"text": A}]},
    ],
)
def test_thoughts_stand_apart_from_answers(answer: Columns) -> None:
    row = good({"messages": [USER, {"role": "assistant", **answer}]})
    assert row.messages[1] == {"role": "assistant", "content": A, "reasoning_content": "hm"}
    assert THOUGHT in row.notes


def test_thoughts_in_columns_items_and_channels() -> None:
    items = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, ANSWER]
    analysis = {"role": "assistant", "channel": "analysis", "content": "hm"}
    for columns in (
        {"Question": Q, "Complex_CoT": "hm", "Response": A},
        {"input": Q, "output": items},
        {"messages": [USER, analysis, {**ANSWER, "channel": "final"}]},
    ):
        row = good(columns)
        assert row.messages[1]["content"] == A
        assert row.messages[1].get("reasoning_content") == "hm"
        assert row.notes == (THOUGHT,)


def test_a_response_that_ends_inside_its_thought() -> None:
    open_ = {"role": "assistant", "content": "<think>hm"}
    last = read({"messages": [USER, open_]})
    assert isinstance(last, Reject)
    assert last.reason == "the response ends inside its thought"
    row = good({"messages": [USER, open_, USER, ANSWER]})
    assert [message.get("scored", True) for message in row.messages] == [True, False, True, True]
    assert "a response that ends inside its thought is not scored" in row.notes
