"""Encode rows as token ids with the positions of their responses; the model is not run."""

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
    """A response within a text, by token positions."""

    message: int
    """Index of the message in the row."""
    prompt_last: int
    """Position of the last token of its prompt."""
    start: int
    """Position of its first token."""
    stop: int
    """Position after its last token."""
    thinking: int = 0
    """Number of tokens of its thought, which ends at `start`; 0 if no thought was kept."""

    @property
    def n_tokens(self) -> int:
        """Number of response tokens."""
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Text:
    """The token ids of one sequence, and the responses in it."""

    ids: TokenIds
    turns: tuple[Turn, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A tokenised row; `rejected` holds the texts of a preference pair's rejected side."""

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
    """Tokenise a row. A reject is returned as it is; a row that cannot be encoded becomes one.

    All turns of a row share one text if each prompt continues the previous prompt and response;
    otherwise a turn begins a new text. With `last_turn` only the last response is scored. With
    `thinking` a response keeps its thought, and may be only a thought; without it, the thought is
    left out. Notes on changes for the template and on control tokens are added to the row's notes.
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
    """The texts of one side of a row; notes on changes to the messages are added to `notes`."""
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
            # An empty thought may stand between the prompt and the response.
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
    """The row with its note on thoughts replaced by `kept`, if it has kept thoughts."""
    if not any(turn.thinking for text in row.texts for turn in text.turns):
        return row
    notes = tuple(kept if note == THOUGHT else note for note in row.row.notes)
    return replace(row, row=replace(row.row, notes=notes))
