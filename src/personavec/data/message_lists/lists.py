"""Read a list of messages: find each message's role, and read it accordingly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from personavec.data.fields import Unusable, decoded, given, left_out, shown
from personavec.data.message_lists.assistant import read_assistant
from personavec.data.message_lists.content import (
    CONTENT_KEYS,
    THOUGHT_KEYS,
    Content,
    refuse_media,
    thought_text,
)
from personavec.data.message_lists.tool_calls import (
    CALL_KEYS,
    REPLY_PARTS,
    call,
    is_reply,
    json_of,
    reply,
)
from personavec.data.message_lists.training_marks import MASKED_MARKS, PART_MARKS, TRAINED
from personavec.data.messages import (
    CALLERS,
    THOUGHT,
    UNFINISHED,
    Conversation,
    Message,
    RawMessage,
    Role,
    role_of,
    snake,
)

NOT_CHOSEN = "responses that were not chosen were left out"
_ROLE_KEYS = ("role", "from", "author", "sender", "speaker", "message.role")
#: Fields of messages that are read or hold nothing of the conversation.
_KNOWN = {
    *_ROLE_KEYS,
    *CONTENT_KEYS,
    *THOUGHT_KEYS,
    *CALL_KEYS,
    *TRAINED,
    *MASKED_MARKS,
    *("refusal", "tool_call_id", "name", "if_chosen"),
}
#: Keys of objects that hold both sides of one exchange: (question, answer).
EXCHANGES = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("human", "moss"),
    ("human", "gpt"),
    ("human", "ai"),
    ("human", "bot"),
    ("user", "bot"),
    ("user", "model"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
)


def is_list_of_messages(value: Any) -> bool:
    """Does its first item look like a message?"""
    value = transposed(decoded(value))
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and isinstance(value[0], Mapping)
        and (is_message(value[0]) or _exchange(value[0]) is not None)
    )


def is_message(value: Any) -> bool:
    """Is this an object that names a speaker?"""
    return isinstance(value, Mapping) and _role_key(_inner(value)) is not None


def transposed(value: Any) -> Any:
    """An object of equally long lists (`{"role": [...], "content": [...]}`) as a list of objects.

    The `datasets` library stores a list of objects this way. Any other value is returned as it is.
    """
    if not isinstance(value, Mapping) or not value:
        return value
    lists = [inner for inner in value.values() if isinstance(inner, (list, tuple))]
    if len(lists) != len(value) or len({len(inner) for inner in lists}) != 1:
        return value
    if not any(str(key) in _ROLE_KEYS for key in value):
        return value
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]


def read_messages(value: Any, name: str) -> Conversation:
    """The messages in a column or field of this name. Raises Unusable."""
    value = transposed(decoded(value))
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pairs = [_pair_of_texts(item) for item in value]
        if value and all(pairs):
            value = [message for pair in pairs if pair for message in pair]
    if (
        not isinstance(value, Sequence)
        or isinstance(value, (str, bytes))
        or not all(isinstance(message, Mapping) for message in value)
    ):
        raise Unusable(f"column '{name}' holds no list of messages")
    conversation = Conversation()
    for place, message in enumerate(value, start=1):
        _read_message(conversation, _inner(message), place)
    if conversation.thought is not None:
        _add_thought_alone(conversation)
    return conversation


def _pair_of_texts(item: Any) -> list[RawMessage] | None:
    """`["What?", "That."]`, or an object with both sides of an exchange, as two messages."""
    if isinstance(item, (list, tuple)):
        if len(item) == 2 and all(isinstance(text, str) for text in item):
            return [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
        return None
    return _exchange(item) if isinstance(item, Mapping) else None


def _exchange(item: RawMessage) -> list[RawMessage] | None:
    """An object with both sides of an exchange as its messages; None for any other object."""
    if _role_key(item) is not None:
        return None
    keys = {str(key).lower(): key for key in item}
    sides = next((pair for pair in EXCHANGES if all(side in keys for side in pair)), None)
    if sides is None:
        return None
    asked, answered = sides
    rest = {key: value for key, value in item.items() if str(key).lower() not in (asked, answered)}
    made = []
    for name in ("system", "system_prompt"):
        if given(rest.get(name)):
            made.append({"role": "system", "content": rest.pop(name)})
    question = item[keys[asked]]
    if asked == "instruction" and isinstance(question, str) and isinstance(rest.get("input"), str):
        more = rest.pop("input")
        question = f"{question}\n\n{more}" if more else question
    if given(question) or asked != "input":  # an output may follow a system prompt alone
        made.append({"role": "user", "content": question})
    return [*made, {**rest, "role": "assistant", "content": item[keys[answered]]}]


def _role_key(message: RawMessage) -> str | None:
    """The field that names the speaker."""
    for key in _ROLE_KEYS:
        if given(message.get(key)):
            return key
    kind = message.get("type")
    return "type" if role_of(kind) or _is_item(kind) else None


def _is_item(kind: Any) -> bool:
    """Is this the type of an item of OpenAI's Responses API that has no role?"""
    return isinstance(kind, str) and (
        kind in ("function_call_output", "reasoning") or kind.endswith("_call")
    )


