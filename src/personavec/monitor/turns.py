"""The readings of a log's turns, as a table with a line for each turn and as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import parts, reading_text
from personavec.model import Encoded
from personavec.monitor.readings import TurnReading
from personavec.plain import unicode_text

_VALUES = (
    "prompt_last",
    "prompt_last_sigma",
    "response_mean",
    "response_mean_sigma",
    "thinking_mean",
    "thinking_mean_sigma",
)
Floats = npt.NDArray[np.float64]


def to_table(
    rows: Sequence[Encoded],
    readings: Sequence[Sequence[TurnReading]],
    traits: Sequence[str],
    *,
    tokens: bool,
) -> pa.Table:
    """A table with a line for each turn; columns of readings begin with the trait's name."""
    lines = []
    for row, found in zip(rows, readings, strict=True):
        by_turn = [list(own) for _, own in itertools.groupby(found, key=lambda r: r.turn)]
        for turn, own in enumerate(by_turn):
            line: dict[str, Any] = {
                "index": row.row.index,
                "conversation": unicode_text(row.row.id),
                "message": own[0].turn,
                "turn": turn,
                "n_tokens": own[0].n_tokens,
                # Only in a conversation's first line, so that conversations are counted, not turns.
                "told": None if turn else reading_text(row.row),
            }
            for reading in own:
                line |= {f"{reading.trait}_{name}": getattr(reading, name) for name in _VALUES}
                if tokens:
                    line[f"{reading.trait}_tokens"] = reading.tokens
            lines.append(line)
    whole = {name: pa.int64() for name in ("index", "message", "turn", "n_tokens")}
    types: dict[str, pa.DataType] = {"index": whole["index"], "conversation": pa.string(), **whole}
    types["told"] = pa.string()
    for trait in traits:
        types |= {f"{trait}_{name}": pa.float64() for name in _VALUES}
        if tokens:
            types[f"{trait}_tokens"] = pa.list_(pa.float32())
    return pa.Table.from_pylist(lines, pa.schema(list(types.items())))


@dataclass(frozen=True, eq=False)
class LogTurns:
    """All turns of a log as arrays [turn], in the order of the log; a missing reading is NaN."""

    index: npt.NDArray[np.int64]
    """The conversation's row in the log."""
    conversation: list[str]
    """The conversation's id."""
    message: npt.NDArray[np.int64]
    """The turn's message in the conversation."""
    turn: npt.NDArray[np.int64]
    """Number of the assistant turn, from 0 on."""
    n_tokens: npt.NDArray[np.int64]
    prompt_last: Mapping[str, Floats]
    """By trait, in sigmas."""
    response_mean: Mapping[str, Floats]
    """By trait, in sigmas."""

    @classmethod
    def load(cls, folder: Path, traits: Sequence[str]) -> LogTurns:
        """Load the turns from the tables in a folder."""
        wanted = ["index", "conversation", "message", "turn", "n_tokens"]
        sigmas = [f"{t}_{v}_sigma" for v in ("prompt_last", "response_mean") for t in traits]
        tables = [pq.read_table(path, columns=[*wanted, *sigmas]) for path in parts.written(folder)]
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

    def place(self, turn: int) -> tuple[int, int]:
        """The row in the log and the message of a turn."""
        return int(self.index[turn]), int(self.message[turn])

    def by_conversation(self, values: npt.NDArray[Any]) -> list[list[Any]]:
        """Values [turn] as a list for each conversation."""
        edges = np.flatnonzero(np.diff(self.index)) + 1
        return [own.tolist() for own in np.split(values, edges)]
