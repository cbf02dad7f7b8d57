"""What a reader finds, and operations on conversations that several readers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from personavec.data.fields import Fields
from personavec.data.messages import Conversation, Message
from personavec.data.texts import without_end

UNDESIRED = "label false: an undesired response"


@dataclass
class Found:
    """What a reader found: a conversation, or the two of a preference pair."""

    messages: list[Message]
    rejected: list[Message] | None = None
    """The same prompt with the worse response."""
    sides: tuple[str, str] | None = None
    """The columns of a pair's responses, the better one first."""
    notes: list[str] = field(default_factory=list)


class RowReader(NamedTuple):
    """A reader by the name that docs/data.md lists it under."""

    name: str
    read: Callable[[Fields], Found | None]


def found_in(conversation: Conversation) -> Found:
    """One conversation as a reader's result."""
    return Found(conversation.messages, notes=conversation.notes)


def texts_of(messages: Sequence[Message]) -> set[str]:
    """All texts of a conversation, thoughts included."""
    texts = {message["content"].strip() for message in messages}
    texts |= {message.get("reasoning_content", "").strip() for message in messages}
    return texts - {""}


def joined(before: Conversation, reply: Conversation) -> Conversation:
    """Prompt and response as one conversation. A response that repeats the prompt is whole."""
    if before.rendered and reply.messages:
        first = reply.messages[0]
        first["content"] = without_end(first["content"])
    n = len(before.messages)
    repeated = len(reply.messages) > n and same(reply.messages[:n], before.messages)
    messages = reply.messages if repeated else [*before.messages, *reply.messages]
    return Conversation(messages, list(dict.fromkeys([*before.notes, *reply.notes])))


def same(a: Sequence[Message], b: Sequence[Message]) -> bool:
    """Are the two lists equal in roles, texts and tool calls?"""
    return len(a) == len(b) and all(
        x["role"] == y["role"]
        and x["content"].strip() == y["content"].strip()
        and x.get("tool_calls") == y.get("tool_calls")
        for x, y in zip(a, b, strict=True)
    )
