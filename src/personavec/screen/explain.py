"""Which words carry a trait: the spans of a response that project highest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from personavec.model import (
    ChatFormat,
    Directions,
    Encoded,
    LoadedModel,
    Text,
    Turn,
    project_tokens,
)
from personavec.screen.results import Piece

#: Tokens of a span, and spans of a response.
SPAN_TOKENS, SPANS = 6, 3


def explain(
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    traits: Sequence[str],
    directions: Directions,
    *,
    batch_tokens: int | None = None,
) -> list[dict[str, tuple[Piece, ...]]]:
    """For every row, by trait: its response in pieces, spans and the text between them.

    Of several responses, the last is explained.
    """
    texts = [row.texts[-1] for row in rows]
    values = project_tokens(
        loaded.model, [text.ids for text in texts], directions, batch_tokens=batch_tokens
    )
    return [
        {
            trait: _pieces(loaded.chat, text, text.turns[-1], own[:, column])
            for column, trait in enumerate(traits)
        }
        for text, own in zip(texts, values, strict=True)
    ]


def top_spans(values: Tensor, width: int = SPAN_TOKENS, n: int = SPANS) -> list[tuple[int, int]]:
    """The `n` spans of `width` tokens with the highest means, without overlap, in order.

    `values` is [token]; a response shorter than two spans has one.
    """
    width = min(width, len(values))
    n = min(n, max(1, len(values) // (2 * width)))
    means = values.unfold(0, width, 1).mean(-1).clone()
    found = []
    for _ in range(n):
        start = int(means.argmax())
        if means[start] == -torch.inf:
            break
        found.append((start, start + width))
        means[max(0, start - width + 1) : start + width] = -torch.inf
    return sorted(found)


def _pieces(chat: ChatFormat, text: Text, turn: Turn, values: Tensor) -> tuple[Piece, ...]:
    ids, values = text.ids[turn.start : turn.stop].tolist(), values[turn.start : turn.stop]
    spans = top_spans(values)
    edges = sorted({0, len(ids), *(edge for span in spans for edge in span)})
    return tuple(
        Piece(
            text=chat.decode(ids[start:stop]),
            projection=round(float(values[start:stop].mean()), 4),
            span=(start, stop) in spans,
            message=turn.message,
        )
        for start, stop in pairwise(edges)
    )
