"""Drift over a whole log: where its charts alarm, and the limits that it gives as ordinary talk."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.monitor.turns import Floats, LogTurns
from personavec.rollouts import bounds
from personavec.runs import atomic_write
from personavec.stats import share_interval
from personavec.vectors import DRIFT_FILE, Ordinary, PersonaVector, limits


@dataclass(frozen=True, eq=False)
class TraitDrift:
    """One trait's charts over all turns: standardised readings, levels, and where they alarmed.

    The server's are in the order in which it would have met the turns; `met` holds their places.
    """

    readings: Floats
    levels: Floats
    alarms: npt.NDArray[np.bool_]
    met: npt.NDArray[np.int64]
    server_levels: Floats
    server_alarms: npt.NDArray[np.bool_]


def charted(turns: LogTurns, trait: str, ordinary: Ordinary) -> TraitDrift:
    """A trait's chart for every conversation, and one for the log as a server would have met it.

    A log holds one conversation after the other. A server holds several at a time, and so did the
    one whose limit was fitted: the log's conversations are interleaved in the same way, begun in
    the order of the log.
    """
    sigmas = turns.response_mean[trait].tolist()
    readings = [
        ordinary.standardise(sigma, turn)
        for sigma, turn in zip(sigmas, turns.turn.tolist(), strict=True)
    ]
    levels, alarms = [], []
    chart = ordinary.chart()
    for reading, turn in zip(readings, turns.turn.tolist(), strict=True):
        if turn == 0:
            chart = ordinary.chart()
        # Nothing was said, or all of it was thinking: the charts stay where they are.
        said = math.isfinite(reading)
        alarms.append(said and chart.update(reading) is not None)
        levels.append(chart.level)
    places = turns.by_conversation(np.arange(len(turns.index)))
    met, server_levels, server_alarms = [], [], []
    server = ordinary.stream()
    for number, place in limits.interleaved(places, shuffled=False):
        reading = readings[place]
        said = math.isfinite(reading)
        met.append(place)
        server_alarms.append(said and server.update(number, reading) is not None)
        server_levels.append(server.level)
    return TraitDrift(
        np.array(readings),
        np.array(levels),
        np.array(alarms, bool),
        np.array(met),
        np.array(server_levels),
        np.array(server_alarms, bool),
    )


def fit_on_log(
    turns: LogTurns, vectors: Sequence[PersonaVector], folder: Path
) -> tuple[dict[str, Ordinary], dict[str, Any]]:
    """Limits from the conversations of even rows, and their false alarms on those of odd ones.

    Writes the limits to `TRAIT/drift.json` in `folder`. Raises DataError as `limits.fit` does.
    """
    even = [int(own[0]) % 2 == 0 for own in turns.by_conversation(turns.index.astype(float))]
    found: dict[str, Ordinary] = {}
    alarmed: dict[str, list[bool]] = {}
    server: dict[str, int] = {}
    for vector in vectors:
        talks = [
            list(itertools.takewhile(math.isfinite, talk))
            for talk in turns.by_conversation(turns.response_mean[vector.trait])
        ]
        ordinary = found[vector.trait] = limits.fit(
            [talk for talk, fits in zip(talks, even, strict=True) if fits]
        )
        others = [
            [ordinary.standardise(s, t) for t, s in enumerate(talk)]
            for talk, fits in zip(talks, even, strict=True)
            if not fits
        ]
        alarmed[vector.trait] = [
            max(limits.levels(talk, ordinary.conversation), default=0.0)
            > ordinary.conversation.limit
            for talk in others
        ]
        stream = ordinary.stream()
        server[vector.trait] = sum(
            stream.update(number, value) is not None
            for number, value in limits.interleaved(others, seed=1)
        )
        record = {
            "format": 1,
            "trait": vector.trait,
            "vector": vector.hash,
            "reading": limits.READING,
            "ordinary": ordinary.as_dict(),
            "false_alarms": share(alarmed[vector.trait]),
        }
        target = folder / vector.trait / DRIFT_FILE
        atomic_write(target, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    any_trait = [any(own) for own in zip(*alarmed.values(), strict=True)]
    return found, {
        "fitted_on": found[vectors[0].trait].n,
        "tested_on": len(any_trait),
        "any": share(any_trait),
        "traits": {trait: share(own) for trait, own in alarmed.items()},
        "server_alarms": server,
        "server_turns": int((turns.index % 2).sum()),
        "folder": str(folder),
    }


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share of conversations with its exact interval."""
    return {**bounds(share_interval(sum(hits), len(hits))), "hits": sum(hits), "of": len(hits)}
