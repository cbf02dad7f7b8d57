"""Prompt and response in columns: what belongs to the prompt, and which response is read."""

import json

from conversation_rows import ANSWERED, A, Q, S, good, said


def test_what_belongs_to_the_prompt_is_in_it() -> None:
    asked = good({"instruction": Q, "context": "Cats sleep.", "response": A})
    assert asked.messages[0]["content"] == f"{Q}\n\nCats sleep."
    asked = good({"question": Q, "context": ["One.", "Two."], "answer": A})
    assert asked.messages[0]["content"] == f"{Q}\n\nOne.\n\nTwo."
    for history in ([["Hi", "Hello"]], ["Hi", "Hello"], json.dumps([["Hi", "Hello"]])):
        row = good({"instruction": Q, "input": "", "output": A, "history": history, "system": S})
        assert said(row.messages) == [
            *(("system", S), ("user", "Hi"), ("assistant", "Hello"), ("user", Q), ("assistant", A))
        ]
    row = good(
        {
            "preamble": S,
            "chat_history": [{"role": "USER", "message": "Hi"}],
            "message": Q,
            "text": A,
        }
    )
    assert said(row.messages) == [("system", S), ("user", "Hi"), ("user", Q), ("assistant", A)]


def test_what_guessed_columns_were_taken_for_is_said() -> None:
    row = good({"User": Q, "Assistant": A})
    assert row.notes == ("User was taken as the prompt and Assistant as the response",)
    assert said(row.messages) == [("user", Q), ("assistant", A)]
    for asked, answered in (("question", "answer"), ("Instruction", "Output"), ("input", "target")):
        assert good({asked: Q, answered: A}).notes == ()
    assert good({"q": Q, "a": A}, "prompt=q,response=a").notes == ()


def test_the_fuller_of_two_answers_is_read() -> None:
    row = good({"question": Q, "answer": "Pepper", "solution": A})
    assert (said(row.messages)[1:], row.ignored) == (ANSWERED, ("answer",))
    row = good({"question": Q, "solution": "Pe", "attempt": A, "thinking_trajectories": ["hm"]})
    assert (said(row.messages)[1:], row.ignored) == (ANSWERED, ("solution",))
    assert row.messages[1].get("reasoning_content") == "hm"


def test_texts_in_json_are_texts() -> None:
    row = good({"prompt": '["a", "b"]', "completion": '{"text": "x"}'})
    assert said(row.messages) == [("user", '["a", "b"]'), ("assistant", '{"text": "x"}')]
