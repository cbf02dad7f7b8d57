"""Capture in a running batch: sums of activations over the spans of every row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.model.engine.base import SPANS


class RowSums:
    """Recorder: float32 sums over `SPANS`, for each row and layer, as rows join and leave.

    Before each forward `weigh` says which rows it runs and how its tokens count; without that a
    forward is not read. Sums stay on their layers' devices, so that no forward waits for a copy.
    """

    def __init__(self, n_layers: int, hidden_size: int):
        self.layers = tuple(range(n_layers + 1))
        self._shape = (len(SPANS), hidden_size)
        self._sums: list[Tensor] = [torch.empty(0, *self._shape) for _ in self.layers]
        self._rows = slice(0, 0)
        self._weights: dict[torch.device, Tensor] = {}

    def weigh(self, rows: slice, weights: Float[Tensor, "row span token"]) -> None:
        """The next forward runs these rows, and its tokens count so much in every span."""
        self._rows, self._weights = rows, {weights.device: weights}

    def pause(self) -> None:
        """Do not read the next forwards."""
        self._weights = {}

    def add(self, slot: int, hidden: Float[Tensor, "row token hidden"]) -> None:
        """Add one layer's hidden states under the current weights."""
        if not self._weights:
            return
        device = hidden.device
        if device not in self._weights:
            self._weights[device] = next(iter(self._weights.values())).to(device)
        self._make_room(slot, device)
        self._sums[slot][self._rows].baddbmm_(self._weights[device], hidden.float())

    def start(self, row: int, before: Sequence[Float[Tensor, "layer hidden"] | None]) -> None:
        """Begin a row, with the sums over each span of what is not fed again; None for nothing."""
        for slot in self.layers:
            self._make_room(slot, self._sums[slot].device, row + 1)
            self._sums[slot][row] = 0
            for span, sums in enumerate(before):
                if sums is not None:
                    self._sums[slot][row, span] = sums[slot]

    def forget(self, span: int, row: int) -> None:
        """Reset one row's sums over one span at every layer."""
        for sums in self._sums:
            sums[row, span] = 0

    def move(self, source: int, target: int) -> None:
        """Put a row in another's place."""
        for sums in self._sums:
            sums[target] = sums[source]

    def of(self, row: int) -> Float[Tensor, "span layer hidden"]:
        """A row's sums so far, on the CPU."""
        return torch.stack([sums[row].cpu() for sums in self._sums], dim=1)

    def _make_room(self, slot: int, device: torch.device, rows: int = 0) -> None:
        sums, rows = self._sums[slot], max(rows, self._rows.stop)
        if len(sums) < rows or sums.device != device:
            room = torch.zeros(max(rows, len(sums) * 3 // 2), *self._shape, device=device)
            room[: len(sums)] = sums
            self._sums[slot] = room
