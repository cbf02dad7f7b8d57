"""Monitor logged conversations: every assistant turn along every trait, and where it drifts.

The readings of `readings.py` over a whole log, with a control chart for each conversation and one
for the log as a server would have met it (`drift.py`), a forecast where the vector is calibrated,
and the turns that a person should read.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from personavec import drift
from personavec.conversations import (
    ColumnMap,
    RawRow,
    Reject,
    fingerprint,
    marks,
    parse_row,
    raw_rows,
    source_name,
)
from personavec.drift import Ordinary
from personavec.errors import DataError, UsageError
from personavec.expression import bounds
from personavec.model.engine.base import Engine
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.model.projecting import project_tokens
from personavec.progress import Progress
from personavec.readings import Gauge, Reading, gauge, read_encoded
from personavec.report.monitoring import write_monitoring_report
from personavec.runs import atomic_path, atomic_write, claim, lock
from personavec.screening import parts
from personavec.screening.encode import Encoded, encode
from personavec.screening.stretches import windows
from personavec.stats import Interval, cluster_mean, share_interval
from personavec.summaries import versions, without_nan
from personavec.vectors import DRIFT_FILE, PersonaVector

#: Rows read together: their texts share forwards, and a kill costs at most these.
WINDOW = 128
#: Turns of a conversation that the trajectory shows, and how many must reach one.
_TURNS, _REACHED = 30, 5
#: Points of the server's chart, and alarms, that the report lists.
_POINTS, _LISTED = 400, 20

_VALUES = (
    "prompt_last",
    "prompt_last_sigma",
    "response_mean",
    "response_mean_sigma",
    "thinking_mean",
    "thinking_mean_sigma",
)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MonitorConfig:
    """Everything that decides the readings of a log, beside the model, the vectors and the log."""

    columns: ColumnMap = field(default_factory=ColumnMap)
    split: str | None = None
    tokens: bool = False
    """Keep every response token's projection."""
    extremes: int = 6
    """Turns of every trait that the report shows with their texts."""
    format: Literal["jsonl", "parquet"] = "jsonl"
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
    engine = engine or TransformersEngine(loaded)
    progress = progress or Progress()
    reading = gauge(vectors, loaded)
    started = time.monotonic()
    with lock(out):
        claim(out, _settings(engine, loaded, vectors, log, config))
        rejected = _read(engine, loaded, reading, log, out, config, progress)
        turns = _Turns.load(out / "run", reading.traits)
        if not len(turns.index):
            raise DataError(f"no row of {log} could be read; {out / 'rejects.jsonl'} says why")
        ordinary = {v.trait: v.ordinary or Ordinary() for v in vectors}
        limits = None
        if fit_limits is not None:
            ordinary, limits = _fit_limits(turns, vectors, fit_limits)
        drifts = {trait: _drift(turns, trait, ordinary[trait]) for trait in reading.traits}
        results = without_nan(
            {
                "log": str(log),
                "out": str(out),
                "turns": len(turns.index),
                "conversations": len(np.unique(turns.index)),
                "rejected": rejected,
                "traits": {
                    v.trait: _trait(turns, v, ordinary[v.trait], drifts[v.trait]) for v in vectors
                },
                "limits": limits,
                "notes": _notes(loaded, vectors, ordinary),
                "files": {
                    "readings": str(_write(vectors, drifts, out, config)),
                    "rejects": str(out / "rejects.jsonl"),
                },
                "model": loaded.identity.as_dict(),
                "engine": engine.describe(),
                "settings": asdict(config),
                "versions": versions(),
            }
        )
        _show_extremes(loaded, reading, log, config, results)
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
        "vectors": {v.trait: v.hash for v in vectors},
        "log": fingerprint(log, split=config.split),
        "columns": asdict(config.columns),
        "tokens": config.tokens,
    }


