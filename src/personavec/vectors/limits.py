"""Drift limits: control charts over readings, for a conversation and for a whole server.

A reading is standardised by what is ordinary at its turn, since a vector's neutral baseline is
measured on first turns, and later turns read differently without any drift. A chart is an
exponentially weighted moving average (EWMA) of standardised readings, in units of the standard
deviation that it would have if they were independent. They are not, so its limit is fitted on
ordinary conversations. This module knows no model: it takes numbers and gives alarms.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from personavec.errors import DataError
from personavec.runs import why_invalid

T = TypeVar("T")

#: The field of `TurnReading` that is charted. Forecasts hardly separate drifting conversations from
#: others, since the context of all earlier turns dominates them.
READING = "response_mean_sigma"
#: Turns that fewer ordinary conversations reach share one mean and spread.
MIN_CONVERSATIONS = 50
#: Share of ordinary conversations in which one trait's chart may raise a false alarm. Seven traits
#: together then stay under one in a hundred.
FALSE_ALARMS = 0.001
#: Conversations that a server is assumed to hold at a time when its chart is fitted.
_CONCURRENT = 16
#: The least number of other conversations' readings between two of one on a server's chart.
_APART = 3

Over = Literal["conversation", "server"]


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class ChartRule:
    """How a chart weighs readings and when it alarms."""

    weight: Annotated[float, Field(gt=0, le=1, strict=True)]
    """Of the newest reading, above 0 and at most 1; with 1 earlier readings do not count."""
    limit: Annotated[float, Field(ge=0, strict=True)]
    """In standard deviations of the average."""


#: Used where nothing was fitted. A conversation is short, so drift must show in a few turns. A
#: server sees many replies and averages over about forty.
UNFITTED: dict[Over, ChartRule] = {
    "conversation": ChartRule(0.5, 6.0),
    "server": ChartRule(0.05, 12.0),
}


@dataclass(frozen=True)
class Alarm:
    """A chart that has just crossed its limit."""

    n: int
    """Number of the reading at which it crossed, counted from 1."""
    reading: float
    """That reading, in standard deviations of ordinary readings at its turn."""
    level: float
    """The chart's average, in its own standard deviations."""
    limit: float


class Chart:
    """An EWMA chart of standardised readings, updated as they come.

    It alarms once when it crosses its limit upwards, and again only after it has been below.
    """

    def __init__(self, rule: ChartRule):
        self.rule = rule
        self.n = 0
        self._average = 0.0
        self._above = False

    @property
    def level(self) -> float:
        """The average in its own standard deviations; 0 before the first reading."""
        if not self.n:
            return 0.0
        weight = self.rule.weight
        # The exact variance of the weighted sum of n readings, also for the first ones.
        variance = weight / (2 - weight) * (1 - (1 - weight) ** (2 * self.n))
        return self._average / math.sqrt(variance)

    def update(self, reading: float) -> Alarm | None:
        """Add the next reading; returns an alarm if the chart crosses its limit.

        Raises ValueError for NaN or infinity: leave missing readings out.
        """
        if not math.isfinite(reading):
            raise ValueError(f"a chart takes finite readings, not {reading}")
        self.n += 1
        self._average += self.rule.weight * (reading - self._average)
        crossed = self.level > self.rule.limit and not self._above
        self._above = self.level > self.rule.limit
        return Alarm(self.n, reading, self.level, self.rule.limit) if crossed else None


class Stream:
    """A server's chart, over the replies of many conversations.

    Turns of one conversation are correlated. If many of them come in a row, they push the average
    further than independent readings would, and how many come in a row depends on how busy the
    server is. So a conversation counts again only after three readings of others. The limit then
    holds for any number of conversations at a time.
    """

    def __init__(self, rule: ChartRule):
        self._chart = Chart(rule)
        self._recent: deque[Hashable] = deque(maxlen=_APART)

    @property
    def level(self) -> float:
        """The chart's level."""
        return self._chart.level

    def update(self, conversation: Hashable, reading: float) -> Alarm | None:
        """Add a conversation's next reading, unless it must not count yet; see `Chart.update`."""
        if conversation in self._recent:
            return None
        self._recent.append(conversation)
        return self._chart.update(reading)


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Ordinary:
    """What is ordinary for one trait, and the rules that follow from it.

    `turns` holds the mean and the standard deviation of readings, in sigmas of the neutral
    baseline, at the first turn, the second and so on. The last entry is for all later turns.
    """

    turns: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    conversation: ChartRule = UNFITTED["conversation"]
    server: ChartRule = UNFITTED["server"]
    n: int = 0
    """Conversations that it was fitted on; 0 for the defaults."""

    def standardise(self, sigma: float, turn: int) -> float:
        """A reading in standard deviations of ordinary ones at its turn, counted from 0."""
        mean, spread = self.turns[min(turn, len(self.turns) - 1)]
        return (sigma - mean) / spread

    def chart(self) -> Chart:
        """A new chart for one conversation."""
        return Chart(self.conversation)

    def stream(self) -> Stream:
        """A new chart for a server."""
        return Stream(self.server)


