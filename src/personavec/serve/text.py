"""Decodes a reply token by token, and single tokens, which may be parts of characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

#: What a tokenizer's decoder writes for an incomplete character.
_UNFINISHED = "\ufffd"


class TextStream:
    """Turns tokens into text that can be sent: whole characters only, and nothing past a stop text.

    `push` returns the new text that is certain. A character that spans tokens is held back until
    its last one; so is an end of the text that may be the beginning of a stop text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()):
        self._decode, self.stops = decode, tuple(stops)
        self._ids: list[int] = []
        #: Tokens from `_context` on are the context of new ones; those before `_read` were sent.
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
        # The common beginning was there before. A part of a character begins where that begins.
        same = min(_alike(unsure, self._unsure), max(len(self._unsure) - 1, 0))
        self._starts.append(len(self.text) + len(self._held) + same)
        return self._send(self._fresh())

    def flush(self) -> str:
        """The text that was held back, at the end."""
        if self.stopped:
            return ""
        return self._send(self._fresh(last=True), last=True)

    @property
    def start(self) -> int:
        """Where in the text the latest token begins."""
        return self._starts[-1]

    @property
    def kept(self) -> int:
        """How many tokens begin within the text that is kept."""
        return sum(start < len(self.text) for start in self._starts)

    def _unread(self) -> str:
        """The text of the tokens that were not sent yet, certain or not."""
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
        #: A decoder may strip white space at a text's beginning; this token precedes it.
        self._anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._anchored = len(tokenizer.decode(self._anchor))
        #: Characters of the longest token.
        self.longest = max(map(len, tokenizer.get_vocab()))

    def bytes(self, id: int) -> bytes:
        """A token's bytes; of a special token, those of its name."""
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
        """For people: a part of a character is shown as a replacement character."""
        return self.bytes(id).decode("utf-8", "replace")

    def spelled(self, id: int) -> str:
        """For programs: OpenAI's API spells a part of a character as `bytes:\\xe2\\x80`."""
        found = self.bytes(id)
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def _alike(a: str, b: str) -> int:
    """Length of the longest common beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop text."""
    return next(
        (n for n in range(min(len(text), len(stop)), 0, -1) if stop.startswith(text[-n:])), 0
    )