# Readings


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
    folder, rejects = out / "run", out / "rejects.jsonl"
    done = len(parts.parts(folder))
    rejected = parts.forget_rejects(rejects, source_name(log), done * WINDOW)
    complete = folder / "complete"
    if complete.exists():
        return rejected
    found = marks(log, WINDOW)
    total = found[1] if found else sum(1 for _ in raw_rows(log, split=config.split))

    def prepared() -> Iterator[tuple[int, list[RawRow], list[Encoded | Reject]]]:
        rows = raw_rows(log, split=config.split)
        for number, raws in enumerate(windows(rows, WINDOW)):
            if number >= done:
                yield number, raws, [_encode(loaded, raw, config) for raw in raws]

    with progress.bar(f"reading {source_name(log)}", total) as bar:
        bar.advance(min(total, done * WINDOW))
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
            rejected += parts.keep_rejects(
                rejects,
                raws,
                [bad[raw.index].id if raw.index in bad else "" for raw in raws],
                [bad[raw.index].reason if raw.index in bad else None for raw in raws],
                source_name(log),
            )
            table = _table(encoded, readings, reading.traits, tokens=config.tokens)
            parts.write_part(parts.part(folder, number), table)
            bar.advance(len(raws))
            if config.max_rejects is not None and rejected > config.max_rejects:
                raise DataError(
                    f"{rejected} rows of {log} could not be read, more than the "
                    f"{config.max_rejects} allowed; {rejects} says why"
                )
    atomic_write(complete, "")
    return rejected


def _encode(loaded: LoadedModel, raw: RawRow, config: MonitorConfig) -> Encoded | Reject:
    row = parse_row(raw, config.columns, "row")
    return encode(loaded.chat, row, context=loaded.context, thinking=True)


def _table(
    rows: Sequence[Encoded],
    readings: Sequence[Sequence[Reading]],
    traits: Sequence[str],
    *,
    tokens: bool,
) -> pa.Table:
    """One line a turn, whose columns carry their trait's name."""
    lines = []
    for row, found in zip(rows, readings, strict=True):
        by_turn = [list(own) for _, own in itertools.groupby(found, key=lambda r: r.turn)]
        for turn, own in enumerate(by_turn):
            line: dict[str, Any] = {
                "index": row.row.index,
                "conversation": row.row.id,
                "message": own[0].turn,
                "turn": turn,
                "n_tokens": own[0].n_tokens,
            }
            for reading in own:
                line |= {f"{reading.trait}_{name}": getattr(reading, name) for name in _VALUES}
                if tokens:
                    line[f"{reading.trait}_tokens"] = reading.tokens
            lines.append(line)
    whole = {name: pa.int64() for name in ("index", "message", "turn", "n_tokens")}
    types: dict[str, pa.DataType] = {"index": whole["index"], "conversation": pa.string(), **whole}
    for trait in traits:
        types |= {f"{trait}_{name}": pa.float64() for name in _VALUES}
        if tokens:
            types[f"{trait}_tokens"] = pa.list_(pa.float32())
    return pa.Table.from_pylist(lines, pa.schema(list(types.items())))


@dataclass(frozen=True, eq=False)
class _Turns:
    """All turns of a log as arrays, in its order; a missing reading is NaN."""

    index: npt.NDArray[np.int64]
    """The conversation's row."""
    conversation: list[str]
    message: npt.NDArray[np.int64]
    turn: npt.NDArray[np.int64]
    """Of the assistant, counted from 0."""
    n_tokens: npt.NDArray[np.int64]
    prompt_last: Mapping[str, Floats]
    """By trait, in sigmas."""
    response_mean: Mapping[str, Floats]

    @classmethod
    def load(cls, folder: Path, traits: Sequence[str]) -> _Turns:
        wanted = ["index", "conversation", "message", "turn", "n_tokens"]
        sigmas = [f"{t}_{v}_sigma" for v in ("prompt_last", "response_mean") for t in traits]
        tables = [pq.read_table(path, columns=[*wanted, *sigmas]) for path in parts.parts(folder)]
        table = pa.concat_tables(tables)

        def column(name: str) -> Any:
            return table.column(name).to_numpy()

        return cls(
            index=column("index"),
            conversation=table.column("conversation").to_pylist(),
            message=column("message"),
            turn=column("turn"),
            n_tokens=column("n_tokens"),
            prompt_last={t: column(f"{t}_prompt_last_sigma") for t in traits},
            response_mean={t: column(f"{t}_response_mean_sigma") for t in traits},
        )

    def by_conversation(self, values: Floats) -> list[list[float]]:
        edges = np.flatnonzero(np.diff(self.index)) + 1
        return [own.tolist() for own in np.split(values, edges)]


