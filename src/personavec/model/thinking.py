"""Reasoning models: separate the thought from the answer, which is the response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from personavec.data import FORMATS, ThinkingFormat

#: Enough tokens to hold a marker's text, even if every byte is a token.
_MARKER_TOKENS = 32


def thinking_format(template: str) -> ThinkingFormat | None:
    """The thinking format that a chat template uses, if any."""
    return next((f for f in FORMATS if f.opens in template or f.closes in template), None)


def is_open(text: str, form: ThinkingFormat) -> bool:
    """Whether a prompt ends with an opened thought, which the response then continues."""
    return text.rstrip().endswith(form.opens)


def split(text: str, form: ThinkingFormat, *, opened: bool = False) -> tuple[str, str | None]:
    """Split a response into thought and answer; the answer is None if the thought does not end.

    `opened` says that the prompt has already opened the thought.
    """
    thinking, closing, answer = text.partition(form.closes)
    if closing:
        return thinking + closing, answer.lstrip()
    if opened or text.lstrip().startswith(form.opens):
        return text, None
    return "", text


class Thought:
    """Finds, token by token, where a response's answer begins: after `start` tokens.

    White space between thought and answer is counted as part of the thought.
    """

    def __init__(
        self, form: ThinkingFormat, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]
    ):
        self.form = form
        self.start = 0
        self._decode = decode
        self._opened = is_open(decode(prompt[-_MARKER_TOKENS:]), form)
        self._closed = False

    def read(self, ids: Sequence[int]) -> bool:
        """Read the last of `ids`; True if it ends the thought, or is white space right after it."""
        if not self._closed:
            self._closed = self.form.closes in self._decode(ids[-_MARKER_TOKENS:])
            ended = self._closed
        else:
            ended = self.start == len(ids) - 1 and not self._decode(ids[-1:]).strip()
        if ended:
            self.start = len(ids)
        return ended

    def unfinished(self, ids: Sequence[int]) -> bool:
        """Whether the response ended inside its thought."""
        begun = self._decode(ids[:_MARKER_TOKENS]).lstrip().startswith(self.form.opens)
        return not self._closed and (self._opened or begun)
