"""From messages to token ids, once; response text back from ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from personavec.data.messages import Message
from personavec.errors import ModelError, UsageError
from personavec.model.thinking import is_open, split, thinking_format

#: (question, answer) turns.
Turns = tuple[tuple[str, str], ...]

#: Used when a tokenizer has no chat template of its own; said in every result's notes.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def chat(question: str, system: str | None = None, earlier: Turns = ()) -> list[Message]:
    """Messages up to a question, after `earlier` turns; no system message when it is None."""
    messages: list[Message] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    for asked, answer in earlier:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": question}]


class ChatFormat:
    """Turns messages into prompt ids with a tokenizer's chat template.

    A template without a system role gets the system prompt merged into the first user turn, and
    a tokenizer without a template gets a plain one; `notes` says so. `template_args` are passed
    on to the template. `thinking` is the format in which the model thinks, if its template has
    one.
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
        self.thinking = thinking_format(self.template)
        self.system_role = self._takes_system_role()
        if not self.system_role:
            self.notes.append(
                "The chat template has no system role; system prompts were merged into the first "
                "user turn."
            )

    def _takes_system_role(self) -> bool:
        marker = "personavec-system-marker"
        try:
            return marker in self._render(chat("hello", marker))
        except TemplateError:
            return False

    def _render(self, messages: Sequence[Message]) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
            **self.template_args,
        )

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt as the template writes it, up to where the response begins."""
        messages = list(messages)
        if not self.system_role and messages and messages[0]["role"] == "system":
            system, first, *rest = messages
            merged = first.copy()
            merged["content"] = f"{system['content']}\n\n{first['content']}"
            messages = [merged, *rest]
        try:
            return self._render(messages)
        except TemplateError as error:
            raise UsageError(f"the chat template refused the messages: {error}") from error

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt; the template brings its own special tokens."""
        ids = self._ids(self.text(messages))
        if not ids:
            raise UsageError("a prompt has no tokens")
        return ids

    def answer_prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt up to where an answer without thinking begins.

        For given texts, which hold the answer alone; the same as `prompt_ids` for a model that
        does not think.
        """
        ids = self.prompt_ids(messages)
        if self.thinking is None:
            return ids
        text = self.text(messages)
        if is_open(text, self.thinking):
            return ids + self._ids(f"\n{self.thinking.closes}\n\n")
        if text.rstrip().endswith(self.thinking.closes):
            return ids
        return ids + self._ids(self.thinking.skipped)

    def templated_ids(self, text: str) -> list[int]:
        """Token ids of a prompt that is text of the chat template already."""
        return self._ids(text)

    def response_ids(self, text: str) -> list[int]:
        """Token ids of a response's text alone, without thinking or an end-of-turn token."""
        if self.thinking is not None:
            text = split(text, self.thinking)[1] or ""
        return self._ids(text)

    def thought_ids(self, messages: Sequence[Message], text: str) -> list[int]:
        """Token ids of the thought that a response's text begins with, up to its answer.

        None where it has no thought. `messages` lead up to the response: a prompt that opens the
        thought already gets no second opening.
        """
        if self.thinking is None:
            return []
        thinking, answer = split(text, self.thinking)
        if not thinking:
            return []
        thought = text.removesuffix(answer or "").lstrip()
        prompt = self.text(messages)
        if is_open(prompt, self.thinking):
            thought = thought.removeprefix(self.thinking.opens)
            thought = thought.lstrip("\n") if prompt.endswith("\n") else thought
        return self._ids(thought)

    def between_ids(self, messages: Sequence[Message], earlier: int) -> list[int] | None:
        """Token ids from the end of an earlier response to where the next one begins.

        `messages` lead up to the next response, `messages[earlier]` is the earlier one. None
        where the template writes what stood before anew (it drops thinking, or trims texts), so
        that the two prompts do not continue each other.
        """
        if self.thinking is not None:
            return None
        written = self.text(messages[:earlier]) + messages[earlier]["content"]
        text = self.text(messages)
        return self._ids(text[len(written) :]) if text.startswith(written) else None

    def end_of_turn(self, stop_ids: frozenset[int]) -> int:
        """The token that ends a response: the first of `stop_ids` that the template writes there.

        Where it writes none (a plain template), the tokenizer's own end of text.
        """
        marker = "personavec-response-marker"
        turns = [*chat("hello"), {"role": "assistant", "content": marker}]
        text = self.tokenizer.apply_chat_template(
            turns, chat_template=self.template, tokenize=False, **self.template_args
        )
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


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a turn, from the generation config and the tokenizer."""
    ids: set[int] = set()
    for found in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            ids.update(found if isinstance(found, (list, tuple)) else [found])
    if not ids:
        raise ModelError("neither the model nor its tokenizer names an end-of-turn token")
    return frozenset(ids)
