"""What a log's readings say of one trait: means, turn by turn, alarms, and the extremes.

Numbers in, a record of numbers out, which the report draws and `--json` prints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from personavec.monitor.drift import TraitDrift, share
from personavec.monitor.turns import Floats, LogTurns
from personavec.rollouts import bounds
from personavec.stats import Interval, cluster_mean
from personavec.vectors import Ordinary, PersonaVector

#: Turns of a conversation that the trajectory shows, and how many must reach one.
_TURNS, _REACHED = 30, 5
#: Points of the server's chart, and alarms, that the report lists.
_POINTS, _LISTED = 400, 20


def summarise(
    turns: LogTurns, vector: PersonaVector, ordinary: Ordinary, own: TraitDrift, *, extremes: int
) -> dict[str, Any]:
    """The record of one trait over all turns, with its `extremes` highest ones."""
    sigmas = turns.response_mean[vector.trait]
    last = turns.prompt_last[vector.trait]
    mean = _mean(sigmas, turns.index)
    conversations = [any(alarms) for alarms in turns.by_conversation(own.alarms.astype(float))]
    ranked = np.argsort(np.where(np.isnan(sigmas), -np.inf, sigmas))[::-1]
    places = np.flatnonzero(own.alarms)
    places = places[np.argsort(-own.levels[places])][:_LISTED]
    step = max(1, len(own.server_levels) // _POINTS)
    return {
        "layer": vector.layer,
        "mean": mean["value"],
        "low": mean["low"],
        "high": mean["high"],
        "forecast": _mean(last, turns.index),
        "max": float(np.nanmax(sigmas)) if np.isfinite(sigmas).any() else None,
        "alarms": int(own.alarms.sum()),
        "by_turn": _by_turn(turns, vector.trait),
        "drift": {
            "fitted_on": ordinary.n,
            "limit": ordinary.conversation.limit,
            "server_limit": ordinary.server.limit,
            "conversations": share(conversations),
            "alarmed": [
                {
                    "conversation": turns.conversation[i],
                    "message": int(turns.message[i]),
                    "turn": int(turns.turn[i]),
                    "reading": float(own.readings[i]),
                    "level": float(own.levels[i]),
                }
                for i in places.tolist()
            ],
            "server_alarms": np.flatnonzero(own.server_alarms).tolist(),
            "server_alarmed": [
                {"conversation": turns.conversation[i], "message": int(turns.message[i])}
                for i in own.met[own.server_alarms].tolist()
            ][:_LISTED],
            "server": [
                {"reply": i, "level": float(own.server_levels[i])}
                for i in range(0, len(own.server_levels), step)
            ],
        },
        "extremes": [
            {
                "index": int(turns.index[i]),
                "conversation": turns.conversation[i],
                "message": int(turns.message[i]),
                "turn": int(turns.turn[i]),
                "n_tokens": int(turns.n_tokens[i]),
                "response_mean": float(sigmas[i]),
                "prompt_last": float(last[i]),
            }
            for i in ranked.tolist()
            if np.isfinite(sigmas[i])
        ][:extremes],
    }


def _by_turn(turns: LogTurns, trait: str) -> list[dict[str, Any]]:
    rows = []
    for turn in range(min(_TURNS, int(turns.turn.max()) + 1)):
        own = turns.turn == turn
        if own.sum() >= _REACHED or turn == 0:
            values = {
                "prompt_last": turns.prompt_last[trait][own],
                "response_mean": turns.response_mean[trait][own],
            }
            found = {name: _mean(v, turns.index[own]) for name, v in values.items()}
            rows.append({"turn": turn + 1, "n": int(own.sum()), **found})
    return rows


def _mean(values: Floats, clusters: npt.NDArray[np.int64]) -> dict[str, Any]:
    """With an interval over conversations, or null ends where there are fewer than two."""
    known = np.isfinite(values)
    if not known.any():
        return bounds(None)
    if len(np.unique(clusters[known])) < 2:
        return bounds(Interval(float(values[known].mean()), np.nan, np.nan))
    return bounds(cluster_mean(values[known], clusters[known]))
