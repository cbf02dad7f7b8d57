"""The texts of a message, without the marks around a thought in its content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from personavec.data import Message
from personavec.model.control import Mask
from personavec.model.mending import changed, strings, with_objects
from personavec.model.thinking import ThinkingFormat, split

#: A text, and whether it is a mark of a thought.
Piece = tuple[str, bool]
#: Fields with texts, besides a message's content and calls.
_TEXT_FIELDS = ("reasoning_content", "tool_call_id", "name")


def known_fields(message: Message) -> Message:
    """The message with only the fields that a template may read, and call arguments as objects."""
    found: Any = {"role": message["role"], "content": message["content"]}
    given: Any = message
    names = (*_TEXT_FIELDS, "tool_calls")
    found |= {name: given[name] for name in names if given.get(name) is not None}
    return with_objects(found)


def message_texts(message: Message, form: ThinkingFormat | None) -> Iterator[str]:
    """All texts of a message, without the marks around a thought in its content."""
    yield from (text for text, is_mark in content_pieces(message, form) if not is_mark)
    yield from strings([message.get(name) for name in _TEXT_FIELDS])
    for call in message.get("tool_calls") or ():
        yield from strings([call["id"], call["function"]["name"]])
        yield from strings(call["function"]["arguments"])


def masked(message: Message, mask: Mask, form: ThinkingFormat | None) -> Message:
    """The message with all its texts masked."""
    found: Any = message.copy()
    pieces = content_pieces(message, form)
    found["content"] = "".join(text if is_mark else mask.on(text) for text, is_mark in pieces)
    found |= {name: mask.on(found[name]) for name in _TEXT_FIELDS if name in found}
    if found.get("tool_calls"):
        found["tool_calls"] = [
            {
                **call,
                "id": changed(call["id"], mask.on),
                "function": {k: changed(v, mask.on) for k, v in call["function"].items()},
            }
            for call in found["tool_calls"]
        ]
    return found


def content_pieces(message: Message, form: ThinkingFormat | None) -> list[Piece]:
    """The content as pieces: texts, and the marks of a leading thought."""
    if form is None or message["role"] != "assistant" or "reasoning_content" in message:
        return [(message["content"], False)]
    return thought_pieces(message["content"], form)


def thought_pieces(text: str, form: ThinkingFormat) -> list[Piece]:
    """A text as pieces: the leading thought, its marks, and the text after it."""
    thinking, answer = split(text, form)
    pieces: list[Piece] = []
    if text.lstrip().startswith(form.opens):
        before, _, text = text.partition(form.opens)
        pieces += [(before, False), (form.opens, True)]
    if thinking and answer is not None:
        before, _, text = text.partition(form.closes)
        pieces += [(before, False), (form.closes, True)]
    return [*pieces, (text, False)]
