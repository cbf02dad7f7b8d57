"""The content of one message: its text, thoughts, tool calls and replies to calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from personavec.data.fields import DEEPEST, Unusable, given, medium, shown
from personavec.data.message_lists.tool_calls import CALL_PARTS, REPLY_PARTS, call, json_of, reply
from personavec.data.messages import Message, RawMessage, Role, ToolCall, snake

CONTENT_KEYS = (
    *("content", "value", "text", "parts", "message", "utterance", "message.content"),
    "system_prompt",  # in a system message
)
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think")
#: Values of `reasoning` and the like that switch thinking on or off.
_SETTINGS = {"on", "off", "yes", "no", "true", "false", "none", "low", "medium", "high"}
_TEXT_PARTS = {"text", "output_text", "input_text", "refusal", "summary_text", "markdown"}
_THOUGHT_PARTS = {"thinking", "reasoning", "reasoning_text", "reasoning_content", "thoughts"}
#: Parts that hold a text or other parts.
_NESTING_PARTS = ("message", "multimodal_text", "code")
_TEXT_NAMES = ("text", "content", "parts", "value", "refusal")
#: Parts without anything to read.
_SILENT_PARTS = ("redacted_thinking", "step_start")
_MEDIA_PARTS = {
    "image": "an image",
    "audio": "audio",
    "video": "a video",
    "file": "a file",
    "document": "a document",
    "inline_data": "media",
    "media": "media",
}


class Content:
    """What is read from the content of one message; `add` takes it in any form."""

    def __init__(self, place: int, role: Role):
        self.place = place
        self.role: Role = role
        self.texts: list[str] = []
        self.has_text = False
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self.replies: list[Message] = []

    def text(self) -> str:
        """All texts as one."""
        return "".join(self.texts)

    def add(self, content: Any, depth: int = 0) -> None:
        """Add a text, a part, or a list of them. Raises Unusable."""
        if content is None:
            return
        if depth > DEEPEST:
            raise Unusable(f"message {self.place} is nested too deeply")
        if isinstance(content, str):
            self._add_text(content)
        elif isinstance(content, (list, tuple)):
            for part in content:
                self.add(part, depth + 1)
        elif isinstance(content, Mapping):
            self._add_part(content, depth)
        elif self.role != "tool":
            raise Unusable(f"message {self.place} ({self.role}) has no text")

    def _add_text(self, text: str) -> None:
        self.texts.append(text)
        self.has_text = True

    def _add_part(self, part: RawMessage, depth: int) -> None:
        kind = part.get("type") or part.get("content_type") or part.get("kind")
        kind = snake(kind) if isinstance(kind, str) else ""
        names = {snake(str(name)): name for name, value in part.items() if given(value)}
        if self.role == "tool" and not kind and set(names) != {"text"}:
            self._add_text(json_of(part))
            return
        held = next((h for name in ((kind,) if kind else names) if (h := _held(name))), None)
        if held is not None:
            raise Unusable(f"message {self.place} holds {held}, and only text is read")
        if not kind and self._add_nested(part, names, depth):
            return
        if kind in CALL_PARTS:
            self.calls.append(call(part, self.place))
        elif kind in REPLY_PARTS:
            self._add_reply(part, depth)
        elif kind in _THOUGHT_PARTS or part.get("thought") is True or "reasoning_content" in names:
            self.thoughts.append(thought_text(part))
        elif kind not in _SILENT_PARTS:
            self._add_text_part(part, kind, names, depth)

    def _add_nested(self, part: RawMessage, names: Mapping[str, str], depth: int) -> bool:
        """Add a call or a reply that is the value of its name, as Bedrock and Gemini have it."""
        for name in ("tool_use", "function_call"):
            if name in names and isinstance(part[names[name]], Mapping):
                self.calls.append(call(part[names[name]], self.place))
                return True
        for name in ("tool_result", "function_response"):
            if name in names and isinstance(part[names[name]], Mapping):
                self._add_reply(part[names[name]], depth)
                return True
        return False

    def _add_text_part(
        self, part: RawMessage, kind: str, names: Mapping[str, str], depth: int
    ) -> None:
        known = kind in _TEXT_PARTS or not kind or kind in _NESTING_PARTS
        found = next((name for name in _TEXT_NAMES if name in names), None) if known else None
        if found is not None:
            self.add(part[names[found]], depth + 1)
        elif kind in _TEXT_PARTS:
            self.add(part.get("text", ""), depth + 1)
        elif self.role == "tool":
            self._add_text(json_of(part))
        elif known:
            raise Unusable(f"message {self.place} ({self.role}) holds a part without text")
        else:
            raise Unusable(
                f"message {self.place} ({self.role}) holds a part of the unknown type {shown(kind)}"
            )

    def _add_reply(self, part: RawMessage, depth: int) -> None:
        inner = Content(self.place, "tool")
        names = ("content", "response", "output", "result", "text")
        content = next((part[name] for name in names if name in part), None)
        if isinstance(content, Mapping):
            inner.texts.append(json_of(content))
        else:
            inner.add(content, depth + 1)
        self.replies.append(reply(part, inner.text()))


def plain_text(value: Any) -> str | None:
    """The text of a system prompt that is a text, a message or its parts; None for other values."""
    parts = Content(1, "system")
    try:
        parts.add(value)
    except Unusable:
        return None
    return parts.text() if parts.has_text else None


def refuse_media(message: RawMessage, place: int) -> None:
    """Raise Unusable for a message with a field of images, audio, video or files."""
    for name, value in message.items():
        held = "a file" if name == "files" else medium(str(name))
        if held and given(value):
            raise Unusable(f"message {place} holds {held}, and only text is read")


def _held(name: str) -> str | None:
    """What a part of this type or name holds if it is not text: "an image"."""
    begun = name.removeprefix("input_")
    return next((held for start, held in _MEDIA_PARTS.items() if begun.startswith(start)), None)


def is_setting(value: Any) -> bool:
    """Does a field such as `reasoning` only set whether or how much to think?"""
    if isinstance(value, str):
        return value.strip().lower() in _SETTINGS
    return isinstance(value, (bool, int, float))


def thought_text(value: Any, depth: int = 0) -> str:
    """The text of a thought in any form: a text, an object, or a list of them."""
    if isinstance(value, str) or depth > DEEPEST:
        return value if isinstance(value, str) else ""
    if isinstance(value, (list, tuple)):
        return "\n\n".join(text for item in value if (text := thought_text(item, depth + 1)))
    if isinstance(value, Mapping):
        keys = ("thinking", "reasoning", "text", "content", "summary", "thoughts")
        more = ("reasoningContent", "reasoning_content", "reasoningText", "reasoning_text")
        texts = [thought_text(value[key], depth + 1) for key in (*keys, *more) if key in value]
        return "\n\n".join(text for text in texts if text)
    return ""
