"""The turns with the highest readings of a trait, whose texts are stored while the log is read.

A turn's text is stored if the turn is among the highest of the log so far. In whatever order the
log is read, the highest turns of the whole log are among these. So no row is parsed or projected
twice, and few texts are stored.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from personavec.data import parts
from personavec.judges import last_answer
from personavec.model import Encoded, LoadedModel
from personavec.monitor.pieces import characters
from personavec.monitor.readings import Gauge
from personavec.monitor.results import Piece

#: The column of the texts, in a run's tables.
TEXTS = "shown"
#: A turn of the log: its row, and the message in it.
Place = tuple[int, int]


class Extremes:
    """The `most` highest turns of each trait so far; of equal ones, the first."""

    def __init__(self, traits: Sequence[str], most: int):
        self._most = most
        # By each trait's column a heap of (sigma, −row, −message), with the lowest entry first.
        self._heaps: dict[str, list[tuple[float, int, int]]] = {
            f"{trait}_response_mean_sigma": [] for trait in traits
        }

    @property
    def columns(self) -> list[str]:
        """The columns of a table that `add` reads."""
        return ["index", "message", *self._heaps]

    def add(self, turns: pa.Table) -> None:
        """Add a table of turns."""
        rows, messages = (turns.column(name).to_pylist() for name in ("index", "message"))
        for column, heap in self._heaps.items():
            sigmas = turns.column(column).to_pylist()
            for sigma, row, message in zip(sigmas, rows, messages, strict=True):
                if sigma is not None:
                    heapq.heappush(heap, (sigma, -row, -message))
                if len(heap) > self._most:
                    heapq.heappop(heap)

    def places(self) -> set[Place]:
        """The rows and messages of the highest turns."""
        return {(-row, -message) for heap in self._heaps.values() for _, row, message in heap}


@dataclass(frozen=True)
class TurnText:
    """A turn's question, and its response in pieces: texts with their sigma for every trait."""

    question: str
    pieces: tuple[tuple[str, tuple[float, ...]], ...]

    def to_json(self) -> str:
        """The form in which a run's tables store it."""
        return json.dumps([self.question, self.pieces])

    @classmethod
    def from_json(cls, text: str) -> TurnText:
        question, pieces = json.loads(text)
        return cls(question, tuple((piece, tuple(sigmas)) for piece, sigmas in pieces))

    def along(self, direction: int) -> tuple[Piece, ...]:
        """The response with its sigmas along one of the gauge's directions."""
        return tuple(Piece(text=text, sigma=sigmas[direction]) for text, sigmas in self.pieces)


def turn_texts(
    loaded: LoadedModel,
    gauge: Gauge,
    row: Encoded,
    values: Sequence[Tensor],
    messages: set[int],
) -> dict[Place, TurnText]:
    """The texts of the row's turns in `messages`; `values` are [token, direction] by text."""
    found = {}
    for text, own in zip(row.texts, values, strict=True):
        for turn in text.turns:
            if turn.message not in messages:
                continue
            ids = text.ids[turn.start : turn.stop].tolist()
            sigmas = gauge.response_sigmas(own[turn.start : turn.stop])
            pieces = tuple(
                (piece, tuple(round(value, 2) for value in sigmas[start:stop].mean(0).tolist()))
                for piece, start, stop in characters(loaded, ids)
            )
            question = last_answer(row.row.messages[: turn.message + 1]).question
            found[row.row.index, turn.message] = TurnText(question, pieces)
    return found


def with_texts(turns: pa.Table, texts: Mapping[Place, TurnText]) -> pa.Table:
    """A table of turns with the texts of some of them."""
    places = zip(*(turns.column(name).to_pylist() for name in ("index", "message")), strict=True)
    kept = [texts[place].to_json() if place in texts else None for place in places]
    return turns.append_column(TEXTS, pa.array(kept, pa.string()))


def load_texts(folder: Path, wanted: Collection[Place]) -> dict[Place, TurnText]:
    """Load the stored texts of the wanted turns from the tables in a folder."""
    found = {}
    for path in parts.written(folder):
        table = pq.read_table(path, columns=["index", "message", TEXTS])
        table = table.filter(table.column(TEXTS).is_valid())
        for index, message, text in zip(*table.to_pydict().values(), strict=True):
            if (index, message) in wanted:
                found[index, message] = TurnText.from_json(text)
    return found
