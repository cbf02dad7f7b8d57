"""Lists of messages: the order of roles."""

from conversation_rows import ANSWER, USER, good


def test_neighbours_of_one_role_and_greetings_are_left_to_the_template() -> None:
    greeting = {"role": "assistant", "content": "Hello!"}
    row = good({"messages": [greeting, USER, {"role": "user", "content": "Quick."}, ANSWER]})
    assert [message["role"] for message in row.messages] == [
        *("assistant", "user", "user", "assistant")
    ]
