"""Rows without a conversation: the reason, and what to do."""

import pytest
from conversation_rows import ANSWER, CHOICES, USER, A, Columns, Q, read

from personavec.data import (
    Reject,
)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"custom_id": "1", "response": CHOICES}, "a response without its request"),
        ({"custom_id": "1", "result": {"message": ANSWER}}, "a response without its request"),
        ({"custom_id": "1", "body": {"messages": [USER]}}, "'body' without a response"),
        ({"prompt": Q, "answers": [{"answer": A, "rank": 1}]}, "several responses to one prompt"),
        ({"segments": [{"text": Q, "label": False}]}, "pieces of rendered text"),
        ({"prompt": Q}, "'prompt' without a response"),
        ({"prompt": Q, "responses": [A]}, "'prompt' without a response"),
        ({"query": Q, "answers": '[{"name": "w", "arguments": {}}]'}, "'answers' only calls tools"),
        ({"prompt": Q, "output": ["Try ", "Pepper."]}, "a response of several texts"),
        ({"user": "alice", "message": Q, "created_at": "x"}, "a single message"),
        ({"user": "alice", "content": Q}, "a single message"),
        ({"conversation_id": "c", "turn": 1, **USER}, "a single message"),
        ({"name": "Bo", "is_user": True, "mes": Q}, "a single message"),
        ({"messages": [{**USER, "files": [{"file_name": "a.png"}]}, ANSWER]}, "holds a file"),
        ({"answer": A}, "'answer' without a prompt"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "audio"}]}]},
            "holds audio",
        ),
        ({"messages": [{**USER, "images": ["x"]}, ANSWER]}, "holds an image"),
        ({"messages": [USER, {**ANSWER, "tool_calls": 3}]}, "tool calls that cannot be read"),
    ],
)
def test_refusals_say_why(columns: Columns, reason: str) -> None:
    row = read(columns)
    assert isinstance(row, Reject)
    assert reason in row.reason
