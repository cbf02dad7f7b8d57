"""Which rows of a dataset are still to be scored, as stretches that can be read apart.

A window is a fixed number of consecutive rows, the unit of scoring; a stretch is a run of windows
read in one go. Knows nothing of who reads it, and loads no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from personavec.data import Mark, RawRow, marks, raw_rows, rows_from

#: Windows in a stretch: many, so that stretches are few, but few enough to share the work out.
STRETCH = 8


def in_windows(rows: Iterable[RawRow], size: int) -> Iterator[list[RawRow]]:
    """Rows in windows of `size`, the last one shorter."""
    rows = iter(rows)
    while window := list(islice(rows, size)):
        yield window


@dataclass(frozen=True)
class Stretch:
    """Some windows of a dataset, and where to begin reading."""

    source: str
    split: str | None
    mark: Mark | None
    """The first row to read; None for the dataset's beginning."""
    numbers: frozenset[int]
    """The windows that are wanted."""
    size: int
    """Rows of a window."""

    def windows(self) -> Iterator[tuple[int, list[RawRow]]]:
        """The wanted windows by number, in order; reading ends after the last of them."""
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
    """Stretches that hold every window that is not done, and how many rows the dataset has.

    A dataset that cannot be read from its middle, such as .csv or one on the hub, is one stretch.
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
