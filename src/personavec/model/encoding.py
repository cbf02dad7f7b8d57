"""Rows as token ids, with the places of their responses. Runs beside the model, in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from personavec.data import THOUGHT, DataRow, Message, Reject
from personavec.errors import UsageError
from personavec.model.chat_format import ChatFormat, control_notes
from personavec.model.projecting import TokenIds


@dataclass(frozen=True)
class Turn:
    """One response within a text: its own tokens, and the last token of its prompt."""

    message: int
    """Which message of the row it is."""
    prompt_last: int
    start: int
    stop: int
    thinking: int = 0
    """Tokens of the thought that ends where the response starts, where it was kept."""

    @property
    def n_tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Text:
    """One forward's token ids, and the responses in it."""

    ids: TokenIds
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A row ready to be scored; `rejected` holds a preference pair's other side."""

    row: DataRow
    texts: tuple[Text, ...]
    rejected: tuple[Text, ...] = ()


def encode(
    chat: ChatFormat,
    row: DataRow | Reject,
    *,
    context: int,
    last_turn: bool = False,
    thinking: bool = False,
) -> Encoded | Reject:
    """Tokenise a row; a reject passes through, and a row that does not fit becomes one.

    All turns of a row share one text where the template lets the prompts continue each other,
    and have one each otherwise. With `last_turn` only the last response is scored. With `thinking`
    a response keeps its thought, and may consist of a thought alone; without, it is read as an
    answer given without a thought. The row's notes say what was done so that the template could
    write it, and that control tokens stand in its text.
    """
    if isinstance(row, Reject):
        return row
    sides, notes = [], []
    for messages in (row.messages, row.rejected or ()):
        try:
            texts = _texts(chat, messages, last_turn, thinking, notes)
        except UsageError as error:
            return Reject(row.index, row.id, str(error))
        for text in texts:
            if empty := [turn for turn in text.turns if not (turn.n_tokens or turn.thinking)]:
                reason = f"message {empty[0].message + 1} is an empty response"
                return Reject(row.index, row.id, reason)
            if len(text.ids) > context:
                reason = f"{len(text.ids)} tokens, more than the model's context of {context}"
                return Reject(row.index, row.id, reason)
        sides.append(tuple(texts))
    return Encoded(replace(row, notes=tuple(dict.fromkeys((*row.notes, *notes)))), *sides)


def _texts(
    chat: ChatFormat,
    messages: Sequence[Message],
    last_turn: bool,
    thinking: bool,
    notes: list[str],
) -> list[Text]:
    """One side's texts; what had to be done to the messages is added to `notes`."""
    places = [i for i, message in enumerate(messages) if _is_scored(message)]
    if messages and not places:
        raise UsageError("none of its assistant turns is to be scored")
    texts: list[Text] = []
    ids: list[int] = []
    turns: list[Turn] = []
    for place in places[-1:] if last_turn else places:
        message = messages[place]
        thought = chat.thought_ids(messages[:place], message) if thinking else []
        between = chat.between_ids(messages[:place], turns[-1].message) if turns else None
        if between is None:
            if turns:
                texts.append(_text(ids, turns))
            ids, turns = list(chat.answer_prompt_ids(messages[:place])), []
            # What closes a thought before an answer stands between prompt and response.
            last = len(ids) if chat.thinking is None else len(chat.prompt_ids(messages[:place]))
            if thought:
                ids = [*ids[:last], *thought]
        else:
            ids += between
            last = len(ids)
        response = chat.reply_ids(message)
        stop = len(ids) + len(response)
        notes += chat.written(messages[:place]).notes
        turns.append(Turn(place, last - 1, len(ids), stop, len(thought)))
        ids += response
    notes += control_notes([chat], messages)
    return [*texts, _text(ids, turns)] if turns else texts


def _is_scored(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("scored", True)


def _text(ids: Sequence[int], turns: Sequence[Turn]) -> Text:
    return Text(np.asarray(ids, dtype=np.int32), tuple(turns))


def with_thoughts(row: Encoded, kept: str) -> Encoded:
    """A row whose thoughts were kept where its answers have one, with the note that says so."""
    if not any(turn.thinking for text in row.texts for turn in text.turns):
        return row
    notes = tuple(kept if note == THOUGHT else note for note in row.row.notes)
    return replace(row, row=replace(row.row, notes=notes))
