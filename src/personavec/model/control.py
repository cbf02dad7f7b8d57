"""Read control strings in message texts as text, never as the model's control tokens.

A tokenizer turns the strings of its added vocabulary (`<|im_end|>`, `<think>`) into single tokens
wherever they occur. If the texts of a conversation contain such a string, or a part of one:

1. The texts are masked: characters that begin or end a control string are replaced by
   private-use characters. The template then writes the masked texts, so that every control string
   in the result is the template's own.
2. The template's control strings are replaced by secret names, and the mask is removed.
3. A copy of the tokenizer, which knows the control tokens only by these names, encodes the text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from personavec.errors import UsageError

#: Markup that some tokenizers have as added tokens, although it occurs in ordinary text.
_HTML = re.compile(
    "</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup|code)>"
)
_START = 3
_PRIVATE = range(0xF1000, 0xFFFFD)


@dataclass(frozen=True)
class Mask:
    """Characters, each replaced by a private-use character."""

    table: dict[int, int]

    def on(self, text: str) -> str:
        """The text with the mask applied."""
        return text.translate(self.table)

    def off(self, text: str) -> str:
        """The text with the mask removed."""
        return text.translate({private: plain for plain, private in self.table.items()})


NO_MASK = Mask({})


@dataclass(frozen=True)
class _Mark:
    """A control token of the template, and its position in the text."""

    start: int
    stop: int
    token: int


class ControlTokens:
    """Finds the control strings of a tokenizer in texts, and encodes texts that contain them."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        marks = {token.content for token in added if token.special or not _ordinary(token.content)}
        self.strings = frozenset(marks | set(tokenizer.all_special_tokens)) - {""}
        self._ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(self.strings)))
        # Any unknown text becomes this token, so it does not indicate a control string.
        self._unknown = tokenizer.unk_token_id
        # Control strings are searched by their first characters, which are rare in other texts.
        starts = sorted({text[:_START] for text in self.strings}, key=len, reverse=True)
        self._lengths = {start: _lengths(start, self.strings) for start in starts}
        self._starts = re.compile("|".join(map(re.escape, starts)) or "(?!)")
        # Some tokens are matched in normalised text; keep their normalised forms.
        self._normalizer = None
        folded = {t.content for t in added if t.normalized and t.content in self.strings}
        if folded and isinstance(tokenizer, PreTrainedTokenizerFast):
            self._normalizer = tokenizer.backend_tokenizer.normalizer
        self._folded = {self._fold(text).strip("▁ ") for text in folded} - {""}
        whole = self.strings | self._folded
        self._beginnings = {text[:n] for text in whole for n in range(1, len(text))}
        self._endings = {text[n:] for text in whole for n in range(1, len(text))}
        self._longest = max(map(len, whole), default=0)
        self._whole = "\0".join(sorted(whole))
        bare = [text.strip() for text in (*self.strings, *self._folded) if text.strip()]
        self._edges = {text[0] for text in bare} | {text[-1] for text in bare}

    def places(self, text: str) -> list[tuple[int, int]]:
        """The (start, stop) of all control strings in a text; the longest match wins."""
        found: list[tuple[int, int]] = []
        at = 0
        while match := self._starts.search(text, at):
            start = match.start()
            at = start + 1
            for length in self._lengths[match[0]]:
                if text[start : start + length] in self.strings:
                    at = start + length
                    found.append((start, at))
                    break
        return found

    def stand_in(self, text: str) -> bool:
        """Whether the tokenizer would read a part of this text as a control token."""
        if self.places(text):
            return True
        if self._normalizer is None:
            return False
        folded = self._fold(text)
        return any(mark in folded for mark in self._folded)

    def may_join(self, text: str) -> bool:
        """Whether a text begins or ends with a part of a control string, or is such a part.

        Adjacent text could complete it to a control string.
        """
        return self._within(text) or any(
            form[-n:] in self._beginnings or form[:n] in self._endings
            for form in self._forms(text)
            for n in range(1, min(self._longest, len(form) + 1))
        )

    def _within(self, text: str) -> bool:
        """Whether the whole text is a part of a control string."""
        return any(form and form in self._whole for form in self._forms(text))

    def _forms(self, text: str) -> list[str]:
        """The forms of a text in which the tokenizer looks for control tokens."""
        return [text] if self._normalizer is None else [text, self._fold(text).strip("▁ ")]

    def joined_none(self, plain: str, masked: str, mask: Mask) -> bool:
        """Whether a prompt has the same control strings with plain texts as with masked texts."""
        if self.places(plain) != self.places(masked):
            return False
        return self._normalizer is None or self._marks(plain) == self._marks(_calm(masked, mask))

    def mask(self, texts: Iterable[str]) -> Mask:
        """A mask with which no part of these texts can be read as part of a control string."""
        texts = list(texts)
        used = set().union(*texts)
        # The template may itself write both ends of a control string around a text, so the middle
        # parts of control strings are masked too.
        parts = {c for text in texts if self._within(text) for c in text if not c.isspace()}
        masked = sorted(
            c for c in used if c in parts or not self._edges.isdisjoint(self._fold(c) + c)
        )
        free = (place for place in _PRIVATE if chr(place) not in used)
        return Mask({ord(character): next(free) for character in masked})

    def ids(self, written: str, mask: Mask) -> list[int]:
        """Token ids of a prompt with masked texts, whose control strings are read as text.

        Raises UsageError if the tokenizer cannot read them as text.
        """
        harmless = _calm(written, mask)
        marks = self._marks(harmless)
        starts, stops = [0, *(m.stop for m in marks)], [*(m.start for m in marks), len(written)]
        pieces = [mask.off(written[a:b]) for a, b in zip(starts, stops, strict=True)]
        if self._renamed is not None:
            named, names = self._renamed
            after = zip(marks, pieces[1:], strict=True)
            text = pieces[0] + "".join(names[mark.token] + piece for mark, piece in after)
            ids = named.encode(text, add_special_tokens=False).ids
        else:
            plain = self._tokenizer(harmless, add_special_tokens=False)["input_ids"]
            calm = [harmless[a:b] for a, b in zip(starts, stops, strict=True)]
            # Some tokenizers encode a piece differently by itself; then this is not possible.
            ids = self._by_pieces(pieces, marks) if self._by_pieces(calm, marks) == plain else None
        if ids is None or self._counted(ids) != [mark.token for mark in marks]:
            raise UsageError(
                "its text holds control tokens of the model, and this tokenizer cannot read them "
                "as text; remove them"
            )
        return ids

    def _marks(self, harmless: str) -> list[_Mark]:
        """The control tokens in a text, with their positions."""
        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            return [
                _Mark(start, stop, self._tokenizer.convert_tokens_to_ids(harmless[start:stop]))
                for start, stop in self.places(harmless)
            ]
        found = self._tokenizer(harmless, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [_Mark(*at, token=token) for token, at in pairs if self._is_control(token)]

    def _counted(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if self._is_control(token)]

    def _is_control(self, token: int) -> bool:
        return token in self._ids and token != self._unknown

    def _fold(self, text: str) -> str:
        return self._normalizer.normalize_str(text) if self._normalizer else text

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[int, str]] | None:
        """A copy of the tokenizer with secret names for control tokens, and the names by token id.

        None if the tokenizer cannot be copied; then texts are encoded piece by piece.
        """
        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            return None
        names = _names(self.strings)
        try:
            described = json.loads(self._tokenizer.backend_tokenizer.to_str())
            copy = Tokenizer.from_str(json.dumps(_with_names(described, names)))
        except Exception:  # the library has no narrower class
            return None
        ids: Any = self._tokenizer.convert_tokens_to_ids(list(names))
        return copy, dict(zip(ids, names.values(), strict=True))

    def _by_pieces(self, pieces: Sequence[str], marks: Sequence[_Mark]) -> list[int]:
        """Token ids of the pieces, each encoded by itself as text, and of the marks between."""
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            ids += [marks[i - 1].token] if i else []
            if piece:
                found = self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
                ids += found["input_ids"]
        return ids


