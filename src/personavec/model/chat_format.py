"""Turn messages into token ids with a model's chat template, and ids back into text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from personavec.data import Message, Role
from personavec.errors import UsageError
from personavec.model.chat_template import ChatTemplate, TemplateRefusal, template_notes
from personavec.model.control import NO_MASK, ControlTokens, Mask
from personavec.model.mending import (
    JOINED,
    TOOLS_AS_TEXT,
    joined,
    roles_in_row,
    tools_as_text,
    uses_tools,
)
from personavec.model.message_texts import (
    Piece,
    known_fields,
    masked,
    message_texts,
    thought_pieces,
)
from personavec.model.thinking import is_open, split

#: (question, answer) turns.
EarlierTurns = tuple[tuple[str, str], ...]

CONTROL_IN_TEXT = "control tokens of the model stand in its text; they were read as text"
#: How many rendered prompts are kept, since several methods need the same one.
_WRITTEN_KEPT = 4


def chat(question: str, system: str | None = None, earlier: EarlierTurns = ()) -> list[Message]:
    """Messages that end with a question, after `earlier` turns; no system message for None."""
    messages: list[Message] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for asked, answer in earlier:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": question}]


def control_notes(formats: Iterable[ChatFormat], messages: Sequence[Message]) -> tuple[str, ...]:
    """The note for a conversation whose texts contain control tokens of one of the formats."""
    holds = any(chat_format.holds_control_tokens(messages) for chat_format in formats)
    return (CONTROL_IN_TEXT,) if holds else ()


@dataclass(frozen=True)
class Written:
    """A prompt as the template writes it, up to where the response begins."""

    text: str
    """The prompt's text, masked if the messages contain control strings."""
    mask: Mask = NO_MASK
    notes: tuple[str, ...] = ()
    """How the conversation was changed so that the template could write it."""
    mid_turn: bool = False
    """Whether the response continues a text of the assistant at the end of the prompt."""

    @property
    def plain(self) -> str:
        """The text without the mask."""
        return self.mask.off(self.text)


