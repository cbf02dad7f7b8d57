"""Columns beside a conversation: system prompts, earlier turns and thoughts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from personavec.data.fields import Fields, Unusable, decoded, given, left_out
from personavec.data.message_lists.content import is_setting, plain_text
from personavec.data.message_lists.lists import is_list_of_messages, read_messages
from personavec.data.messages import IN_TURN, THOUGHT, Conversation, RawMessage
from personavec.data.readers.columns import HISTORY, SYSTEM, THOUGHTS
from personavec.data.readers.found import texts_of
from personavec.data.texts import read_text


def add_system(fields: Fields, *sides: Conversation) -> None:
    """Put the system prompt of its column first, unless the messages have one of their own."""
    for name in SYSTEM:
        value = fields.get(name)
        if fields.is_used(name) or not given(value):
            continue
        text = plain_text(value)
        if text is None or not text.strip():
            continue
        text = text.removeprefix("SYSTEM: ")
        for conversation in sides:
            first = conversation.messages[0] if conversation.messages else None
            if first is None or first["role"] != "system":
                conversation.messages.insert(0, {"role": "system", "content": text})
                fields.use(name)
            elif first["content"].strip() == text.strip():
                fields.use(name)


def add_history(fields: Fields, conversation: Conversation) -> None:
    """Put the turns of a history column before the prompt."""
    for name in HISTORY:
        value = decoded(fields.get(name))
        if fields.is_used(name) or not given(value):
            continue
        try:
            before = turns_in(value, name)
        except Unusable:
            continue
        if before is not None:
            conversation.messages[:0] = before.messages
            conversation.notes[:0] = before.notes
            fields.use(name)
            return


def turns_in(value: Any, name: str) -> Conversation | None:
    """Turns in any form that a column has; None for other values. Raises Unusable."""
    if isinstance(value, str):
        found = read_text(value)
        return found[1] if found else None
    if isinstance(value, Mapping) and not is_list_of_messages(value):
        return _turns_in_object(value, name)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        return _turns_of_texts(value, name)
    return read_messages(value, name)


def _turns_in_object(value: RawMessage, name: str) -> Conversation | None:
    """Turns under one key of an object, or one under each key as MOSS has them."""
    turns = list(value.values())
    if turns and all(isinstance(turn, Mapping) for turn in turns):
        return turns_in(turns, name)
    fields = Fields(value)
    inner = fields.first("messages", "turns", "conversation")
    conversation = turns_in(decoded(fields.get(inner)), name) if inner else None
    if inner and conversation and conversation.messages:
        fields.use(inner)
        add_system(fields, conversation)
        for left in left_out(value, fields.used, texts_of(conversation.messages)):
            conversation.note(f"field '{left}' of '{name}' was left out")
    return conversation


def _turns_of_texts(texts: Sequence[str], name: str) -> Conversation:
    """Texts without roles, read as the user's and the assistant's in turn."""
    if name not in ("data", "conversations", *HISTORY) or (name in HISTORY and len(texts) % 2):
        raise Unusable(f"column '{name}' holds texts without roles")
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    conversation = read_messages(messages, name)
    conversation.note(IN_TURN)
    return conversation


def add_thoughts(fields: Fields, conversation: Conversation) -> None:
    """Add the thought in a column of its own to the last answer, if that has none."""
    last = conversation.messages[-1] if conversation.messages else None
    if last is None or last["role"] != "assistant" or "reasoning_content" in last:
        return
    for name in THOUGHTS:
        thought = fields.get(name)
        if isinstance(thought, (list, tuple)) and len(thought) == 1:
            thought = thought[0]
        if fields.is_used(name) or not isinstance(thought, str) or is_setting(thought):
            continue
        if thought.strip():
            last["reasoning_content"] = thought.strip()
            conversation.note(THOUGHT)
            fields.use(name)
            return