# Drift


@dataclass(frozen=True, eq=False)
class _Drift:
    """One trait's charts over all turns: standardised readings, levels, and where they alarmed."""

    readings: Floats
    levels: Floats
    alarms: npt.NDArray[np.bool_]
    server_levels: Floats
    server_alarms: npt.NDArray[np.bool_]


def _drift(turns: _Turns, trait: str, ordinary: Ordinary) -> _Drift:
    sigmas = turns.response_mean[trait].tolist()
    readings = [
        ordinary.standardise(sigma, turn)
        for sigma, turn in zip(sigmas, turns.turn.tolist(), strict=True)
    ]
    levels, alarms, server_levels, server_alarms = [], [], [], []
    server, chart = ordinary.chart("server"), ordinary.chart()
    for reading, turn in zip(readings, turns.turn.tolist(), strict=True):
        if turn == 0:
            chart = ordinary.chart()
        # Nothing was said, or all of it was thinking: the charts stay where they are.
        said = math.isfinite(reading)
        alarms.append(said and chart.update(reading) is not None)
        levels.append(chart.level)
        server_alarms.append(said and server.update(reading) is not None)
        server_levels.append(server.level)
    return _Drift(
        np.array(readings),
        np.array(levels),
        np.array(alarms, bool),
        np.array(server_levels),
        np.array(server_alarms, bool),
    )


