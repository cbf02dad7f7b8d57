"""What vLLM's workers read of requests: sums and projections, in their processes.

Every token is read once: a preempted request that runs again is not read again. Tokens that a
request takes from the prefix cache do not run; for the mean over its prompt, the sums over these
blocks come from the request that computed them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from personavec.model.engine.vllm_note import OwnTensors, RequestNote


@dataclass(eq=False)
class Reading:
    """The readings of one request."""

    request: str
    """The request's name in vLLM's runner."""
    note: RequestNote
    own: OwnTensors | None
    sound: bool | None = None
    """Whether all logits so far were usable. None before the first logits."""
    start: int = 0
    """The first position that ran; those before came from the prefix cache."""
    until: int = 0
    """The first position that is not yet read."""
    rows: list[int] = field(default_factory=list)
    """Its rows of `Sums`, one for each of `base.SPANS`."""
    count: int = 0
    """The number of response tokens in the sums."""
    projections: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class BlockSum:
    """The sum over a block that several prompts begin with."""

    row: int
    until: int
    """The first position that is not yet in the sum."""


class Sums:
    """Sums over tokens, float32 [layer, row, hidden]; rows are taken and given back."""

    def __init__(self, n_layers: int, hidden: int, device: torch.device):
        self._values = torch.zeros(n_layers, 0, hidden, device=device)
        self._free: list[int] = []

    def take(self, n: int) -> list[int]:
        """Take `n` rows, set to zero."""
        have = self._values.shape[1]
        if len(self._free) < n:
            more = max(256, have, n)
            n_layers, _, hidden = self._values.shape
            room = self._values.new_zeros(n_layers, more, hidden)
            self._values = torch.cat([self._values, room], dim=1)
            self._free += range(have + more - 1, have - 1, -1)
        rows = [self._free.pop() for _ in range(n)]
        self.clear(rows)
        return rows

    def clear(self, rows: list[int]) -> None:
        """Set rows to zero."""
        self._values[:, rows] = 0

    def give_back(self, rows: list[int]) -> None:
        """Make rows available to others."""
        self._free += rows

    def add(self, layer: int, rows: Tensor, values: Tensor) -> None:
        """Add values [token, hidden] to rows [token]; `layer` is an index."""
        self._values[layer].index_add_(0, rows, values)

    def of(self, rows: list[int]) -> Tensor:
        """A copy of the rows, [layer, row, hidden]."""
        return self._values[:, rows]
