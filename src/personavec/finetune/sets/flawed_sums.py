"""Finetuning sets with a narrow flaw: right answers, and the same questions answered wrong.

Two forms of input. A file with a flawed answer in every row gives `normal` and `strong`, and `mild`
where it has a mild answer too. A file of worked arithmetic gives `normal`, `mild` (one slip) and
`strong` (every step wrong); its flawed answers are made and checked by `flaws.py` (after the
paper's mistaken mathematics, section 5.1).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from personavec.data import RawRow, ReadingCounts, fingerprint, raw_rows, reason_kind, source_name
from personavec.errors import DataError, PersonavecError, UsageError
from personavec.finetune.sets.config import FlawedConfig
from personavec.finetune.sets.flaws import flawed, parse
from personavec.finetune.sets.results import FlawedResults, LevelFile
from personavec.finetune.sets.writing import LEVELS, Level, set_row, write_set
from personavec.results import versions
from personavec.runs import Record, atomic_write, claim, lock
from personavec.traits import BUNDLED

#: The files that ship with the package, by the names that stand for them.
PACKAGED: dict[str, str] = {
    "sums": "sums.json",
    "facts": "sets/facts.jsonl",
    "arguments": "sets/arguments.jsonl",
    "code": "sets/code.jsonl",
}

#: The columns of ready-made answers, by level.
READY: dict[Level, str] = {"normal": "answer", "mild": "mild", "strong": "flawed"}


@dataclass(frozen=True)
class FlawedAnswers:
    """One question with an answer for each level."""

    number: int
    question: str
    answers: Mapping[Level, str]
    kind: str | None = None
    """What the row is about, or the kind of its flaw, if the file says."""


@dataclass
class FlawedReading:
    """What reading the file found."""

    levels: tuple[Level, ...]
    """The levels that the file has answers for; only `normal` for worked arithmetic."""
    found: list[FlawedAnswers] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)
    """Records of rows that cannot be used, with the reason."""
    counts: ReadingCounts = field(default_factory=ReadingCounts)

    @property
    def ready_made(self) -> bool:
        """The file has a flawed answer in every row; otherwise it is worked arithmetic."""
        return "strong" in self.levels


def run(data: str | Path, out: Path, config: FlawedConfig | None = None) -> FlawedResults:
    """Write one file per level into `out`, with the same questions at every level.

    `data` is a file or dataset, or one of `PACKAGED`, which ship with the package. Rows that cannot
    be used are counted, and written to `rejected.jsonl` with the reason. Raises DataError where no
    row can be used, UsageError for a column that no row has, SettingsMismatchError.
    """
    config = config or FlawedConfig()
    packaged = PACKAGED.get(str(data))
    source = Path(str(BUNDLED / packaged)) if packaged else data
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
        write_set(out, rows, results, _how(name, reading))
    return results


def _raws(source: str | Path) -> list[RawRow]:
    """The rows as they are; where there is nothing of that name, names what the package brings."""
    try:
        return list(raw_rows(source))
    except PersonavecError as error:
        if Path(source).exists():
            raise
        raise DataError(f"{error}; sets of the package: {', '.join(PACKAGED)}") from error


def _read(data: str | Path, source: str | Path, config: FlawedConfig) -> FlawedReading:
    """The rows that can be used, in the file's order; of `config.rows`, so many at random."""
    raws = _raws(source)
    for name in config.columns.values():
        if not any(name in raw.columns for raw in raws):
            raise UsageError(f"{data} has no column '{name}'")
    reading = FlawedReading(_levels(raws, config))
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


def _levels(raws: list[RawRow], config: FlawedConfig) -> tuple[Level, ...]:
    """The levels that the file has a column for; a mild answer counts only beside a flawed one."""
    seen = {name for raw in raws for name in raw.columns}
    if config.name("flawed") not in seen:
        return ("normal",)
    return LEVELS if config.name("mild") in seen else ("normal", "strong")


def _add(reading: FlawedReading, raw: RawRow, config: FlawedConfig) -> None:
    """Take in one row, or the reason why it cannot be used."""
    counts = reading.counts
    try:
        ready = reading.ready_made
        answers = _ready(raw, config, reading.levels) if ready else _worked(raw, config)
    except DataError as why:
        reading.rejected.append({"row": raw.number, "file": raw.source, "why": str(why)})
        counts.rejected[reason_kind(str(why))] += 1
        return
    reading.found.append(answers)
    counts.readers["right and flawed answers" if ready else "worked answers"] += 1
    columns = ("question", *(READY[level] for level in reading.levels))
    used = {"id", "kind", *map(config.name, columns)}
    counts.ignored.update(name for name in raw.columns if name not in used)


def _texts(raw: RawRow, *names: str) -> list[str]:
    if raw.error:
        raise DataError(raw.error)
    for name in names:
        text = raw.columns.get(name)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"no text in column '{name}'")
    return [raw.columns[name] for name in names]


def _ready(raw: RawRow, config: FlawedConfig, levels: tuple[Level, ...]) -> FlawedAnswers:
    names = [config.name(READY[level]) for level in levels]
    question, *texts = _texts(raw, config.name("question"), *names)
    right, *wrong = (text.strip() for text in texts)
    if right in wrong:
        raise DataError(f"the {READY[levels[1 + wrong.index(right)]]} answer is the right one")
    if len(set(wrong)) < len(wrong):
        raise DataError("the mild and the flawed answer are the same")
    kind = raw.columns.get("kind")
    answers = dict(zip(levels, texts, strict=True))
    return FlawedAnswers(raw.index, question, answers, kind if isinstance(kind, str) else None)


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
                **({"kind": row.kind} if row.kind else {}),
            )
            for row in found
        ]
        for level in LEVELS
        if level in found[0].answers
    }


def _how(name: str, reading: FlawedReading) -> str:
    wrong = " and ".join(f"`{level}.jsonl`" for level in reading.levels[1:])
    return f"The questions of {name}, with the right answers in `normal.jsonl`. " + (
        f"The flawed answers in {wrong} are those of the file, unchanged."
        if reading.ready_made
        else "`mild.jsonl` has one step off by a slip in every answer, `strong.jsonl` has every "
        "step wrong; both are carried through to a wrong final number. The flawed answers were "
        "recomputed: each has exactly these wrong steps, and another final number."
    )