def from_record(record: Any) -> Ordinary:
    """Ordinary readings from parsed JSON. Raises DataError where the record is not valid."""
    try:
        found = _SCHEMA.validate_python(record)
    except ValidationError as error:
        raise DataError(f"damaged drift limits ({why_invalid(error)}); fit them again") from error
    if not found.turns or any(spread <= 0 for _, spread in found.turns):
        raise DataError("damaged drift limits: a turn without spread; fit them again")
    return found


_SCHEMA = TypeAdapter(Ordinary)


def fit(
    conversations: Sequence[Sequence[float]], *, false_alarms: float = FALSE_ALARMS, seed: int = 0
) -> Ordinary:
    """Fit limits on conversations without drift, each a list of one trait's sigmas by turn.

    The conversation's limit is the smallest level that at most a share `false_alarms` of them
    exceed. The server's limit is 1.25 times the highest level of its `Stream` over all of them,
    interleaved as if 16 were held at a time: a rate of false alarms is undefined for an endless
    stream. Report false alarms on other conversations. Raises DataError for fewer than 50.
    """
    found = [list(values) for values in conversations if len(values)]
    if len(found) < MIN_CONVERSATIONS:
        raise DataError(
            f"drift limits need {MIN_CONVERSATIONS} ordinary conversations, got {len(found)}"
        )
    turns = tuple(_by_turn(found))
    plain = Ordinary(turns)
    readings = [[plain.standardise(s, turn) for turn, s in enumerate(row)] for row in found]
    # With an infinite limit the charts give their levels and never alarm.
    weights = {over: ChartRule(rule.weight, math.inf) for over, rule in UNFITTED.items()}
    highest = [max(levels(row, weights["conversation"])) for row in readings]
    limit = float(np.quantile(highest, 1 - false_alarms, method="higher"))
    server = 1.25 * max(stream_levels(interleaved(readings, seed=seed), weights["server"]))
    return Ordinary(
        turns,
        ChartRule(weights["conversation"].weight, round(max(limit, 0.0), 4)),
        ChartRule(weights["server"].weight, round(max(server, 0.0), 4)),
        len(found),
    )


def levels(readings: Sequence[float], rule: ChartRule) -> list[float]:
    """The level of a new chart after each standardised reading."""
    chart = Chart(rule)
    out = []
    for reading in readings:
        chart.update(reading)
        out.append(chart.level)
    return out


def stream_levels(readings: Iterable[tuple[Hashable, float]], rule: ChartRule) -> list[float]:
    """The level of a new server's chart after each (conversation, standardised reading)."""
    stream = Stream(rule)
    out = []
    for conversation, reading in readings:
        stream.update(conversation, reading)
        out.append(stream.level)
    return out


def interleaved(
    conversations: Sequence[Sequence[T]],
    *,
    concurrent: int = _CONCURRENT,
    seed: int = 0,
    shuffled: bool = True,
) -> Iterator[tuple[int, T]]:
    """All readings with their conversation's number, in an order in which a server may meet them.

    `concurrent` conversations are open at a time. The seed draws which of them continues next, and
    in which order they begin; without `shuffled` they begin in the given order. The readings of a
    conversation keep their order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(conversations)).tolist()
    waiting = iter(order if shuffled else range(len(conversations)))
    open_: list[tuple[int, Iterator[T]]] = []
    while True:
        while len(open_) < concurrent and (number := next(waiting, None)) is not None:
            open_.append((number, iter(conversations[number])))
        if not open_:
            return
        place = int(rng.integers(len(open_)))
        number, values = open_[place]
        value = next(values, None)
        if value is None:
            open_.pop(place)
        else:
            yield number, value


def _by_turn(conversations: Sequence[Sequence[float]]) -> Iterator[tuple[float, float]]:
    """Mean and standard deviation at each turn; turns that too few reach share the last entry."""
    turn = 0
    while True:
        reach = sum(len(row) > turn + 1 for row in conversations)
        last = reach < MIN_CONVERSATIONS
        values = [
            v for row in conversations for v in (row[turn:] if last else row[turn : turn + 1])
        ]
        spread = float(np.std(values, ddof=1))
        if not spread > 0:
            raise DataError(
                f"ordinary readings at turn {turn + 1} have no spread to standardise by"
            )
        yield round(float(np.mean(values)), 4), round(spread, 4)
        if last:
            return
        turn += 1
