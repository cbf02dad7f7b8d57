"""A reply's text as its tokens come: whole characters only, and nothing past a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a tokenizer's decoder writes for bytes that are no character yet.
_UNFINISHED = "\ufffd"


class TextStream:
    """Turns tokens into text that may be sent.

    `push` returns what is new and sure: a character split over tokens waits for its last one, and
    an end of the text that may be the beginning of a stop text waits until it is clear.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()):
        self._decode, self.stops = decode, tuple(stops)
        self._ids: list[int] = []
        #: Tokens from `_context` on give the new ones their context, those before `_read` are out.
        self._context = self._read = 0
        self._held = ""
        self.text = ""
        self.stopped = False
        self._starts: list[int] = []

    def push(self, token: int) -> str:
        """Take in a token; the text that can be sent now. Empty once stopped."""
        if self.stopped:
            return ""
        self._starts.append(len(self.text) + len(self._held))
        self._ids.append(token)
        return self._send(self._fresh())

    def flush(self) -> str:
        """What was held back, at the end."""
        if self.stopped:
            return ""
        sent = self._send(self._fresh(last=True), last=True)
        return sent

    @property
    def kept(self) -> int:
        """How many of the tokens have begun within the text that is left."""
        return sum(start < len(self.text) for start in self._starts)

    def _fresh(self, *, last: bool = False) -> str:
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        if len(now) <= len(before) or (now.endswith(_UNFINISHED) and not last):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _send(self, fresh: str, *, last: bool = False) -> str:
        held = self._held + fresh
        cuts = [at for stop in self.stops if (at := held.find(stop)) >= 0]
        if cuts:
            self.stopped = True
            sent, self._held = held[: min(cuts)], ""
        else:
            keep = 0 if last else max((_overlap(held, stop) for stop in self.stops), default=0)
            sent, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += sent
        return sent


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop text begins with."""
    return next(
        (n for n in range(min(len(text), len(stop)), 0, -1) if stop.startswith(text[-n:])), 0
    )
