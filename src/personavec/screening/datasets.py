"""The inputs of a screen: where each is, what it is called, and where its scores go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from personavec.data import ColumnMap, Kind, RawRow, kind_of, raw_rows, source_name
from personavec.errors import DataError, UsageError


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
        self, index: np.ndarray, places: np.ndarray, size: int = 128
    ) -> Iterator[tuple[np.ndarray, list[RawRow]]]:
        """The rows of some indices in groups, with their places in the scores."""
        wanted = dict(zip(index.tolist(), places.tolist(), strict=True))
        found = (raw for raw in self.rows() if raw.index in wanted)
        while group := list(islice(found, size)):
            yield np.array([wanted[raw.index] for raw in group]), group


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


def check_columns(dataset: Dataset, traits: Sequence[str]) -> None:
    """Refuse, before any scoring, data that has a column of a name that would be added."""
    first = next(dataset.rows()).columns
    for trait in traits:
        if f"{trait}_projection" in first or f"{trait}_flag" in first:
            raise DataError(
                f"{dataset.source} has a column '{trait}_projection' or '{trait}_flag' already: "
                "rename it, or screen the original file"
            )


def common_kind(datasets: Sequence[Dataset], columns: ColumnMap) -> Kind:
    """The kind of all datasets. Raises UsageError where some hold pairs and others do not."""
    kinds: dict[str, Kind] = {d.name: kind_of(d.rows(), columns) for d in datasets}
    if len(set(kinds.values())) > 1:
        pairs = next(name for name, kind in kinds.items() if kind == "pair")
        raise UsageError(f"{pairs} holds preference pairs and other data do not: screen it alone")
    return kinds[datasets[0].name]
