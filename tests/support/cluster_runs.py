"""A Ray cluster's work done in this process, and rows that it is done on."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from personavec.data import RawRow, Stretch, raw_rows


def write_rows(path: Path, rows: int, /, **more: Callable[[int], Any]) -> list[RawRow]:
    """Rows with an id and further columns, each made of the row's place; as they are read."""
    lines = [
        {"id": f"r{i}", "prompt": f"Say {i % 4}.", "completion": "so " * (1 + i % 5)}
        | {name: make(i) for name, make in more.items()}
        for i in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(raw_rows(path))


def batches(todo: Sequence[Stretch]) -> Iterator[pa.Table]:
    """The windows of stretches, as the cluster's readers hand them to its actors."""
    from personavec.screen.cluster.windows import Windows

    for task in Windows(todo).get_read_tasks(1):
        yield from task()


def in_this_process(
    todo: Sequence[Stretch], actor: type, arguments: tuple[Any, ...]
) -> Iterator[dict[str, int]]:
    """What `on_ray.pipeline` does, without a cluster: one actor, and the windows in order."""
    if todo:
        work = actor(*arguments)
        for batch in batches(todo):
            yield from work(batch).to_pylist()


def last_first(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """What `on_ray._each` does, without a cluster: the last task ends first."""
    for own in reversed(arguments):
        yield work(*own)
