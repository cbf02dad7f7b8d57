"""Monitor logged conversations: every assistant turn along every trait, and where it drifts.

`run` follows the steps of docs/monitor.md: readings of every turn, limits, control charts for each
conversation and for the log as on a server, forecasts if the vector is calibrated, and the turns
that a person should read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from personavec.data import (
    DataReading,
    check_columns,
    fingerprint,
    parts,
    raw_rows,
    reading_counts_in,
    reason_kind,
    source_name,
)
from personavec.errors import DataError
from personavec.model import LoadedModel
from personavec.model.engine import Engine, TransformersEngine
from personavec.monitor.config import MonitorConfig
from personavec.monitor.drift import TraitCharts, charted, fit_on_log
from personavec.monitor.extremes import load_texts
from personavec.monitor.files import write_readings
from personavec.monitor.log import LogJob, read_log
from personavec.monitor.readings import gauge
from personavec.monitor.report import write_monitoring_report
from personavec.monitor.results import FittedLimits, MonitorFiles, MonitorResults, TraitReadings
from personavec.monitor.summary import extreme_turn, highest_turns, summarise
from personavec.monitor.turns import LogTurns
from personavec.progress import Progress
from personavec.results import versions, write
from personavec.runs import Settings, claim, lock, read_records
from personavec.vectors import Ordinary, PersonaVector


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
) -> MonitorResults:
    """Read a log's conversations along the vectors.

    Writes `readings.jsonl` (or `.parquet`) with a line for each assistant turn, `rejects.jsonl`,
    `results.json` and `report.html` into `out`. A killed run resumes from `out/run` when it is
    called again with the same settings. `engine` defaults to transformers.

    With `fit_limits`, a folder, the log is treated as ordinary: drift limits are fitted on its even
    rows and written to `TRAIT/drift.json` there; false alarms are counted on its odd rows.

    Raises SettingsMismatchError when `out` was begun with other inputs or settings, DataError for
    more rejected rows than allowed or if no row can be used, and VectorMismatchError.
    """
    config, progress = config or MonitorConfig(), progress or Progress()
    check_columns(raw_rows(log, split=config.split), config.columns)
    read = gauge(vectors, loaded)
    job = LogJob(loaded, read, engine or TransformersEngine(loaded), log, out, config)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(job, vectors))
        progress.stages("reading", "drift limits" if fit_limits else "", "charts, report")
        # 1. Read every turn that has no readings yet.
        rejected = read_log(job, progress)
        turns = _turns(job)
        # 2. Take the drift limits of the vectors, or fit them on this log.
        ordinary, limits = _ordinary(turns, vectors, fit_limits)
        # 3. Run the control charts, and summarise each trait.
        charts = {trait: charted(turns, trait, ordinary[trait]) for trait in job.gauge.traits}
        # 4. Write readings, results and report.
        readings = write_readings(vectors, charts, out, config.format)
        results = MonitorResults(
            log=str(log),
            out=str(out),
            turns=len(turns.index),
            conversations=len(np.unique(turns.index)),
            rejected=rejected,
            traits=_summaries(job, turns, vectors, ordinary, charts),
            limits=limits,
            data={source_name(log): _how_it_was_read(job)},
            notes=_notes(loaded, vectors, ordinary),
            files=MonitorFiles(readings=str(readings), rejects=str(job.rejects)),
            model=loaded.identity,
            engine=job.engine.describe(),
            settings=config,
            versions=versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        write(out / "results.json", results)
        write_monitoring_report(results, out / "report.html")
        return results


def _settings(job: LogJob, vectors: Sequence[PersonaVector]) -> Settings:
    """The settings that a resumed run must share. The others affect only the report."""
    return {
        "command": "monitor",
        "engine": job.engine.name,
        "model": job.loaded.identity.as_dict(),
        "vectors": {v.trait: v.identity for v in vectors},
        "log": fingerprint(job.log, split=job.config.split),
        "columns": asdict(job.config.columns),
        "tokens": job.config.tokens,
    }


def _turns(job: LogJob) -> LogTurns:
    """The turns that were read. Raises DataError if none has an answer."""
    turns = LogTurns.load(job.folder, job.gauge.traits)
    if not len(turns.index):
        raise DataError(f"no row of {job.log} could be read; {job.rejects} says why")
    if not any(np.isfinite(own).any() for own in turns.response_mean.values()):
        raise DataError(f"no turn of {job.log} holds an answer to read: all are empty or thoughts")
    return turns


def _ordinary(
    turns: LogTurns, vectors: Sequence[PersonaVector], fit_limits: Path | None
) -> tuple[dict[str, Ordinary], FittedLimits | None]:
    """The drift limits of each trait: the vectors' own, or with `fit_limits` fitted on this log."""
    if fit_limits is None:
        return {v.trait: v.ordinary or Ordinary() for v in vectors}, None
    with lock(fit_limits):
        return fit_on_log(turns, vectors, fit_limits)


def _summaries(
    job: LogJob,
    turns: LogTurns,
    vectors: Sequence[PersonaVector],
    ordinary: Mapping[str, Ordinary],
    charts: Mapping[str, TraitCharts],
) -> dict[str, TraitReadings]:
    """Summarise every trait, with the texts of its highest turns."""
    highest = {v.trait: highest_turns(turns, v.trait, job.config.extremes) for v in vectors}
    places = {turns.place(i) for found in highest.values() for i in found}
    texts = load_texts(job.folder, places)
    return {
        v.trait: summarise(
            turns,
            v,
            ordinary[v.trait],
            charts[v.trait],
            [
                extreme_turn(turns, v.trait, i, texts[turns.place(i)], direction)
                for i in highest[v.trait]
            ],
        )
        for direction, v in enumerate(vectors)
    }


def _how_it_was_read(job: LogJob) -> DataReading:
    """How the log was read, from the stored readings and rejects."""
    counts = reading_counts_in(parts.written(job.folder))
    rejects = (r for r in read_records(job.rejects) if r["dataset"] == source_name(job.log))
    counts.rejected.update(reason_kind(record["reason"]) for record in rejects)
    return counts.record()


def _notes(
    loaded: LoadedModel, vectors: Sequence[PersonaVector], ordinary: Mapping[str, Ordinary]
) -> tuple[str, ...]:
    notes = [v.other_model_warning(*loaded.identity.lineage) for v in vectors]
    if unfitted := [trait for trait, found in ordinary.items() if not found.n]:
        notes.append(
            f"No drift limits were fitted for {', '.join(unfitted)}: its alarms stand at a level "
            "that was set, not measured. Fit some on ordinary conversations with --fit-limits."
        )
    if uncalibrated := [v.trait for v in vectors if v.calibration is None]:
        notes.append(
            f"No forecast of expression for {', '.join(uncalibrated)}: calibrate the vector."
        )
    return tuple(note for note in notes if note)
