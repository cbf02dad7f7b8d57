"""Text is text: no string in a message becomes one of the model's control tokens.

A tokenizer turns the strings of its added vocabulary (`<|im_end|>`, `<think>`) into single tokens
wherever they stand. Where the texts of a conversation hold such strings, or could complete one,
the template is written with the texts masked: characters that begin or end a control string are
replaced by private ones. Any control string that is left is then the template's own. They get
secret names, the mask is taken off, and a copy of the tokenizer that knows the control tokens by
those names alone makes ids of the whole. Knows nothing of templates.
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

#: The added tokens of some tokenizers are ordinary markup, which the model met in ordinary text.
_HTML = re.compile(
    "</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup|code)>"
)
_START = 3
_PRIVATE = range(0xF1000, 0xFFFFD)


@dataclass(frozen=True)
class Mask:
    """Characters that are replaced by private ones, one for one."""

    table: dict[int, int]

    def on(self, text: str) -> str:
        return text.translate(self.table)

    def off(self, text: str) -> str:
        return text.translate({private: plain for plain, private in self.table.items()})


NO_MASK = Mask({})


@dataclass(frozen=True)
class _Mark:
    """A control token that the template wrote, and where."""

    start: int
    stop: int
    token: int


class ControlTokens:
    """The strings that a tokenizer takes for control tokens, and a way to read them as text."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        marks = {token.content for token in added if token.special or not _ordinary(token.content)}
        self.strings = frozenset(marks | set(tokenizer.all_special_tokens)) - {""}
        self._ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(self.strings)))
        # What the tokenizer does not know becomes this one, with or without control strings.
        self._unknown = tokenizer.unk_token_id
        # Found by their beginnings, which few other texts have, and then by their lengths.
        starts = sorted({text[:_START] for text in self.strings}, key=len, reverse=True)
        self._lengths = {start: _lengths(start, self.strings) for start in starts}
        self._starts = re.compile("|".join(map(re.escape, starts)) or "(?!)")
        # For tokens that are looked for in normalised text, the normalised form counts.
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
        """Where control strings stand in a text: from the left, the longest first."""
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
        """Would the tokenizer take a part of this text for a control token?"""
        if self.places(text):
            return True
        if self._normalizer is None:
            return False
        folded = self._fold(text)
        return any(mark in folded for mark in self._folded)

    def may_join(self, text: str) -> bool:
        """Does a text begin or end with a part of a control string, or is it one?

        Such a part others could complete.
        """
        return self._within(text) or any(
            form[-n:] in self._beginnings or form[:n] in self._endings
            for form in self._forms(text)
            for n in range(1, min(self._longest, len(form) + 1))
        )

    def _within(self, text: str) -> bool:
        """Is all of a text a part of a control string?"""
        return any(form and form in self._whole for form in self._forms(text))

    def _forms(self, text: str) -> list[str]:
        """A text, and what the tokenizer looks for control tokens in."""
        return [text] if self._normalizer is None else [text, self._fold(text).strip("▁ ")]

    def joined_none(self, plain: str, masked: str, mask: Mask) -> bool:
        """In a prompt that was written with plain texts, are all control strings the template's?"""
        if self.places(plain) != self.places(masked):
            return False
        return self._normalizer is None or self._marks(plain) == self._marks(_calm(masked, mask))

    def mask(self, texts: Iterable[str]) -> Mask:
        """A mask under which no part of these texts can be taken for a control string's."""
        texts = list(texts)
        used = set().union(*texts)
        # A template that writes both edges itself must find nothing to put between them.
        parts = {c for text in texts if self._within(text) for c in text if not c.isspace()}
        masked = sorted(
            c for c in used if c in parts or not self._edges.isdisjoint(self._fold(c) + c)
        )
        free = (place for place in _PRIVATE if chr(place) not in used)
        return Mask({ord(character): next(free) for character in masked})

    def ids(self, written: str, mask: Mask) -> list[int]:
        """Token ids of what was written with masked texts: their control strings are text.

        Raises UsageError where the tokenizer cannot tell the two apart.
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
            # Some tokenizers read a piece differently when it stands alone.
            ids = self._by_pieces(pieces, marks) if self._by_pieces(calm, marks) == plain else None
        if ids is None or self._counted(ids) != [mark.token for mark in marks]:
            raise UsageError(
                "its text holds control tokens of the model, and this tokenizer cannot read them "
                "as text; take them out"
            )
        return ids

    def _marks(self, harmless: str) -> list[_Mark]:
        """The control tokens in a text, and where they stand."""
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
        """A copy of the tokenizer with secret names for control tokens, and those names.

        None where the tokenizer cannot be copied so: then texts are read piece by piece.
        """
        if not isinstance(self._tokenizer, PreTrainedTokenizerFast):
            return None
        names = _names(self.strings)
        try:
            described = json.loads(self._tokenizer.backend_tokenizer.to_str())
            copy = Tokenizer.from_str(json.dumps(_with_names(described, names)))
        except Exception:  # the library raises no other class
            return None
        ids: Any = self._tokenizer.convert_tokens_to_ids(list(names))
        return copy, dict(zip(ids, names.values(), strict=True))

    def _by_pieces(self, pieces: Sequence[str], marks: Sequence[_Mark]) -> list[int]:
        """Each piece by itself, as text without any added token, and the marks between them."""
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            ids += [marks[i - 1].token] if i else []
            if piece:
                found = self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
                ids += found["input_ids"]
        return ids


def _calm(written: str, mask: Mask) -> str:
    """What was written, with a letter or a full stop for every masked character.

    Some tokenizers look for control tokens between words alone.
    """
    stand_ins = {
        private: "x" if re.match(r"\w", chr(plain)) else "."
        for plain, private in mask.table.items()
    }
    return written.translate(stand_ins)


def _lengths(start: str, strings: Iterable[str]) -> list[int]:
    """The lengths, longest first, of the strings that may stand where a text begins this way."""
    return sorted({len(t) for t in strings if t[:_START] == start[: len(t)]}, reverse=True)


def _ordinary(content: str) -> bool:
    """Is the added token ordinary text (white space, markup, a word), not a special token?"""
    bare = content.strip().strip("▁Ġ")
    return (
        not bare or re.fullmatch(r"[\w' ▁]+", bare) is not None or _HTML.fullmatch(bare) is not None
    )


def _names(strings: Iterable[str]) -> dict[str, str]:
    """A secret name for each, in letters, which survive normalizers."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    secret = "".join(secrets.choice(letters) for _ in range(20))
    places = ("".join(letters[n // 26**k % 26] for k in range(4)) for n in range(26**4))
    return {text: secret + place for text, place in zip(sorted(strings), places, strict=False)}


def _with_names(described: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer's JSON with control tokens renamed, and without what pads, cuts or adds."""
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
