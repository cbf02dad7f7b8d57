"""A screen reads its data at most three times: to survey them, to score them, to write them."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from personavec import LoadedModel, PersonaVector
from personavec.data import ColumnMap
from personavec.data.files import csv_files, json_files
from personavec.model.engine import TransformersEngine
from personavec.progress import Progress
from personavec.screen import FlagRule, ScreenConfig, run

#: Long beside the buffer through which the first lines of a file are looked at.
PADDING = "x" * 4000
N = 60


def _rows() -> list[dict[str, str]]:
    return [
        {"prompt": f"Say {i}", "completion": "yes " * (1 + i % 7), "padding": PADDING}
        for i in range(N)
    ]


def _write(path: Path) -> Path:
    form, rows = path.suffix.removeprefix("."), _rows()
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class _Counted(io.FileIO):
    """A file that counts the bytes that are read of it."""

    def __init__(self, path: Path, counts: Counter[str]):
        super().__init__(path)
        self._name, self._counts = path.name, counts

    def readinto(self, buffer: Any, /) -> int:
        n = super().readinto(buffer) or 0
        self._counts[self._name] += n
        return n


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], float]:
    """How often a data file has been read since it was last asked."""
    counts, parquet = Counter[str](), Counter[str]()

    @contextmanager
    def opened(path: Path) -> Iterator[io.BufferedReader]:
        with io.BufferedReader(_Counted(path, counts)) as file:
            yield file

    class File(pq.ParquetFile):
        def __init__(self, path: Path):
            super().__init__(path)
            parquet[path.name] += 1

    for module in (json_files, csv_files):
        monkeypatch.setattr(module, "opened", opened)
    monkeypatch.setattr(pq, "ParquetFile", File)

    def times(path: Path) -> float:
        found = counts.pop(path.name, 0) / path.stat().st_size
        return parquet.pop(path.name, 0) or found

    return times


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("jsonl", {"explain": True, "by": ("padding",), "columns": ColumnMap(prompt="prompt")}),
        ("jsonl", {"natural": "two-stage", "format": "parquet", "explain": True}),
        ("json", {"natural": "generate", "format": "parquet", "subsets": 3}),
        ("csv", {"natural": "two-stage", "explain": True}),
        ("parquet", {"natural": "two-stage", "explain": True}),
    ],
)
def test_data_are_read_three_times_at_most(
    tmp_path: Path,
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    read: Callable[[Path], float],
    form: str,
    settings: dict[str, Any],
) -> None:
    """The reference twice, as nothing is written of it; scored data of a finished run twice."""
    data, clean = _write(tmp_path / f"data.{form}"), _write(tmp_path / "clean.jsonl")
    config = ScreenConfig(natural_tokens=2, random_directions=1, ranked=3, **settings)
    vector = random_vector(llama, 1, "one")

    def screened() -> None:
        run(
            llama,
            [vector],
            [data],
            tmp_path / "out",
            config,
            reference=clean,
            engine=TransformersEngine(llama),
            progress=Progress(quiet=True),
        )

    screened()
    assert 2.9 < read(data) < 3.5
    assert 1.9 < read(clean) < 2.5
    screened()
    assert 1.9 < read(data) < 2.5
    assert read(clean) < 1.5


def test_a_screen_without_a_reference_reads_no_more(
    tmp_path: Path,
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    read: Callable[[Path], float],
) -> None:
    data = [_write(tmp_path / name) for name in ("data.jsonl", "more.csv")]
    config = ScreenConfig(rule=FlagRule(top=5), random_directions=1)
    vector, out = random_vector(llama, 1, "one"), tmp_path / "out"
    run(llama, [vector], data, out, config, progress=Progress(quiet=True))
    assert all(2.9 < read(path) < 3.5 for path in data)
