"""The texts of the turns that a person should read, in pieces with their readings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from personavec.data import ColumnMap, RawRow, Reject, parse_row, raw_rows
from personavec.errors import DataError
from personavec.judges import last_answer
from personavec.model import LoadedModel, encode, project_tokens
from personavec.monitor.readings import Gauge


def show_extremes(
    loaded: LoadedModel,
    reading: Gauge,
    log: str | Path,
    results: dict[str, Any],
    *,
    columns: ColumnMap,
    split: str | None,
) -> None:
    """Put the texts of each trait's most extreme turns into the results, token by token.

    Raises DataError when the log's rows have changed since they were read.
    """
    shown = {name: record["extremes"] for name, record in results["traits"].items()}
    wanted = {(r["index"], r["message"]) for rows in shown.values() for r in rows}
    texts: dict[tuple[int, int], dict[str, Any]] = {}
    last = max((index for index, _ in wanted), default=-1)
    for raw in raw_rows(log, split=split):
        if raw.index > last:
            break
        for message in [m for index, m in wanted if index == raw.index]:
            texts[raw.index, message] = _text(loaded, reading, raw, message, columns)
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
    loaded: LoadedModel, reading: Gauge, raw: RawRow, message: int, columns: ColumnMap
) -> dict[str, Any]:
    """What was asked, and for every trait the response in pieces with their readings in sigma."""
    row = parse_row(raw, columns, "row")
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
        "question": last_answer(messages).question,
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
