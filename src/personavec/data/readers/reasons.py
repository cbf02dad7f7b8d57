"""Explain why no reader found a conversation in a row, and what to do."""

from __future__ import annotations

from typing import Any

from personavec.data.fields import Fields, decoded, escaped, given
from personavec.data.message_lists.tool_calls import is_list_of_calls
from personavec.data.readers.columns import (
    MESSAGES_ONLY,
    PROMPTS,
    RESPONSES,
    SEVERAL,
    SPEAKER,
    SPOKEN,
)


def why_none(fields: Fields) -> str:
    """The reason for a row in which no reader found a conversation, with the remedy."""
    names = [escaped(name) for name in fields.row]
    shown_names = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"no conversation in columns {shown_names or '(none)'}: {_cause(fields)}"


def _cause(fields: Fields) -> str:
    if fields.reasons:
        return fields.reasons[0]
    if empty := next((name for name in MESSAGES_ONLY if fields.has(name)), None):
        what = "holds no list of messages" if given(fields.get(empty)) else "is empty"
        return f"column '{fields.own(empty)}' {what}"
    if fields.has("custom_id") and (fields.has("response") or fields.has("result")):
        return (
            "a response without its request; join the two by custom_id, as columns "
            "'request' and 'response'"
        )
    return _piece(fields) or _several_responses(fields) or _one_side(fields)


def _piece(fields: Fields) -> str | None:
    """Why a row that holds only a piece of a conversation is not read."""
    if fields.has("parent_id") and fields.has("role"):
        return "one message of a tree; put the messages of a conversation into one row"
    if any(map(fields.has, SPEAKER)) and any(map(fields.has, SPOKEN)):
        return "a single message; put the messages of a conversation into one row"
    if fields.has("segments"):
        return "pieces of rendered text; give the messages themselves"
    return None


def _several_responses(fields: Fields) -> str | None:
    """Why a row with several responses is not read."""
    several = fields.first(*SEVERAL)
    if several is not None and is_list_of_calls(fields.get(several)):
        return f"no response: '{several}' only calls tools"
    if several is not None and not _is_one_text(decoded(fields.get(several))):
        return (
            f"several responses to one prompt in '{several}'; make a row of each, or a pair "
            "with 'chosen' and 'rejected'"
        )
    return None


def _one_side(fields: Fields) -> str:
    """Why a row with a prompt or a response alone, or with neither, is not read."""
    prompt, response = fields.first(*PROMPTS), fields.first(*RESPONSES)
    if prompt is not None and prompt != response:
        return f"a prompt in '{prompt}' without a response; name it with --columns response=COLUMN"
    if response is not None:
        return f"a response in '{response}' without a prompt; name it with --columns prompt=COLUMN"
    return (
        "name them with --columns messages=COLUMN, prompt=COLUMN,response=COLUMN "
        "or chosen=COLUMN,rejected=COLUMN"
    )


def _is_one_text(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str)
