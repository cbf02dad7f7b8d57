"""The inputs of a screen: where each is, its name, and what is known of it before any scoring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from personavec.data import ColumnMap, Kind, RawRow, check_columns, kind_of, raw_rows, source_name
from personavec.errors import DataError, UsageError
from personavec.screen.arrow_types import TypeFinder, Types, stored_types
from personavec.screen.outputs import check_row

#: Rows that are looked at where a cluster's workers alone read the whole.
LOOKED_AT = 1000


@dataclass(frozen=True, eq=False)
class ScreenDataset:
    """One input: where it is, its name, and where its scores go."""

    name: str
    source: str
    folder: Path
    split: str | None

    def rows(self) -> Iterator[RawRow]:
        """All rows as they are read, bad ones too."""
        return raw_rows(self.source, split=self.split)

    def rows_at(
        self, index: np.ndarray, places: np.ndarray, content: np.ndarray
    ) -> Iterator[tuple[int, RawRow]]:
        """The rows of some indices, each with its place in the scores; reads the dataset.

        Raises DataError where a row has not the hash that `content` has for it.
        """
        wanted = dict(zip(index.tolist(), places.tolist(), strict=True))
        for raw in self.rows():
            if raw.index in wanted:
                check_row(raw, content, self.source)
                yield wanted[raw.index], raw


class OpenedDataset:
    """A dataset that is being read: what was looked at first is not read again."""

    def __init__(self, dataset: ScreenDataset):
        self.dataset = dataset
        self._rows = dataset.rows()
        self._seen: list[RawRow] = []

    def first_rows(self) -> Iterator[RawRow]:
        """Rows from the first on, kept for `all_rows`."""
        for raw in self._rows:
            self._seen.append(raw)
            yield raw

    def all_rows(self) -> Iterator[RawRow]:
        """All rows; call it once."""
        return chain(self._seen, self._rows)


@dataclass(frozen=True)
class Survey:
    """What one reading of a dataset finds, before any scoring."""

    total: int
    """Rows that were looked at."""
    content: tuple[str, ...]
    """The hashes of all rows, if there are scores to compare them with."""
    columns: frozenset[str]
    """All rows' columns."""
    types: Types | None
    """Their Arrow types, if they are needed."""


def named(data: Sequence[str | Path], folder: Path, split: str | None) -> tuple[ScreenDataset, ...]:
    """Datasets with names that differ, with a folder of scores each in `folder`."""
    names = _distinct([source_name(source) for source in data])
    return tuple(
        ScreenDataset(name, str(source), folder / f"{number}-{name}", split)
        for number, (name, source) in enumerate(zip(names, data, strict=True))
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that occur twice, told apart by a number."""
    return [
        name if names.count(name) == 1 else f"{name}-{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def survey(
    opened: OpenedDataset, added: Collection[str], *, to_parquet: bool, first: int | None = None
) -> Survey:
    """Read a dataset, or its `first` rows.

    `to_parquet`: its rows will be written as Parquet, so the types of its columns are found.
    Raises DataError where a row has a column that would be added.
    """
    dataset = opened.dataset
    hashed = first is None and any(dataset.folder.glob("*.parquet"))
    types = stored_types(dataset.source) if to_parquet else None
    finder = TypeFinder() if to_parquet and types is None and first is None else None
    names, total, hashes = set[str](), 0, list[str]()
    for raw in islice(opened.all_rows(), first):
        total += 1
        if hashed:
            hashes.append(raw.hash)
        if finder is not None:
            finder.add(raw)
        if not raw.columns.keys() <= names:
            names |= raw.columns.keys()
            _check_added(dataset, names & set(added))
    if finder is not None:
        types = finder.types()
    return Survey(total, tuple(hashes), frozenset(names), types)


def _check_added(dataset: ScreenDataset, taken: Collection[str]) -> None:
    if taken:
        raise DataError(
            f"{dataset.source} has a column '{min(taken)}' already, and the screen adds "
            "one of that name: rename it, or screen the original file"
        )


def check_grouped(by: Sequence[str], surveys: Sequence[Survey]) -> None:
    """Raise UsageError for a column to group by that no row of any dataset has."""
    columns = frozenset[str]().union(*(found.columns for found in surveys))
    for name in by:
        if name not in columns:
            raise UsageError(
                f"--by {name}: no row has such a column; there are {', '.join(sorted(columns))}"
            )


def common_kind(datasets: Sequence[OpenedDataset], columns: ColumnMap) -> Kind:
    """The kind of all datasets. Raises UsageError where some hold pairs and others do not."""
    kinds: dict[str, Kind] = {
        opened.dataset.name: kind_of(opened.first_rows(), columns) for opened in datasets
    }
    if len(set(kinds.values())) > 1:
        pairs = next(name for name, kind in kinds.items() if kind == "pair")
        raise UsageError(f"{pairs} holds preference pairs and other data do not: screen it alone")
    return kinds[datasets[0].dataset.name]


def check_reference(opened: OpenedDataset, columns: ColumnMap) -> None:
    """Raise UsageError where the first rows lack a column that `columns` names."""
    check_columns(opened.first_rows(), columns)
