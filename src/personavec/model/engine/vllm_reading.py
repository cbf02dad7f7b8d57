"""Inside vLLM's workers: what is read of requests while their tokens come by.

A token is read once: a request that was set back, and runs again, is not read again. What a request
takes from the prefix cache does not come by at all; of these blocks, the mean of its prompt comes
from sums that were made when another request computed them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from personavec.model.engine.vllm_note import OwnTensors, RequestNote

#: Spans of a captured request, as many as `base.SPANS` has, and in its order.
N_SPANS = 3


@dataclass(eq=False)
class Reading:
    """What is read of one request."""

    request: str
    """vLLM's own name of it."""
    note: RequestNote
    own: OwnTensors | None
    sound: bool | None = None
    """Whether every token could be chosen. None before the first logits."""
    start: int = 0
    """Positions before it came from the prefix cache."""
    until: int = 0
    """Positions before it are read."""
    rows: list[int] = field(default_factory=list)
    """Of the sums, one for each span."""
    count: int = 0
    """Response tokens in the sums."""
    projections: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class BlockSum:
    """The sum over one block of a beginning that several prompts share."""

    row: int
    until: int
    """Positions before it are in the sum."""


class Sums:
    """Sums over tokens, [layer, row, hidden], in rows that are given out and taken back."""

    def __init__(self, n_layers: int, hidden: int, device: torch.device):
        self._values = torch.zeros(n_layers, 0, hidden, device=device)
        self._free: list[int] = []

    def take(self, n: int) -> list[int]:
        """`n` rows of zeros."""
        have = self._values.shape[1]
        if len(self._free) < n:
            more = max(64 * N_SPANS, have)
            n_layers, _, hidden = self._values.shape
            room = self._values.new_zeros(n_layers, more, hidden)
            self._values = torch.cat([self._values, room], dim=1)
            self._free += range(have + more - 1, have - 1, -1)
        rows = [self._free.pop() for _ in range(n)]
        self.clear(rows)
        return rows

    def clear(self, rows: list[int]) -> None:
        self._values[:, rows] = 0

    def give_back(self, rows: list[int]) -> None:
        self._free += rows

    def add(self, layer: int, rows: Tensor, values: Tensor) -> None:
        """Add values [token, hidden], each to its row; `layer` is an index."""
        self._values[layer].index_add_(0, rows, values)

    def of(self, rows: list[int]) -> Tensor:
        """[layer, row, hidden], a copy."""
        return self._values[:, rows]
