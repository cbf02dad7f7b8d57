"""A key-value cache with rows that join and leave a running batch.

All rows end at the same column, as in a left-padded batch, so the model needs only a mask and
positions. Keys and values are written in place into buffers with spare space: the prefix of a
joining row is computed in place, and when a row leaves, one row is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from personavec.errors import ModelError
from personavec.model import Beginning

#: Columns are allocated in multiples of this number.
_COLUMNS = 128


def can_join(config: Any) -> bool:
    """Whether every layer keeps keys and values alone, so that requests can join and leave."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def check_joinable(config: Any) -> None:
    """Raise ModelError for a model whose layers keep more than keys and values."""
    if not can_join(config):
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
        other = min(k.__name__ for k in kinds - {DynamicLayer, DynamicSlidingWindowLayer})
        raise ModelError(
            f"{config.get_text_config().model_type} keeps {other} "
            "beside keys and values, so that requests cannot join a running batch; this model "
            "runs in whole batches only, as in 'personavec steer'"
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

    def write(self, row: int, end: int, own: tuple[Tensor, Tensor]) -> None:
        """Write a beginning's keys and values [1, head, token, dim] up to column `end`."""
        if not self.is_initialized:
            self.lazy_initialization(*own)
        for buffer, states in zip((self.keys, self.values), own, strict=True):
            assert buffer is not None
            buffer[row, :, end - states.shape[-2] : end] = states[0]

    def read(self, row: int, columns: Int[Tensor, " column"]) -> tuple[Tensor, Tensor] | None:
        """A row's keys and values in some columns, copied."""
        if self.keys is None or self.values is None:
            return None
        return self.keys[row : row + 1, :, columns], self.values[row : row + 1, :, columns]

    def resize(self, rows: int, columns: int, source: slice, target: slice) -> None:
        """Into buffers of this size, with the `source` columns at `target`."""
        kept = min(rows, self._shape[0])
        self._shape = (rows, columns)
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], columns, old.shape[-1])
            new[:kept, :, target] = old[:kept, :, source]
            setattr(self, name, new)

    def move(self, source: int, target: int, columns: slice) -> None:
        if not self.is_initialized:
            return
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[target, :, columns] = buffer[source, :, columns]

    def wipe(self, row: int, columns: slice) -> None:
        """Write zeros: masked columns must hold finite numbers, since 0 times NaN is NaN."""
        if not self.is_initialized:
            return
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[row, :, columns] = 0


class RowCache(Cache):
    """The cache of a running batch, with room for `rows` to begin with; the first `n` are in use.

    `mask` [row, column] marks the columns that belong to each row. Raises ModelError for a model
    whose layers cache more than keys and values.
    """

    def __init__(self, config: Any, rows: int, device: torch.device):
        check_joinable(config)
        self._window = _Window()
        self._first_rows = rows
        self._rows: list[_RowLayer] = [
            _RowLayer(self._window, rows, _COLUMNS)
            for _ in range(config.get_text_config().num_hidden_layers)
        ]
        super().__init__(layers=list(self._rows))
        self.mask = torch.zeros(rows, _COLUMNS, dtype=torch.long, device=device)
        #: Columns from each row's first one up to the shared last one.
        self._spans: list[int] = []
        self._end = 0

    @property
    def n(self) -> int:
        """Rows in use."""
        return len(self._spans)

    @property
    def columns(self) -> int:
        """Number of allocated columns."""
        return self.mask.shape[1]

    @property
    def is_open(self) -> bool:
        """Whether rows can join now."""
        return True

    def join(
        self, rest: Int[Tensor, "row column"], beginnings: Sequence[Beginning | None] = ()
    ) -> Int[Tensor, "row seen"]:
        """Add rows: a beginning's columns, then those of a left-padded rest, given by its mask.

        The next forward must be over the rest alone; it fills it in. Returns that forward's mask.
        """
        new, width = rest.shape
        lengths = [0 if own is None else len(own.ids) for own in beginnings or [None] * new]
        before = max(lengths)
        self._reserve(self.n + new, width + before)
        start = self._end - width
        rows = slice(self.n, self.n + new)
        self.mask[rows] = 0
        self.mask[rows, start : self._end] = rest
        for i, length in enumerate(lengths):
            self.mask[self.n + i, start - length : start] = 1
            own = beginnings[i] if length else None
            for layer, states in zip(self._rows, own.layers if own else (), strict=False):
                if states is not None:
                    layer.write(self.n + i, start, states)
        self._window.rows = rows
        self._window.start, self._window.end = start - before, start
        used = rest.sum(-1).tolist()
        self._spans += [
            width + length if length else n for n, length in zip(used, lengths, strict=True)
        ]
        return self.mask[rows, start - before : self._end]

    def next_column(self) -> Int[Tensor, "row column"]:
        """Make room for one more token in every row; the mask of its forward."""
        if self._end == self.columns:
            self._resize(len(self.mask), self._width())
        self.mask[: self.n, self._end] = 1
        self._window.rows = slice(0, self.n)
        self._window.start, self._window.end = self._end - self._width(), self._end
        self._end += 1
        self._spans = [span + 1 for span in self._spans]
        return self.mask[: self.n, self._window.start : self._end]

    def row(self, row: int) -> tuple[tuple[Tensor, Tensor] | None, ...]:
        """A row's keys and values [1, head, token, dim] at every layer, copied."""
        start = self._end - self._width()
        columns = start + self.mask[row, start : self._end].nonzero()[:, 0]
        return tuple(layer.read(row, columns) for layer in self._rows)

    def undo(self, row: int) -> None:
        """Remove a row's last column, as if its token had never run."""
        self.mask[row, self._end - 1] = 0
        for layer in self._rows:
            layer.wipe(row, slice(self._end - 1, self._end))

    def leave(self, row: int) -> None:
        """Remove a row, move the last row to its place, and set freed buffers to zero."""
        last = self.n - 1
        columns = slice(self._end - self._width(), self._end)
        for layer in self._rows:
            layer.wipe(row, columns)
        if row != last:
            for layer in self._rows:
                layer.move(last, row, columns)
                layer.wipe(last, columns)
            self.mask[row] = self.mask[last]
        self.mask[last] = 0
        self._spans[row] = self._spans[last]
        del self._spans[last]
        if not last:
            self.clear()

    def clear(self) -> None:
        """Remove all rows, and shrink the buffers to their first size, with zeros."""
        self._spans, self._end = [], 0
        empty = slice(0, 0)
        for layer in self._rows:
            layer.resize(self._first_rows, _COLUMNS, empty, empty)
        self.mask = self.mask.new_zeros(self._first_rows, _COLUMNS)

    def _width(self) -> int:
        return max(self._spans, default=0)

    def _reserve(self, rows: int, width: int) -> None:
        """Room for so many rows, the widest of them ending in the shared last column."""
        more = len(self.mask)
        if rows > more:
            more = max(rows, more * 3 // 2)
        if more > len(self.mask) or self._end < width:
            self._resize(more, max(self._width(), width))

    def _resize(self, rows: int, end: int) -> None:
        """New buffers, in which the columns in use end before column `end`, with room for more."""
        width = self._width()
        source, target = slice(self._end - width, self._end), slice(end - width, end)
        # A quarter as much again, so that resizing stays rare.
        columns = _COLUMNS * math.ceil((end + max(end // 4, _COLUMNS)) / _COLUMNS)
        for layer in self._rows:
            layer.resize(rows, columns, source, target)
        mask = self.mask.new_zeros(rows, columns)
        mask[: self.n, target] = self.mask[: self.n, source]
        self.mask, self._end = mask, end
