"""Read a log window by window, and store each window's readings as a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from personavec.data import (
    RawRow,
    Reject,
    in_windows,
    marks,
    parse_row,
    parts,
    raw_rows,
    source_name,
)
from personavec.errors import DataError
from personavec.model import Encoded, LoadedModel, encode, with_thoughts
from personavec.model.engine import Engine
from personavec.monitor.config import MonitorConfig
from personavec.monitor.extremes import (
    TEXTS,
    Extremes,
    Place,
    TurnText,
    load_texts,
    turn_texts,
    with_texts,
)
from personavec.monitor.readings import Gauge, project_encoded, read_projected
from personavec.monitor.turns import to_table
from personavec.progress import Progress
from personavec.wording import plural

#: Rows that are read together and share forward passes; a kill loses at most one window.
WINDOW = 128


@dataclass(frozen=True, eq=False)
class LogJob:
    """A log to read, the model and vectors that read it, and the output folder."""

    loaded: LoadedModel
    gauge: Gauge
    engine: Engine
    log: str | Path
    out: Path
    config: MonitorConfig

    @property
    def folder(self) -> Path:
        """The folder with a part of readings for each window."""
        return self.out / "run"

    @property
    def rejects(self) -> Path:
        return self.out / "rejects.jsonl"


def read_log(job: LogJob, progress: Progress) -> int:
    """Read every window without a part; returns the number of rejected rows in the whole log.

    Raises DataError for more rejected rows than the config allows.
    """
    name, config = source_name(job.log), job.config
    total = _count_rows(job)
    done, extremes = _sound_windows(job, total, progress)
    rejected = sum(done.values())
    with progress.bar(f"reading {name}", total) as bar, _gathered(job):
        bar.found(sum(min(WINDOW, total - number * WINDOW) for number in done))
        missing = _missing_windows(job, done, total)
        for number, raws, rows in parts.ahead(missing):
            rejected += _read_window(job, number, raws, rows, extremes)
            bar.advance(len(raws))
            if config.max_rejects is not None and rejected > config.max_rejects:
                raise DataError(
                    f"{plural(rejected, 'row')} of {job.log} could not be read, more than the "
                    f"{config.max_rejects} allowed; {job.rejects} says why"
                )
    return rejected


def _count_rows(job: LogJob) -> int:
    found = marks(job.log, WINDOW)
    if found is not None:
        return found[1]
    return sum(1 for _ in raw_rows(job.log, split=job.config.split))


def _missing_windows(
    job: LogJob, done: dict[int, int], total: int
) -> Iterator[tuple[int, list[RawRow], list[Encoded | Reject]]]:
    """The tokenised rows of the windows that are not done; runs in a thread beside the model."""
    if len(done) == -(-total // WINDOW):
        return
    rows = raw_rows(job.log, split=job.config.split)
    for number, raws in enumerate(in_windows(rows, WINDOW)):
        if number not in done:
            yield number, raws, [_encode(job, raw) for raw in raws]


def _encode(job: LogJob, raw: RawRow) -> Encoded | Reject:
    loaded = job.loaded
    row = parse_row(raw, job.config.columns, "row")
    encoded = encode(loaded.chat, row, context=loaded.context, thinking=True)
    if isinstance(encoded, Reject):
        return encoded
    return with_thoughts(encoded, "a thought was read apart from its answer")


def _write_rejects(
    job: LogJob, number: int, raws: Sequence[RawRow], rows: Sequence[Encoded | Reject]
) -> int:
    """Write a window's rejects; returns their number."""
    bad = {row.index: row for row in rows if isinstance(row, Reject)}
    return parts.write_rejects(
        job.folder,
        number,
        raws,
        [bad[raw.index].id if raw.index in bad else "" for raw in raws],
        [bad[raw.index].reason if raw.index in bad else None for raw in raws],
        source_name(job.log),
    )


