"""Answers while they are written: stretches of text, each with what the vector reads in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from personavec.evaluate.steer.results import SteeredAnswer

#: Of a character; more tokens than these hold no unfinished one.
_MOST_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """A token's text, or that of several tokens that share a character."""

    text: str
    sigma: float | None = None
    """Mean projection of its tokens, as `SteeredAnswer.sigma`; None where it was not read."""


@dataclass(frozen=True, kw_only=True)
class AnswerSoFar:
    """An answer at some moment: nothing of it yet, its pieces so far, or the whole."""

    id: str
    question: str
    condition: str
    coefficient: float
    pieces: tuple[Piece, ...] = ()
    answer: SteeredAnswer | None = None
    """The answer once it has ended."""


@dataclass(eq=False)
class Spelling:
    """Spells the tokens of one response as pieces; an unfinished character is held back."""

    decode: Callable[[Sequence[int]], str]
    pieces: list[Piece] = field(default_factory=list)
    _before: int = 0
    """Tokens before it are not decoded again."""
    _spelt: int = 0

    def take(self, ids: Sequence[int], sigmas: Sequence[float]) -> None:
        """Spell what is new in a response's tokens; `sigmas` has a reading for each."""
        for end in range(self._spelt + 1, len(ids) + 1):
            known = self.decode(ids[self._before : self._spelt])
            text = self.decode(ids[self._before : end])
            unfinished = text.endswith("\ufffd") and end - self._spelt < _MOST_BYTES
            if unfinished or len(text) <= len(known):
                continue
            own = sigmas[self._spelt : end]
            self.pieces.append(Piece(text[len(known) :], sum(own) / len(own)))
            self._before, self._spelt = self._spelt, end

    def whole(self, response: str) -> tuple[Piece, ...]:
        """The pieces of a response that has ended; what they lack is not read."""
        spelt = "".join(piece.text for piece in self.pieces)
        if not response.startswith(spelt):
            return (Piece(response),)
        rest = response[len(spelt) :]
        return (*self.pieces, *([Piece(rest)] if rest else []))
