"""Turn rows into conversations: find the messages in a row's columns.

A row that cannot be used becomes a `Reject` with its reason; no exception is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields as fields_of
from itertools import islice
from typing import Any, Literal

from personavec.data.fields import Fields, Unusable, escaped, given, left_out, medium
from personavec.data.message_lists.training_marks import MASKED, training_mark
from personavec.data.messages import Message, role_of
from personavec.data.raw import RawColumns, RawRow
from personavec.data.readers.found import UNDESIRED, Found, same, texts_of
from personavec.data.readers.reasons import why_none
from personavec.data.readers.table import readers_for
from personavec.errors import DataError, UsageError
from personavec.plain import is_unicode, unicode_text

Kind = Literal["row", "pair"]
#: Rows that are looked at to tell what a dataset holds.
_PEEKED = 1000


@dataclass(frozen=True)
class ColumnMap:
    """The columns of the parts of a conversation, if the readers do not know their names."""

    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    id: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ColumnMap:
        """The map in a text such as `prompt=question,response=answer`. Raises UsageError."""
        names = [field.name for field in fields_of(cls)]
        pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
        if any(key.strip() not in names or not value.strip() for key, _, value in pairs):
            raise UsageError(
                f"--columns {text}: write NAME=COLUMN, separated by commas, with the names "
                f"{', '.join(names)}"
            )
        keys = [key.strip() for key, _, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise UsageError(f"--columns {text}: {twice[0]} is named twice")
        return cls(**{key.strip(): value.strip() for key, _, value in pairs})

    def named(self) -> dict[str, str]:
        """The named columns by what they hold."""
        found = {field.name: getattr(self, field.name) for field in fields_of(self)}
        return {key: name for key, name in found.items() if name is not None}


@dataclass(frozen=True)
class DataRow:
    """A row's conversation: its messages up to and including the last assistant turn.

    For a preference pair `messages` ends with the chosen response, and `rejected` is the same
    prompt with the rejected one.
    """

    index: int
    id: str
    messages: tuple[Message, ...]
    rejected: tuple[Message, ...] | None = None
    reader: str = ""
    """The reader that found the conversation, by its name in docs/data.md."""
    ignored: tuple[str, ...] = ()
    """Columns that were left out and may matter."""
    notes: tuple[str, ...] = ()
    """Changes to the row, such as "a thought was left out of the answer".

    A note has the same text in every row, so that notes can be counted.
    """
    sides: tuple[str, str] | None = None
    """The columns of a pair's chosen and rejected response, if each has its own column."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, and why."""

    index: int
    id: str
    reason: str


UNFINISHED_THOUGHT = "the response ends inside its thought"
NO_TEXT_AFTER = "messages after the last response were left out"
_NO_MARK = "its training marks leave out every response"


def parse_row(
    raw: RawRow, columns: ColumnMap | None = None, kind: Kind | None = None
) -> DataRow | Reject:
    """Read the conversation in a row's columns, or return the reason why there is none.

    The readers in `readers/table.py` are tried in order; `columns` names columns that they do not
    know. Messages after the last scored response are left out. With `kind`, rows of the other kind
    are rejected.
    """
    columns = columns or ColumnMap()
    own_id = row_id(raw, columns)
    try:
        if raw.error is not None:
            raise Unusable(raw.error)
        row = _row(raw, own_id, columns)
        if kind is not None:
            _check_kind(row, kind)
        return row
    except Unusable as error:
        return Reject(raw.index, own_id, unicode_text(str(error)))
    except RecursionError:
        return Reject(raw.index, own_id, "its values are nested too deeply")


def _check_kind(row: DataRow, kind: Kind) -> None:
    if kind == "pair" and not row.rejected:
        raise Unusable("a row without 'chosen' and 'rejected' among preference pairs")
    if kind == "row" and row.rejected:
        raise Unusable("a preference pair among rows with one response")


