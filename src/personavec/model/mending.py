"""Conversations that a chat template cannot write, as the nearest that it can.

Plain functions of messages; `chat_format` finds out which of them a template needs, by writing
with it.
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
    """Every text in a message, or in a part of one."""
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
    """The same with every text in it changed, those of keys too."""
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
    """Name and arguments of each call; arguments that are JSON text are read."""
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
    """The message with its calls' arguments as objects, as most templates take them."""
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
    """The same with calls' arguments as JSON text, as some templates take them."""
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
    """Calls as lines of the assistant's text, results as messages of the user."""
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
    """Roles that have two messages in a row."""
    return {a["role"] for a, b in pairwise(messages) if a["role"] == b["role"]}


def joined(messages: Sequence[Message], roles: set[Role]) -> list[Message]:
    """Neighbouring messages of these roles as one, with a blank line between their texts."""
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
    """The message with its content as a list of one part, as image-text templates take it."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _bare(text: str) -> str:
    """A text without what templates trim off its ends: white space, sometimes full stops."""
    return re.sub(r"^\W+|\W+$", "", text) or text.strip()


def lost(needles: Sequence[tuple[int, Message, str]], text: str) -> str | None:
    """The first message whose text is missing from what was written, or out of its order.

    `needles` are places, messages and the texts that must be found. A system prompt may stand
    anywhere: some templates write it into the last question.
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
