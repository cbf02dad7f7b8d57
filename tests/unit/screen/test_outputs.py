"""A screen's files hold every row as it was, whatever its values are."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from foreign_files import BIG, DEEP, ROW, any_texts, columns_of, foreign_table, written
from hypothesis import HealthCheck, given, settings, strategies as st

from personavec import LoadedModel, PersonaVector
from personavec.data import raw_rows, read_rows
from personavec.plain import json_text, parse_data, plain
from personavec.progress import Progress
from personavec.screen import pipeline as screen
from personavec.screen.outputs import Format


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_foreign_types_are_read_and_written(tmp_path: Path, format: Format) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(foreign_table(), source)
    rows = list(raw_rows(source))
    assert all(row.error is None for row in rows)
    path = written(tmp_path, source, rows, format)
    back = [row.columns for row in raw_rows(path)]
    for row, found in zip(rows, back, strict=True):
        assert found["bytes"] == (
            plain(row.columns["bytes"]) if format == "jsonl" else row.columns["bytes"]
        )
        assert {name: plain(found[name]) for name in ("decimal", "date", "zoned", "category")} == {
            name: plain(row.columns[name]) for name in ("decimal", "date", "zoned", "category")
        }
        assert found["completion"] == row.columns["completion"]


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**301)
    | st.floats()
    | any_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_texts, inner, max_size=4),
    max_leaves=12,
)


_rows = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c", "\ud83d", ""]), _values, min_size=1),
    min_size=1,
    max_size=6,
)


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows, indent=1))
    return path


def _holder(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps({"by": "x", "data": rows}))
    return path


@given(write=st.sampled_from([_jsonl, _json, _holder]), rows=_rows)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_any_values_come_back_as_they_were(
    tmp_path: Path, write: Callable[..., Path], rows: list[dict[str, Any]]
) -> None:
    """JSONL but for NaN, which is null then; Parquet has every row, and no error."""
    source = write(tmp_path / "data", rows)
    read = list(raw_rows(source))
    assert json_text([row.columns for row in read]) == json_text(rows)
    assert json_text([row for _, row in read_rows(source)]) == json_text(rows)
    found = columns_of(written(tmp_path, source, read, "jsonl"))
    assert found == [_joined(plain(row)) for row in rows]
    assert len(columns_of(written(tmp_path, source, read, "parquet"))) == len(rows)


def _joined(value: Any) -> Any:
    """Halves of a surrogate pair that stand together are one character in JSON."""
    return parse_data(json_text(value))


def test_a_screen_of_hostile_rows(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    """Each bad value is in another column, in `id`, in a group or in a rejected row."""
    lines = [
        {**ROW, "id": "cut \ud83d", "by": "\ud83d", "n": float("nan")},
        {"prompt": "Hi", "completion": "", "n": float("inf"), "\ud83d": "\ud83d"},
        {**ROW, "prompt": "Ho", "by": float("nan"), "title": "cut \ud83d"},
        {**ROW, "prompt": "cut \ud83d"},
        {"prompt": ["\ud83d"], "completion": {}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    text += f'{{"prompt": "Hi", "completion": "Ha", "n": 1e400, "m": {BIG}}}\n{{"m": {DEEP}}}\n'
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    for format in ("jsonl", "parquet"):
        out = tmp_path / format
        config = screen.ScreenConfig(by=("by",), format=format, random_directions=1)
        vector = random_vector(llama, 1, "one")
        results = screen.run(llama, [vector], [data], out, config, progress=Progress(quiet=True))
        assert (results.rows, results.rejected) == (3, 4)
        for path in (out / "rejects.jsonl", out / f"rows.{format}"):
            assert all(row.error is None for row in raw_rows(path))
        for path in out.rglob("*.json*"):
            assert "NaN" not in path.read_text("utf-8")
        told = any("surrogate" in note for note in results.notes)
        assert told == (format == "parquet")


def test_a_saved_dataset_is_screened_to_parquet(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    from datasets import Dataset

    rows = [{**ROW, "n": i, "at": datetime.datetime(2024, 2, 29, i)} for i in range(3)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    config = screen.ScreenConfig(random_directions=1)
    vector, out = random_vector(llama, 1, "one"), tmp_path / "out"
    screen.run(llama, [vector], [tmp_path / "saved"], out, config, progress=Progress(quiet=True))
    found = columns_of(out / "rows.parquet")
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
