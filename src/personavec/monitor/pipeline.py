"""Monitor logged conversations: every assistant turn along every trait, and where it drifts.

The readings of `readings.py` over a whole log, with a control chart for each conversation and one
for the log as a server would have met it (`drift.py`), a forecast where the vector is calibrated,
and the turns that a person should read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from personavec.data import (
    ColumnMap,
    RawRow,
    ReadingCounts,
    Reject,
    check_columns,
    fingerprint,
    in_windows,
    marks,
    parse_row,
    parts,
    raw_rows,
    reading_counts_in,
    reason_kind,
    source_name,
)
from personavec.errors import DataError, UsageError
from personavec.model import Encoded, LoadedModel, encode, with_thoughts
from personavec.model.engine import Engine, TransformersEngine
from personavec.monitor.drift import charted, fit_on_log
from personavec.monitor.extremes import show_extremes
from personavec.monitor.files import Format, write_readings
from personavec.monitor.readings import Gauge, gauge, read_encoded
from personavec.monitor.report import write_monitoring_report
from personavec.monitor.summary import summarise
from personavec.monitor.turns import LogTurns, to_table
from personavec.progress import Progress
from personavec.results import versions, without_nan
from personavec.runs import atomic_write, claim, lock, read_records
from personavec.vectors import Ordinary, PersonaVector
from personavec.wording import plural

#: Rows read together: their texts share forwards, and a kill costs at most these.
WINDOW = 128


@dataclass(frozen=True)
class MonitorConfig:
    """Everything that decides the readings of a log, beside the model, the vectors and the log."""

    columns: ColumnMap = field(default_factory=ColumnMap)
    split: str | None = None
    tokens: bool = False
    """Keep every response token's projection."""
    extremes: int = 6
    """Turns of every trait that the report shows with their texts."""
    format: Format = "jsonl"
    batch_tokens: int | None = None
    max_rejects: int | None = None
    """More bad rows than this stop the run; default: any number may be bad."""

    def __post_init__(self) -> None:
        if self.extremes < 0:
            raise UsageError("extremes is 0 or more")