def _inner(message: RawMessage) -> RawMessage:
    """The message inside the object that LangChain and others wrap around it."""
    if _role_key(message) not in (None, "type"):
        return message
    for key in ("kwargs", "data", "message"):
        inner = message.get(key)
        if not isinstance(inner, Mapping) or not inner:
            continue
        kind = message.get("type")
        place = message.get("id")
        if kind == "constructor" and isinstance(place, (list, tuple)) and place:
            kind = str(place[-1]).removesuffix("Chunk").removesuffix("Message")
        known = {} if _role_key(inner) not in (None, "type") else {"role": kind}
        return {**inner, **known} if role_of(known.get("role", "user")) else message
    return message


def _read_message(conversation: Conversation, message: RawMessage, place: int) -> None:
    key = _role_key(message)
    if key == "type" and _is_item(message.get("type")):
        _read_item(conversation, message, place)
        return
    speaker = message[key] if key else None
    if isinstance(speaker, Mapping):
        speaker = speaker.get("role") or speaker.get("name")
    role = _known_role(speaker, place, has_role=key is not None)
    if message.get("if_chosen") is False:  # PRISM: another model's response to the same prompt
        conversation.note(NOT_CHOSEN)
        return
    refuse_media(message, place)
    at = _after_replies(message.get("content")) if role == "assistant" else 0
    if at:
        _read_message(conversation, {**message, "content": message["content"][:at]}, place)
        message = {**message, "content": message["content"][at:]}
    content = Content(place, role)
    content.add(_content(message, key))
    if role == "assistant":
        read_assistant(conversation, message, content, snake(str(speaker)) in CALLERS)
    else:
        _read_other(conversation, message, content, key)
    _note_ignored_fields(conversation, message, content)


def _known_role(speaker: Any, place: int, *, has_role: bool) -> Role:
    role = role_of(speaker)
    if role is not None:
        return role
    if not has_role:
        raise Unusable(f"message {place} has no role")
    raise Unusable(
        f"message {place} has the unknown role {shown(speaker)}; "
        "known are system, user, assistant, tool and their usual synonyms"
    )


def _read_other(
    conversation: Conversation, message: RawMessage, content: Content, role_key: str | None
) -> None:
    """Add a message of the system, the user or a tool. Raises Unusable."""
    role, text = content.role, content.text()
    if role == "user" and not content.calls and is_reply(text):
        role = "tool"
    if role == "user" and not (content.has_text or content.replies or content.calls):
        raise Unusable(f"message {content.place} ({role}) has no text")
    conversation.messages += content.replies
    if role == "tool":
        text = text if content.has_text else json_of(_content(message, role_key))
        conversation.messages.append(reply(message, text))
    elif content.has_text:
        conversation.messages.append({"role": role, "content": text})


def _note_ignored_fields(conversation: Conversation, message: RawMessage, content: Content) -> None:
    texts = {content.text().strip(), *(thought.strip() for thought in content.thoughts)}
    names = [*left_out(message, _KNOWN, texts)]
    names += [name for name in PART_MARKS if given(message.get(name)) and name not in names]
    for name in names:
        conversation.note(f"field '{name}' of a message was left out")


def _content(message: RawMessage, role_key: str | None) -> Any:
    for key in CONTENT_KEYS:
        if key != role_key and message.get(key) is not None:
            return message[key]
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else None


def _after_replies(content: Any) -> int:
    """Index of the part where an answer continues after replies to server-side calls, or 0."""
    if not isinstance(content, (list, tuple)):
        return 0
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    replies = [kind in REPLY_PARTS for kind in kinds]
    return next((i for i in range(1, len(replies)) if replies[i - 1] and not replies[i]), 0)


def _read_item(conversation: Conversation, item: RawMessage, place: int) -> None:
    """Add an item of OpenAI's Responses API that is not a message."""
    kind = item["type"]
    if kind == "reasoning":
        texts = [thought_text(item.get(key)) for key in ("summary", "content", "text")]
        thought = "\n\n".join(text for text in texts if text)
        if thought:
            conversation.thought = "\n\n".join(
                [conversation.thought, thought] if conversation.thought else [thought]
            )
    elif kind == "function_call_output":
        conversation.messages.append(reply(item, json_of(item.get("output"))))
    elif kind == "function_call":
        made: Message = {"role": "assistant", "content": "", "scored": False}
        made["tool_calls"] = [call(item, place)]
        if conversation.thought:
            made["reasoning_content"], conversation.thought = conversation.thought, None
            conversation.note(THOUGHT)
        conversation.messages.append(made)
    else:
        conversation.note(f"items of type {shown(kind)} were left out")


def _add_thought_alone(conversation: Conversation) -> None:
    """Add a thought without an answer, as a message that is not scored."""
    conversation.messages.append(
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": conversation.thought or "",
            "scored": False,
        }
    )
    conversation.note(UNFINISHED)
