"""Write the readings as one file, with a line for each assistant turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import parts
from personavec.monitor.config import Format
from personavec.monitor.drift import TraitCharts
from personavec.monitor.extremes import TEXTS
from personavec.plain import json_text
from personavec.runs import atomic_path
from personavec.vectors import PersonaVector


def write_readings(
    vectors: Sequence[PersonaVector],
    charts: Mapping[str, TraitCharts],
    out: Path,
    format: Format,
) -> Path:
    """All readings in one file, with forecasts and drift beside them."""
    path = out / f"readings.{format}"
    tables = _tables(vectors, charts, out / "run")
    with atomic_path(path) as aside:
        if format == "jsonl":
            _write_lines(tables, aside)
        else:
            _write_parquet(tables, aside)
    return path


def _tables(
    vectors: Sequence[PersonaVector], charts: Mapping[str, TraitCharts], folder: Path
) -> Iterator[pa.Table]:
    """The readings window by window, with forecasts and drift."""
    start = 0
    for part in parts.written(folder):
        table = pq.read_table(part).drop_columns(["told", TEXTS]).replace_schema_metadata(None)
        own = slice(start, start + len(table))
        for vector in vectors:
            table = _extended(table, vector, charts[vector.trait], own)
        start = own.stop
        yield table


def _write_lines(tables: Iterable[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for table in tables:
            for record in table.to_pylist():
                lines.write(json_text(record) + "\n")


def _write_parquet(tables: Iterator[pa.Table], path: Path) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _extended(table: pa.Table, vector: PersonaVector, charts: TraitCharts, own: slice) -> pa.Table:
    """A window's table with a trait's drift, and its forecast if the vector is calibrated."""
    trait = vector.trait
    if vector.calibration is not None:
        last = table.column(f"{trait}_prompt_last").to_pylist()
        found = [vector.calibration.forecast(value) for value in last]
        for name in ("value", "low", "high"):
            values = pa.array([getattr(interval, name) for interval in found], pa.float64())
            table = table.append_column(f"{trait}_forecast_{name}", values)
    table = table.append_column(f"{trait}_drift", pa.array(charts.levels[own]))
    return table.append_column(f"{trait}_alarm", pa.array(charts.alarms[own]))
