"""Decode a reply token by token, and single tokens, which may be parts of characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

#: The character that a tokenizer's decoder writes for an incomplete one.
_UNFINISHED = "\ufffd"


class TextStream:
    """Turns tokens into text to send: only whole characters, and nothing after a stop text.

    `push` returns the new text that is final. A character that spans tokens is held back until its
    last token, and so is an end of the text that could begin a stop text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()):
        self._decode, self.stops = decode, tuple(stops)
        self._ids: list[int] = []
        #: Tokens before `_read` were sent; those from `_context` on are the context of new ones.
        self._context = self._read = 0
        self._held = self._unsure = ""
        self.text = ""
        self.stopped = False
        self._starts: list[int] = []

    def push(self, token: int) -> str:
        """Add a token; returns the text that can be sent now. Empty once stopped."""
        if self.stopped:
            return ""
        self._ids.append(token)
        unsure, self._unsure = self._unsure, self._unread()
        # The token begins after the text that was there before. Several tokens of one character
        # all begin where the character begins.
        same = min(_common_prefix(unsure, self._unsure), max(len(self._unsure) - 1, 0))
        self._starts.append(len(self.text) + len(self._held) + same)
        return self._send(self._fresh())

    def flush(self) -> str:
        """The text that is still held back, at the end of the reply."""
        if self.stopped:
            return ""
        return self._send(self._fresh(last=True), last=True)

    @property
    def start(self) -> int:
        """Where the latest token begins in the text, in characters."""
        return self._starts[-1]

    @property
    def kept(self) -> int:
        """The number of tokens that begin within the text, before a stop text."""
        return sum(start < len(self.text) for start in self._starts)

    def _unread(self) -> str:
        """The text of the tokens that were not sent yet, final or not."""
        before = self._decode(self._ids[self._context : self._read])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _fresh(self, *, last: bool = False) -> str:
        fresh = self._unsure
        if not fresh or (fresh.endswith(_UNFINISHED) and not last):
            return ""
        self._context, self._read, self._unsure = self._read, len(self._ids), ""
        return fresh

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


class Vocabulary:
    """The bytes and the text of single tokens, independent of their neighbours."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        decoder = str(tokenizer.backend_tokenizer.decoder) if tokenizer.is_fast else ""
        self._falls_back = "ByteFallback" in decoder
        self._bytes = (
            {c: b for b, c in bytes_to_unicode().items()} if "ByteLevel" in decoder else {}
        )
        #: Tokens to decode before a token, since a decoder may strip a text's leading white space.
        self._anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._anchored = len(tokenizer.decode(self._anchor))
        #: Length of the longest token, in characters.
        self.longest = max(map(len, tokenizer.get_vocab()))

    def bytes(self, id: int) -> bytes:
        """A token's bytes; for a special token, those of its name."""
        if id in self._added:
            return self._added[id].encode()
        piece = self._tokenizer.convert_ids_to_tokens(id)
        if piece is None:  # a model may have more embeddings than its tokenizer has tokens
            return b""
        if self._bytes:
            if all(c in self._bytes for c in piece):
                return bytes(self._bytes[c] for c in piece)
        elif self._falls_back and (found := re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)):
            return bytes([int(found[1], 16)])
        return self._tokenizer.decode([*self._anchor, id])[self._anchored :].encode()

    def text(self, id: int) -> str:
        """A token's text to display; a part of a character is a replacement character."""
        return self.bytes(id).decode("utf-8", "replace")

    def spelled(self, id: int) -> str:
        """A token's text as in OpenAI's API, where a part of a character is `bytes:\\xe2\\x80`."""
        found = self.bytes(id)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def _common_prefix(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of the text that is a prefix of the stop text."""
    return next(
        (n for n in range(min(len(text), len(stop)), 0, -1) if stop.startswith(text[-n:])), 0
    )
