"""Which words carry a trait: the stretches of a response that project highest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

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

#: Tokens of a span, and spans of a response.
SPAN_TOKENS, SPANS = 6, 3


def explain(
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    traits: Sequence[str],
    directions: Directions,
    *,
    batch_tokens: int | None = None,
) -> list[dict[str, list[dict[str, Any]]]]:
    """For every row and trait, its response in pieces: spans, and the text between them.

    A piece has `text`, `projection` (mean over its tokens), `span` (one of the highest) and
    `message`. Of several responses, the last is explained.
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
    """The `n` stretches of `width` tokens with the highest mean, apart from each other, in order.

    `values` is [token]; a response shorter than two stretches has one.
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


def _pieces(chat: ChatFormat, text: Text, turn: Turn, values: Tensor) -> list[dict[str, Any]]:
    ids, values = text.ids[turn.start : turn.stop].tolist(), values[turn.start : turn.stop]
    spans = top_spans(values)
    edges = sorted({0, len(ids), *(edge for span in spans for edge in span)})
    return [
        {
            "text": chat.decode(ids[start:stop]),
            "projection": round(float(values[start:stop].mean()), 4),
            "span": (start, stop) in spans,
            "message": turn.message,
        }
        for start, stop in pairwise(edges)
    ]
