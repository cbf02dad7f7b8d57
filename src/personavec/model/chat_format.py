"""From messages to token ids, once; response text back from ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError

from personavec.data import Message, Role
from personavec.errors import ModelError, UsageError
from personavec.model.control import NO_MASK, ControlTokens, Mask
from personavec.model.mending import (
    JOINED,
    TOOLS_AS_TEXT,
    changed,
    in_parts,
    joined,
    lost,
    roles_in_row,
    strings,
    tools_as_text,
    uses_tools,
    with_json_arguments,
    with_objects,
)
from personavec.model.thinking import ThinkingFormat, is_open, split, thinking_format

#: (question, answer) turns.
EarlierTurns = tuple[tuple[str, str], ...]

#: Used when a tokenizer has no chat template of its own; said in every result's notes.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
CONTROL_IN_TEXT = "control tokens of the model stand in its text; they were read as text"
#: Whatever a template does wrong with messages that it was not written for.
_FAILURES = (
    *(TemplateError, ArithmeticError, LookupError, TypeError, ValueError),
    *(AttributeError, RecursionError),
)
_DATE_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_WRITTEN_KEPT = 4


def chat(question: str, system: str | None = None, earlier: EarlierTurns = ()) -> list[Message]:
    """Messages up to a question, after `earlier` turns; no system message when it is None."""
    messages: list[Message] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for asked, answer in earlier:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": question}]


def control_notes(readers: Iterable[ChatFormat], messages: Sequence[Message]) -> tuple[str, ...]:
    """What is to be told of a conversation that holds control tokens of a model that reads it."""
    holds = any(reader.holds_control_tokens(messages) for reader in readers)
    return (CONTROL_IN_TEXT,) if holds else ()


class _Refused(Exception):
    """The template does not take these messages."""


@dataclass(frozen=True)
class Written:
    """A prompt as the template writes it, up to where the response begins."""

    text: str
    """Masked where the conversation's texts hold control strings."""
    mask: Mask = NO_MASK
    notes: tuple[str, ...] = ()
    """What was done to the conversation so that it could be written."""
    mid_turn: bool = False
    """The prompt ends with a text of the assistant that the response goes on from."""

    @property
    def plain(self) -> str:
        return self.mask.off(self.text)


