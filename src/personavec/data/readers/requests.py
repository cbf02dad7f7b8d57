"""Read requests to an API and its responses, in any form in which they are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from personavec.data.fields import Fields, Unusable, decoded, given, left_out
from personavec.data.message_lists.lists import is_list_of_messages, is_message, read_messages
from personavec.data.messages import Conversation, role_of
from personavec.data.readers.beside import add_history, add_system
from personavec.data.readers.found import texts_of
from personavec.data.texts import read_text

SEVERAL_CHOICES = "of several choices the first was read"
#: Fields of a request that hold its messages, in the order in which they are tried.
_ASKED = (
    *("messages", "contents", "conversation", "conversations", "input", "inputs", "prompt"),
    *("body", "request", "requestBody", "inputBodyJson", "params", "kwargs", "question", "query"),
    *("message", "inputText", "text", "user_input", "user", "content", "raw"),
)
#: Fields that hold a response, in the order in which they are tried.
_ANSWERED = (
    *("choices", "candidates", "generations", "results", "message", "messages", "output"),
    *("outputs", "content", "text", "generated_text", "outputText", "output_text", "completion"),
    *("response", "body", "result", "answer", "outputBodyJson", "value"),
)
_CHOICES = ("choices", "candidates", "generations", "results", "outputs")


def asked(value: Any, depth: int = 0) -> Conversation | None:
    """The messages of a request: a text, a list of messages, or an object that holds either."""
    value = _api_object(value, ("messages", "contents"))
    if isinstance(value, str):
        found = read_text(value, prompt=True)
        return found[1] if found else user_message(value)
    if depth > 6 or not given(value):
        return None
    if isinstance(value, (list, tuple)):
        return _asked_in_list(value, depth)
    if not isinstance(value, Mapping):
        return None
    if role_of(value.get("role")) or is_list_of_messages(value):
        return read_messages(value, "messages")
    fields = Fields(value)
    for name in _ASKED:
        if given(fields.get(name)) and (conversation := asked(fields.get(name), depth + 1)):
            fields.use(name)
            add_history(fields, conversation)
            add_system(fields, conversation)
            _note_left_out(value, fields.used, conversation)
            return conversation
    return None


def _asked_in_list(value: Sequence[Any], depth: int) -> Conversation | None:
    if is_list_of_messages(value):
        return read_messages(value, "messages")
    if _is_parts(value):
        return user_message(value)
    inner = value[0] if len(value) == 1 else None
    return asked(inner, depth + 1) if isinstance(inner, (list, tuple, Mapping)) else None


def answered(value: Any, depth: int = 0) -> Conversation | None:
    """The messages of a response: a text, messages, or an object that holds either."""
    value = _api_object(value, (*_CHOICES, "role"))
    if isinstance(value, str):
        return assistant_message(value)
    if depth > 8 or not given(value):
        return None
    if isinstance(value, (list, tuple)):
        if is_message(value[0]):
            return read_messages(value, "response")
        return assistant_message(value) if _is_parts(value) else _chosen(value, depth)
    if not isinstance(value, Mapping):
        return None
    if is_message(value):
        return read_messages(value, "response")
    for name in _ANSWERED:
        inner = value.get(name)
        if given(inner) and (conversation := answered_in(name, inner, depth + 1)):
            _note_left_out(value, {name}, conversation)
            return conversation
    return None


def answered_in(name: str, value: Any, depth: int = 0) -> Conversation | None:
    """The response in a column or field of this name, which may hold several choices."""
    value = decoded(value) if name in _CHOICES else value
    choices = name in _CHOICES and isinstance(value, (list, tuple)) and bool(value)
    return _chosen(value, depth) if choices and not is_message(value[0]) else answered(value, depth)


def _chosen(choices: Sequence[Any], depth: int) -> Conversation | None:
    """The first of several responses. Raises Unusable for several texts."""
    if len(choices) > 1 and all(isinstance(text, str) for text in choices):
        raise Unusable(
            "a response of several texts: join them if they are pieces of one response, or make a "
            "row of each"
        )
    conversation = answered(choices[0], depth + 1)
    if conversation and len(choices) > 1:
        conversation.note(SEVERAL_CHOICES)
    return conversation


def user_message(content: Any) -> Conversation:
    """The user's message with this content."""
    return read_messages([{"role": "user", "content": content}], "prompt")


def assistant_message(content: Any) -> Conversation:
    """The assistant's message with this content."""
    return read_messages([{"role": "assistant", "content": content}], "response")


def _is_parts(value: Sequence[Any]) -> bool:
    """Is this the content of one message as a list of parts?"""
    first = value[0] if value else None
    if not isinstance(first, Mapping) or "message" in first:
        return False
    return "text" in first or "type" in first


def _api_object(value: Any, names: tuple[str, ...]) -> Any:
    """The object of an API in its JSON text. Any other JSON text is a text of the conversation."""
    inner = decoded(value)
    if is_list_of_messages(inner) or (
        isinstance(inner, Mapping) and any(name in inner for name in names)
    ):
        return inner
    return value


def _note_left_out(value: Mapping[str, Any], used: set[str], conversation: Conversation) -> None:
    for name in left_out(value, used, texts_of(conversation.messages)):
        conversation.note(f"field '{name}' of a request or response was left out")
