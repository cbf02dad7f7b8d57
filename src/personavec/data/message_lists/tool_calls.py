"""Tool calls and the replies to them, in the form of OpenAI's API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from personavec.data.fields import DEEPEST, Unusable, decoded, given
from personavec.data.messages import Message, RawMessage, ToolCall

CALL_KEYS = ("tool_calls", "toolCalls", "function_call", "functionCall", "message.tool_calls")
CALL_PARTS = {"tool_use", "tool_call", "function_call", "server_tool_use", "tool_call_request"}
REPLY_PARTS = {
    *("tool_result", "tool_call_response", "function_response", "function_call_output"),
    *("tool_response", "web_search_tool_result", "code_execution_tool_result"),
}


def calls_in(value: Any, place: int) -> list[ToolCall]:
    """Tool calls in a list, an object, or the JSON text of either. Raises Unusable."""
    value = decoded(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and value.strip():
        value = [{"name": "", "arguments": value}]
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"message {place} has tool calls that cannot be read")
    return [call(decoded(item), place) for item in value]


def call(value: Any, place: int) -> ToolCall:
    """One tool call in the form of OpenAI's API, with its arguments as an object."""
    if not isinstance(value, Mapping):
        raise Unusable(f"message {place} has tool calls that cannot be read")
    if isinstance(value.get("tool_call"), Mapping):  # OpenInference
        value = value["tool_call"]
    function = value.get("function")
    inner = function if isinstance(function, Mapping) else value
    name = inner.get("name")
    if name is None and isinstance(function, str):
        name = function
    arguments = _arguments(inner)
    made: ToolCall = {
        "type": "function",
        "function": {"name": name if isinstance(name, str) else "", "arguments": plain(arguments)},
    }
    for key in ("call_id", "id", "toolUseId"):
        if isinstance(value.get(key), str):
            return {"id": value[key], **made}
    return made


def _arguments(function: RawMessage) -> RawMessage:
    keys = ("arguments", "input", "args", "parameters")
    arguments = decoded(next((function[key] for key in keys if key in function), {}))
    if isinstance(arguments, Mapping):
        return arguments
    return {"input": arguments} if given(arguments) else {}


def is_list_of_calls(value: Any) -> bool:
    """Is this a list of objects with a name and arguments, or the JSON text of one?"""
    value = decoded(value)
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, Mapping) and "name" in item and "arguments" in item for item in value
    )


#: Marks that begin an answer of calls alone: Glaive, Llama 3.1, Mistral.
_CALLED = ("<functioncall>", "<|python_tag|>", "[TOOL_CALLS]")
_NAMED = re.compile(r"\s*([\w.-]+)\[ARGS\](.*)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([\w.-]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_KEYED = re.compile(r"([\w.-]+)\s*((?:<arg_key>.*?</arg_value>\s*)*)", re.DOTALL)
_KEY = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def _written_call(text: str) -> RawMessage | None:
    """A call in an answer's text: JSON, or the forms of Qwen3-Coder and GLM."""
    value = decoded(text)
    if isinstance(value, Mapping) and "name" in value:
        return value
    if found := _FUNCTION.fullmatch(text):
        arguments = decoded(found[2].strip())
        if isinstance(arguments, str):
            arguments = dict(_PARAMETER.findall(arguments))
        return {"name": found[1], "arguments": arguments}
    if found := _KEYED.fullmatch(text):
        return {"name": found[1], "arguments": dict(_KEY.findall(found[2]))}
    return None


def written_calls(text: str, place: int) -> tuple[str, list[ToolCall]]:
    """The answer without the calls that are written in its text, and those calls."""
    for mark in _CALLED:
        if text.lstrip().startswith(mark):
            called = text.strip().removeprefix(mark).removesuffix("<|eom_id|>").strip()
            if named := _NAMED.fullmatch(called):
                return "", [call({"name": named[1], "arguments": named[2]}, place)]
            return "", calls_in(called, place)
    if found := _FUNCTION.fullmatch(text.strip()):  # Llama 3.1
        return "", [call(_written_call(found.group()), place)]
    opens, closes = "<tool_call>", "</tool_call>"
    before, found, rest = text.partition(opens)
    if not found or not text.rstrip().endswith(closes):
        return text, []
    calls = []
    for piece in (found + rest).split(opens)[1:]:
        inner, closed, after = piece.partition(closes)
        value = _written_call(inner.strip())
        if not closed or after.strip() or value is None:
            return text, []
        calls.append(call(value, place))
    return before.rstrip(), calls


def is_reply(text: str) -> bool:
    """Is this a tool's reply as Qwen's template writes it, in the name of the user?"""
    text = text.strip()
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def reply(part: RawMessage, text: str) -> Message:
    """A tool's reply with this text; `part` names the call that it answers."""
    inner = text.strip()
    if is_reply(inner):
        text = inner[len("<tool_response>") : -len("</tool_response>")].strip()
    made: Message = {"role": "tool", "content": text}
    for key in ("tool_call_id", "tool_use_id", "toolUseId", "call_id"):
        if isinstance(part.get(key), str):
            made["tool_call_id"] = part[key]
            break
    if isinstance(part.get("name"), str):
        made["name"] = part["name"]
    return made


def json_of(value: Any) -> str:
    """A text as it is, any other value as JSON, "" for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON can hold. Raises Unusable if it is nested too deeply or too long."""
    if depth > DEEPEST:
        raise Unusable("a tool call or reply is nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, int) and value.bit_length() > 10_000:
        raise Unusable("a tool call or reply holds a number too long to write")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
