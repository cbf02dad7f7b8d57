"""One message of a conversation, as every part of the package passes it on."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """What a chat template takes, and what it does not know.

    `content` is text alone; a thought that came before an answer is in `reasoning_content`, never
    in `content`.
    """

    role: Role
    content: str
    reasoning_content: NotRequired[str]
    """The thought before an assistant's answer; "" where the row says that there was none."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """Calls of an assistant turn, in the form of OpenAI's API, arguments as objects."""
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    """Of a tool's reply: which call it answers, and which tool."""
    scored: NotRequired[bool]
    """False for an assistant turn that is neither scored nor trained on: it holds a call without
    text, or the row's training marks leave it out. True where it is missing."""
