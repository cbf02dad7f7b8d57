"""The readings as one file to take away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import parts
from personavec.monitor.drift import TraitDrift
from personavec.plain import json_text
from personavec.runs import atomic_path
from personavec.vectors import PersonaVector

Format = Literal["jsonl", "parquet"]


def write_readings(
    vectors: Sequence[PersonaVector],
    drifts: Mapping[str, TraitDrift],
    out: Path,
    format: Format,
) -> Path:
    """All readings in one file, with forecasts and drift beside them."""
    path = out / f"readings.{format}"
    start = 0
    with atomic_path(path) as aside:
        writer: pq.ParquetWriter | None = None
        lines = aside.open("w", encoding="utf-8") if format == "jsonl" else None
        try:
            for part in parts.written(out / "run"):
                table = pq.read_table(part).drop_columns(["told"]).replace_schema_metadata(None)
                own = slice(start, start + len(table))
                for vector in vectors:
                    table = _extended(table, vector, drifts[vector.trait], own)
                start = own.stop
                if lines is not None:
                    for record in table.to_pylist():
                        lines.write(json_text(record) + "\n")
                else:
                    writer = writer or pq.ParquetWriter(aside, table.schema)
                    writer.write_table(table)
        finally:
            for each in (lines, writer):
                if each is not None:
                    each.close()
    return path


def _extended(table: pa.Table, vector: PersonaVector, own: TraitDrift, place: slice) -> pa.Table:
    trait = vector.trait
    if vector.calibration is not None:
        last = table.column(f"{trait}_prompt_last").to_pylist()
        found = [vector.calibration.forecast(value) for value in last]
        for name in ("value", "low", "high"):
            values = pa.array([getattr(interval, name) for interval in found], pa.float64())
            table = table.append_column(f"{trait}_forecast_{name}", values)
    table = table.append_column(f"{trait}_drift", pa.array(own.levels[place]))
    return table.append_column(f"{trait}_alarm", pa.array(own.alarms[place]))
