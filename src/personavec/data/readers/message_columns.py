"""Rows with a column of messages or of turns."""

from __future__ import annotations

from personavec.data.fields import Fields, Unusable, decoded, given
from personavec.data.message_lists.lists import is_list_of_messages
from personavec.data.messages import Conversation
from personavec.data.readers.beside import add_system, add_thoughts, turns_in
from personavec.data.readers.columns import (
    HISTORY,
    MAY_BE_OTHER,
    MESSAGES,
    MESSAGES_ONLY,
    RESPONSES,
)
from personavec.data.readers.found import Found, found_in, joined
from personavec.data.readers.prompts import prompt_with_response
from personavec.data.readers.requests import answered_in


def messages(fields: Fields) -> Found | None:
    """A list of messages, or one that a response in another column follows."""
    for name in ("messages",) if fields.is_mapped("messages") else MESSAGES:
        if name in MAY_BE_OTHER and fields.has(name) and _is_beside(fields):
            continue
        conversation = _conversation_in(fields, name)
        if conversation is None:
            continue
        fields.use(name)
        if conversation.messages[-1]["role"] in ("user", "tool"):
            conversation = _with_reply(fields, conversation)
        add_system(fields, conversation)
        add_thoughts(fields, conversation)
        return found_in(conversation)
    if fields.is_mapped("messages"):
        raise Unusable(f"no messages in column '{fields.own('messages')}'")
    return None


def _conversation_in(fields: Fields, name: str) -> Conversation | None:
    """The messages of a column; None, with the reason kept, if it may hold something else."""
    value = decoded(fields.get(name))
    if not given(value) or isinstance(value, (bool, int, float)):
        return None
    try:
        conversation = turns_in(value, name)
    except Unusable as error:
        if name in MESSAGES_ONLY or is_list_of_messages(value):
            raise
        fields.reasons.append(str(error))
        return None
    if conversation is not None and conversation.messages:
        return conversation
    if name in MESSAGES_ONLY:
        raise Unusable(f"column '{fields.own(name)}' holds no list of messages")
    return None


def _is_beside(fields: Fields) -> bool:
    """Do a prompt and its response stand in text columns of their own?"""
    pair = prompt_with_response(fields)
    return pair is not None and all(isinstance(fields.get(name), str) for name in pair)


def _with_reply(fields: Fields, conversation: Conversation) -> Conversation:
    """Messages that end with a prompt, followed by the response in another column."""
    for name in RESPONSES:
        value = None if fields.is_used(name) else fields.get(name)
        if given(value) and (reply := answered_in(name, value)) is not None:
            fields.use(name)
            return joined(conversation, reply)
    return conversation


def history(fields: Fields) -> Found | None:
    """A whole conversation in a history column."""
    for name in HISTORY:
        value = decoded(fields.get(name))
        conversation = (
            turns_in(value, name) if given(value) and not isinstance(value, (int, float)) else None
        )
        if conversation is not None and conversation.messages:
            fields.use(name)
            add_system(fields, conversation)
            return found_in(conversation)
    return None
