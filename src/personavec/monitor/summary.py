"""Summarise a log's readings of one trait: means by turn, alarms, and the highest turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personavec.monitor.drift import TraitCharts
from personavec.monitor.extremes import TurnText
from personavec.monitor.results import (
    AlarmedTurn,
    ConversationShare,
    ExtremeTurn,
    ServerAlarm,
    ServerLevel,
    TraitDrift,
    TraitReadings,
    TurnMeans,
)
from personavec.monitor.turns import Floats, LogTurns
from personavec.results import Estimate
from personavec.stats import cluster_mean
from personavec.vectors import Ordinary, PersonaVector

#: Most turns in the chart by turn, and the least number of conversations that reach a turn.
_TURNS, _REACHED = 30, 5
#: About how many points of the server's chart, and how many alarms, the report shows.
_POINTS, _LISTED = 400, 20


def summarise(
    turns: LogTurns,
    vector: PersonaVector,
    ordinary: Ordinary,
    charts: TraitCharts,
    extremes: Sequence[ExtremeTurn],
) -> TraitReadings:
    """Summarise one trait over all turns; `extremes` are its highest turns."""
    sigmas = turns.response_mean[vector.trait]
    mean = _mean(sigmas, turns.index)
    return TraitReadings(
        layer=vector.layer,
        mean=mean.value,
        low=mean.low,
        high=mean.high,
        forecast=_mean(turns.prompt_last[vector.trait], turns.index),
        max=float(np.nanmax(sigmas)) if np.isfinite(sigmas).any() else None,
        alarms=int(charts.alarms.sum()),
        by_turn=_by_turn(turns, vector.trait),
        drift=_drift(turns, ordinary, charts),
        extremes=tuple(extremes),
    )


def highest_turns(turns: LogTurns, trait: str, most: int) -> list[int]:
    """Indices of the turns with the highest answers, highest first; of equal ones, the first."""
    sigmas = turns.response_mean[trait]
    ranked = np.argsort(-sigmas, kind="stable").tolist()
    return [i for i in ranked if np.isfinite(sigmas[i])][:most]


def extreme_turn(
    turns: LogTurns, trait: str, turn: int, text: TurnText, direction: int
) -> ExtremeTurn:
    """A turn's record with its text, which is coloured by one of the gauge's directions."""
    index, message = turns.place(turn)
    return ExtremeTurn(
        index=index,
        conversation=turns.conversation[turn],
        message=message,
        turn=int(turns.turn[turn]),
        n_tokens=int(turns.n_tokens[turn]),
        response_mean=float(turns.response_mean[trait][turn]),
        prompt_last=float(turns.prompt_last[trait][turn]),
        question=text.question,
        pieces=text.along(direction),
    )


def _drift(turns: LogTurns, ordinary: Ordinary, charts: TraitCharts) -> TraitDrift:
    conversations = turns.by_conversation(charts.alarms)
    places = np.flatnonzero(charts.alarms)
    places = places[np.argsort(-charts.levels[places])][:_LISTED]
    step = max(1, len(charts.server_levels) // _POINTS)
    return TraitDrift(
        fitted_on=ordinary.n,
        limit=ordinary.conversation.limit,
        server_limit=ordinary.server.limit,
        conversations=ConversationShare.counted([any(alarms) for alarms in conversations]),
        alarmed=tuple(
            AlarmedTurn(
                conversation=turns.conversation[i],
                message=int(turns.message[i]),
                turn=int(turns.turn[i]),
                reading=float(charts.readings[i]),
                level=float(charts.levels[i]),
            )
            for i in places.tolist()
        ),
        server_alarms=tuple(np.flatnonzero(charts.server_alarms).tolist()),
        server_alarmed=tuple(
            ServerAlarm(conversation=turns.conversation[i], message=int(turns.message[i]))
            for i in charts.order[charts.server_alarms].tolist()[:_LISTED]
        ),
        server=tuple(
            ServerLevel(reply=i, level=float(charts.server_levels[i]))
            for i in range(0, len(charts.server_levels), step)
        ),
    )


def _by_turn(turns: LogTurns, trait: str) -> tuple[TurnMeans, ...]:
    found = []
    for turn in range(min(_TURNS, int(turns.turn.max()) + 1)):
        own = turns.turn == turn
        if own.sum() >= _REACHED or turn == 0:
            last, mean = (
                _mean(values[trait][own], turns.index[own])
                for values in (turns.prompt_last, turns.response_mean)
            )
            found.append(
                TurnMeans(turn=turn + 1, n=int(own.sum()), prompt_last=last, response_mean=mean)
            )
    return tuple(found)


def _mean(values: Floats, clusters: npt.NDArray[np.int64]) -> Estimate:
    """The mean of known values, with an interval over conversations if there are at least two."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate()
    if len(np.unique(clusters[known])) < 2:
        return Estimate(float(values[known].mean()))
    return Estimate.of(cluster_mean(values[known], clusters[known]))
