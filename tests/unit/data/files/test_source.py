"""Rows of every kind of file, of folders and of datasets."""

import csv
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_files import LINE, ROW, columns_of
from hypothesis import HealthCheck, given, settings, strategies as st

from personavec.data import DataRow, fingerprint, marks, parse_row, raw_rows, read_rows
from personavec.errors import DataError, UsageError

ROWS = [
    {"id": f"r{i}", "prompt": f"question {i}?", "completion": text}
    for i, text in enumerate(("None", "N/A", "null", "plain", 'über\n"quoted"', "NaN"))
]


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def _csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "jsonl": _jsonl,
    "json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "csv": _csv,
    "parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    WRITERS[suffix](path)
    found = list(raw_rows(path))
    assert [row.columns for row in found] == ROWS
    assert [row.index for row in found] == list(range(len(ROWS)))
    assert [row for _, row in read_rows(path)] == ROWS
    parsed = [parse_row(row) for row in found]
    assert [row.messages[-1]["content"] for row in parsed if isinstance(row, DataRow)] == [
        row["completion"] for row in ROWS
    ]
    assert [row.id for row in parsed] == [row["id"] for row in ROWS]


def test_a_folder_of_parts_is_one_dataset_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    _csv(tmp_path / "b" / "part-2.csv")
    _jsonl(tmp_path / "a-part-1.jsonl")
    (tmp_path / "_notes.json").write_text("not data")
    found = list(raw_rows(tmp_path))
    assert [row.columns for row in found] == ROWS + ROWS
    assert [row.index for row in found] == list(range(2 * len(ROWS)))
    assert found[-1].source == "b/part-2.csv"


def test_a_saved_dataset_and_its_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "plain")
    assert [row.columns for row in raw_rows(tmp_path / "plain")] == ROWS
    splits = datasets.DatasetDict({"train": made, "test": made.select([1])})
    splits.save_to_disk(tmp_path / "split")
    assert [row.columns for row in raw_rows(tmp_path / "split", split="test")] == [ROWS[1]]
    with pytest.raises(UsageError, match=r"several splits.*train"):
        list(raw_rows(tmp_path / "split"))


def test_bad_lines_are_kept_with_their_number_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(b"\n".join([good, b"{bad", b"", b'{"x": "\xff"}', b"[1]", good]))
    found = list(raw_rows(path))
    assert [(row.index, row.number) for row in found] == [(0, 1), (1, 2), (2, 4), (3, 5), (4, 6)]
    reasons = [row.error for row in found]
    assert reasons[0] is None
    assert reasons[4] is None
    assert "not JSON" in str(reasons[1])
    assert found[1].text == "{bad"
    assert "not UTF-8: byte 0xff" in str(reasons[2])
    assert "not a JSON object" in str(reasons[3])


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'prompt,completion\na,b\na,b,c\na,\xff\n"long",' + b"x" * 200_000 + b"\n")
    found = list(raw_rows(path))
    assert [row.error is None for row in found] == [True, False, False, True]
    assert "more fields" in str(found[1].error)
    assert "UTF-8" in str(found[2].error)


def test_a_json_list_is_streamed_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    text = "x" * 1000
    path.write_text(json.dumps([{"prompt": "é" * 7, "completion": text}] * 20_000))
    size = path.stat().st_size
    tracemalloc.start()
    assert sum(row.columns["completion"] == text for row in raw_rows(path)) == 20_000
    assert tracemalloc.get_traced_memory()[1] < size / 2
    tracemalloc.stop()
    path.write_text('[{"a": 1}, {"a": }]')
    with pytest.raises(DataError, match="cannot be read"):
        list(raw_rows(path))
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="list of objects"):
        list(raw_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("empty.jsonl", "", "holds no rows"),
        ("data.txt", "x", r"use a \.csv"),
        ("data.parquet", "x", "as Parquet"),
    ],
)
def test_unreadable_sources(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(raw_rows(tmp_path / name))


def test_a_fingerprint_changes_with_the_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    _jsonl(path)
    before = fingerprint(path)
    path.touch()
    assert fingerprint(path) == before
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    assert fingerprint(path) != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("one.json", json.dumps({"a": {"b": 1}}), "is one JSON object"),
        ("row.json", json.dumps({"messages": [ROW]}, indent=1), "is one JSON object"),
        ("two.json", json.dumps({"train": [ROW], "test": [ROW]}), "'train' and 'test'"),
        ("two.json", json.dumps({"test": [ROW], "train": [ROW]}), "'train' and 'test'"),
        ("none.json", "", "list of objects"),
        ("text.json", "hello", "list of objects"),
        ("cut.json", f"[{LINE}, ", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(LINE.encode() * 99, mtime=0)[:-9], "cannot be unpacked"),
        ("no.csv.gz", "prompt,completion\n", "cannot be unpacked"),
        ("broken.parquet", "PAR1", "as Parquet"),
        ("packed.jsonl.zst", "x", r"use a \.csv"),
    ],
)
def test_what_holds_no_rows_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        list(raw_rows(path))


def test_a_folder_is_its_data_files(tmp_path: Path) -> None:
    """As the hub's, with what tells of the data, and what hides."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "data" / "train-0.parquet")
    for name in (
        *("README.md", "dataset_infos.json", "dataset_info.json", "metadata.json"),
        *("data/train.metadata.json", ".cache/a.jsonl", "_old/a.jsonl", "data/.a.jsonl"),
        *(".git/x.json", "data/_a.json"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"features": {"prompt": {}}}\n')
    assert columns_of(tmp_path) == [ROW]
    (tmp_path / "more.jsonl.zst").write_bytes(b"x")
    with pytest.raises(DataError, match=r"more\.jsonl\.zst is packed"):
        list(raw_rows(tmp_path))


@pytest.mark.parametrize("end", ["\n", "]"])
@given(data=st.binary(max_size=60))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_rows_or_a_reason(tmp_path: Path, data: bytes, end: str) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"):
        path = tmp_path / name
        path.write_bytes((b"[" if end == "]" else b"") + data + end.encode())
        try:
            list(raw_rows(path))
            marks(path, 2)
        except DataError:
            pass
        finally:
            path.unlink()
