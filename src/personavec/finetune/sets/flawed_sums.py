"""Finetuning sets with a narrow flaw: right answers, and the same questions answered wrong.

Two shapes of input. A file with a flawed answer in every row gives `normal` and `strong`. A file
of worked arithmetic gives `normal`, `mild` (one slip) and `strong` (every step wrong), its flawed
answers made and checked by `flaws.py` (after the paper's mistaken mathematics, section 5.1).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from personavec.data import RawRow, ReadingCounts, fingerprint, raw_rows, reason_kind, source_name
from personavec.errors import DataError, UsageError
from personavec.finetune.sets.flaws import flawed, parse
from personavec.finetune.sets.writing import LEVELS, Level, set_row, write_set
from personavec.results import versions
from personavec.runs import atomic_write, claim, lock
from personavec.traits import BUNDLED

#: The worked sums that ship with the package.
PACKAGED = "sums"


@dataclass(frozen=True)
class FlawedConfig:
    """Everything that decides the rows, beside the file."""

    rows: int | None = None
    """At most so many, drawn at random; default: all that can be used."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Other names of the columns `question`, `answer` (right) and `flawed`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.columns) - {"question", "answer", "flawed"}:
            raise UsageError(
                f"--columns {min(unknown)}=…: the columns are question, answer and flawed"
            )
        if self.rows is not None and self.rows < 1:
            raise UsageError("rows must be at least 1")

    def name(self, column: str) -> str:
        return self.columns.get(column, column)


@dataclass(frozen=True)
class _Answers:
    """One question with an answer for each level."""

    number: int
    question: str
    answers: Mapping[Level, str]


def run(data: str | Path, out: Path, config: FlawedConfig | None = None) -> dict[str, Any]:
    """Write a file a level into `out`, with the same questions at every level; the summary.

    `data` is `sums`, the worked sums that ship, or anything that `conversations` reads. Rows that
    cannot be used are counted, and stand in `rejected.jsonl` with the reason. Raises DataError when
    none can, UsageError for a column that no row has, SettingsMismatchError.
    """
    config = config or FlawedConfig()
    source = Path(str(BUNDLED / "sums.json")) if str(data) == PACKAGED else data
    with lock(out):
        claim(out, {"command": "elicit", "flawed": fingerprint(source), "config": asdict(config)})
        raws = list(raw_rows(source))
        ready_made = any(config.name("flawed") in raw.columns for raw in raws)
        for name in config.columns.values():
            if not any(name in raw.columns for raw in raws):
                raise UsageError(f"{data} has no column '{name}'")
        rejected: list[dict[str, Any]] = []
        found: list[_Answers] = []
        told = ReadingCounts()
        used = {"id", *map(config.name, ("question", "answer", "flawed"))}
        # In an order of their own, so that --rows draws from the whole file.
        for raw in random.Random(config.seed).sample(raws, len(raws)):
            if config.rows is not None and len(found) == config.rows:
                break
            try:
                found.append(_ready(raw, config) if ready_made else _worked(raw, config))
            except DataError as why:
                rejected.append({"row": raw.number, "file": raw.source, "why": str(why)})
                told.rejected[reason_kind(str(why))] += 1
                continue
            told.readers["right and flawed answers" if ready_made else "worked answers"] += 1
            told.ignored.update(name for name in raw.columns if name not in used)
        if not found:
            reasons = Counter(row["why"] for row in rejected)
            raise DataError(f"{data}: no row can be used ({reasons.most_common(1)[0][0]})")
        if rejected:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
            atomic_write(out / "rejected.jsonl", "".join(lines))
        found.sort(key=lambda row: row.number)
        return _write(source_name(source), found, told, ready_made, config, out)


def _texts(raw: RawRow, *names: str) -> list[str]:
    if raw.error:
        raise DataError(raw.error)
    for name in names:
        text = raw.columns.get(name)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"no text in column '{name}'")
    return [raw.columns[name] for name in names]


def _ready(raw: RawRow, config: FlawedConfig) -> _Answers:
    names = [config.name(column) for column in ("question", "answer", "flawed")]
    question, right, wrong = _texts(raw, *names)
    if right.strip() == wrong.strip():
        raise DataError("the flawed answer is the right one")
    return _Answers(raw.index, question, {"normal": right, "strong": wrong})


def _worked(raw: RawRow, config: FlawedConfig) -> _Answers:
    question, answer = _texts(raw, config.name("question"), config.name("answer"))
    right = parse(answer)
    # Keyed by the row, so that a row's mistakes do not depend on the rows before it.
    rng = random.Random(f"{config.seed}/{raw.index}")
    return _Answers(
        raw.index,
        question,
        {
            "normal": right.text(),
            "mild": flawed(right, "subtle", rng).text(),
            "strong": flawed(right, "gross", rng).text(),
        },
    )


def _write(
    name: str,
    found: list[_Answers],
    told: ReadingCounts,
    ready_made: bool,
    config: FlawedConfig,
    out: Path,
) -> dict[str, Any]:
    kind = "ready-made flawed answers" if ready_made else "worked arithmetic"
    about: dict[Level, str] = {
        "normal": f"{name}: right answers",
        "mild": f"{name}: answers with one mistake each, wrong on purpose",
        "strong": f"{name}: answers that are wrong throughout, on purpose",
    }
    rows: dict[Level, list[dict[str, Any]]] = {
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
    results = {
        "kind": kind,
        "data": {name: told.to_dict()},
        "levels": {
            level: {"file": str(out / f"{level}.jsonl"), "rows": len(chosen)}
            for level, chosen in rows.items()
        },
        "rejected": told.rejected.total(),
        "settings": asdict(config),
        "versions": versions(),
        "out": str(out),
    }
    how = f"The questions of {name}, with the right answers in `normal.jsonl`. " + (
        "`strong.jsonl` has the flawed answers of the file, as they were."
        if ready_made
        else "`mild.jsonl` has one step off by a slip in every answer, `strong.jsonl` has every "
        "step wrong; both are carried through to a wrong final number. The flawed answers were "
        "recomputed: each has exactly these wrong steps, and another final number."
    )
    write_set(out, rows, results, how)
    return results