def kind_of(rows: Iterator[RawRow], columns: ColumnMap | None = None) -> Kind:
    """The kind of a dataset's first usable row: a preference pair, or a row with one response.

    Raises DataError with the first row's reason if none of the first rows is usable, and
    UsageError if none of them has a column that `columns` names.
    """
    columns = columns or ColumnMap()
    first: Reject | None = None
    found: Kind | None = None
    missing = _MissingColumns(columns)
    for raw in islice(rows, _PEEKED):
        missing.see(raw)
        if found is None:
            parsed = parse_row(raw, columns)
            if isinstance(parsed, DataRow):
                found = "pair" if parsed.rejected else "row"
            else:
                first = first or parsed
        if found is not None and not missing.names:
            return found
    missing.check()
    reason = f"row {first.id}: {first.reason}" if first else "it holds no rows"
    raise DataError(f"none of the first {_PEEKED} rows can be used; {reason}")


def check_columns(rows: Iterator[RawRow], columns: ColumnMap) -> None:
    """Raise UsageError if none of the first rows has a column that `columns` names.

    `kind_of` checks this too.
    """
    missing = _MissingColumns(columns)
    for raw in islice(rows, _PEEKED if missing.names else 0):
        missing.see(raw)
        if not missing.names:
            return
    missing.check()


class _MissingColumns:
    """The columns that a mapping names and that no row so far has."""

    def __init__(self, columns: ColumnMap):
        self.names = columns.named()
        self._seen: dict[str, None] = {}

    def see(self, raw: RawRow) -> None:
        if self.names:
            self._seen |= dict.fromkeys(map(escaped, raw.columns))
            self.names = {k: name for k, name in self.names.items() if name not in raw.columns}

    def check(self) -> None:
        for key, name in self.names.items():
            raise UsageError(
                f"--columns {key}={name}: none of the first rows has a column {name!r}; "
                f"they have {', '.join(self._seen) or 'none'}"
            )


def swapped(raw: RawRow, columns: ColumnMap | None = None) -> RawColumns | None:
    """A preference pair's columns with its two responses swapped; None if that is not possible."""
    row = parse_row(raw, columns, "pair")
    if isinstance(row, Reject):
        return None
    if row.sides:
        better, other = row.sides
        return raw.columns | {better: raw.columns[other], other: raw.columns[better]}
    if row.reader != "rejected response":
        return None
    return raw.columns | {
        "messages": [dict(message) for message in row.rejected or ()],
        "rejected_response": row.messages[-1]["content"],
    }


def row_id(raw: RawRow, columns: ColumnMap) -> str:
    """A row's id: its `id` column, or its file and line."""
    given_id = raw.columns.get(columns.id or "id")
    if isinstance(given_id, (str, int, float)) and given_id == given_id and given_id != "":
        if isinstance(given_id, str):
            return unicode_text(given_id)
        if not isinstance(given_id, int) or given_id.bit_length() < 1000:
            return str(given_id)
    return unicode_text(f"{raw.source}:{raw.number}")


def _row(raw: RawRow, own_id: str, columns: ColumnMap) -> DataRow:
    named = columns.named()
    named.pop("id", None)
    fields = Fields(raw.columns, named)
    for reader in readers_for(fields):
        fields.used.clear()
        found = reader.read(fields)
        if found is not None:
            return _found(raw, own_id, columns, fields, reader.name, found)
    raise Unusable(why_none(fields))


def _found(
    raw: RawRow, own_id: str, columns: ColumnMap, fields: Fields, reader: str, found: Found
) -> DataRow:
    fields.use(columns.id or "id")
    _refuse_media(raw.columns, fields)
    notes = list(found.notes)
    sides = [found.messages] if found.rejected is None else [found.messages, found.rejected]
    for side in sides:
        _mask(fields, side, notes)
    if _is_undesired(fields):
        notes.append(UNDESIRED)
    done = [_checked(side, notes) for side in sides]
    if len(done) == 2 and not same(done[0][:-1], done[1][:-1]):
        raise Unusable(_why_not_a_pair(*done))
    return DataRow(
        raw.index,
        own_id,
        done[0],
        done[1] if len(done) == 2 else None,
        reader,
        _ignored(raw.columns, fields, {text for side in sides for text in texts_of(side)}),
        tuple(dict.fromkeys(notes)),
        found.sides,
    )