def _calm(written: str, mask: Mask) -> str:
    """The masked text, with a letter or a full stop in place of every masked character.

    Some tokenizers match control tokens only between words, so word characters must stay such.
    """
    stand_ins = {
        private: "x" if re.match(r"\w", chr(plain)) else "."
        for plain, private in mask.table.items()
    }
    return written.translate(stand_ins)


def _lengths(start: str, strings: Iterable[str]) -> list[int]:
    """The lengths, longest first, of the strings that can begin with `start`."""
    return sorted({len(t) for t in strings if t[:_START] == start[: len(t)]}, reverse=True)


def _ordinary(content: str) -> bool:
    """Whether an added token is ordinary text (white space, markup, a word)."""
    bare = content.strip().strip("▁Ġ")
    return (
        not bare or re.fullmatch(r"[\w' ▁]+", bare) is not None or _HTML.fullmatch(bare) is not None
    )


def _names(strings: Iterable[str]) -> dict[str, str]:
    """A secret name for each string, of letters, which normalizers keep."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    secret = "".join(secrets.choice(letters) for _ in range(20))
    places = ("".join(letters[n // 26**k % 26] for k in range(4)) for n in range(26**4))
    return {text: secret + place for text, place in zip(sorted(strings), places, strict=False)}


def _with_names(described: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer's JSON with renamed control tokens, without padding, truncation and template."""
    model = dict(described["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): id for text, id in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
        model["merges"] = [m for m in merges if names.keys().isdisjoint((*m, "".join(m)))]
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in described["added_tokens"]
    ]
    bare = {"truncation": None, "padding": None, "post_processor": None}
    return {**described, **bare, "model": model, "added_tokens": added}
