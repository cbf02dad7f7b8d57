"""Fields: each is read, known not to matter, or told."""

from conversation_rows import ANSWER, USER, A, Q, S, good, said


def test_every_field_is_read_or_known_or_told() -> None:
    row = good(
        {
            "id": 7,
            "prompt": Q,
            "completion": A,
            "persona": "a pirate",
            "nested": {"note": "be rude", "model": "m"},
            "tools": [{"name": "w"}],
            **{"score": 3, "language": "en", "embedding": [0.1], "seen_at": "x", "empty": ""},
        }
    )
    assert row.id == "7"
    assert row.ignored == ("persona", "nested", "tools")
    row = good({"data": {"prompt": Q, "completion": A, "persona": "a pirate"}})
    assert row.notes == ("field 'persona' of 'data' was left out",)
    row = good({"transcript": "User: a\nAssistant: b", "question": Q, "answer": A})
    assert (said(row.messages), row.ignored) == (said([USER, ANSWER]), ("transcript",))
    row = good({"input": [USER], "output": A, "reasoning": "off"})
    assert (row.ignored, row.messages[1]) == (("reasoning",), ANSWER)
    row = good({"conversations": [Q, A], "source": "x"})
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    assert row.notes == ("texts without roles were read as the user's and the assistant's in turn",)
    row = good({"system": "Be rude.", "messages": [{"role": "system", "content": S}, USER, ANSWER]})
    assert row.messages[0]["content"] == S
    assert row.ignored == ("system",)
    row = good({"messages": [{**USER, "mood": "angry"}, {**ANSWER, "id": "x", "n": 3}]})
    assert row.notes == ("field 'mood' of a message was left out",)
    row = good({"chat": {"messages": [USER, ANSWER], "params": {"persona": "be rude"}}})
    assert row.notes == ("field 'params' of 'chat' was left out",)
    row = good({"messages": [USER, {**ANSWER, "train_detail": [{"begin": 0, "train": False}]}]})
    assert row.notes == ("field 'train_detail' of a message was left out",)
    for mark in ({"train": False}, {"weight": 0}, {"loss_mask": [0, 1]}):
        assert good({"messages": [USER, ANSWER], **mark}).ignored == tuple(mark)
    assert good({"messages": [USER, ANSWER], "weight": 1.0}).ignored == ()
    text = f"### Instruction:\n{Q}\n\n### Input:\nIt is black.\n\n### Response:\n{A}"
    row = good({"instruction": Q, "input": "It is black.", "output": A, "text": text})
    assert row.ignored == ()
    row = good({"messages": [USER, ANSWER, USER]})
    assert row.notes == ("messages after the last response were left out",)
