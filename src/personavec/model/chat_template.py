"""A tokenizer's chat template. Its abilities are found by rendering test messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any

from jinja2.exceptions import TemplateError

from personavec.data import Message, Role
from personavec.errors import UsageError
from personavec.model.mending import in_parts, lost, with_json_arguments
from personavec.model.thinking import split, thinking_format

#: Used for a tokenizer without a chat template; every result's notes say so.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
#: Errors that templates raise for messages they do not support.
_FAILURES = (
    *(TemplateError, ArithmeticError, LookupError, TypeError, ValueError),
    *(AttributeError, RecursionError),
)
_DATE_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_QUESTION: Message = {"role": "user", "content": "hello"}


class TemplateRefusal(Exception):
    """Raised when the template does not accept the messages."""


class ChatTemplate:
    """Renders messages as text, and determines what the template can render.

    If the template writes the date, it is `args["today"]`, or else the day on which this object
    was created.
    """

    def __init__(self, tokenizer: Any, args: Mapping[str, Any]):
        self._tokenizer, self._args = tokenizer, args
        found = tokenizer.chat_template
        if isinstance(found, dict):
            found = found.get("default") or next(iter(found.values()))
        self.is_plain = not found
        self.source: str = found or PLAIN_TEMPLATE
        """The Jinja template."""
        self.thinking = thinking_format(self.source)
        self._now = _moment(args.get("today"))
        self._neighbours: dict[Role, bool] = {}
        self._parts: frozenset[str] = frozenset()
        self._parts = self._roles_in_parts()
        system: Message = {"role": "system", "content": "personavec-system-marker"}
        self.has_system_role = self._writes([system, _QUESTION])

    @property
    def today(self) -> str | None:
        """The date that the template writes; None if it writes none."""
        return self._now.date().isoformat() if _DATE_CALL.search(self.source) else None

    # Rendering

    def render(
        self, messages: Sequence[Message], *, reply: bool = True, date: str | None = None
    ) -> str:
        """Render the messages as text; with `reply`, up to where a reply begins.

        `date` replaces the template's date. Raises TemplateRefusal.
        """
        given = [in_parts(m) if m["role"] in self._parts else m for m in messages]
        try:
            return self._tokenizer.apply_chat_template(
                given,
                chat_template=_dated(self.source, self._now, date),
                tokenize=False,
                add_generation_prompt=reply,
                **self._args,
            )
        except _FAILURES as error:
            raise TemplateRefusal(str(error) or type(error).__name__) from error

    def missing(self, messages: Sequence[Message], text: str) -> str | None:
        """An error text for the first message text that `text` lacks; None if it has all."""
        needles = [(i, m, self.answer(m) or "") for i, m in enumerate(messages)]
        return lost(needles, text)

    def answer(self, message: Message) -> str | None:
        """A message's text without its leading thought; None if there is only a thought."""
        content = message["content"]
        if self.thinking is None or message["role"] != "assistant":
            return content
        return content if "reasoning_content" in message else split(content, self.thinking)[1]

    # What it can render

    def _writes(self, messages: Sequence[Message]) -> bool:
        """Whether the template writes all texts of these messages, in order."""
        try:
            return self.missing(messages, self.render(messages)) is None
        except TemplateRefusal:
            return False

    def _roles_in_parts(self) -> frozenset[str]:
        """The roles for which the template needs content as a list of parts."""
        turns: list[Message] = [
            {"role": "user", "content": "second-marker"},
            {"role": "assistant", "content": "third-marker"},
            {"role": "user", "content": "first-marker"},
        ]
        if self._writes(turns):
            return frozenset()
        before = self._parts
        try:
            for roles in ({"system", "user", "tool"}, {"system", "user", "tool", "assistant"}):
                self._parts = frozenset(roles)
                if self._writes(turns):
                    return self._parts
        finally:
            self._parts = before
        return frozenset()

    @cached_property
    def tool_form(self) -> Callable[[Sequence[Message]], list[Message]] | None:
        """The function that prepares messages with tool calls; None if calls are not supported."""
        function = {"name": "name_marker", "arguments": {"key_marker": "value_marker"}}
        call = {"id": "callmark1", "type": "function", "function": function}
        turns: list[Message] = [
            {"role": "user", "content": "first-marker"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "second-marker", "tool_call_id": "callmark1"},
        ]
        turns[-1]["name"] = "name_marker"
        forms = (list, with_json_arguments)
        return next((form for form in forms if self._writes(form(turns))), None)

    def writes_neighbours(self, role: Role) -> bool:
        """Whether the template writes each of two adjacent messages of a role as it does one."""
        if role not in self._neighbours:
            self._neighbours[role] = self._try_neighbours(role)
        return self._neighbours[role]

    def _try_neighbours(self, role: Role) -> bool:
        # The markers must not share an ending, which would be taken for text of the template.
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
            pair = self.render([*before, one, two, *after])
            if role == "system":
                return self.missing([one, two, *after], pair) is None
            single = self.render([*before, one, *between, apart, *after])
        except TemplateRefusal:
            return False
        if self.missing([*before, one, two, *after], pair) is not None:
            return False
        # The text before a message of this role, wherever the message stands.
        head = _common_end(single[: single.find(first)], single[: single.find(third)])
        return pair[: pair.find(second)].endswith(head.lstrip())

    # Around a reply

    def around_reply(self, content: str, thought: str | None = None) -> tuple[str, str]:
        """The rendered text before and after a reply to a question. Raises TemplateRefusal."""
        reply: Message = {"role": "assistant", "content": content}
        if thought is not None:
            reply["reasoning_content"] = thought
        return self.render([_QUESTION]), self.render([_QUESTION, reply], reply=False)


def _moment(today: Any) -> datetime:
    """The given day at midnight, or now. Raises UsageError."""
    if today is None:
        return datetime.now()
    try:
        return datetime.fromisoformat(today)
    except (TypeError, ValueError):
        raise UsageError(f"--template-arg today={today}: give a date such as 2026-01-31") from None


def _dated(template: str, now: datetime, date: str | None) -> str:
    """The template with its date calls replaced by the date of `now`, or by `date`."""
    if "strftime_now" not in template:
        return template
    return _DATE_CALL.sub(lambda call: json.dumps(date or now.strftime(call[2])), template)


def _common_end(first: str, second: str) -> str:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))[::-1]


def template_notes(template: ChatTemplate) -> list[str]:
    """Notes on the template for every result."""
    notes = []
    if template.is_plain:
        notes.append(
            "The tokenizer has no chat template; plain 'User: … Assistant:' turns were used."
        )
    if template.today is not None:
        notes.append(f"The chat template writes the date, which was set to {template.today}.")
    if not template.has_system_role:
        notes.append(
            "The chat template has no system role; system prompts were merged into the first "
            "user turn."
        )
    return notes
