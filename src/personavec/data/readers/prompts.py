"""Rows with a prompt column and a response column."""

from __future__ import annotations

from personavec.data.fields import Fields, Unusable, decoded, given
from personavec.data.messages import Conversation
from personavec.data.readers.beside import add_history, add_system, add_thoughts
from personavec.data.readers.columns import (
    MORE,
    NO_ANSWER_ALONE,
    PLAIN_PROMPT,
    PLAIN_RESPONSE,
    PROMPTS,
    RESPONSES,
    TOGETHER,
)
from personavec.data.readers.found import Found, found_in, joined
from personavec.data.readers.requests import answered_in, asked, user_message


def prompt_and_response(fields: Fields) -> Found | None:
    """A prompt and a response: texts, messages, or an API's request and response."""
    for name in ("prompt", "response"):
        if fields.is_mapped(name) and not fields.has(name):
            raise Unusable(f"no text in column '{fields.own(name)}'")
    pair = prompt_with_response(fields)
    if pair is None:
        return None
    prompt, response = pair
    fields.use(response)  # it is no part of the prompt
    before = prompt_in(fields, prompt)
    conversation = joined(before, reply_in(fields, response))
    add_thoughts(fields, conversation)
    if _is_guess(fields, prompt, response):
        columns = f"{fields.own(prompt)} was taken as the prompt"
        conversation.note(f"{columns} and {fields.own(response)} as the response")
    return found_in(conversation)


def _is_guess(fields: Fields, prompt: str, response: str) -> bool:
    """Whether nothing but a column's place beside the other says that it holds what it does."""
    if fields.is_mapped("prompt") or fields.is_mapped("response"):
        return False
    plain = PLAIN_PROMPT.search(prompt) and PLAIN_RESPONSE.search(response)
    texts = all(isinstance(decoded(fields.get(name)), str) for name in (prompt, response))
    return texts and not plain


def prompt_with_response(fields: Fields) -> tuple[str, str] | None:
    """The columns of a prompt and its response: the first pair with values, else the first pair."""
    mapped = fields.is_mapped("prompt") or fields.is_mapped("response")
    prompts = ("prompt",) if fields.is_mapped("prompt") else PROMPTS
    responses = ("response",) if fields.is_mapped("response") else RESPONSES
    asking = [name for name in prompts if fields.has(name)]
    answering = [name for name in responses if fields.has(name)]
    pairs = [] if mapped else [pair for pair in TOGETHER if all(map(fields.has, pair))]
    spoken = [name for name in NO_ANSWER_ALONE if isinstance(decoded(fields.get(name)), str)]
    pairs += [
        (p, r) for p in asking for r in answering if p != r and (p == "prompt" or r not in spoken)
    ]
    both = (pair for pair in pairs if all(given(fields.get(name)) for name in pair))
    return next(both, pairs[0] if pairs else None)


def prompt_in(fields: Fields, name: str) -> Conversation:
    """The prompt in a column, with its context, history and system prompt from other columns."""
    value = fields.get(name)
    fields.use(name)
    if isinstance(value, str):
        conversation = asked(value) or user_message(value)
        last = conversation.messages[-1]
        for more in MORE.get(name, MORE["*"]):
            text = None if fields.is_used(more) else _text_beside(fields, more)
            if text is not None and last["role"] == "user" and len(conversation.messages) == 1:
                last["content"] += f"\n\n{text}"
                fields.use(more)
    else:
        conversation = asked(value) if given(value) else None
        if conversation is None:
            raise Unusable(f"no text in column '{fields.own(name)}'")
    add_history(fields, conversation)
    add_system(fields, conversation)
    return conversation


def _text_beside(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        value = "\n\n".join(value)
    return value if isinstance(value, str) and value.strip() else None


def reply_in(fields: Fields, name: str) -> Conversation:
    """The response in a column. Raises Unusable."""
    value = fields.get(name)
    fields.use(name)
    conversation = answered_in(name, value) if isinstance(value, str) or given(value) else None
    if conversation is None:
        raise Unusable(f"no text in column '{fields.own(name)}'")
    return conversation
