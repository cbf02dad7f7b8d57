"""Rows as conversations: finds the messages in one row's columns.

What cannot be used comes back as a reason, never as an exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Literal

from personavec.data.files import RawRow
from personavec.data.messages import Message
from personavec.errors import DataError, UsageError
from personavec.plain import is_unicode, unicode_text

Kind = Literal["row", "pair"]


@dataclass(frozen=True)
class ColumnMap:
    """Which columns hold what, where they are not called as usual."""

    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ColumnMap:
        """From `prompt=question,response=answer`. Raises UsageError."""
        names = [field.name for field in fields(cls)]
        pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
        if any(key.strip() not in names or not value.strip() for key, _, value in pairs):
            raise UsageError(
                f"--columns {text}: write NAME=COLUMN, separated by commas, with the names "
                f"{', '.join(names)}"
            )
        return cls(**{key.strip(): value.strip() for key, _, value in pairs})


@dataclass(frozen=True)
class Row:
    """A row's conversation: its messages up to and including the last assistant turn.

    In a preference pair `messages` ends with the chosen response, and `rejected` is the same
    prompt with the other one.
    """

    index: int
    id: str
    messages: tuple[Message, ...]
    rejected: tuple[Message, ...] | None = None
    reader: str = ""
    """Which reader found the conversation, by the name that docs/data.md lists it under."""
    ignored: tuple[str, ...] = ()
    """Columns that were left out, and may matter."""
    notes: tuple[str, ...] = ()
    """What was done to the row beyond reading it, such as "a thought was left out".

    A note is the same text in every row that it concerns, so that notes can be counted.
    """


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    index: int
    id: str
    reason: str


#: Columns that hold a prompt and its response, most telling names first.
PROMPT_RESPONSE = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")


class _Unusable(ValueError):
    """Why a row cannot be used."""


def parse_row(
    raw: RawRow, columns: ColumnMap | None = None, kind: Kind | None = None
) -> Row | Reject:
    """The conversation in one row's columns, or why there is none.

    Known without a mapping: `messages` or `conversations` (a list of role/content or from/value,
    or such a list as JSON text), `prompt` with `completion` or `response`, `question` with
    `answer`, `instruction` with `output` or `response` and an optional `input`; `system` beside
    a prompt; `chosen` with `rejected`, texts beside a prompt or lists of messages. A last turn
    of the user is left out. `kind`, where given, is what every row of the dataset must be.
    """
    columns = columns or ColumnMap()
    own_id = row_id(raw, columns)
    try:
        if raw.error is not None:
            raise _Unusable(raw.error)
        row = _conversation(raw.columns, columns)
        if kind is not None and kind != ("pair" if row[1] else "row"):
            raise _Unusable(
                "a row without 'chosen' and 'rejected' among preference pairs"
                if kind == "pair"
                else "a preference pair among rows with one response"
            )
    except _Unusable as error:
        return Reject(raw.index, own_id, unicode_text(str(error)))
    return Row(raw.index, own_id, *row)


def kind_of(rows: Iterator[RawRow], columns: ColumnMap | None = None, peek: int = 1000) -> Kind:
    """Whether a dataset holds preference pairs: what its first usable row is.

    Raises DataError, with the first row's reason, when none of the first `peek` is usable.
    """
    first: Reject | None = None
    for raw in islice(rows, peek):
        parsed = parse_row(raw, columns)
        if isinstance(parsed, Row):
            return "pair" if parsed.rejected else "row"
        first = first or parsed
    reason = f"row {first.id}: {first.reason}" if first else "it holds no rows"
    raise DataError(f"none of the first {peek} rows can be used; {reason}")


def row_id(raw: RawRow, columns: ColumnMap) -> str:
    """What a row is called: its `id`, or its place in its file."""
    given = raw.columns.get(columns.id or "id")
    named = given is not None and given != ""
    return unicode_text(str(given) if named else f"{raw.source}:{raw.number}")


def _conversation(
    row: Mapping[str, Any], columns: ColumnMap
) -> tuple[tuple[Message, ...], tuple[Message, ...] | None]:
    chosen, rejected = columns.chosen or "chosen", columns.rejected or "rejected"
    if chosen in row and rejected in row:
        return _pair(row, columns, chosen, rejected)
    for name in (columns.messages,) if columns.messages else ("messages", "conversations"):
        if row.get(name) is not None:
            return _checked(_messages(row[name], name)), None
    prompt, response = _prompt_columns(row, columns)
    before = _prompt(row, prompt, columns)
    return _checked([*before, *_reply(row.get(response), response)]), None


def _prompt_columns(row: Mapping[str, Any], columns: ColumnMap) -> tuple[str, str]:
    if columns.messages:
        raise _Unusable(f"no messages in column '{columns.messages}'")
    if columns.prompt or columns.response:
        return columns.prompt or "prompt", columns.response or "response"
    for prompt, response in PROMPT_RESPONSE:
        if prompt in row and response in row:
            return prompt, response
    raise _Unusable(
        f"no conversation in columns {', '.join(map(str, row)) or '(none)'}; "
        "name them with --columns"
    )


def _prompt(row: Mapping[str, Any], name: str, columns: ColumnMap) -> list[Message]:
    value = row.get(name)
    if isinstance(value, list):
        return _messages(value, name)
    if not isinstance(value, str):
        raise _Unusable(f"no text in column '{name}'")
    more = row.get("input") if name == "instruction" else None
    content = f"{value}\n\n{more}" if isinstance(more, str) and more else value
    system = row.get(columns.system or "system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return [*before, {"role": "user", "content": content}]


def _reply(value: Any, name: str) -> list[Message]:
    if isinstance(value, list):
        return _messages(value, name)
    if not isinstance(value, str):
        raise _Unusable(f"no text in column '{name}'")
    return [{"role": "assistant", "content": value}]


def _pair(
    row: Mapping[str, Any], columns: ColumnMap, chosen: str, rejected: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    prompt = columns.prompt or next((p for p in ("prompt", "question") if p in row), None)
    before = _prompt(row, prompt, columns) if prompt else []
    sides = []
    for name in (chosen, rejected):
        reply = _reply(row.get(name), name)
        # Lists of messages usually repeat the prompt.
        sides.append(_checked(reply if len(reply) > 1 else [*before, *reply]))
    if sides[0][:-1] != sides[1][:-1]:
        raise _Unusable(f"'{chosen}' and '{rejected}' answer different prompts")
    return sides[0], sides[1]


def _messages(value: Any, name: str) -> list[Message]:
    """A list of messages in the usual form, from any of the forms that are in use."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _Unusable(f"column '{name}' holds no list of messages") from None
    if not isinstance(value, Sequence) or not all(isinstance(m, Mapping) for m in value):
        raise _Unusable(f"column '{name}' holds no list of messages")
    return [_message(message, place) for place, message in enumerate(value, start=1)]


