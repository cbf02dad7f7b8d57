"""A Ray Data source of a dataset's windows of rows.

It does not import torch, so that reading processes start fast and use little memory.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from personavec.data import Stretch


class Windows(Datasource):
    """A Ray Data source of stretches: each task reads one stretch and streams its windows."""

    def __init__(self, todo: Sequence[Stretch]):
        super().__init__()
        self._todo = todo

    def get_name(self) -> str:
        return "Windows"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        about = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(_read, stretch), about) for stretch in self._todo]


def _read(stretch: Stretch) -> Iterator[pa.Table]:
    # Rows can hold any Python values, so they are pickled, as Ray pickles its own objects. Only
    # processes of this run read them.
    for number, raws in stretch.windows():
        yield pa.table({"number": [number], "rows": pa.array([pickle.dumps(raws)], pa.binary())})
