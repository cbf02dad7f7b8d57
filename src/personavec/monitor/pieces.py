"""A response in the pieces that can be shown: tokens, or several that share a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from personavec.model import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, or several tokens that share a character."""

    text: str
    sigma: float
    """Mean projection of its tokens, in sigmas of the neutral baseline."""


def characters(loaded: LoadedModel, ids: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Pieces of text with the positions of their tokens, [start, stop)."""
    start = 0
    for stop in range(1, len(ids) + 1):
        piece = loaded.chat.decode(ids[start:stop])
        if not piece.endswith("\ufffd") or stop == len(ids):
            yield piece, start, stop
            start = stop


def pieces_of(
    loaded: LoadedModel, ids: Sequence[int], sigmas: Sequence[float]
) -> tuple[Piece, ...]:
    """A response's pieces; `sigmas` are those of its tokens."""
    return tuple(
        Piece(text=text, sigma=sum(sigmas[start:stop]) / (stop - start))
        for text, start, stop in characters(loaded, ids)
    )
