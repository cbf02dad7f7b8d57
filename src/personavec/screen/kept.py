"""Which scores of an earlier run still hold: rows are identified by content, not by place.

A part stays where it is if its window still holds the rows that it was made of. Other parts are
set aside, and rows that are still in the dataset take their scores from them.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from personavec.data import ColumnMap, RawRow, parts, row_id
from personavec.errors import DataError, SettingsMismatchError
from personavec.runs import atomic_write, read_as
from personavec.screen.score import TURN_PROMPTS, Columns

_ASIDE = "before"
_KEPT = "kept.json"
_TYPES = {"index": pa.int64(), "hash": pa.string(), "id": pa.string(), "reason": pa.string()}
_COLUMNS = {f.name: _TYPES.get(f.name) for f in fields(Columns) if f.name != "groups"}


@dataclass(frozen=True)
class Settled:
    """Which of a dataset's windows are scored already."""

    done: frozenset[int]
    """Windows that have their part."""
    rejects: int
    """Bad rows in them."""
    damaged: int
    """Parts that could not be read, or whose rejects are lost."""
    missing: int
    """Windows without a part before the last one that has one. A kill alone leaves none."""


def settle(
    folder: Path, content: Sequence[str], name: str, *, with_prompts: bool = False
) -> Settled:
    """Keep the parts that fit a dataset whose rows have these hashes; set the others aside.

    `with_prompts`: a part without its rows' prompts is made again. Raises SettingsMismatchError if
    there are scores, but none of a row of the dataset.
    """
    found = _sorted_parts(folder, content, with_prompts=with_prompts)
    if found.changed or ((folder / _KEPT).exists() and (folder / _ASIDE).exists()):
        moved = [table for _, table in found.changed]
        _note_change(folder, content, list(found.done), moved, name)
    for path in (*(path for path, _ in found.changed), *found.incomplete):
        (folder / _ASIDE).mkdir(exist_ok=True)
        path.rename(folder / _ASIDE / f"{secrets.token_hex(8)}.parquet")
    for path in found.damaged:
        path.unlink()
    for path in folder.glob("*.rejects.jsonl"):
        if int(path.name.partition(".")[0]) not in found.done:
            path.unlink()
    aside = (folder / _ASIDE).exists()
    last = max(found.done, default=0)
    missing = 0 if aside else sum(number not in found.done for number in range(last))
    return Settled(
        frozenset(found.done),
        sum(found.done.values()),
        len(found.damaged) + len(found.incomplete),
        max(0, missing - len(found.damaged)),
    )


@dataclass(frozen=True)
class _Parts:
    """A dataset's parts, by what becomes of them."""

    done: dict[int, int]
    """Windows whose part holds, with their number of bad rows."""
    changed: list[tuple[Path, pa.Table]]
    """Parts of other rows than their windows hold now."""
    incomplete: list[Path]
    """Parts whose rejects are lost."""
    damaged: list[Path]


def _sorted_parts(folder: Path, content: Sequence[str], *, with_prompts: bool) -> _Parts:
    found = _Parts({}, [], [], [])
    for path in parts.written(folder):
        number = int(path.stem)
        table = parts.read_part(path, _needed(with_prompts=with_prompts))
        if table is None:
            found.damaged.append(path)
        elif not _fits(table, content, number * parts.WINDOW, parts.WINDOW):
            found.changed.append((path, table))
        elif parts.count_rejects(folder, number) == _bad(table):
            found.done[number] = _bad(table)
        else:
            found.incomplete.append(path)
    return found


def _needed(*, with_prompts: bool) -> dict[str, pa.DataType | None]:
    return _COLUMNS | ({TURN_PROMPTS: pa.string()} if with_prompts else {})


def _fits(table: pa.Table, content: Sequence[str], start: int, size: int) -> bool:
    """Whether these are the rows of the window, in its order."""
    own = content[start : start + size]
    index = table.column("index").to_numpy()
    return table.column("hash").to_pylist() == list(own) and np.array_equal(
        index, np.arange(start, start + len(own))
    )


def _bad(table: pa.Table) -> int:
    return len(table) - table.column("reason").null_count


def _note_change(
    folder: Path, content: Sequence[str], done: list[int], moved: list[pa.Table], name: str
) -> None:
    """Write down how many rows keep their scores."""
    known = {row for table in [*moved, *_aside(folder)] for row in table.column("hash").to_pylist()}
    for number in done:
        known.update(content[number * parts.WINDOW : (number + 1) * parts.WINDOW])
    kept = sum(row in known for row in content)
    if not kept:
        raise SettingsMismatchError(
            f"{folder.parent.parent} holds a run with other inputs: none of the rows of {name} is "
            "among those that were scored there; use another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / _KEPT, json.dumps({"kept": kept, "rows": len(content)}))


def kept_scores(folder: Path) -> tuple[int, int] | None:
    """How many rows kept their scores, of how many; None if the data never changed."""
    path = folder / _KEPT
    if not path.exists():
        return None
    record = read_as(path, dict[str, int], "delete it")
    if record.keys() != {"kept", "rows"}:
        raise DataError(f"{path} is damaged (other entries); delete it")
    return record["kept"], record["rows"]


def _aside(folder: Path, *, with_prompts: bool = False) -> list[pa.Table]:
    paths = sorted((folder / _ASIDE).glob("*.parquet"))
    tables = (parts.read_part(path, _needed(with_prompts=with_prompts)) for path in paths)
    return [table for table in tables if table is not None]


class Known:
    """Scores of rows that stood elsewhere before the data changed, by the rows' content."""

    def __init__(self, folder: Path, *, with_prompts: bool = False):
        self._folder = folder
        tables = _aside(folder, with_prompts=with_prompts)
        self._table = pa.concat_tables(tables) if tables else None
        hashes = self._table.column("hash").to_pylist() if self._table is not None else []
        self._places = {own: place for place, own in enumerate(hashes)}

    def __contains__(self, raw: RawRow) -> bool:
        return bool(self._places) and raw.hash in self._places

    def complete(
        self, raws: Sequence[RawRow], fresh: pa.Table | None, columns: ColumnMap
    ) -> pa.Table:
        """A window's table: what was scored afresh, and the scores of the rows that are known."""
        taken = [raw for raw in raws if raw in self]
        if not taken or self._table is None:
            assert fresh is not None
            return fresh
        old = self._table.take([self._places[raw.hash] for raw in taken])
        now = {
            "index": pa.array([raw.index for raw in taken], pa.int64()),
            "id": parts.strings([row_id(raw, columns) for raw in taken]),
        }
        for name, values in now.items():
            old = old.set_column(old.column_names.index(name), name, values)
        whole = old if fresh is None else pa.concat_tables([old, fresh.select(old.column_names)])
        return whole.take(np.argsort(whole.column("index").to_numpy(), kind="stable"))

    def forget(self) -> None:
        """Delete the parts that were set aside, once every row has a part that fits."""
        shutil.rmtree(self._folder / _ASIDE, ignore_errors=True)
