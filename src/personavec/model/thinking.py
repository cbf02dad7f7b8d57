"""Reasoning models: where the thinking ends and the answer, which is the response, begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from personavec.data import FORMATS, ThinkingFormat

#: Tokens that surely hold a marker's text, even where every byte is a token.
_MARKER_TOKENS = 32


def thinking_format(template: str) -> ThinkingFormat | None:
    """The format that a chat template uses, if any."""
    return next((f for f in FORMATS if f.opens in template or f.closes in template), None)


def is_open(text: str, form: ThinkingFormat) -> bool:
    """Does a prompt end inside a thought, so that the response begins in one?"""
    return text.rstrip().endswith(form.opens)


def split(text: str, form: ThinkingFormat, *, opened: bool = False) -> tuple[str, str | None]:
    """A response's thinking and its answer; the answer is None where the thought never ends.

    `opened` says that the prompt has opened the thought already.
    """
    thinking, closing, answer = text.partition(form.closes)
    if closing:
        return thinking + closing, answer.lstrip()
    if opened or text.lstrip().startswith(form.opens):
        return text, None
    return "", text


class Thought:
    """Follows one response token by token: `start` counts the ids that are not its answer.

    White space after the thought belongs to neither, and counts with the thought.
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
        """Take in the last of `ids`; True when everything up to it proved to be no answer."""
        if not self._closed:
            self._closed = self.form.closes in self._decode(ids[-_MARKER_TOKENS:])
            ended = self._closed
        else:
            ended = self.start == len(ids) - 1 and not self._decode(ids[-1:]).strip()
        if ended:
            self.start = len(ids)
        return ended

    def unfinished(self, ids: Sequence[int]) -> bool:
        """Did the response end inside its thought?"""
        begun = self._decode(ids[:_MARKER_TOKENS]).lstrip().startswith(self.form.opens)
        return not self._closed and (self._opened or begun)