class ChatFormat:
    """Turns messages into prompt ids with a tokenizer's chat template.

    A template without a system role gets the system prompt merged into the first user turn, and
    a tokenizer without a template gets a plain one; `notes` says so. `template_args` are passed
    on to the template. `thinking` is the format in which the model thinks, if its template has
    one. Texts are text: none of their strings becomes a control token.

    A template that writes the date gets that of `template_args["today"]`, else the day on which
    this was made, in every prompt.
    """

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.template_args = dict(template_args or {})
        self.notes: list[str] = []
        self.template = tokenizer.chat_template
        if isinstance(self.template, dict):
            self.template = self.template.get("default") or next(iter(self.template.values()))
        if not self.template:
            self.template = PLAIN_TEMPLATE
            self.notes.append(
                "The tokenizer has no chat template; plain 'User: … Assistant:' turns were used."
            )
        self._now = _moment(self.template_args.get("today"))
        if self.today is not None:
            self.notes.append(f"The chat template writes the date; it was given {self.today}.")
        self.thinking = thinking_format(self.template)
        self._control = ControlTokens(tokenizer)
        self._neighbours: dict[Role, bool] = {}
        self._kept: tuple[tuple[tuple[str, list[Message]], Written], ...] = ()
        self._parts: frozenset[str] = frozenset()
        self._parts = self._roles_in_parts()
        self.system_role = self._shows(chat("hello", "personavec-system-marker"))
        if not self.system_role:
            self.notes.append(
                "The chat template has no system role; system prompts were merged into the first "
                "user turn."
            )

    # What the template can do

    @property
    def today(self) -> str | None:
        """The date that the template writes, where it writes one."""
        return self._now.date().isoformat() if _DATE_CALL.search(self.template) else None

    def _shows(self, messages: Sequence[Message]) -> bool:
        """Does the template write all texts of these messages, in order?"""
        try:
            return self._missing(messages, self._render(messages)) is None
        except _Refused:
            return False

    def _roles_in_parts(self) -> frozenset[str]:
        """The roles whose texts appear only when they are lists of parts."""
        turns = [*chat("first-marker", earlier=(("second-marker", "third-marker"),))]
        if self._shows(turns):
            return frozenset()
        before = self._parts
        try:
            for roles in ({"system", "user", "tool"}, {"system", "user", "tool", "assistant"}):
                self._parts = frozenset(roles)
                if self._shows(turns):
                    return self._parts
        finally:
            self._parts = before
        return frozenset()

    @cached_property
    def _tool_form(self) -> Callable[[Sequence[Message]], list[Message]] | None:
        """What makes messages ready for a template that writes calls, arguments and results."""
        function = {"name": "name_marker", "arguments": {"key_marker": "value_marker"}}
        call = {"id": "callmark1", "type": "function", "function": function}
        turns: list[Message] = [
            {"role": "user", "content": "first-marker"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "second-marker", "tool_call_id": "callmark1"},
        ]
        turns[-1]["name"] = "name_marker"
        return next(
            (form for form in (list, with_json_arguments) if self._shows(form(turns))), None
        )

    def _writes_neighbours(self, role: Role) -> bool:
        """Does the template write two messages of a role running as it writes each by itself?"""
        if role not in self._neighbours:
            self._neighbours[role] = self._try_neighbours(role)
        return self._neighbours[role]

    def _try_neighbours(self, role: Role) -> bool:
        # What ends alike would count as what the template writes.
        first, second, third = "marker-one", "marker-two", "marker-six"
        one: Message = {"role": role, "content": first}
        two: Message = {"role": role, "content": second}
        apart: Message = {"role": role, "content": third}
        user: Message = {"role": "user", "content": "marker-ask"}
        again: Message = {"role": "user", "content": "marker-sup"}
        reply: Message = {"role": "assistant", "content": "marker-well"}
        before = [] if role in ("user", "system") else [user]
        between = {"user": [reply], "tool": [reply, again]}.get(role, [again])
        after = [] if role == "user" else [user]
        try:
            pair = self._render([*before, one, two, *after])
            if role == "system":
                return self._missing([one, two, *after], pair) is None
            single = self._render([*before, one, *between, apart, *after])
        except _Refused:
            return False
        if self._missing([*before, one, two, *after], pair) is not None:
            return False
        # What stands before a message of this role, wherever it stands.
        head = _common_end(single[: single.find(first)], single[: single.find(third)])
        return pair[: pair.find(second)].endswith(head.lstrip())

    # Writing

    def _render(
        self, messages: Sequence[Message], *, reply: bool = True, date: str | None = None
    ) -> str:
        given = [in_parts(m) if m["role"] in self._parts else m for m in messages]
        try:
            return self.tokenizer.apply_chat_template(
                given,
                chat_template=_dated(self.template, self._now, date),
                tokenize=False,
                add_generation_prompt=reply,
                **self.template_args,
            )
        except _FAILURES as error:
            raise _Refused(str(error) or type(error).__name__) from error

    def _missing(self, messages: Sequence[Message], text: str) -> str | None:
        needles = [(i, m, self.answer(m) or "") for i, m in enumerate(messages)]
        return lost(needles, text)

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as the template writes it, up to where the response begins."""
        return self.written(messages).plain

    def text_with_any_date(self, messages: Sequence[Message]) -> re.Pattern[str]:
        """What matches the prompt's text with whatever date the template wrote into it."""
        marker = "personavec-date-marker"
        form = self.written(messages, date=marker).plain
        return re.compile(".{1,80}?".join(re.escape(part) for part in form.split(marker)), re.S)

    def written(self, messages: Sequence[Message], *, date: str | None = None) -> Written:
        """The prompt, and what had to be done so that the template could write it.

        Neighbouring messages of a role are joined and tools written as text where the template
        has no other way. Raises UsageError where a text would be lost all the same.
        """
        asked = (self.template, [_known_fields(message) for message in messages])
        if date is not None:
            return self._write(asked[1], date)
        found = next((written for known, written in self._kept if known == asked), None)
        if found is None:
            found = self._write(asked[1], None)
            self._kept = ((asked, found), *self._kept[: _WRITTEN_KEPT - 1])
        return found

    def _write(self, messages: list[Message], date: str | None) -> Written:
        texts = [text for message in messages for text in self._texts(message)]
        holds = any(map(self._control.stand_in, texts))
        if not holds and not any(map(self._control.may_join, texts)):
            return self._attempt(messages, NO_MASK, date)
        mask = self._control.mask(texts)
        masked = self._attempt([self._masked(m, mask) for m in messages], mask, date)
        if not holds:
            # Parts of control strings, which what the template writes beside them may complete.
            plain = self._attempt(messages, NO_MASK, date)
            if self._control.joined_none(plain.text, masked.text, mask):
                return plain
        return masked

    def _attempt(self, messages: Sequence[Message], mask: Mask, date: str | None) -> Written:
        goes_on = len(messages) > 1 and messages[-1]["role"] == "assistant"
        if goes_on and not self._writes_neighbours("assistant"):
            return self._mid_turn(messages, mask, date)
        why = ""
        for form, notes in self._forms(messages):
            try:
                text = self._render(form, date=date)
            except _Refused as refused:
                why = why or f"the chat template refused the messages: {refused}"
                continue
            missing = self._missing(form, text)
            if missing is None:
                return Written(text, mask, notes)
            why = why or f"the chat template cannot write the conversation: {missing}"
        raise UsageError(" ".join(mask.off(why).split()))

    def _mid_turn(self, messages: Sequence[Message], mask: Mask, date: str | None) -> Written:
        """The prompt of a response that goes on from a text of the assistant."""
        *before, said = messages
        if uses_tools([said]):
            said = tools_as_text([said])[0]
        head = self._attempt(before, mask, date)
        text = head.text if head.mid_turn else head.text + self._skip(head.text)
        text += f"{self.answer(said) or ''}\n\n"
        return Written(text, mask, tuple(dict.fromkeys((*head.notes, JOINED))), mid_turn=True)

    def _forms(
        self, messages: Sequence[Message]
    ) -> Iterator[tuple[list[Message], tuple[str, ...]]]:
        """Ways to write the messages, the nearest first, and what is to be said of each."""
        ways: list[tuple[list[Message], tuple[str, ...]]] = []
        if not uses_tools(messages):
            ways.append((list(messages), ()))
        else:
            if self._tool_form is not None:
                ways.append((self._tool_form(messages), ()))
            ways.append((tools_as_text(messages), (TOOLS_AS_TEXT,)))
        for form, notes in ways:
            twice = roles_in_row(form)
            wrong: set[Role] = {role for role in twice if not self._writes_neighbours(role)}
            yield (
                self._system_merged(joined(form, wrong)),
                (*notes, JOINED) if wrong else notes,
            )
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

    # Text is text

    def holds_control_tokens(self, messages: Sequence[Message]) -> bool:
        """Do these messages' texts hold strings that the tokenizer takes for control tokens?"""
        return any(
            self._control.stand_in(text)
            for message in messages
            for text in self._texts(_known_fields(message))
        )

    def _texts(self, message: Message) -> Iterator[str]:
        """The texts of a message; the marks around a thought in its content are none of them."""
        yield from (text for text, is_mark in self._pieces(message) if not is_mark)
        yield from strings([message.get(name) for name in _TEXT_FIELDS])
        for call in message.get("tool_calls") or ():
            yield from strings([call["id"], call["function"]["name"]])
            yield from strings(call["function"]["arguments"])

    def _masked(self, message: Message, mask: Mask) -> Message:
        found: Any = message.copy()
        pieces = self._pieces(message)
        found["content"] = "".join(t if is_mark else mask.on(t) for t, is_mark in pieces)
        found |= {name: mask.on(found[name]) for name in _TEXT_FIELDS if name in found}
        if found.get("tool_calls"):
            found["tool_calls"] = [
                {
                    **call,
                    "id": changed(call["id"], mask.on),
                    "function": {k: changed(v, mask.on) for k, v in call["function"].items()},
                }
                for call in found["tool_calls"]
            ]
        return found

    def _pieces(self, message: Message) -> list[tuple[str, bool]]:
        """The content's texts, and among them the marks of a thought that it begins with."""
        content, form = message["content"], self.thinking
        if form is None or message["role"] != "assistant" or "reasoning_content" in message:
            return [(content, False)]
        return _marked(content, form)

    def answer(self, message: Message) -> str | None:
        """A message's text without the thought that it begins with; None for no more than that."""
        content = message["content"]
        if self.thinking is None or message["role"] != "assistant":
            return content
        return content if "reasoning_content" in message else split(content, self.thinking)[1]

    def _ids_of(self, written: str, mask: Mask) -> list[int]:
        return self._control.ids(written, mask) if mask.table else self._ids(written)

    def _text_ids(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of texts that follow each other, and of the marks between them."""
        texts = [text for text, is_mark in pieces if not is_mark]
        if not any(map(self._control.stand_in, texts)):
            return self._ids("".join(text for text, _ in pieces))
        mask = self._control.mask(texts)
        return self._control.ids(
            "".join(text if is_mark else mask.on(text) for text, is_mark in pieces), mask
        )

    # Ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt; the template brings its own special tokens."""
        written = self.written(messages)
        ids = self._ids_of(written.text, written.mask)
        if not ids:
            raise UsageError("a prompt has no tokens")
        return ids

    def answer_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt up to where an answer without thinking begins.

        For given texts, which hold the answer alone; the same as `prompt_ids` for a model that
        does not think.
        """
        written = self.written(messages)
        skip = "" if written.mid_turn else self._skip(written.text)
        return self.prompt_ids(messages) + (self._ids(skip) if skip else [])

    def _skip(self, prompt: str) -> str:
        """What stands between a prompt and an answer without thinking."""
        if self.thinking is None:
            return ""
        if is_open(prompt, self.thinking):
            return f"\n{self.thinking.closes}\n\n"
        return "" if prompt.rstrip().endswith(self.thinking.closes) else self.thinking.skipped

    def templated_ids(self, text: str) -> list[int]:
        """Token ids of a prompt that is text of the chat template already."""
        return self._ids(text)

    def response_ids(self, text: str) -> list[int]:
        """Token ids of a response's text alone, without thinking or an end-of-turn token."""
        return self.reply_ids({"role": "assistant", "content": text})

    def reply_ids(self, message: Message) -> list[int]:
        """Token ids of an assistant's text alone, without thinking or an end-of-turn token."""
        return self._text_ids([(self.answer(message) or "", False)])

    def thought_ids(self, messages: Sequence[Message], message: Message) -> list[int]:
        """Token ids of an assistant message's thought, up to its answer; none without a thought.

        `messages` lead up to the message: a prompt that opens the thought already gets no second
        opening.
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
        """Token ids of an assistant's text with the marks of the thought that it begins with."""
        return self._text_ids(_marked(text, self.thinking) if self.thinking else [(text, False)])

    @cached_property
    def _around_thought(self) -> tuple[str, str]:
        """What stands before a thought, behind the prompt, and between it and the answer."""
        form = self.thinking
        if form is None:
            return "", ""
        question = chat("hello")
        reply: Message = {"role": "assistant", "content": "answer-marker"}
        reply["reasoning_content"] = "thought-marker"
        try:
            prompt = self._render(question)
            whole = self._render([*question, reply], reply=False)
            before, found, rest = whole.removeprefix(prompt).partition("thought-marker")
            after, answered, _ = rest.partition("answer-marker")
            if whole.startswith(prompt) and found and answered:
                return before, after
        except _Refused:
            prompt = ""
        gap = "\n" if "\n" in form.skipped else ""
        opens = "" if is_open(prompt, form) else form.opens
        return f"{opens}{gap}", f"{gap}{form.closes}{gap}{gap}"

    def between_ids(self, messages: Sequence[Message], earlier: int) -> list[int] | None:
        """Token ids from the end of an earlier response to where the next one begins.

        `messages` lead up to the next response, `messages[earlier]` is the earlier one. None
        where the template writes what stood before anew (it drops thinking, or trims texts), so
        that the two prompts do not continue each other.
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
        """The control token that the template writes right after a response, if it writes one."""
        marker = "personavec-response-marker"
        reply: Message = {"role": "assistant", "content": marker}
        try:
            after = self._render([*chat("hello"), reply], reply=False).rpartition(marker)[2]
        except _Refused:
            return None
        places = self._control.places(after.lstrip())
        if not places or places[0][0] > 0:
            return None
        return self.tokenizer.convert_tokens_to_ids(after.lstrip()[: places[0][1]])

    def end_of_turn(self, stop_ids: frozenset[int]) -> int:
        """The token that ends a response: the one that the template writes there.

        Where it writes none (a plain template), the first of `stop_ids` behind a response, or the
        tokenizer's own end of text.
        """
        if self.turn_end is not None:
            return self.turn_end
        marker = "personavec-response-marker"
        reply: Message = {"role": "assistant", "content": marker}
        try:
            text = self._render([*chat("hello"), reply], reply=False)
        except _Refused as refused:
            raise UsageError(f"the chat template refused a reply: {refused}") from refused
        after = self._ids(text.rpartition(marker)[2])
        found = next((token for token in after if token in stop_ids), None)
        return self.tokenizer.eos_token_id if found is None else found

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """The response's text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode_marked(self, ids: Sequence[int]) -> str:
        """The text with its special tokens, among which are the marks of thinking."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def template_hash(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()[:16]


#: What a message holds beside its content and its calls.
_TEXT_FIELDS = ("reasoning_content", "tool_call_id", "name")


def _known_fields(message: Message) -> Message:
    """What a template may see of a message, calls with their arguments as objects."""
    found: Any = {"role": message["role"], "content": message["content"]}
    given: Any = message
    names = (*_TEXT_FIELDS, "tool_calls")
    found |= {name: given[name] for name in names if given.get(name) is not None}
    return with_objects(found)


def _marked(text: str, form: ThinkingFormat) -> list[tuple[str, bool]]:
    """A thought and what follows it, its marks apart from the texts; the text alone without one."""
    thinking, answer = split(text, form)
    pieces: list[tuple[str, bool]] = []
    if text.lstrip().startswith(form.opens):
        before, _, text = text.partition(form.opens)
        pieces += [(before, False), (form.opens, True)]
    if thinking and answer is not None:
        before, _, text = text.partition(form.closes)
        pieces += [(before, False), (form.closes, True)]
    return [*pieces, (text, False)]


def _moment(today: Any) -> datetime:
    """Now, or the beginning of a given day."""
    if today is None:
        return datetime.now()
    try:
        return datetime.fromisoformat(today)
    except (TypeError, ValueError):
        raise UsageError(f"--template-arg today={today}: write a date, as 2026-01-31") from None


def _dated(template: str, now: datetime, date: str | None) -> str:
    """The template with its calls for the date replaced by what they give now, or by `date`."""
    if "strftime_now" not in template:
        return template
    return _DATE_CALL.sub(lambda call: json.dumps(date or now.strftime(call[2])), template)


def _common_end(first: str, second: str) -> str:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))[::-1]


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a turn, from the generation config and the tokenizer."""
    named: list[Any] = []
    for found in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            named.extend(found if isinstance(found, (list, tuple)) else [found])
    if not named:
        raise ModelError("neither the model nor its tokenizer names an end-of-turn token")
    for token in named:
        if type(token) is not int or abs(token) >= 2**31:
            raise ModelError(
                f"the model's generation_config.json names {str(token)[:40]!r} as its end-of-turn "
                "token, which is no token id; correct eos_token_id there"
            )
    return frozenset(named)
