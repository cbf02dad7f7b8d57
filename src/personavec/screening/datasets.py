"""The inputs of a screen: where each is, what it is called, and where its scores go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from personavec.data import ColumnMap, Kind, RawRow, kind_of, raw_rows, source_name
from personavec.errors import DataError, UsageError
from personavec.screening.outputs import check_row


@dataclass(frozen=True, eq=False)
class Dataset:
    """One input: where it is, what it is called, and where its scores go."""

    name: str
    source: str
    folder: Path
    split: str | None

    def rows(self) -> Iterator[RawRow]:
        """All rows as they are read, bad ones too."""
        return raw_rows(self.source, split=self.split)

    def rows_at(
        self, index: np.ndarray, places: np.ndarray, content: np.ndarray, size: int = 128
    ) -> Iterator[tuple[np.ndarray, list[RawRow]]]:
        """The rows of some indices in groups, with their places in the scores.

        Raises DataError where a row has not the hash that `content` has for it.
        """
        wanted = dict(zip(index.tolist(), places.tolist(), strict=True))
        found = (raw for raw in self.rows() if raw.index in wanted)
        while group := list(islice(found, size)):
            for raw in group:
                check_row(raw, content, self.source)
            yield np.array([wanted[raw.index] for raw in group]), group


class Survey(NamedTuple):
    """How many rows were looked at, and what columns they have between them; and their hashes,
    where there are scores to hold against."""

    total: int
    content: list[str]
    columns: frozenset[str]


def named(data: Sequence[str | Path], folder: Path, split: str | None) -> tuple[Dataset, ...]:
    """Datasets of names unlike each other, with a folder of scores each in `folder`."""
    names = _unlike([source_name(source) for source in data])
    return tuple(
        Dataset(name, str(source), folder / f"{number}-{name}", split)
        for number, (name, source) in enumerate(zip(names, data, strict=True))
    )


def _unlike(names: Sequence[str]) -> list[str]:
    """Names made unlike each other by a number."""
    return [
        name if names.count(name) == 1 else f"{name}-{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def survey(dataset: Dataset, added: Collection[str], *, first: int | None = None) -> Survey:
    """Look at a dataset, or at its `first` rows.

    Raises DataError, before any scoring, where a row has a column that would be added.
    """
    hashed = first is None and any(dataset.folder.glob("*.parquet"))
    names, total, hashes = set[str](), 0, list[str]()
    for raw in islice(dataset.rows(), first):
        total += 1
        if hashed:
            hashes.append(raw.hash)
        if not raw.columns.keys() <= names:
            names |= raw.columns.keys()
            if taken := names & set(added):
                raise DataError(
                    f"{dataset.source} has a column '{min(taken)}' already, and the screen adds "
                    "one of that name: rename it, or screen the original file"
                )
    return Survey(total, hashes, frozenset(names))


def check_grouped(by: Sequence[str], surveys: Sequence[Survey]) -> None:
    """Raise UsageError for a column to group by that no row of any dataset has."""
    columns = frozenset[str]().union(*(found.columns for found in surveys))
    for name in by:
        if name not in columns:
            raise UsageError(
                f"--by {name}: no row has such a column; there are {', '.join(sorted(columns))}"
            )


def common_kind(datasets: Sequence[Dataset], columns: ColumnMap) -> Kind:
    """The kind of all datasets. Raises UsageError where some hold pairs and others do not."""
    kinds: dict[str, Kind] = {d.name: kind_of(d.rows(), columns) for d in datasets}
    if len(set(kinds.values())) > 1:
        pairs = next(name for name, kind in kinds.items() if kind == "pair")
        raise UsageError(f"{pairs} holds preference pairs and other data do not: screen it alone")
    return kinds[datasets[0].name]
