"""The cache of a batch that nobody joins, for models that keep more than keys and values.

Rows of recurrent models can leave, since their states are picked by row, but states of unlike
ages cannot be put together. It has what `RowCache` has, as far as the loop uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from personavec.model import Beginning


class BatchCache(DynamicCache):
    """transformers' own cache, with the mask of its rows."""

    def __init__(self, config: Any, device: torch.device):
        super().__init__(config=config)
        self._config = config
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=device)

    @property
    def n(self) -> int:
        """Rows in use."""
        return len(self.mask)

    @property
    def is_open(self) -> bool:
        """Whether rows can join now."""
        return not self.n

    def join(
        self, rest: Int[Tensor, "row column"], beginnings: Sequence[Beginning | None] = ()
    ) -> Int[Tensor, "row seen"]:
        """Add left-padded rows, given by their mask, to an empty batch."""
        self.mask = rest
        return rest

    def next_column(self) -> Int[Tensor, "row column"]:
        """Make room for one more token in every row; the mask of its forward."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(self.n, 1)], dim=1)
        return self.mask

    def undo(self, row: int) -> None:
        """A token that was fed cannot be taken back."""
        raise NotImplementedError

    def leave(self, row: int) -> None:
        """Remove a row; the last row moves to its place."""
        kept = list(range(self.n))
        kept[row] = kept[-1]
        index: Any = torch.tensor(kept[:-1], dtype=torch.long, device=self.mask.device)
        if not len(index):
            self.clear()
            return
        self.mask = self.mask[index]
        for layer in self.layers:
            layer.reorder_cache(index)

    def clear(self) -> None:
        """Remove all rows."""
        self.mask = self.mask.new_zeros(0, 0)
        self.layers = DynamicCache(config=self._config).layers
