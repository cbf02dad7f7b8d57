"""Traced calls of a model: spans of OpenTelemetry and OpenInference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from personavec.data.fields import Fields, decoded, given
from personavec.data.messages import RawMessage
from personavec.data.raw import RawColumns
from personavec.data.readers.beside import add_system
from personavec.data.readers.found import Found, found_in, joined
from personavec.data.readers.requests import answered, asked

#: Messages in the flat attributes of a span: `llm.input_messages.0.message.role`.
_FLAT = re.compile(
    r"(?:llm|gen_ai)\.(?P<side>prompts?|completions?|input_messages|output_messages)"
    r"\.(?P<place>\d{1,4})\.(?P<rest>.+)"
)
_SPAN_INPUT = ("gen_ai.input.messages", "llm.input_messages", "input.value", "gen_ai.prompt")
_SPAN_OUTPUT = (
    *("gen_ai.output.messages", "llm.output_messages", "output.value", "gen_ai.completion"),
)


def span(fields: Fields) -> Found | None:
    """A traced call of a model: attributes of OpenTelemetry (`gen_ai`) or OpenInference (`llm`)."""
    if not any(str(n).startswith(("attributes", "gen_ai.", "llm.")) for n in fields.row):
        return None
    found = {
        path: value
        for name, value in fields.row.items()
        for path, value in _attributes(name, value)
    }
    inputs, outputs = _flat_messages(found)
    before = inputs or next((found[n] for n in _SPAN_INPUT if given(found.get(n))), None)
    reply = outputs or next((found[n] for n in _SPAN_OUTPUT if given(found.get(n))), None)
    request = None if before is None or reply is None else asked(before)
    response = None if before is None or reply is None else answered(reply)
    if request is None or response is None:
        return None
    for name in fields.row:
        if str(name).startswith(("attributes", "gen_ai.", "llm.", "input.", "output.")):
            fields.used.add(name)
    conversation = joined(request, response)
    system = Fields({"system": decoded(found.get("gen_ai.system_instructions"))})
    add_system(system, conversation)
    return found_in(conversation)


def _flat_messages(attributes: RawMessage) -> tuple[list[Any], list[Any]]:
    """The messages of the input and of the output that are spread over flat attributes."""
    sides: tuple[dict[int, Any], dict[int, Any]] = {}, {}
    for path, value in attributes.items():
        if match := _FLAT.fullmatch(path):
            is_output = not match["side"].startswith(("prompt", "input"))
            message = sides[is_output].setdefault(int(match["place"]), {})
            _put(message, match["rest"].split("."), value)
    inputs, outputs = ([_unflattened(side[place]) for place in sorted(side)] for side in sides)
    return inputs, outputs


def _attributes(name: Any, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Attributes by their dotted names, at any nesting."""
    name = str(name)
    name = "" if name == "attributes" else name.removeprefix("attributes.")
    if isinstance(value, Mapping) and depth < 8:
        for key, inner in value.items():
            yield from _attributes(f"{name}.{key}" if name else key, inner, depth + 1)
        return
    if not name and isinstance(value, (list, tuple)):  # OTLP: [{"key": ..., "value": {...}}]
        for item in value:
            key, held = (
                (item.get("key"), item.get("value")) if isinstance(item, Mapping) else ("", 0)
            )
            if isinstance(key, str) and isinstance(held, Mapping):
                yield key, next(iter(held.values()), None)
        return
    yield name, value


def _put(into: RawColumns, path: list[str], value: Any) -> None:
    """Set a value in nested objects, which are made as needed."""
    for step in path[:-1]:
        inner = into.get(step)
        into[step] = into = inner if isinstance(inner, dict) else {}
    into[path[-1]] = value


def _unflattened(value: Any) -> Any:
    """The value with every object whose keys are numbers as a list."""
    if not isinstance(value, dict):
        return value
    if value and all(str(key).isdigit() for key in value):
        return [_unflattened(value[key]) for key in sorted(value, key=int)]
    return {key: _unflattened(inner) for key, inner in value.items()}
