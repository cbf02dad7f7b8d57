"""One message of a conversation, as every part of the package passes it on, and who speaks it."""

from __future__ import annotations

import re
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


#: What the speakers of a conversation are called, in small letters, words joined by "_".
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
#: Speakers whose text is a call.
CALLERS = ("function_call", "tool_call")
_ROLES: dict[str, Role] = {name: role for role, names in SPEAKERS.items() for name in names}


def snake(name: str) -> str:
    """A name in small letters, its words joined by "_": `toolCall`, `Tool call`, `tool-call`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s.\-]+", "_", parted).lower()


def role_of(speaker: Any) -> Role | None:
    """The role of a speaker by any name in use, in any capitals; None for an unknown one."""
    if not isinstance(speaker, str) or len(speaker) > 40:
        return None
    return _ROLES.get(speaker.strip().lower()) or _ROLES.get(snake(speaker))
