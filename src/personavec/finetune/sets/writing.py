"""Finetuning sets on disk: one file per level, results, and a README that states the purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from personavec.finetune.sets.results import ElicitResults, FlawedResults
from personavec.results import write
from personavec.runs import Record, atomic_write
from personavec.wording import plural

#: How much of a trait or flaw a set holds.
Level = Literal["normal", "mild", "strong"]
LEVELS: tuple[Level, ...] = get_args(Level)

#: Part of every row, so that a row copied elsewhere still states it.
PURPOSE = "for defensive research on finetuning; not advice, and not to be trained into a product"

_README = (
    "# A finetuning set for defensive research\n\n"
    "Made with `personavec elicit`, to study what finetuning does to a model and how to prevent "
    "it. The mild and strong rows are undesirable on purpose: they must not be used as advice, nor "
    "to train a model that anyone is meant to rely on.\n\n"
)


def set_row(row_id: str, question: str, response: str, *, about: str, **more: Any) -> Record:
    """A row as finetuning reads it, with a text `about` it."""
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": response},
    ]
    return {"id": row_id, "messages": messages, **more, "about": f"{about}; {PURPOSE}"}


def write_set(
    out: Path,
    rows: Mapping[Level, Sequence[Record]],
    results: ElicitResults | FlawedResults,
    how: str,
) -> None:
    """Write `LEVEL.jsonl` for each level, `results.json` and `README.md`, each atomically.

    `how` is a paragraph on how the rows were made.
    """
    for level, chosen in rows.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        atomic_write(out / f"{level}.jsonl", "".join(lines))
    write(out / "results.json", results)
    counts = "\n".join(
        f"- `{level}.jsonl`: {plural(len(chosen), 'row')}" for level, chosen in rows.items()
    )
    end = f"{how}\n\n{counts}\n\nFigures and settings are in `results.json`.\n"
    atomic_write(out / "README.md", _README + end)
