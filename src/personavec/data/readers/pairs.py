"""Preference pairs: rows with a better and a worse response."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.data.fields import Fields, Unusable, given
from personavec.data.message_lists.lists import read_messages
from personavec.data.messages import Conversation
from personavec.data.readers.beside import add_system
from personavec.data.readers.columns import PAIR_PROMPTS, SIDES
from personavec.data.readers.found import Found, joined
from personavec.data.readers.prompts import prompt_in, reply_in
from personavec.data.readers.requests import answered
from personavec.data.texts import read_text


def preference_pair(fields: Fields) -> Found | None:
    """`chosen` and `rejected`: responses to a prompt column, or two whole conversations."""
    for chosen, rejected in SIDES:
        if fields.has(chosen) and fields.has(rejected):
            return pair_in(fields, chosen, rejected)
    return None


def mapped_pair(fields: Fields) -> Found | None:
    """The pair in the columns that `--columns` names."""
    both = fields.has("chosen") and fields.has("rejected")
    return pair_in(fields, "chosen", "rejected") if both else None


def pair_in(fields: Fields, chosen: str, rejected: str) -> Found:
    """The pair in two columns. Raises Unusable."""
    sides = [_side(fields, name) for name in (chosen, rejected)]
    whole = [any(m["role"] == "user" for m in side.messages) for side in sides]
    name = fields.first(*PAIR_PROMPTS)
    if not all(whole):
        if name is None:
            raise Unusable(
                f"'{fields.own(chosen)}' and '{fields.own(rejected)}' answer no prompt: name its "
                "column with --columns prompt=COLUMN"
            )
        before = prompt_in(fields, name)
        sides = [
            side if is_whole else joined(before, side)
            for side, is_whole in zip(sides, whole, strict=True)
        ]
    add_system(fields, *(s for s, is_whole in zip(sides, whole, strict=True) if is_whole))
    return both_sides(fields, sides, chosen, rejected)


def both_sides(fields: Fields, sides: Sequence[Conversation], chosen: str, rejected: str) -> Found:
    """The two conversations of a pair as a reader's result."""
    return Found(
        sides[0].messages,
        sides[1].messages,
        (fields.name(chosen) or chosen, fields.name(rejected) or rejected),
        list(dict.fromkeys([*sides[0].notes, *sides[1].notes])),
    )


def _side(fields: Fields, name: str) -> Conversation:
    """One side of a pair: the response alone, or the whole conversation."""
    value = fields.get(name)
    fields.use(name)
    if isinstance(value, str):
        own = fields.first(*PAIR_PROMPTS)
        prompt = fields.get(own) if own else None
        repeated = isinstance(prompt, str) and value.lstrip().startswith(prompt.strip())
        transcript = read_text(value) if repeated or not isinstance(prompt, str) else None
        if transcript is not None:
            if own and repeated:
                fields.use(own)
            return transcript[1]
    conversation = answered(value) if isinstance(value, str) or given(value) else None
    if conversation is None:
        raise Unusable(f"no text in column '{fields.own(name)}'")
    return conversation


def rejected_response(fields: Fields) -> Found | None:
    """`messages` that end with the better response, `rejected_response` with the other one."""
    if not given(fields.get("rejected_response")) or not given(fields.get("messages")):
        return None
    conversation = read_messages(fields.get("messages"), "messages")
    fields.use("messages")
    add_system(fields, conversation)
    if not conversation.messages or conversation.messages[-1]["role"] != "assistant":
        raise Unusable("'messages' beside 'rejected_response' must end with the better response")
    other = reply_in(fields, "rejected_response")
    before = Conversation(conversation.messages[:-1])
    return Found(
        conversation.messages,
        joined(before, other).messages,
        notes=list(dict.fromkeys([*conversation.notes, *other.notes])),
    )
