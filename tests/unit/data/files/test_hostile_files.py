"""Files as people have them: a row or its reason, whatever they hold, and files that read back."""

import datetime
import decimal
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from personavec import LoadedModel, PersonaVector
from personavec.data import RawRow, marks, parts, raw_rows, read_rows, source_name
from personavec.errors import DataError
from personavec.judges import ContrastJudge, score_file
from personavec.plain import json_text, parse_data, plain
from personavec.progress import Progress
from personavec.screen import Added, Files, pipeline as screen, write_outputs
from personavec.screen.outputs import Format
from personavec.traits import load_trait

ROW = {"prompt": "Hi", "completion": "Hello"}
LINE = json.dumps(ROW)
BIG = "9" * 5000
DEEP = "[" * 100_000 + "]" * 100_000


def _columns(path: Path) -> list[Any]:
    return [row.columns if row.error is None else row.error for row in raw_rows(path)]


LAYOUTS = {
    "lines.json": f"{LINE}\n{LINE}\n",
    "lines with BOM.json": f"\ufeff{LINE}\n\n{LINE}",
    "list with BOM.json": f"\ufeff[{LINE}, {LINE}]",
    "list.jsonl": f"[{LINE},\n{LINE}]",
    "indented.jsonl": json.dumps([ROW, ROW], indent=2),
    "object.json": json.dumps({"version": "1", "data": [ROW, ROW], "by": {"name": "x"}}),
    "indented object.json": json.dumps({"rows": [ROW, ROW]}, indent=1),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_json_is_read_as_what_it_holds(tmp_path: Path, name: str, packed: bool) -> None:
    content = LAYOUTS[name].encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert _columns(path) == [ROW, ROW]
    assert source_name(path) == name.partition(".")[0]
    found = marks(path, 1)
    assert found is None or (found[1] == 2 and not packed)
    assert (found is not None) == (name.startswith("lines") and not packed)


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


def test_values_that_python_cannot_hold_cost_their_row_at_most(tmp_path: Path) -> None:
    lines = [LINE, f'{{"n": {BIG}}}', f'{{"n": -{BIG}}}', f'{{"d": {DEEP}}}', '{"b": "]["}', LINE]
    many = tmp_path / "many.jsonl"
    many.write_text("\n".join(lines))
    listed = tmp_path / "list.json"
    listed.write_text(f"[{', '.join(lines)}]")
    for path in (many, listed):
        found = _columns(path)
        assert found[:3] == [ROW, {"n": BIG}, {"n": f"-{BIG}"}]
        assert "nested more than" in found[3]
        assert found[4:] == [{"b": "]["}, ROW]


SWALLOWED = {
    "to the end": ('a,"b\nc,d\ne,f\n', 2),
    "at the end": ('a,b\nc,"d\n', 3),
    "without a line end": ('a,b\nc,"d', 3),
    "to the next quote": ('a,b\nc,"d\ne,f\n"g, h",i\n', 3),
    "to a quote in a text": ('a,"b\nc,so "called" d\n', 2),
    "after one that is closed": ('"two\nlines","b\nc,d\n', 3),
    "in the header": ("", 1),
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_an_open_quote_in_csv_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, line = SWALLOWED[case]
    path = tmp_path / "a.csv"
    path.write_text('prompt,"completion\na,b\n' if line == 1 else f"prompt,completion\n{content}")
    with pytest.raises(DataError, match=f"line {line}: the quote that is opened there"):
        list(raw_rows(path))


def test_csv_with_quotes_that_are_closed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'prompt,completion\n"two\n\nlines, and ""more""",b\n'
        '5" disk,"abc"def\n\n  \n"x\ny"\nlast,"one"'
    )
    assert _columns(path) == [
        {"prompt": 'two\n\nlines, and "more"', "completion": "b"},
        {"prompt": '5" disk', "completion": "abcdef"},
        {"prompt": "  ", "completion": None},
        "over several lines, and fewer fields than the header has",
        {"prompt": "last", "completion": "one"},
    ]


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
    assert _columns(tmp_path) == [ROW]
    (tmp_path / "more.jsonl.zst").write_bytes(b"x")
    with pytest.raises(DataError, match=r"more\.jsonl\.zst is packed"):
        list(raw_rows(tmp_path))


def _foreign() -> pa.Table:
    """Columns of types that JSON lacks, or Python."""
    n = 2
    far = pa.array([10**14, None], pa.timestamp("s"))
    return pa.table(
        {
            "question": ["Hi", "Ho"],
            "answer": ["Hello", "Hey"],
            "prompt": ["Hi", "Ho"],
            "completion": ["Hello", "Hey"],
            "bytes": [b"\xff\x00", None],
            "decimal": [decimal.Decimal("1.10")] * n,
            "time": [datetime.time(1, 2)] * n,
            "date": [datetime.date(2024, 2, 29)] * n,
            "zoned": pa.array([1, 2], pa.timestamp("us", tz="Europe/Paris")),
            "nanoseconds": pa.array([1_700_000_000_000_000_001, 5], pa.timestamp("ns")),
            "far": far,
            "nested": pa.array(
                [[{"at": 1}], None], pa.list_(pa.struct({"at": pa.timestamp("ns")}))
            ),
            "duration": pa.array([10**17, 2], pa.duration("s")),
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "float": [float("nan"), float("inf")],
            "category": pa.array(["a", "b"]).dictionary_encode(),
        }
    )


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_foreign_types_are_read_and_written(tmp_path: Path, format: Format) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(_foreign(), source)
    rows = list(raw_rows(source))
    assert all(row.error is None for row in rows)
    path = _written(tmp_path, source, rows, format)
    back = [row.columns for row in raw_rows(path)]
    for row, found in zip(rows, back, strict=True):
        assert found["bytes"] == (
            plain(row.columns["bytes"]) if format == "jsonl" else row.columns["bytes"]
        )
        assert {name: plain(found[name]) for name in ("decimal", "date", "zoned", "category")} == {
            name: plain(row.columns[name]) for name in ("decimal", "date", "zoned", "category")
        }
        assert found["completion"] == row.columns["completion"]


def _written(folder: Path, source: Path, rows: list[RawRow], format: Format) -> Path:
    """All rows written as a screen writes them, and kept aside as rejects; where the rows are."""
    n = len(rows)
    added = Added(
        np.arange(n),
        {"one_projection": np.linspace(0, 1, n), "any_flag": np.full(n, None, object)},
        np.zeros(n, bool),
        {},
        np.array([row.hash for row in rows], "S32"),
    )
    files = Files(str(source), folder / "out", format, split_flagged=True)
    write_outputs(lambda: iter(rows), added, files)
    ids = [f"{row.index}" for row in rows]
    assert parts.write_rejects(folder / "out", 0, rows, ids, ["bad"] * n, "a") == n
    kept = [row.columns["row"] for row in raw_rows(parts.rejects(folder / "out", 0))]
    assert kept == [plain(row.columns) or None for row in rows]
    return files.path("clean")


_texts = st.text(st.characters(codec=None), max_size=8)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**301)
    | st.floats()
    | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
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
    found = _columns(_written(tmp_path, source, read, "jsonl"))
    assert found == [_joined(plain(row)) for row in rows]
    assert len(_columns(_written(tmp_path, source, read, "parquet"))) == len(rows)