def _message(message: Mapping[str, Any], place: int) -> Message:
    role = next((message[key] for key in _ROLE_KEYS if message.get(key) is not None), None)
    if role not in _ROLES:
        raise _Unusable(f"message {place} has the unknown role {role!r}")
    content = next((message[key] for key in _CONTENT_KEYS if message.get(key) is not None), None)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise _Unusable(f"message {place} ({_ROLES[role]}) has no text")
    return {"role": _ROLES[role], "content": content}


def _checked(messages: list[Message]) -> tuple[Message, ...]:
    """The messages up to the last assistant turn, if they are in order and say something."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise _Unusable("no assistant turn")
    messages = messages[: turns[-1] + 1]
    first = 1 if messages[0]["role"] == "system" else 0
    for i, message in enumerate(messages):
        expected = ("user", "assistant")[(i - first) % 2] if i >= first else "system"
        if message["role"] != expected:
            raise _Unusable(
                f"roles out of order: message {i + 1} is of the {message['role']}, "
                f"where the {expected} should speak"
            )
        if message["role"] == "assistant" and not message["content"].strip():
            raise _Unusable(f"message {i + 1} is an empty response")
        if not is_unicode(message["content"]):
            raise _Unusable(f"message {i + 1} holds half of a surrogate pair, which is no text")
    return tuple(messages)
