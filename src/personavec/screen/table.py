"""The scores of all datasets of a run as arrays, read back from their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from personavec.data import group_values, matrix, parts
from personavec.errors import DataError
from personavec.screen.verdicts import Side


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
            index = table.column("index").to_numpy()
            if not np.array_equal(index, np.arange(seen, seen + len(index))):
                raise DataError(
                    f"{path} is not the part that follows the one before it; "
                    "run the same command again to score what is missing"
                )
            seen += len(index)
            hashes.append(np.array(table.column("hash").to_pylist(), dtype="S32"))
            good = np.array([reason is None for reason in table.column("reason").to_pylist()], bool)
            bad += int((~good).sum())
            projection, rejected = matrix(table, "projection"), matrix(table, "rejected")
            found = {
                "dataset": np.full(len(good), number, np.int32),
                "index": index,
                "prompt": table.column("prompt").to_numpy(),
                "n_tokens": table.column("n_tokens").to_numpy().astype(np.int64),
                "projection": projection,
                "value": {
                    "projection": projection,
                    "minus_prompt": matrix(table, "minus_prompt"),
                    "minus_natural": matrix(table, "minus_natural"),
                    "pair": projection - rejected,
                }[side],
                "rejected_projection": rejected,
                "judged": matrix(table, "judged"),
            }
            for name, values in found.items():
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
