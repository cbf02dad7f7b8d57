"""Drift over a whole log: the alarms of its control charts, and limits fitted on it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from personavec.monitor.results import ConversationShare, FittedLimits
from personavec.monitor.turns import Floats, LogTurns
from personavec.results import dump
from personavec.runs import atomic_write
from personavec.vectors import DRIFT_FILE, Ordinary, PersonaVector, limits


@dataclass(frozen=True, eq=False)
class TraitCharts:
    """One trait's charts over all turns: standardised readings, levels and alarms, [turn].

    The server's levels and alarms are in the order in which a server would have handled the turns;
    `order` has the indices of the turns in this order.
    """

    readings: Floats
    levels: Floats
    alarms: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]
    server_levels: Floats
    server_alarms: npt.NDArray[np.bool_]


def charted(turns: LogTurns, trait: str, ordinary: Ordinary) -> TraitCharts:
    """Run a trait's chart for every conversation, and one for the whole log as on a server.

    A log has one conversation after the other, while a server handles several at a time. Therefore
    the conversations are interleaved in the same way as when the server's limit was fitted. They
    begin in the order of the log.
    """
    readings = [
        ordinary.standardise(sigma, turn)
        for sigma, turn in zip(
            turns.response_mean[trait].tolist(), turns.turn.tolist(), strict=True
        )
    ]
    levels, alarms = _by_conversation(readings, turns.turn.tolist(), ordinary)
    places = turns.by_conversation(np.arange(len(turns.index)))
    order = list(limits.interleaved(places, shuffled=False))
    server_levels, server_alarms = _by_server(readings, order, ordinary)
    return TraitCharts(
        np.array(readings),
        np.array(levels),
        np.array(alarms, bool),
        np.array([place for _, place in order]),
        np.array(server_levels),
        np.array(server_alarms, bool),
    )


def _by_conversation(
    readings: Sequence[float], turns: Sequence[int], ordinary: Ordinary
) -> tuple[list[float], list[bool]]:
    """Levels and alarms of a chart that restarts with every conversation."""
    levels, alarms = [], []
    chart = ordinary.chart()
    for reading, turn in zip(readings, turns, strict=True):
        if turn == 0:
            chart = ordinary.chart()
        # A response that is empty or only a thought does not update the chart.
        alarms.append(math.isfinite(reading) and chart.update(reading) is not None)
        levels.append(chart.level)
    return levels, alarms


def _by_server(
    readings: Sequence[float], order: Sequence[tuple[int, int]], ordinary: Ordinary
) -> tuple[list[float], list[bool]]:
    """Levels and alarms of one chart over all replies, in the order of (conversation, turn)."""
    levels, alarms = [], []
    server = ordinary.stream()
    for conversation, place in order:
        reading = readings[place]
        alarms.append(math.isfinite(reading) and server.update(conversation, reading) is not None)
        levels.append(server.level)
    return levels, alarms


def fit_on_log(
    turns: LogTurns, vectors: Sequence[PersonaVector], folder: Path
) -> tuple[dict[str, Ordinary], FittedLimits]:
    """Fit limits on the conversations of even rows, and count false alarms on those of odd rows.

    Writes the limits to `TRAIT/drift.json` in `folder`. Raises DataError as `limits.fit` does.
    """
    even = [int(own[0]) % 2 == 0 for own in turns.by_conversation(turns.index.astype(float))]
    ordinary: dict[str, Ordinary] = {}
    alarmed: dict[str, list[bool]] = {}
    server: dict[str, int] = {}
    for vector in vectors:
        trait = vector.trait
        # Only the turns before the first one without a reading are used.
        conversations = [
            list(itertools.takewhile(math.isfinite, readings))
            for readings in turns.by_conversation(turns.response_mean[trait])
        ]
        own = [readings for readings, fits in zip(conversations, even, strict=True) if fits]
        others = [readings for readings, fits in zip(conversations, even, strict=True) if not fits]
        ordinary[trait] = limits.fit(own)
        alarmed[trait], server[trait] = _false_alarms(ordinary[trait], others)
        _write_limits(folder, vector, ordinary[trait], alarmed[trait])
    any_trait = [any(own) for own in zip(*alarmed.values(), strict=True)]
    return ordinary, FittedLimits(
        fitted_on=ordinary[vectors[0].trait].n,
        tested_on=len(any_trait),
        any=ConversationShare.counted(any_trait),
        traits={trait: ConversationShare.counted(own) for trait, own in alarmed.items()},
        server_alarms=server,
        server_turns=int((turns.index % 2).sum()),
        folder=str(folder),
    )


def _false_alarms(
    ordinary: Ordinary, conversations: Sequence[Sequence[float]]
) -> tuple[list[bool], int]:
    """Whether each ordinary conversation raises an alarm, and the number of server alarms."""
    readings = [[ordinary.standardise(s, t) for t, s in enumerate(own)] for own in conversations]
    rule = ordinary.conversation
    alarmed = [max(limits.levels(own, rule), default=0.0) > rule.limit for own in readings]
    server = ordinary.stream()
    order = limits.interleaved(readings, seed=1)
    return alarmed, sum(server.update(number, value) is not None for number, value in order)


def _write_limits(
    folder: Path, vector: PersonaVector, ordinary: Ordinary, alarmed: list[bool]
) -> None:
    """Write the file with a trait's limits, to be put into the vector's folder."""
    record = {
        "format": 1,
        "trait": vector.trait,
        "vector": vector.hash,
        "reading": limits.READING,
        "ordinary": asdict(ordinary),
        "false_alarms": dump(ConversationShare.counted(alarmed)),
    }
    target = folder / vector.trait / DRIFT_FILE
    atomic_write(target, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
