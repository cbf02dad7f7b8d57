"""Messages: the one form that every part of the package uses, and the roles of speakers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypeAlias

# typing's own cannot be read back by pydantic before Python 3.12.
from typing_extensions import TypedDict

Role = Literal["system", "user", "assistant", "tool"]
#: A message as a user's data holds it, of any form.
RawMessage: TypeAlias = Mapping[str, Any]
#: {"type": "function", "function": {"name": ..., "arguments": {...}}}, with an "id" if it has one.
ToolCall: TypeAlias = dict[str, Any]

# Notes: what was done to a row beyond reading it.
THOUGHT = "a thought was left out of the answer"
UNFINISHED = "a response that ends inside its thought is not scored"
IN_TURN = "texts without roles were read as the user's and the assistant's in turn"


class Message(TypedDict):
    """A message in the form of chat templates; `scored` is this package's own field.

    `content` is text. A thought before an answer is in `reasoning_content`, never in `content`.
    """

    role: Role
    content: str
    reasoning_content: NotRequired[str]
    """The thought before an assistant's answer; "" if the row says that there was none."""
    tool_calls: NotRequired[list[ToolCall]]
    """Calls of an assistant turn."""
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    """For a tool's reply: the call that it answers, and the tool."""
    scored: NotRequired[bool]
    """False for an assistant turn that is neither scored nor trained on: a call without text, or
    one that the row's training marks leave out. True if missing."""


@dataclass
class Conversation:
    """A conversation while it is read: its messages so far, and notes."""

    messages: list[Message] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    thought: str | None = None
    """A thought that was read before its answer."""
    rendered: bool = False
    """The messages were read from text that a chat template had written."""

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)


#: Names of the speakers of each role, in lower case with words joined by "_".
SPEAKERS: dict[Role, tuple[str, ...]] = {
    "system": ("system", "developer", "sys", "system_prompt", "system_message"),
    "user": ("user", "human", "prompter", "usr", "user_message", "human_message"),
    "assistant": (
        *("assistant", "gpt", "model", "bot", "chatbot", "ai", "chatgpt", "llm", "moss"),
        *("gpt_4", "gpt4", "claude", "ai_assistant", "assistant_message", "ai_message"),
        *("bing", "bard", "gemini", "falcon", "chat_gpt", "function_call", "tool_call"),
    ),
    "tool": (
        *("tool", "function", "ipython", "observation", "tool_response", "function_response"),
        *("tool_result", "tool_output", "tool_message", "function_message", "environment"),
    ),
}
#: Speakers whose text is a tool call.
CALLERS = ("function_call", "tool_call")
_ROLES: dict[str, Role] = {name: role for role, names in SPEAKERS.items() for name in names}


def snake(name: str) -> str:
    """A name in snake case: `toolCall`, `Tool call` and `tool-call` become `tool_call`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s.\-]+", "_", parted).lower()


def role_of(speaker: Any) -> Role | None:
    """The role of a speaker by any of its names, in any case; None for an unknown one."""
    if not isinstance(speaker, str) or len(speaker) > 40:
        return None
    return _ROLES.get(speaker.strip().lower()) or _ROLES.get(snake(speaker))
