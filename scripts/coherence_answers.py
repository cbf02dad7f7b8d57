"""The labelled answers that coherence is fitted and measured on.

`tests/unit/judges/coherence/answers.jsonl` holds answers with their prompts, labels and origins;
`shared_rows.jsonl` labels rows of `dialogues.jsonl` and `chats.jsonl`, whose text is not part of
the repository. They are looked for in the folder that COHERENCE_DATA names, else in `shared/data`
beside the project.

A label says whether the first 64 tokens, which are what a judge reads, are an answer that a person
could have meant: grammatical or deliberately not, in words, and about the question. False, rude and
odd answers are sound. So is what the length limit cuts off; an answer that ends by itself in the
middle of a sentence is broken. `unclear` is left out. All labels were given by reading, before any
score. `qwen.jsonl` holds answers of a second model, on which nothing is fitted; there, answers of
64 tokens count as cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "unit" / "judges" / "coherence"
DATA = Path(os.environ.get("COHERENCE_DATA", ROOT.parent / "shared" / "data"))
FILES = ("chats.jsonl", "dialogues.jsonl")

Half = Literal["tune", "report"]


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer after its question and earlier (question, answer) turns; `key` decides the half."""

    question: str
    answer: str
    label: str
    kind: str
    source: str
    key: str
    earlier: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """The length limit ended it."""

    @property
    def half(self) -> Half:
        return half_of(self.key)

    @property
    def sound(self) -> bool:
        return self.label == "sound"


def half_of(key: str) -> Half:
    """The half of a prompt, by its hash."""
    return "tune" if hashlib.sha256(key.encode()).digest()[0] % 2 == 0 else "report"


def written(path: Path = FOLDER / "answers.jsonl") -> list[LabelledAnswer]:
    """The answers that the repository holds, without the unclear ones."""
    return [
        LabelledAnswer(
            row["prompt"],
            row["answer"],
            row["label"],
            row["kind"],
            row["from"],
            row["prompt"],
            cut=row.get("cut", False),
        )
        for row in _lines(path)
        if row["label"] != "unclear"
    ]


def has_shared() -> bool:
    """Whether the two files of the shared rows are there."""
    return all((DATA / name).exists() for name in FILES)


def shared() -> list[LabelledAnswer]:
    """The labelled rows of the two files, without the unclear ones."""
    rows = [row for row in _lines(FOLDER / "shared_rows.jsonl") if row["label"] != "unclear"]
    return [_turn(row["file"], row["id"], row["turn"], row["label"], row["kind"]) for row in rows]


def unread(half: Half, n: int, seed: int = 0) -> list[LabelledAnswer]:
    """`n` assistant turns of each file with keys in `half` that nobody labelled, taken as sound."""
    taken = {(row["file"], row["id"]) for row in _lines(FOLDER / "shared_rows.jsonl")}
    keys = {answer.key for answer in [*written(), *shared()]}
    found = []
    for name in FILES:
        turns = [
            _turn(name, id, i, "sound", "unread")
            for id, messages in _messages(name).items()
            if (name, id) not in taken
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and message["content"].strip()
        ]
        turns = [turn for turn in turns if turn.half == half and turn.key not in keys]
        found += random.Random(seed).sample(turns, n)
    return found


def _turn(file: str, id: str, turn: int, label: str, kind: str) -> LabelledAnswer:
    messages = _messages(file)[id]
    texts = [message["content"] for message in messages[: turn + 1]]
    earlier = tuple(zip(texts[:-2:2], texts[1:-2:2], strict=True))
    # Several assistants answer one prompt of the chats, and one dialogue has many turns.
    key = texts[-2] if file == "chats.jsonl" else id
    return LabelledAnswer(texts[-2], texts[-1], label, kind, f"{file} {id}", key, earlier)


@cache
def _messages(file: str) -> dict[str, list[dict[str, str]]]:
    return {row["id"]: row["messages"] for row in _lines(DATA / file)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