def _fit_limits(
    turns: _Turns, vectors: Sequence[PersonaVector], folder: Path
) -> tuple[dict[str, Ordinary], dict[str, Any]]:
    """Limits from the conversations of even rows, and their false alarms on those of odd ones."""
    even = [int(own[0]) % 2 == 0 for own in turns.by_conversation(turns.index.astype(float))]
    found: dict[str, Ordinary] = {}
    alarmed: dict[str, list[bool]] = {}
    server: dict[str, int] = {}
    for vector in vectors:
        talks = [
            list(itertools.takewhile(math.isfinite, talk))
            for talk in turns.by_conversation(turns.response_mean[vector.trait])
        ]
        ordinary = found[vector.trait] = drift.fit(
            [talk for talk, fits in zip(talks, even, strict=True) if fits]
        )
        others = [
            [ordinary.standardise(s, t) for t, s in enumerate(talk)]
            for talk, fits in zip(talks, even, strict=True)
            if not fits
        ]
        alarmed[vector.trait] = [
            max(drift.levels(talk, ordinary.conversation), default=0.0)
            > ordinary.conversation.limit
            for talk in others
        ]
        chart = ordinary.chart("server")
        server[vector.trait] = sum(
            chart.update(value) is not None for _, value in drift.interleaved(others, seed=1)
        )
        record = {
            "format": 1,
            "trait": vector.trait,
            "vector": vector.hash,
            "reading": drift.READING,
            "ordinary": ordinary.as_dict(),
            "false_alarms": _share(alarmed[vector.trait]),
        }
        target = folder / vector.trait / DRIFT_FILE
        atomic_write(target, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    any_trait = [any(own) for own in zip(*alarmed.values(), strict=True)]
    return found, {
        "fitted_on": found[vectors[0].trait].n,
        "tested_on": len(any_trait),
        "any": _share(any_trait),
        "traits": {trait: _share(own) for trait, own in alarmed.items()},
        "server_alarms": server,
        "server_turns": int((turns.index % 2).sum()),
        "folder": str(folder),
    }


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share of conversations with its exact interval."""
    return {**bounds(share_interval(sum(hits), len(hits))), "hits": sum(hits), "of": len(hits)}


# What the readings say


def _trait(turns: _Turns, vector: PersonaVector, ordinary: Ordinary, own: _Drift) -> dict[str, Any]:
    sigmas = turns.response_mean[vector.trait]
    last = turns.prompt_last[vector.trait]
    mean = _mean(sigmas, turns.index)
    conversations = [any(alarms) for alarms in turns.by_conversation(own.alarms.astype(float))]
    ranked = np.argsort(np.where(np.isnan(sigmas), -np.inf, sigmas))[::-1]
    places = np.flatnonzero(own.alarms)
    places = places[np.argsort(-own.levels[places])][:_LISTED]
    step = max(1, len(own.server_levels) // _POINTS)
    return {
        "layer": vector.layer,
        "mean": mean["value"],
        "low": mean["low"],
        "high": mean["high"],
        "forecast": _mean(last, turns.index),
        "max": float(np.nanmax(sigmas)) if np.isfinite(sigmas).any() else None,
        "alarms": int(own.alarms.sum()),
        "by_turn": _by_turn(turns, vector.trait),
        "drift": {
            "fitted_on": ordinary.n,
            "limit": ordinary.conversation.limit,
            "server_limit": ordinary.server.limit,
            "conversations": _share(conversations),
            "alarmed": [
                {
                    "conversation": turns.conversation[i],
                    "message": int(turns.message[i]),
                    "turn": int(turns.turn[i]),
                    "reading": float(own.readings[i]),
                    "level": float(own.levels[i]),
                }
                for i in places.tolist()
            ],
            "server_alarms": np.flatnonzero(own.server_alarms).tolist(),
            "server": [
                {"reply": i, "level": float(own.server_levels[i])}
                for i in range(0, len(own.server_levels), step)
            ],
        },
        "extremes": [
            {
                "index": int(turns.index[i]),
                "conversation": turns.conversation[i],
                "message": int(turns.message[i]),
                "turn": int(turns.turn[i]),
                "n_tokens": int(turns.n_tokens[i]),
                "response_mean": float(sigmas[i]),
                "prompt_last": float(last[i]),
            }
            for i in ranked.tolist()
            if np.isfinite(sigmas[i])
        ][:_LISTED],
    }


def _by_turn(turns: _Turns, trait: str) -> list[dict[str, Any]]:
    rows = []
    for turn in range(min(_TURNS, int(turns.turn.max()) + 1)):
        own = turns.turn == turn
        if own.sum() >= _REACHED or turn == 0:
            values = {
                "prompt_last": turns.prompt_last[trait][own],
                "response_mean": turns.response_mean[trait][own],
            }
            found = {name: _mean(v, turns.index[own]) for name, v in values.items()}
            rows.append({"turn": turn + 1, "n": int(own.sum()), **found})
    return rows


def _mean(values: Floats, clusters: npt.NDArray[np.int64]) -> dict[str, Any]:
    """With an interval over conversations, or null ends where there are fewer than two."""
    known = np.isfinite(values)
    if not known.any():
        return bounds(None)
    if len(np.unique(clusters[known])) < 2:
        return bounds(Interval(float(values[known].mean()), np.nan, np.nan))
    return bounds(cluster_mean(values[known], clusters[known]))


def _notes(
    loaded: LoadedModel, vectors: Sequence[PersonaVector], ordinary: Mapping[str, Ordinary]
) -> list[str]:
    identity = loaded.identity
    notes = [v.other_model_warning(identity.name, identity.declared_base) for v in vectors]
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


# Files


def _write(
    vectors: Sequence[PersonaVector],
    drifts: Mapping[str, _Drift],
    out: Path,
    config: MonitorConfig,
) -> Path:
    """All readings in one file, with forecasts and drift beside them."""
    path = out / f"readings.{config.format}"
    start = 0
    with atomic_path(path) as aside:
        writer: pq.ParquetWriter | None = None
        lines = aside.open("w", encoding="utf-8") if config.format == "jsonl" else None
        try:
            for part in parts.parts(out / "run"):
                table = pq.read_table(part)
                own = slice(start, start + len(table))
                for vector in vectors:
                    table = _extended(table, vector, drifts[vector.trait], own)
                start = own.stop
                if lines is not None:
                    for record in table.to_pylist():
                        lines.write(json.dumps(without_nan(record), ensure_ascii=False) + "\n")
                else:
                    writer = writer or pq.ParquetWriter(aside, table.schema)
                    writer.write_table(table)
        finally:
            for each in (lines, writer):
                if each is not None:
                    each.close()
    return path


def _extended(table: pa.Table, vector: PersonaVector, own: _Drift, place: slice) -> pa.Table:
    trait = vector.trait
    if vector.calibration is not None:
        last = table.column(f"{trait}_prompt_last").to_pylist()
        found = [vector.calibration.forecast(value) for value in last]
        for name in ("value", "low", "high"):
            values = pa.array([getattr(interval, name) for interval in found], pa.float64())
            table = table.append_column(f"{trait}_forecast_{name}", values)
    table = table.append_column(f"{trait}_drift", pa.array(own.levels[place]))
    return table.append_column(f"{trait}_alarm", pa.array(own.alarms[place]))


def _show_extremes(
    loaded: LoadedModel,
    reading: Gauge,
    log: str | Path,
    config: MonitorConfig,
    results: dict[str, Any],
) -> None:
    """Put the texts of each trait's most extreme turns into the results, token by token."""
    shown = {
        name: record["extremes"][: config.extremes] for name, record in results["traits"].items()
    }
    wanted = {(r["index"], r["message"]) for rows in shown.values() for r in rows}
    texts: dict[tuple[int, int], dict[str, Any]] = {}
    last = max((index for index, _ in wanted), default=-1)
    for raw in raw_rows(log, split=config.split):
        if raw.index > last:
            break
        for message in [m for index, m in wanted if index == raw.index]:
            texts[raw.index, message] = _text(loaded, reading, raw, message, config)
    for name, rows in shown.items():
        place = reading.traits.index(name)
        results["traits"][name]["extremes"] = [
            {
                **row,
                "question": texts[row["index"], row["message"]]["question"],
                "pieces": texts[row["index"], row["message"]]["pieces"][place],
            }
            for row in rows
        ]


def _text(
    loaded: LoadedModel, reading: Gauge, raw: RawRow, message: int, config: MonitorConfig
) -> dict[str, Any]:
    """What was asked, and for every trait the response in pieces with their readings in sigma."""
    row = parse_row(raw, config.columns, "row")
    if isinstance(row, Reject):  # it was read before, so the log has changed since
        raise DataError(f"row {raw.index} of the log is not what it was: {row.reason}")
    messages = row.messages[: message + 1]
    encoded = encode(
        loaded.chat,
        type(row)(row.index, row.id, messages),
        context=loaded.context,
        last_turn=True,
        thinking=True,
    )
    if isinstance(encoded, Reject):
        raise DataError(f"row {raw.index} of the log is not what it was: {encoded.reason}")
    text, turn = encoded.texts[-1], encoded.texts[-1].turns[-1]
    [values] = project_tokens(loaded.model, [text.ids], reading.directions)
    ids = text.ids[turn.start : turn.stop].tolist()
    spans = list(_characters(loaded, ids))
    baseline = reading.response_mean
    sigmas = (values[turn.start : turn.stop] - baseline[:, 0]) / baseline[:, 1]
    return {
        "question": messages[-2]["content"] if len(messages) > 1 else "",
        "pieces": [
            [
                {"text": piece, "sigma": round(float(sigmas[start:stop, place].mean()), 2)}
                for piece, start, stop in spans
            ]
            for place in range(len(reading.traits))
        ],
    }


def _characters(loaded: LoadedModel, ids: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Tokens as text, with their places; those that only together make a character are joined."""
    start = 0
    for stop in range(1, len(ids) + 1):
        piece = loaded.chat.decode(ids[start:stop])
        if not piece.endswith("\ufffd") or stop == len(ids):
            yield piece, start, stop
            start = stop
