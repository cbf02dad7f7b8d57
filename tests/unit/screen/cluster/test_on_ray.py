"""What a cluster is given to do and how its answers are put together, without a cluster."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models

pytest.importorskip("ray", reason="needs the extra 'ray'")

from cluster_runs import in_this_process, last_first, write_rows

from personavec import load_model
from personavec.data import STRETCH, RawRow, parts
from personavec.errors import DataError
from personavec.rollouts import Naturals
from personavec.screen import Added, Files, Plan, probe
from personavec.screen.cluster import on_ray
from personavec.screen.outputs import Format


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_each", last_first)
    monkeypatch.setattr(on_ray, "ROWS_PER_FILE", 2 * STRETCH)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def added(rows: list[RawRow]) -> Added:
    """Scores of all rows but every seventh."""
    index = np.array([i for i in range(len(rows)) if i % 7 != 6])
    hashes = np.array([row.hash for row in rows], "S32")
    return Added(index, {"one_projection": index / 2}, index % 5 == 0, {}, hashes)


def files(data: Path, format: Format = "parquet") -> Files:
    return Files(str(data), data.parent / "out", format, split_flagged=True)


def test_hashes_come_in_order_whoever_was_first(data: Path, tmp_path: Path) -> None:
    """They are compared with kept scores, so without those nothing is read."""
    rows = write_rows(data, 50)
    folder = tmp_path / "parts"
    folder.mkdir()
    assert on_ray.content(data, split=None, folder=folder) == []
    pq.write_table(pa.table({"index": [0]}), parts.part(folder, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "WINDOW", 2)
        assert on_ray.content(data, split=None, folder=folder) == [row.hash for row in rows]


def test_only_windows_with_a_chosen_row_are_read_for_natural_responses(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "pipeline", in_this_process)
    write_rows(data, 60)
    tiny_models.save(tiny_models.build("llama"), tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), dtype="float32")
    vector = tiny_models.random_vector(loaded, layer=2)
    folder = tmp_path / "naturals"
    work = on_ray.worker_setup(
        loaded, probe([vector], loaded), Plan(), natural_folder=folder, natural_tokens=2
    )
    chosen = np.array([4, 6, 59])
    counts = list(on_ray.fill_naturals(work, data, chosen, size=3))
    assert counts == [1, 1, 1]  # windows 1, 2 and 19
    assert Naturals(loaded, folder, max_tokens=2).kept == 3


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_parts_hold_every_scored_row_once_and_in_order(data: Path, format: Format) -> None:
    """Columns that come late, or with another type, are alike in all parts."""
    rows = write_rows(
        data, 50, n=lambda i: i if i < 40 else i + 0.5, late=lambda i: "x" if i > 30 else None
    )
    scores, wanted = added(rows), files(data, format)
    counts = [n for n, _ in on_ray.write_parts(scores, wanted)]
    assert len(counts) == 4
    assert sum(counts) == len(scores.index)
    expected = [f"r{i}" for i in scores.index]
    folder = wanted.folder / "rows"
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"{n:06d}.{format}" for n in range(4)]
    if format == "parquet":
        tables = [pq.read_table(path) for path in paths]
        assert len({table.schema for table in tables}) == 1
        assert tables[0].schema.field("n").type == pa.float64()
        assert [i for table in tables for i in table["id"].to_pylist()] == expected
    else:
        text = "".join(path.read_text() for path in paths)
        assert [line.split('"')[3] for line in text.splitlines()] == expected


def test_where_a_type_does_not_hold_a_value_all_parts_are_written_once_more(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(data, 50, n=lambda i: "many" if i == 3 else i)
    wrong = {"id": pa.string(), "prompt": pa.string(), "completion": pa.string(), "n": pa.int64()}
    monkeypatch.setattr(on_ray, "column_types", lambda rows, source: wrong)
    counts = [n for n, _ in on_ray.write_parts(added(rows), files(data))]
    assert sum(counts) == len(added(rows).index)
    tables = [pq.read_table(path) for path in sorted((data.parent / "out" / "rows").iterdir())]
    assert {table.schema.field("n").type for table in tables} == {pa.string()}
    assert '"many"' in tables[0]["n"].to_pylist()


def test_data_that_changed_since_they_were_scored_are_refused(data: Path) -> None:
    scores = added(write_rows(data, 50))
    write_rows(data, 51)
    with pytest.raises(DataError, match="it has 51 rows, not 50"):
        list(on_ray.write_parts(scores, files(data)))


def test_nothing_to_do_asks_no_cluster() -> None:
    assert list(on_ray.pipeline([], object, ())) == []
