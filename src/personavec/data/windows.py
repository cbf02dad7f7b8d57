"""Divide the rows of a dataset that are still to be scored into stretches.

A window is a fixed number of consecutive rows, the unit of scoring. A stretch is a sequence of
windows that one process reads, independently of others. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from personavec.data import Mark, RawRow, marks, raw_rows, rows_from

#: Windows in a stretch: enough to keep stretches few, but few enough to balance the load.
STRETCH = 8


def in_windows(rows: Iterable[RawRow], size: int) -> Iterator[list[RawRow]]:
    """Rows in windows of `size`, the last one shorter."""
    rows = iter(rows)
    while window := list(islice(rows, size)):
        yield window


@dataclass(frozen=True)
class Stretch:
    """Consecutive windows of a dataset, and the position where reading begins."""

    source: str
    split: str | None
    mark: Mark | None
    """The first row to read; None for the dataset's beginning."""
    numbers: frozenset[int]
    """The numbers of the windows to read."""
    size: int
    """Number of rows in a window."""

    def windows(self) -> Iterator[tuple[int, list[RawRow]]]:
        """The windows in `numbers` in order, each with its number."""
        if self.mark is None:
            first, rows = 0, raw_rows(self.source, split=self.split)
        else:
            first, rows = self.mark.index // self.size, rows_from(self.source, self.mark)
        last = max(self.numbers)
        for number, window in enumerate(in_windows(rows, self.size), start=first):
            if number in self.numbers:
                yield number, window
            if number == last:
                return


def stretches(
    source: str | Path, *, split: str | None, size: int, done: Collection[int] = ()
) -> tuple[list[Stretch], int]:
    """Stretches with every window that is not done, and the number of rows in the dataset.

    A dataset that can only be read from its beginning, such as .csv or one on the hub, is one
    stretch.
    """
    path = Path(source)
    where = str(path.resolve()) if path.exists() else str(source)
    found = marks(source, size * STRETCH)
    if found is None:
        total = sum(1 for _ in raw_rows(source, split=split))
        begun: list[tuple[Mark | None, int]] = [(None, 0)]
    else:
        total = found[1]
        begun = [(mark, mark.index // size) for mark in found[0]]
    n_windows = -(-total // size)
    ends = [first for _, first in begun[1:]] + [n_windows]
    kept = set(done)
    out = []
    for (mark, first), end in zip(begun, ends, strict=True):
        if numbers := frozenset(range(first, end)) - kept:
            out.append(Stretch(where, split, mark, numbers, size))
    return out, total