def _refuse_media(columns: RawColumns, fields: Fields) -> None:
    for name, value in columns.items():
        held = medium(str(name))
        if held and name not in fields.used and given(value):
            raise Unusable(f"the row holds {held} in '{escaped(name)}', and only text is read")


def _is_undesired(fields: Fields) -> bool:
    """Whether KTO's label marks the response as undesired."""
    label = next((name for name in ("label", "kto_tag") if fields.has(name)), None)
    value = fields.get(label) if label and not fields.is_used(label) else None
    return value is False or value in ("false", "False")


def _ignored(columns: RawColumns, fields: Fields, texts: set[str]) -> tuple[str, ...]:
    """The columns that were left out and may matter, including training marks."""
    ignored = [*left_out(columns, fields.used, texts)]
    # Training marks of whole rows are not read.
    mark = training_mark({k: v for k, v in columns.items() if k != "label"})
    if mark is None and given(columns.get("loss_mask")):
        mark = "loss_mask"
    if mark and mark not in (*ignored, *fields.used):
        ignored.append(mark)
    return tuple(ignored)


def _mask(fields: Fields, messages: list[Message], notes: list[str]) -> None:
    """Apply NeMo's `mask`, which names the speaker whose turns are not trained on."""
    if role_of(fields.get("mask")) is None:
        return
    fields.use("mask")
    if role_of(fields.get("mask")) == "assistant":
        notes.append(MASKED.format("mask"))
        for message in messages:
            if message["role"] == "assistant":
                message["scored"] = False


def _why_not_a_pair(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    """The reason why two conversations with different prompts are not a pair."""
    at = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if not same([a], [b])),
        min(len(chosen), len(rejected)),
    )
    if chosen[at : at + 1] and chosen[at]["role"] != "assistant":
        return (
            f"the two sides of the pair answer different prompts: they differ at message {at + 1}"
        )
    return (
        f"the two sides of the pair differ at message {at + 1}, before their last one; "
        "cut both after the response that differs"
    )


def _checked(messages: Sequence[Message], notes: list[str]) -> tuple[Message, ...]:
    """The messages up to the last scored response. Raises Unusable if there is none."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise Unusable("no assistant turn")
    last = messages[turns[-1]]
    if _unfinished(last):
        raise Unusable(UNFINISHED_THOUGHT)
    scored = [i for i in turns if messages[i].get("scored", True)]
    if not scored:
        if all("tool_calls" in messages[i] for i in turns):
            raise Unusable("no response: the assistant only calls tools")
        raise Unusable(_NO_MARK)
    kept = messages[: scored[-1] + 1]
    if len(kept) < len(messages):
        notes.append(NO_TEXT_AFTER)
    for i, message in enumerate(kept):
        answers = message["role"] == "assistant" and message.get("scored", True)
        if answers and not message["content"].strip():
            raise Unusable(f"message {i + 1} is an empty response")
        if not _is_text(message):
            raise Unusable(f"message {i + 1} holds half of a surrogate pair, which is not text")
    return tuple(kept)


def _unfinished(message: Message) -> bool:
    """Whether an answer ends inside its thought, and so has no other text."""
    return (
        bool(message.get("reasoning_content"))
        and not message["content"]
        and "tool_calls" not in message
        and message.get("scored") is False
    )


def _is_text(value: Any) -> bool:
    """Whether every text in a message can be encoded as UTF-8."""
    if isinstance(value, str):
        return is_unicode(value)
    if isinstance(value, dict):
        return all(_is_text(key) and _is_text(inner) for key, inner in value.items())
    return all(map(_is_text, value)) if isinstance(value, list) else True
