"""Run a screen on a Ray cluster: its workers read, score and write windows of rows.

This is a Ray Data pipeline. Tasks read stretches of the input and stream their windows. Actors,
each with its own model, score the windows with the same code as a single process, and write the
same parts under the same names. The object store holds a few windows at a time, and only counts
return to the driver. A part is written atomically and named by its window's number, so a window
that is scored again, after a node or the driver died, overwrites its own part.

All nodes must see the data, the output folder and a local model under the same paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from personavec.data import STRETCH, RawRow, Stretch, parts, stretches
from personavec.screen import (
    Added,
    Files,
    Types,
    Unfit,
    changed,
    column_types,
    united_types,
    write_outputs,
)
from personavec.screen.cluster.connecting import connected, devices, own_errors
from personavec.screen.cluster.windows import Windows
from personavec.screen.cluster.workers import Generator, Scorer, WorkerSetup, worker_setup
from personavec.wording import plural

__all__ = [
    "WorkerSetup",
    "connected",
    "content",
    "devices",
    "fill_naturals",
    "pipeline",
    "score_stretches",
    "worker_setup",
    "write_parts",
]

#: Bytes of the object store that reading may fill, per device.
STORE_PER_DEVICE = 128 << 20
#: Most rows of the input in one output file.
ROWS_PER_FILE = 1 << 16
#: The share of a CPU core that reading takes, when the same core reads and scores.
_READER = 0.05


@dataclass(frozen=True)
class Scored:
    """A worker's report on one window."""

    rows: int
    rejects: int
    tokens: int
    """Tokens that went through the model."""


def score_stretches(
    work: WorkerSetup, todo: Sequence[Stretch], folder: Path, name: str
) -> Iterator[Scored]:
    """Score the windows of stretches into `folder`; yields a report as each finishes, unordered.

    `name` is the dataset's name in the records of its rejects. Call it while `connected`. Raises
    the first error of any worker.
    """
    for report in pipeline(todo, Scorer, (work, folder.resolve(), name)):
        yield Scored(report["rows"], report["rejects"], report["tokens"])


def content(source: str | Path, *, split: str | None, folder: Path) -> list[str]:
    """The hashes of a dataset's rows, read on the cluster; empty if `folder` has no scores."""
    if not parts.written(folder):
        return []
    todo, _ = stretches(source, split=split, size=parts.WINDOW)
    found = dict(_each(_hashes, list(enumerate(todo))))
    return [own for number in sorted(found) for own in found[number]]


def _hashes(number: int, stretch: Stretch) -> tuple[int, list[str]]:
    return number, [raw.hash for raw in _rows(stretch)]


def fill_naturals(
    work: WorkerSetup,
    source: str | Path,
    rows: npt.NDArray[np.int64],
    *,
    split: str | None = None,
    size: int = parts.WINDOW,
) -> Iterator[int]:
    """Generate and store the natural responses of some rows; yields counts of finished rows.

    Afterwards they are in the shared folder of natural responses.
    """
    todo, _ = stretches(source, split=split, size=size)
    windows = set((rows // size).tolist())
    left = [replace(s, numbers=s.numbers & windows) for s in todo if s.numbers & windows]
    for report in pipeline(left, Generator, (work, frozenset(rows.tolist()))):
        yield report["rows"]


def write_parts(
    added: Added, files: Files, *, split: str | None = None
) -> Iterator[tuple[int, Counter[str]]]:
    """Write a dataset's files as parts, in parallel on all nodes.

    Yields the number of rows and the notes of each part. Columns have the same types in all parts.
    Raises DataError as `write_outputs` does.
    """
    size = max(1, ROWS_PER_FILE // STRETCH)
    todo, total = stretches(files.source, split=split, size=size)
    if total != len(added.content):
        raise changed(files.source, f"it has {plural(total, 'row')}, not {len(added.content)}")
    files = replace(files, folder=files.folder.resolve())
    types: Types = {}
    if files.format == "parquet":
        found = dict(_each(_types_of, list(enumerate(todo))))
        for number in sorted(found):  # so that the order of columns is deterministic
            types = united_types(types, found[number])
    written: set[int] = set()
    while True:
        arguments = []
        for number, stretch in enumerate(todo):
            start, stop = min(stretch.numbers) * size, (max(stretch.numbers) + 1) * size
            arguments.append((stretch, added.slice(start, stop), files, types, number))
        try:
            for number, n, notes in _each(_write_part, arguments):
                if number not in written:
                    written.add(number)
                    yield n, notes
            return
        except Unfit as unfit:
            # Write all parts again with these columns as texts.
            types = types | dict.fromkeys(unfit.columns)


def _types_of(number: int, stretch: Stretch) -> tuple[int, Types]:
    return number, column_types(_rows(stretch), stretch.source)


def _write_part(
    stretch: Stretch, added: Added, files: Files, types: Types, number: int
) -> tuple[int, int, Counter[str]]:
    notes = write_outputs(lambda: _rows(stretch), added, files, types=types, part=number)
    return number, len(added.index), notes


def _rows(stretch: Stretch) -> Iterator[RawRow]:
    return (raw for _, window in stretch.windows() for raw in window)


def _each(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call a function with each of the arguments in tasks on the cluster; results are unordered."""
    remote = ray.remote(num_cpus=1)(work)
    waiting: list[Any] = []
    with own_errors():
        for own in arguments:
            if len(waiting) >= 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                [done], waiting = ray.wait(waiting)
                yield ray.get(done)
            waiting.append(remote.remote(*own))
        while waiting:
            [done], waiting = ray.wait(waiting)
            yield ray.get(done)


def pipeline(
    todo: Sequence[Stretch], actor: type, arguments: tuple[Any, ...]
) -> Iterator[dict[str, int]]:
    """Process all windows of the stretches with actors; yields a report as each finishes."""
    if not todo:
        return
    n_devices, accelerated = devices()
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Smaller than any window, so that each window is one block and the load is balanced.
    context.target_max_block_size = 1
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=n_devices * STORE_PER_DEVICE
    )
    n_windows = sum(len(stretch.numbers) for stretch in todo)
    with DataContext.current(context):
        read = ray.data.read_datasource(
            Windows(todo),
            override_num_blocks=len(todo),
            num_cpus=1 if accelerated else _READER,
            concurrency=min(n_devices, len(todo)),
        )
        reports = read.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            batch_format="pyarrow",
            num_gpus=1 if accelerated else None,
            num_cpus=None if accelerated else 1 - _READER,
            compute=ActorPoolStrategy(
                min_size=1,
                initial_size=min(n_devices, n_windows),
                max_size=n_windows,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
        )
        with own_errors():
            for batch in reports.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from pa.table(batch).to_pylist()
