"""Scores as tables in parts, one for each window of rows, and read back as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import group_values, matrix, parts
from personavec.errors import DataError
from personavec.screen.score import (
    TURN_PROMPTS,
    Columns,
    Prepared,
    TurnPrompt,
    parse_turn_prompts,
    turn_prompts_text,
)

#: What a row's value is: the raw projection, the difference from its prompt's last token or from
#: its natural response, or from a pair's rejected response.
Side = Literal["projection", "minus_prompt", "minus_natural", "pair"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scored rows of some datasets, in order; rejects are only counted."""

    dataset: npt.NDArray[np.int32]
    """Which of the run's datasets a row is of."""
    index: npt.NDArray[np.int64]
    """The row's place in its dataset."""
    prompt: npt.NDArray[np.int64]
    n_tokens: npt.NDArray[np.int64]
    projection: npt.NDArray[np.float32]
    """[row, direction]"""
    value: npt.NDArray[np.float32]
    """[row, direction]: the projection difference, or what stands for it."""
    rejected_projection: npt.NDArray[np.float32]
    judged: npt.NDArray[np.float32]
    groups: dict[str, npt.NDArray[np.object_]]
    rejects: tuple[int, ...]
    """Bad rows of every dataset."""
    content: tuple[np.ndarray, ...]
    """The hash of every row of every dataset, bad ones too."""

    def __len__(self) -> int:
        return len(self.index)

    def of(self, dataset: int) -> npt.NDArray[np.intp]:
        """The places of one dataset's rows."""
        return np.flatnonzero(self.dataset == dataset)


def part_table(columns: Columns, prepared: Prepared, *, with_prompts: bool) -> pa.Table:
    """A window's scores as the table of its part, with its prompts if a second stage needs them."""
    table = parts.to_table(columns)
    if not with_prompts:
        return table
    texts = [turn_prompts_text(row) for row in prepared.rows]
    return table.append_column(TURN_PROMPTS, parts.strings(texts))


def load_scores(folders: Sequence[Path], side: Side, by: Sequence[str]) -> Scores:
    """Everything but the ids, which stay on disk; about 4 bytes a row and direction.

    Raises DataError unless the parts hold every row of their dataset.
    """
    columns: dict[str, list[np.ndarray]] = {}
    grouped: dict[str, list[np.ndarray]] = {name: [] for name in by}
    rejects, content = [], []
    for number, folder in enumerate(folders):
        bad, seen, hashes = 0, 0, []
        for path in parts.written(folder):
            table = pq.read_table(path)
            _check_follows(path, table.column("index").to_numpy(), seen)
            seen += len(table)
            hashes.append(np.array(table.column("hash").to_pylist(), dtype="S32"))
            good = np.array([reason is None for reason in table.column("reason").to_pylist()], bool)
            bad += int((~good).sum())
            for name, values in _columns_of(table, number, side).items():
                columns.setdefault(name, []).append(values[good])
            for name in by:
                values = np.array(group_values(table, name), dtype=object)
                grouped[name].append(values[good])
        rejects.append(bad)
        content.append(np.concatenate(hashes))
    return Scores(
        **{name: np.concatenate(values) for name, values in columns.items()},
        groups={name: np.concatenate(values) for name, values in grouped.items()},
        rejects=tuple(rejects),
        content=tuple(content),
    )


def _check_follows(path: Path, index: np.ndarray, start: int) -> None:
    if not np.array_equal(index, np.arange(start, start + len(index))):
        raise DataError(
            f"{path} is not the part that follows the one before it; "
            "run the same command again to score what is missing"
        )


def _columns_of(table: pa.Table, dataset: int, side: Side) -> dict[str, np.ndarray]:
    """A part's columns by the fields of `Scores`."""
    projection, rejected = matrix(table, "projection"), matrix(table, "rejected")
    value = {
        "projection": projection,
        "minus_prompt": matrix(table, "minus_prompt"),
        "minus_natural": matrix(table, "minus_natural"),
        "pair": projection - rejected,
    }[side]
    return {
        "dataset": np.full(len(table), dataset, np.int32),
        "index": table.column("index").to_numpy(),
        "prompt": table.column("prompt").to_numpy(),
        "n_tokens": table.column("n_tokens").to_numpy().astype(np.int64),
        "projection": projection,
        "value": value,
        "rejected_projection": rejected,
        "judged": matrix(table, "judged"),
    }


def read_turn_prompts(folder: Path, index: np.ndarray) -> Iterator[tuple[int, list[TurnPrompt]]]:
    """The prompts of some rows of a dataset, by the rows' indices, as they were scored."""
    wanted = set(index.tolist())
    for path in parts.written(folder):
        table = pq.read_table(path, columns=["index", TURN_PROMPTS])
        for own, text in zip(
            *(table.column(n).to_pylist() for n in table.column_names), strict=True
        ):
            if own in wanted:
                yield own, parse_turn_prompts(text)