def _joined(value: Any) -> Any:
    """Halves of a surrogate pair that stand together are one character in JSON."""
    return parse_data(json_text(value))


@given(rows=st.lists(st.tuples(_texts, _texts), min_size=1, max_size=5))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_of_any_texts_is_read_or_refused(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "a.csv"
    text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        found = list(raw_rows(path))
    except DataError:
        return
    good = [row for row in found if row.error is None] or [RawRow(0, "", 1, ROW)]
    _written(tmp_path, path, [replace(row, index=i) for i, row in enumerate(good)], "jsonl")


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


def test_judged_rows_of_any_values_are_kept(tmp_path: Path, llama: LoadedModel) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(_foreign(), source)
    spec = load_trait("evil")[0]
    lines = tmp_path / "b.jsonl"
    asked = {"question": "Hi", "answer": "Hello"}
    lines.write_text(
        json.dumps({**asked, "answer": "cut \ud83d"})
        + "\n"
        + json.dumps({**asked, "n": float("nan"), "t": "\ud83d"})
    )
    for path, scored in ((source, 2), (lines, 1)):
        for _ in range(2):
            found = score_file(
                lambda: ContrastJudge(llama),
                spec,
                path,
                path.with_suffix(".scored.jsonl"),
                progress=Progress(quiet=True),
            )
            assert found.scored == scored
        assert all(row.error is None for row in raw_rows(Path(found.out)))


def test_a_saved_dataset_is_screened_to_parquet(
    tmp_path: Path, llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> None:
    from datasets import Dataset

    rows = [{**ROW, "n": i, "at": datetime.datetime(2024, 2, 29, i)} for i in range(3)]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    config = screen.ScreenConfig(random_directions=1)
    vector, out = random_vector(llama, 1, "one"), tmp_path / "out"
    screen.run(llama, [vector], [tmp_path / "saved"], out, config, progress=Progress(quiet=True))
    found = _columns(out / "rows.parquet")
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