class ChatFormat:
    """Turns messages into prompt ids with a tokenizer's chat template.

    If the template has no system role, the system prompt is merged into the first user turn. A
    tokenizer without a template gets a plain one. `notes` reports both. `template_args` are passed
    to the template. `thinking` is the format of the model's thoughts, or None if the template has
    none. Strings in message texts never become control tokens.

    If the template writes the date, it is `template_args["today"]` in every prompt, or else the
    day on which this object was created.
    """

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.template_args = dict(template_args or {})
        self._writer = ChatTemplate(tokenizer, self.template_args)
        self.thinking = self._writer.thinking
        self.system_role = self._writer.has_system_role
        self.notes = template_notes(self._writer)
        self._control = ControlTokens(tokenizer)
        self._kept: tuple[tuple[tuple[str, list[Message]], Written], ...] = ()

    @property
    def template(self) -> str:
        """The source of the Jinja template."""
        return self._writer.source

    @template.setter
    def template(self, source: str) -> None:
        self._writer.source = source

    @property
    def today(self) -> str | None:
        """The date that the template writes; None if it writes none."""
        return self._writer.today

    # Writing

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as the template writes it, up to where the response begins."""
        return self.written(messages).plain

    def text_with_any_date(self, messages: Sequence[Message]) -> re.Pattern[str]:
        """A pattern that matches the prompt's text with any date in the place of the template's."""
        marker = "personavec-date-marker"
        form = self.written(messages, date=marker).plain
        return re.compile(".{1,80}?".join(re.escape(part) for part in form.split(marker)), re.S)

    def written(self, messages: Sequence[Message], *, date: str | None = None) -> Written:
        """Write the prompt with the template, and note how the messages were changed for it.

        If the template requires it, adjacent messages of one role are joined and tool calls are
        written as text. Raises UsageError if the template would still drop a text.
        """
        asked = (self.template, [known_fields(message) for message in messages])
        if date is not None:
            return self._write(asked[1], date)
        found = next((written for known, written in self._kept if known == asked), None)
        if found is None:
            found = self._write(asked[1], None)
            self._kept = ((asked, found), *self._kept[: _WRITTEN_KEPT - 1])
        return found

    def _write(self, messages: list[Message], date: str | None) -> Written:
        texts = [text for message in messages for text in message_texts(message, self.thinking)]
        holds = any(map(self._control.stand_in, texts))
        if not holds and not any(map(self._control.may_join, texts)):
            return self._attempt(messages, NO_MASK, date)
        mask = self._control.mask(texts)
        hidden = [masked(message, mask, self.thinking) for message in messages]
        safe = self._attempt(hidden, mask, date)
        if not holds:
            # The texts have parts of control strings, which the template's text may complete.
            plain = self._attempt(messages, NO_MASK, date)
            if self._control.joined_none(plain.text, safe.text, mask):
                return plain
        return safe

    def _attempt(self, messages: Sequence[Message], mask: Mask, date: str | None) -> Written:
        goes_on = len(messages) > 1 and messages[-1]["role"] == "assistant"
        if goes_on and not self._writer.writes_neighbours("assistant"):
            return self._mid_turn(messages, mask, date)
        why = ""
        for form, notes in self._forms(messages):
            try:
                text = self._writer.render(form, date=date)
            except TemplateRefusal as refused:
                why = why or f"the chat template refused the messages: {refused}"
                continue
            missing = self._writer.missing(form, text)
            if missing is None:
                return Written(text, mask, notes)
            why = why or f"the chat template cannot write the conversation: {missing}"
        raise UsageError(" ".join(mask.off(why).split()))

    def _mid_turn(self, messages: Sequence[Message], mask: Mask, date: str | None) -> Written:
        """The prompt for a response that continues an assistant message."""
        *before, begun = messages
        if uses_tools([begun]):
            begun = tools_as_text([begun])[0]
        head = self._attempt(before, mask, date)
        text = head.text if head.mid_turn else head.text + self._skip(head.text)
        text += f"{self.answer(begun) or ''}\n\n"
        return Written(text, mask, tuple(dict.fromkeys((*head.notes, JOINED))), mid_turn=True)

    def _forms(
        self, messages: Sequence[Message]
    ) -> Iterator[tuple[list[Message], tuple[str, ...]]]:
        """Variants of the messages to try, the closest to the original first, with their notes."""
        ways: list[tuple[list[Message], tuple[str, ...]]] = []
        if not uses_tools(messages):
            ways.append((list(messages), ()))
        else:
            if self._writer.tool_form is not None:
                ways.append((self._writer.tool_form(messages), ()))
            ways.append((tools_as_text(messages), (TOOLS_AS_TEXT,)))
        for form, notes in ways:
            twice = roles_in_row(form)
            wrong: set[Role] = {role for role in twice if not self._writer.writes_neighbours(role)}
            more = (JOINED,) if wrong else ()
            yield self._system_merged(joined(form, wrong)), (*notes, *more)
            if twice - wrong:
                yield self._system_merged(joined(form, twice)), (*notes, JOINED)

    def _system_merged(self, messages: list[Message]) -> list[Message]:
        if self.system_role or not messages or messages[0]["role"] != "system":
            return messages
        system, *rest = messages
        merged: Message = {"role": "user", "content": system["content"]}
        if rest and rest[0]["role"] == "user":
            merged["content"] += f"\n\n{rest.pop(0)['content']}"
        return [merged, *rest]

    # Control tokens

    def holds_control_tokens(self, messages: Sequence[Message]) -> bool:
        """Whether the texts contain strings that the tokenizer would read as control tokens."""
        return any(
            self._control.stand_in(text)
            for message in messages
            for text in message_texts(known_fields(message), self.thinking)
        )

    def answer(self, message: Message) -> str | None:
        """A message's text without its leading thought; None if there is only a thought."""
        return self._writer.answer(message)

    def _ids_of(self, written: str, mask: Mask) -> list[int]:
        return self._control.ids(written, mask) if mask.table else self._ids(written)

    def _text_ids(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of consecutive texts and of the marks of thoughts between them."""
        texts = [text for text, is_mark in pieces if not is_mark]
        if not any(map(self._control.stand_in, texts)):
            return self._ids("".join(text for text, _ in pieces))
        mask = self._control.mask(texts)
        return self._control.ids(
            "".join(text if is_mark else mask.on(text) for text, is_mark in pieces), mask
        )

    # Ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt, including the template's special tokens. Raises UsageError."""
        written = self.written(messages)
        ids = self._ids_of(written.text, written.mask)
        if not ids:
            raise UsageError("a prompt has no tokens")
        return ids

    def answer_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt up to where an answer without a thought begins.

        Use it for given responses that consist of the answer only. For a model that does not think,
        this is `prompt_ids`.
        """
        written = self.written(messages)
        skip = "" if written.mid_turn else self._skip(written.text)
        return self.prompt_ids(messages) + (self._ids(skip) if skip else [])

    def _skip(self, prompt: str) -> str:
        """The text between a prompt and an answer without a thought, such as an empty thought."""
        if self.thinking is None:
            return ""
        if is_open(prompt, self.thinking):
            return f"\n{self.thinking.closes}\n\n"
        return "" if prompt.rstrip().endswith(self.thinking.closes) else self.thinking.skipped

    def templated_ids(self, text: str) -> list[int]:
        """Token ids of a prompt that the chat template has already written."""
        return self._ids(text)

    def response_ids(self, text: str) -> list[int]:
        """Token ids of a response's text, without a thought and without an end-of-turn token."""
        return self.reply_ids({"role": "assistant", "content": text})

    def reply_ids(self, message: Message) -> list[int]:
        """Token ids of an assistant message's answer, without thought and end-of-turn token."""
        return self._text_ids([(self.answer(message) or "", False)])

    def thought_ids(self, messages: Sequence[Message], message: Message) -> list[int]:
        """Token ids of an assistant message's thought, up to its answer; [] without a thought.

        `messages` are the messages before it. If their prompt already opens the thought, the
        opening mark is not repeated.
        """
        if self.thinking is None:
            return []
        if "reasoning_content" in message:
            thought = message["reasoning_content"].strip()
            before, after = self._around_thought
            pieces = [(before, True), (thought, False), (after, True)]
            return self._text_ids(pieces) if thought else []
        content = message["content"]
        thinking, answer = split(content, self.thinking)
        if not thinking:
            return []
        thought = content.removesuffix(answer or "").lstrip()
        prompt = self.written(messages).text
        if is_open(prompt, self.thinking):
            thought = thought.removeprefix(self.thinking.opens)
            thought = thought.lstrip("\n") if prompt.endswith("\n") else thought
        return self.marked_ids(thought)

    def marked_ids(self, text: str) -> list[int]:
        """Token ids of an assistant's text, including the marks of a leading thought."""
        return self._text_ids(
            thought_pieces(text, self.thinking) if self.thinking else [(text, False)]
        )

    @cached_property
    def _around_thought(self) -> tuple[str, str]:
        """The template's text between prompt and thought, and between thought and answer."""
        form = self.thinking
        if form is None:
            return "", ""
        try:
            prompt, whole = self._writer.around_reply("answer-marker", "thought-marker")
            before, found, rest = whole.removeprefix(prompt).partition("thought-marker")
            after, answered, _ = rest.partition("answer-marker")
            if whole.startswith(prompt) and found and answered:
                return before, after
        except TemplateRefusal:
            prompt = ""
        gap = "\n" if "\n" in form.skipped else ""
        opens = "" if is_open(prompt, form) else form.opens
        return f"{opens}{gap}", f"{gap}{form.closes}{gap}{gap}"

    def between_ids(self, messages: Sequence[Message], earlier: int) -> list[int] | None:
        """Token ids from the end of an earlier response to where the next response begins.

        `messages` are the messages before the next response; `messages[earlier]` is the earlier
        response. Returns None if the next prompt does not begin with the earlier prompt and
        response, because the template drops thoughts or trims texts.
        """
        if self.thinking is not None:
            return None
        before = self.written(messages[:earlier]).plain + messages[earlier]["content"]
        written = self.written(messages)
        if not written.plain.startswith(before):
            return None
        return self._ids_of(written.text[len(before) :], written.mask)

    @cached_property
    def turn_end(self) -> int | None:
        """The id of the control token that the template writes after a response, if any."""
        try:
            after = self._after_response()
        except TemplateRefusal:
            return None
        places = self._control.places(after.lstrip())
        if not places or places[0][0] > 0:
            return None
        return self.tokenizer.convert_tokens_to_ids(after.lstrip()[: places[0][1]])

    def end_of_turn(self, stop_ids: frozenset[int]) -> int:
        """The id of the token that ends a response: the control token that the template writes.

        If there is none, it is the first of `stop_ids` that follows a response in the template, or
        else the tokenizer's end-of-text token. Raises UsageError.
        """
        if self.turn_end is not None:
            return self.turn_end
        try:
            after = self._ids(self._after_response())
        except TemplateRefusal as refused:
            raise UsageError(f"the chat template refused a reply: {refused}") from refused
        found = next((token for token in after if token in stop_ids), None)
        return self.tokenizer.eos_token_id if found is None else found

    def _after_response(self) -> str:
        """The text that the template writes after a response. Raises TemplateRefusal."""
        marker = "personavec-response-marker"
        return self._writer.around_reply(marker)[1].rpartition(marker)[2]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """The response's text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode_marked(self, ids: Sequence[int]) -> str:
        """The text with its special tokens, which include the marks of a thought."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def template_hash(self) -> str:
        """The first 16 digits of the template's SHA-256."""
        return hashlib.sha256(self.template.encode()).hexdigest()[:16]
