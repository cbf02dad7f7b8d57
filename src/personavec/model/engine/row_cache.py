"""A key-value cache with rows that join and leave a running batch.

All rows end at the same column, as in a left-padded batch, so the model needs only a mask and
positions. Keys and values are written in place into buffers with spare space: the prefix of a
joining row is computed in place, and when a row leaves, one row is copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from personavec.errors import ModelError

#: Columns are allocated in multiples of this number.
_COLUMNS = 128
_ALL = slice(None)


def check_joinable(config: Any) -> None:
    """Raise ModelError for a model whose layers cache more than keys and values."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if other := kinds - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise ModelError(
            f"{config.get_text_config().model_type} keeps {min(k.__name__ for k in other)} "
            "beside keys and values, so requests cannot join a running batch; this model runs only "
            "in whole batches, as in 'personavec steer'"
        )


class _Window:
    """The part of the buffers for the next forward pass: rows, and columns [start, end)."""

    def __init__(self) -> None:
        self.rows = slice(0, 0)
        self.start = self.end = 0


class _RowLayer(CacheLayerMixin):
    """One layer's keys and values [row, head, column, dim], written at the window's end."""

    is_sliding = False

    def __init__(self, window: _Window, rows: int, columns: int):
        super().__init__()
        self._window, self._shape = window, (rows, columns)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self._shape
        # Zeros, since even masked columns must be finite.
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], columns, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        stop = window.end + key_states.shape[-2]
        found = []
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            assert buffer is not None
            buffer[window.rows, :, window.end : stop] = states
            found.append(buffer[window.rows, :, window.start : stop])
        return found[0], found[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def get_max_length(self) -> int:
        return -1

    def resize(self, columns: int, rows: int, source: slice, target: slice) -> None:
        """Allocate buffers with `columns`, and copy `source` columns of `rows` rows to `target`."""
        self._shape = (self._shape[0], columns)
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:2], columns, old.shape[-1])
            new[:rows, :, target] = old[:rows, :, source]
            setattr(self, name, new)

    def move(self, source: int, target: int, columns: slice) -> None:
        """Copy columns of the row `source` to the row `target`."""
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[target, :, columns] = buffer[source, :, columns]

    def wipe(self, rows: int | slice, columns: slice = _ALL) -> None:
        """Write zeros, since even masked columns must be finite: 0 times NaN is NaN."""
        if not self.is_initialized:
            return
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[rows, :, columns] = 0


class RowCache(Cache):
    """A cache for at most `max_rows` rows, of which the first `n` are in use.

    `mask` [row, column] marks the columns that belong to each row. Raises ModelError for a model
    whose layers cache more than keys and values.
    """

    def __init__(self, config: Any, max_rows: int, device: torch.device):
        check_joinable(config)
        self._window = _Window()
        self._max_rows = max_rows
        self._rows: list[_RowLayer] = [
            _RowLayer(self._window, max_rows, _COLUMNS)
            for _ in range(config.get_text_config().num_hidden_layers)
        ]
        super().__init__(layers=list(self._rows))
        self.mask = torch.zeros(max_rows, _COLUMNS, dtype=torch.long, device=device)
        #: Number of columns of each row, up to the shared last column.
        self._lengths: list[int] = []
        self._end = 0

    @property
    def n(self) -> int:
        """Number of rows in use."""
        return len(self._lengths)

    @property
    def columns(self) -> int:
        """Number of allocated columns."""
        return self.mask.shape[1]

    def join(self, prefixes: Int[Tensor, "row column"]) -> None:
        """Add rows for left-padded prefixes with these masks.

        The next forward pass must be over only these prefixes; it fills the columns.
        """
        new, width = prefixes.shape
        if self._end < width:
            self._place(width)
        rows = slice(self.n, self.n + new)
        self.mask[rows] = 0
        self.mask[rows, self._end - width : self._end] = prefixes
        self._window.rows = rows
        self._window.start = self._window.end = self._end - width
        self._lengths += prefixes.sum(-1).tolist()

    def next_column(self) -> Tensor:
        """Make room for a token in every row; returns the mask [row, column] for its pass."""
        if self._end == self.columns:
            self._place(self._width())
        self.mask[: self.n, self._end] = 1
        self._window.rows = slice(0, self.n)
        self._window.start, self._window.end = self._end - self._width(), self._end
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return self.mask[: self.n, self._window.start : self._end]

    def undo(self, row: int) -> None:
        """Remove a row's last column, as if its token had never run."""
        self.mask[row, self._end - 1] = 0
        for layer in self._rows:
            layer.wipe(row, slice(self._end - 1, self._end))

    def leave(self, row: int) -> None:
        """Remove a row, move the last row to its place, and set freed buffers to zero."""
        last = self.n - 1
        for layer in self._rows:
            layer.wipe(row)
        if row != last:
            columns = slice(self._end - self._width(), self._end)
            for layer in self._rows:
                layer.move(last, row, columns)
                layer.wipe(last)
            self.mask[row] = self.mask[last]
        self.mask[last] = 0
        self._lengths[row] = self._lengths[last]
        del self._lengths[last]
        if not last:
            self.clear()

    def clear(self) -> None:
        """Remove all rows, and shrink the buffers to their initial size."""
        self._lengths, self._end = [], 0
        if self.columns > _COLUMNS:
            empty = slice(0, 0)
            for layer in self._rows:
                layer.resize(_COLUMNS, 0, empty, empty)
            self.mask = self.mask.new_zeros(self._max_rows, _COLUMNS)
        else:
            for layer in self._rows:
                layer.wipe(_ALL)
        self.mask.zero_()

    def _width(self) -> int:
        return max(self._lengths, default=0)

    def _place(self, end: int) -> None:
        """Move the columns in use so that they end before column `end`, with room for more."""
        width = self._width()
        source, target = slice(self._end - width, self._end), slice(end - width, end)
        # With 50% more columns than needed, so that moving is rare.
        columns = _COLUMNS * math.ceil((end + max(end // 2, _COLUMNS)) / _COLUMNS)
        for layer in self._rows:
            layer.resize(columns, self.n, source, target)
        mask = self.mask.new_zeros(self._max_rows, columns)
        mask[: self.n, target] = self.mask[: self.n, source]
        self.mask, self._end = mask, end
