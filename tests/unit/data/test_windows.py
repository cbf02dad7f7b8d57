"""Stretches of windows that are read apart: together they are the dataset."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from personavec.data import STRETCH, RawRow, marks, raw_rows, rows_from, stretches

SIZE = 3


def _jsonl(folder: Path) -> None:
    """Files with blank, broken and non-UTF-8 lines, a byte order mark, and no rows at all."""
    rng = random.Random(0)
    choices = [b"\n", b"{broken\n", b"\xff\n", '{"text": "ü"}\n'.encode(), b"[1]\n"]
    for name in "abc":
        lines = [
            json.dumps({"n": i}).encode() + b"\n" if rng.random() < 0.7 else rng.choice(choices)
            for i in range(40)
        ]
        (folder / f"{name}.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    (folder / "empty.jsonl").write_bytes(b"\n\n")


def _parquet(folder: Path) -> None:
    """Files with row groups of several lengths, and one without rows."""
    for name, n, group in (("a", 50, 7), ("b", 300, 300), ("c", 0, 1), ("d", 31, 1)):
        table = pa.table({"n": pa.array(range(n), pa.int64())})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=group)


def _csv(folder: Path) -> None:
    (folder / "a.csv").write_text("n\n" + "".join(f"{i}\n" for i in range(100)))


@pytest.mark.parametrize("write", [_jsonl, _parquet, _csv])
def test_stretches_together_are_the_dataset(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path)
    rows = list(raw_rows(tmp_path))
    found, total = stretches(tmp_path, split=None, size=SIZE)
    assert total == len(rows)
    read: list[RawRow] = []
    for stretch in found:
        for number, window in stretch.windows():
            assert number * SIZE == len(read)
            read += window
    assert read == rows
    assert len(found) == (1 if write is _csv else -(-total // (SIZE * STRETCH)))


@given(done=st.sets(st.integers(0, 40)))
def test_what_is_done_is_not_read_again(done: set[int], tmp_path_factory: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "stretches"  # type: ignore[attr-defined]
    if not folder.exists():
        folder.mkdir()
        _jsonl(folder)
    found, total = stretches(folder, split=None, size=SIZE, done=done)
    numbers = [number for stretch in found for number, _ in stretch.windows()]
    assert sorted(numbers) == sorted(set(range(-(-total // SIZE))) - done)
    assert len(numbers) == len(set(numbers))


def test_every_mark_is_a_place_to_read_on_from(tmp_path: Path) -> None:
    _jsonl(tmp_path)
    rows = list(raw_rows(tmp_path))
    found = marks(tmp_path, 1)
    assert found is not None
    assert [next(rows_from(tmp_path, mark)) for mark in found[0]] == rows
    assert list(rows_from(tmp_path, found[0][17])) == rows[17:]
