"""Change conversations that a chat template does not support into the closest that it does.

These are plain functions of messages; `chat_format` finds which of them a template needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from personavec.data import Message, Role

JOINED = "neighbouring messages of one role were joined, as the chat template cannot write them"
TOOLS_AS_TEXT = "tool calls and their results were written as text, as the chat template has none"


def strings(value: Any) -> Iterator[str]:
    """All strings in a message or in a part of one, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """A copy with `change` applied to every string, including keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): changed(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [changed(item, change) for item in value]
    return value


def uses_tools(messages: Sequence[Message]) -> bool:
    return any(m["role"] == "tool" or m.get("tool_calls") for m in messages)


def calls(message: Message) -> list[tuple[str, Any]]:
    """The name and arguments of each call; arguments that are JSON text are parsed."""
    found = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or call
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        found.append((str(function.get("name", "")), arguments))
    return found


def with_objects(message: Message) -> Message:
    """The message with its calls' arguments as objects, which most templates require."""
    given = message.get("tool_calls")
    if not given:
        return message
    read = [
        {"id": call.get("id"), "type": "function", "function": {"name": name, "arguments": found}}
        for call, (name, found) in zip(given, calls(message), strict=True)
    ]
    mended = message.copy()
    mended["tool_calls"] = read
    return mended


def with_json_arguments(messages: Sequence[Message]) -> list[Message]:
    """The messages with their calls' arguments as JSON text, which some templates require."""
    found: list[Message] = []
    for message in messages:
        mended = message.copy()
        if given := message.get("tool_calls"):
            mended["tool_calls"] = [
                {**call, "function": {"name": name, "arguments": _json(arguments)}}
                for call, (name, arguments) in zip(given, calls(message), strict=True)
            ]
        found.append(mended)
    return found


def tools_as_text(messages: Sequence[Message]) -> list[Message]:
    """The messages with calls as lines of the assistant's text, and results as user messages."""
    found: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            found.append({"role": "user", "content": f"Tool result: {message['content']}"})
            continue
        mended = message.copy()
        if mended.pop("tool_calls", None):
            lines = [f"[call {name}({_json(given)})]" for name, given in calls(message)]
            text = message["content"]
            mended["content"] = "\n\n".join([*([text] if text else []), "\n".join(lines)])
        found.append(mended)
    return found


def _json(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)


def roles_in_row(messages: Sequence[Message]) -> set[Role]:
    """The roles with two adjacent messages."""
    return {a["role"] for a, b in pairwise(messages) if a["role"] == b["role"]}


def joined(messages: Sequence[Message], roles: set[Role]) -> list[Message]:
    """The messages with adjacent ones of these roles joined, with a blank line between texts."""
    found: list[Message] = []
    for message in messages:
        if not found or message["role"] not in roles or found[-1]["role"] != message["role"]:
            found.append(message)
            continue
        before = found[-1].copy()
        texts = [text for text in (before["content"], message["content"]) if text]
        before["content"] = "\n\n".join(texts)
        if more := message.get("tool_calls"):
            before["tool_calls"] = [*before.get("tool_calls", []), *more]
        found[-1] = before
    return found


def in_parts(message: Message) -> dict[str, Any]:
    """The message with its content as a list of one part, which image-text templates require."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _bare(text: str) -> str:
    """A text without the characters that templates trim: white space, sometimes full stops."""
    return re.sub(r"^\W+|\W+$", "", text) or text.strip()


def lost(needles: Sequence[tuple[int, Message, str]], text: str) -> str | None:
    """An error text for the first message whose text is missing from `text` or out of order.

    `needles` are the messages' indices, the messages, and their texts. A system prompt may stand
    anywhere, since some templates write it into the last question. None if nothing is missing.
    """
    at = 0
    for place, message, content in needles:
        wanted = [content, *(name for name, _ in calls(message))]
        wanted += [leaf for _, given in calls(message) for leaf in strings(given)]
        start = 0 if message["role"] == "system" else at
        ends = []
        for needle in map(_bare, wanted):
            forms = (needle, json.dumps(needle, ensure_ascii=False)[1:-1])
            found = [(text.find(form, start), len(form)) for form in forms if form]
            if found and max(found)[0] < 0:
                return f"the text of message {place + 1} ({message['role']}) is missing from it"
            ends += [begin + length for begin, length in found if begin >= 0]
        if message["role"] != "system" and ends:
            at = max(at, ends[0])
    return None
