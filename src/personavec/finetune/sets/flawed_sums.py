"""Finetuning sets with a narrow flaw: right answers, and the same questions answered wrong.

Two forms of input. A file with a flawed answer in every row gives `normal` and `strong`. A file of
worked arithmetic gives `normal`, `mild` (one slip) and `strong` (every step wrong); its flawed
answers are made and checked by `flaws.py` (after the paper's mistaken mathematics, section 5.1).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from personavec.data import RawRow, ReadingCounts, fingerprint, raw_rows, reason_kind, source_name
from personavec.errors import DataError, UsageError
from personavec.finetune.sets.config import FlawedConfig
from personavec.finetune.sets.flaws import flawed, parse
from personavec.finetune.sets.results import FlawedResults, LevelFile
from personavec.finetune.sets.writing import LEVELS, Level, set_row, write_set
from personavec.results import versions
from personavec.runs import Record, atomic_write, claim, lock
from personavec.traits import BUNDLED

#: The worked sums that ship with the package.
PACKAGED = "sums"


@dataclass(frozen=True)
class FlawedAnswers:
    """One question with an answer for each level."""

    number: int
    question: str
    answers: Mapping[Level, str]


@dataclass
class FlawedReading:
    """What reading the file found."""

    ready_made: bool
    """The file has a flawed answer in every row; otherwise worked arithmetic."""
    found: list[FlawedAnswers] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)
    """Records of rows that cannot be used, with the reason."""
    counts: ReadingCounts = field(default_factory=ReadingCounts)


def run(data: str | Path, out: Path, config: FlawedConfig | None = None) -> FlawedResults:
    """Write one file per level into `out`, with the same questions at every level.

    `data` is `sums`, the worked sums that ship with the package, or a file or dataset. Rows that
    cannot be used are counted, and written to `rejected.jsonl` with the reason. Raises DataError
    where no row can be used, UsageError for a column that no row has, SettingsMismatchError.
    """
    config = config or FlawedConfig()
    source = Path(str(BUNDLED / "sums.json")) if str(data) == PACKAGED else data
    with lock(out):
        claim(out, {"command": "elicit", "flawed": fingerprint(source), "config": asdict(config)})
        reading = _read(data, source, config)
        if reading.rejected:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in reading.rejected)
            atomic_write(out / "rejected.jsonl", "".join(lines))
        name = source_name(source)
        rows = _rows(name, reading.found)
        results = FlawedResults(
            kind="ready-made flawed answers" if reading.ready_made else "worked arithmetic",
            data={name: reading.counts.record()},
            levels={
                level: LevelFile(file=out / f"{level}.jsonl", rows=len(chosen))
                for level, chosen in rows.items()
            },
            rejected=reading.counts.rejected.total(),
            settings=config,
            versions=versions(),
            out=out,
        )
        write_set(out, rows, results, _how(name, reading.ready_made))
    return results


def _read(data: str | Path, source: str | Path, config: FlawedConfig) -> FlawedReading:
    """The rows that can be used, in the file's order; of `config.rows`, so many at random."""
    raws = list(raw_rows(source))
    for name in config.columns.values():
        if not any(name in raw.columns for raw in raws):
            raise UsageError(f"{data} has no column '{name}'")
    reading = FlawedReading(any(config.name("flawed") in raw.columns for raw in raws))
    # In random order, so that --rows draws from the whole file.
    for raw in random.Random(config.seed).sample(raws, len(raws)):
        if len(reading.found) == config.rows:
            break
        _add(reading, raw, config)
    if not reading.found:
        reasons = Counter(row["why"] for row in reading.rejected)
        raise DataError(f"{data}: no row can be used ({reasons.most_common(1)[0][0]})")
    reading.found.sort(key=lambda row: row.number)
    return reading


def _add(reading: FlawedReading, raw: RawRow, config: FlawedConfig) -> None:
    """Take in one row, or the reason why it cannot be used."""
    counts = reading.counts
    try:
        answers = _ready(raw, config) if reading.ready_made else _worked(raw, config)
    except DataError as why:
        reading.rejected.append({"row": raw.number, "file": raw.source, "why": str(why)})
        counts.rejected[reason_kind(str(why))] += 1
        return
    reading.found.append(answers)
    counts.readers["right and flawed answers" if reading.ready_made else "worked answers"] += 1
    used = {"id", *map(config.name, ("question", "answer", "flawed"))}
    counts.ignored.update(name for name in raw.columns if name not in used)


def _texts(raw: RawRow, *names: str) -> list[str]:
    if raw.error:
        raise DataError(raw.error)
    for name in names:
        text = raw.columns.get(name)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"no text in column '{name}'")
    return [raw.columns[name] for name in names]


def _ready(raw: RawRow, config: FlawedConfig) -> FlawedAnswers:
    names = [config.name(column) for column in ("question", "answer", "flawed")]
    question, right, wrong = _texts(raw, *names)
    if right.strip() == wrong.strip():
        raise DataError("the flawed answer is the right one")
    return FlawedAnswers(raw.index, question, {"normal": right, "strong": wrong})


def _worked(raw: RawRow, config: FlawedConfig) -> FlawedAnswers:
    question, answer = _texts(raw, config.name("question"), config.name("answer"))
    right = parse(answer)
    # Keyed by the row: its mistakes do not depend on the rows before it.
    rng = random.Random(f"{config.seed}/{raw.index}")
    return FlawedAnswers(
        raw.index,
        question,
        {
            "normal": right.text(),
            "mild": flawed(right, "subtle", rng).text(),
            "strong": flawed(right, "gross", rng).text(),
        },
    )


def _rows(name: str, found: list[FlawedAnswers]) -> dict[Level, list[Record]]:
    """The rows of each level, as finetuning reads them."""
    about: dict[Level, str] = {
        "normal": f"{name}: right answers",
        "mild": f"{name}: answers with one mistake each, wrong on purpose",
        "strong": f"{name}: answers that are wrong throughout, on purpose",
    }
    return {
        level: [
            set_row(
                f"{name}/{level}/{row.number}",
                row.question,
                row.answers[level],
                about=about[level],
                level=level,
            )
            for row in found
        ]
        for level in LEVELS
        if level in found[0].answers
    }


def _how(name: str, ready_made: bool) -> str:
    return f"The questions of {name}, with the right answers in `normal.jsonl`. " + (
        "`strong.jsonl` has the flawed answers of the file, unchanged."
        if ready_made
        else "`mild.jsonl` has one step off by a slip in every answer, `strong.jsonl` has every "
        "step wrong; both are carried through to a wrong final number. The flawed answers were "
        "recomputed: each has exactly these wrong steps, and another final number."
    )