def _read_window(
    job: LogJob,
    number: int,
    raws: Sequence[RawRow],
    rows: Sequence[Encoded | Reject],
    extremes: Extremes,
) -> int:
    """Read a window's rows and write its rejects and part; returns the number of rejects."""
    encoded = [row for row in rows if isinstance(row, Encoded)]
    values = project_encoded(job.engine, encoded, job.gauge, batch_tokens=job.config.batch_tokens)
    table = _to_table(job, encoded, values)
    extremes.add(table)
    table = with_texts(table, _texts(job, encoded, values, extremes))
    n_bad = _write_rejects(job, number, raws, rows)
    counts = {"rows": str(len(raws)), "rejects": str(n_bad)}
    parts.write_part(parts.part(job.folder, number), table.replace_schema_metadata(counts))
    return n_bad


def _to_table(job: LogJob, rows: Sequence[Encoded], values: Sequence[Sequence[Tensor]]) -> pa.Table:
    """The rows' readings, from the projections of their texts."""
    tokens = job.config.tokens
    readings = [
        read_projected(job.gauge, row, own, tokens=tokens)
        for row, own in zip(rows, values, strict=True)
    ]
    return to_table(rows, readings, job.gauge.traits, tokens=tokens)


def _texts(
    job: LogJob,
    rows: Sequence[Encoded],
    values: Sequence[Sequence[Tensor]],
    extremes: Extremes,
) -> dict[Place, TurnText]:
    """The texts of the rows' turns that are among the highest so far."""
    found: dict[Place, TurnText] = {}
    highest = extremes.places()
    for row, own in zip(rows, values, strict=True):
        messages = {message for index, message in highest if index == row.row.index}
        found |= turn_texts(job.loaded, job.gauge, row, own, messages)
    return found


@contextmanager
def _gathered(job: LogJob) -> Iterator[None]:
    """Gather the windows' rejected rows into one file, also after an error."""
    try:
        yield
    finally:
        parts.gather_rejects([job.folder], job.rejects)


def _sound_windows(job: LogJob, total: int, progress: Progress) -> tuple[dict[int, int], Extremes]:
    """The windows with an intact part and their numbers of rejects, and their highest turns.

    Other parts are deleted. So are parts that lack the text of one of the highest turns, because an
    earlier run showed fewer turns.
    """
    there = [int(path.stem) for path in parts.written(job.folder)]
    counted = {number: _count_rejects(job, number, total) for number in there}
    done = {number: bad for number, bad in counted.items() if bad is not None}
    _delete(job, set(there) - done.keys())
    lacking = _without_texts(job, done)
    _delete(job, lacking)
    done = {number: bad for number, bad in done.items() if number not in lacking}
    if again := max(there, default=-1) + 1 - len(done):
        progress.say(f"missing or damaged parts of {job.folder} are read again ({again})")
    return done, _highest(job, done)


def _delete(job: LogJob, windows: Iterable[int]) -> None:
    for number in windows:
        parts.part(job.folder, number).unlink()


def _count_rejects(job: LogJob, number: int, total: int) -> int | None:
    """The number of rejects of a window; None if its part is damaged or has other columns."""
    wanted = _to_table(job, [], []).schema
    columns = {**dict(zip(wanted.names, wanted.types, strict=True)), TEXTS: pa.string()}
    table = parts.read_part(parts.part(job.folder, number), columns)
    about = (table.schema.metadata if table is not None else None) or {}
    rows, bad = (int(about.get(name, -1)) for name in (b"rows", b"rejects"))
    whole = rows == min(WINDOW, total - number * WINDOW)
    return bad if whole and bad == parts.count_rejects(job.folder, number) else None


def _highest(job: LogJob, windows: Iterable[int]) -> Extremes:
    """The highest turns of the windows that are done."""
    found = Extremes(job.gauge.traits, job.config.extremes)
    for number in windows:
        found.add(pq.read_table(parts.part(job.folder, number), columns=found.columns))
    return found


def _without_texts(job: LogJob, windows: Iterable[int]) -> set[int]:
    """The windows with one of the highest turns whose text is not stored."""
    highest = _highest(job, windows).places()
    kept = load_texts(job.folder, highest)
    return {index // WINDOW for index, _ in highest - kept.keys()}