def run(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    log: str | Path,
    out: Path,
    config: MonitorConfig | None = None,
    *,
    fit_limits: Path | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a log's conversations along the vectors; returns the results that the report draws.

    Writes into `out`: `readings.jsonl` (or `.parquet`), a line an assistant turn, `rejects.jsonl`,
    `results.json`, `report.html`, and `run/`, from which a killed run continues when called again
    with the same settings.

    `fit_limits`, a folder, takes the log for ordinary: drift limits are fitted on the
    conversations of even rows, false alarms reported on those of odd ones, and the limits written
    to `TRAIT/drift.json` there, a file that belongs into the vector's folder. `engine` reads in
    place of transformers.

    Raises SettingsMismatchError when `out` was begun with other inputs or settings, DataError for
    more bad rows than allowed or none that can be used, VectorMismatchError.
    """
    config = config or MonitorConfig()
    check_columns(raw_rows(log, split=config.split), config.columns)
    engine = engine or TransformersEngine(loaded)
    progress = progress or Progress()
    reading = gauge(vectors, loaded)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(engine, loaded, vectors, log, config))
        rejected = _read(engine, loaded, reading, log, out, config, progress)
        turns = LogTurns.load(out / "run", reading.traits)
        if not len(turns.index):
            raise DataError(f"no row of {log} could be read; {out / 'rejects.jsonl'} says why")
        if not any(np.isfinite(own).any() for own in turns.response_mean.values()):
            raise DataError(f"no turn of {log} holds an answer to read: all are empty or thoughts")
        ordinary = {v.trait: v.ordinary or Ordinary() for v in vectors}
        limits = None
        if fit_limits is not None:
            with lock(fit_limits):
                ordinary, limits = fit_on_log(turns, vectors, fit_limits)
        drifts = {trait: charted(turns, trait, ordinary[trait]) for trait in reading.traits}
        results = without_nan(
            {
                "log": str(log),
                "out": str(out),
                "turns": len(turns.index),
                "conversations": len(np.unique(turns.index)),
                "rejected": rejected,
                "traits": {
                    v.trait: summarise(
                        turns, v, ordinary[v.trait], drifts[v.trait], extremes=config.extremes
                    )
                    for v in vectors
                },
                "limits": limits,
                "data": {source_name(log): _told(out, source_name(log)).to_dict()},
                "notes": _notes(loaded, vectors, ordinary),
                "files": {
                    "readings": str(write_readings(vectors, drifts, out, config.format)),
                    "rejects": str(out / "rejects.jsonl"),
                },
                "model": loaded.identity.as_dict(),
                "engine": engine.describe(),
                "settings": asdict(config),
                "versions": versions(),
            }
        )
        show_extremes(
            loaded,
            reading,
            log,
            results,
            columns=config.columns,
            split=config.split,
        )
        results["seconds"] = round(time.monotonic() - started, 1)
        results = without_nan(results)
        atomic_write(out / "results.json", json.dumps(results, ensure_ascii=False, indent=1))
        write_monitoring_report(results, out / "report.html")
    return results


def summarised(results: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    kept = ("layer", "mean", "low", "high", "max", "alarms")
    return {
        "turns": results["turns"],
        "conversations": results["conversations"],
        "rejected": results["rejected"],
        "traits": {
            name: {key: record[key] for key in kept} for name, record in results["traits"].items()
        },
        "limits": results["limits"],
        "data": results["data"],
        "out": results["out"],
    }


def _settings(
    engine: Engine,
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    log: str | Path,
    config: MonitorConfig,
) -> dict[str, Any]:
    """What a continued run must share; drawing the report anew may differ in the rest."""
    return {
        "command": "monitor",
        "engine": engine.name,
        "model": loaded.identity.as_dict(),
        "vectors": {v.trait: v.identity for v in vectors},
        "log": fingerprint(log, split=config.split),
        "columns": asdict(config.columns),
        "tokens": config.tokens,
    }


def _read(
    engine: Engine,
    loaded: LoadedModel,
    reading: Gauge,
    log: str | Path,
    out: Path,
    config: MonitorConfig,
    progress: Progress,
) -> int:
    """Read what has no readings yet, window by window; how many rows were rejected in all."""
    folder, rejects, name = out / "run", out / "rejects.jsonl", source_name(log)
    found = marks(log, WINDOW)
    total = found[1] if found else sum(1 for _ in raw_rows(log, split=config.split))
    wanted = to_table([], [], reading.traits, tokens=config.tokens).schema
    done, rejected = _sound_windows(folder, total, wanted, progress)
    n_windows = -(-total // WINDOW)

    def prepared() -> Iterator[tuple[int, list[RawRow], list[Encoded | Reject]]]:
        if len(done) == n_windows:
            return
        rows = raw_rows(log, split=config.split)
        for number, raws in enumerate(in_windows(rows, WINDOW)):
            if number not in done:
                yield number, raws, [_encode(loaded, raw, config) for raw in raws]

    with progress.bar(f"reading {name}", total) as bar, _gathered(folder, rejects):
        bar.advance(sum(min(WINDOW, total - number * WINDOW) for number in done))
        for number, raws, rows in parts.ahead(prepared()):
            encoded = [row for row in rows if isinstance(row, Encoded)]
            readings = read_encoded(
                loaded,
                encoded,
                reading,
                tokens=config.tokens,
                batch_tokens=config.batch_tokens,
                engine=engine,
            )
            bad = {row.index: row for row in rows if isinstance(row, Reject)}
            n_bad = parts.write_rejects(
                folder,
                number,
                raws,
                [bad[raw.index].id if raw.index in bad else "" for raw in raws],
                [bad[raw.index].reason if raw.index in bad else None for raw in raws],
                name,
            )
            rejected += n_bad
            table = to_table(encoded, readings, reading.traits, tokens=config.tokens)
            counts = {"rows": str(len(raws)), "rejects": str(n_bad)}
            table = table.replace_schema_metadata(counts)
            parts.write_part(parts.part(folder, number), table)
            bar.advance(len(raws))
            if config.max_rejects is not None and rejected > config.max_rejects:
                raise DataError(
                    f"{plural(rejected, 'row')} of {log} could not be read, more than the "
                    f"{config.max_rejects} allowed; {rejects} says why"
                )
    return rejected


@contextmanager
def _gathered(folder: Path, rejects: Path) -> Iterator[None]:
    """Put the windows' bad rows into one file, whatever happens."""
    try:
        yield
    finally:
        parts.gather_rejects([folder], rejects)


def _sound_windows(
    folder: Path, total: int, wanted: pa.Schema, progress: Progress
) -> tuple[set[int], int]:
    """The windows whose part is whole, and how many rows they reject; other parts are deleted."""
    columns = dict(zip(wanted.names, wanted.types, strict=True))
    done: dict[int, int] = {}
    last = -1
    for path in parts.written(folder):
        number = int(path.stem)
        last = max(last, number)
        table = parts.read_part(path, columns)
        about = (table.schema.metadata if table is not None else None) or {}
        rows, bad = (int(about.get(name, -1)) for name in (b"rows", b"rejects"))
        if rows == min(WINDOW, total - number * WINDOW) and bad == parts.count_rejects(
            folder, number
        ):
            done[number] = bad
        else:
            path.unlink()
    if again := last + 1 - len(done):
        progress.say(f"missing or damaged parts of {folder} are read again ({again})")
    return set(done), sum(done.values())


def _encode(loaded: LoadedModel, raw: RawRow, config: MonitorConfig) -> Encoded | Reject:
    row = parse_row(raw, config.columns, "row")
    encoded = encode(loaded.chat, row, context=loaded.context, thinking=True)
    if isinstance(encoded, Reject):
        return encoded
    return with_thoughts(encoded, "a thought was read apart from its answer")


def _told(out: Path, dataset: str) -> ReadingCounts:
    """What reading the log has to tell, from what is kept of the rows that were read and not."""
    told = reading_counts_in(parts.written(out / "run"))
    rejects = (r for r in read_records(out / "rejects.jsonl") if r["dataset"] == dataset)
    told.rejected.update(reason_kind(record["reason"]) for record in rejects)
    return told


def _notes(
    loaded: LoadedModel, vectors: Sequence[PersonaVector], ordinary: Mapping[str, Ordinary]
) -> list[str]:
    identity = loaded.identity
    notes = [v.other_model_warning(*identity.lineage) for v in vectors]
    if unfitted := [trait for trait, found in ordinary.items() if not found.n]:
        notes.append(
            f"No drift limits were fitted for {', '.join(unfitted)}: its alarms stand at a level "
            "that was set, not measured. Fit some on ordinary conversations with --fit-limits."
        )
    if uncalibrated := [v.trait for v in vectors if v.calibration is None]:
        notes.append(
            f"No forecast of expression for {', '.join(uncalibrated)}: calibrate the vector."
        )
    return [note for note in notes if note]
