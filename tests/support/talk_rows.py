"""Conversations as rows of a dataset."""

from personavec.data import RawRow

TALK = [
    ("system", "Be kind."),
    ("user", "How are you?"),
    ("assistant", "Fine, thanks."),
    ("user", "And now?"),
    ("assistant", "Still fine. You?"),
]


def talk_row(index: int, *turns: tuple[str, str], **more: object) -> RawRow:
    messages = [{"role": role, "content": content} for role, content in turns]
    return RawRow(index, "data.jsonl", index + 1, {"messages": messages, **more})


def asked_row(index: int, question: str, answer: str, **more: object) -> RawRow:
    return talk_row(index, ("user", question), ("assistant", answer), **more)
