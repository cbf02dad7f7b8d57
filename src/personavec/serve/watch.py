"""Drift charts of conversations and of the whole server, updated with finished replies."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel
from typing_extensions import TypedDict  # Pydantic takes no other before Python 3.12.

from personavec.data import Message
from personavec.monitor import TurnReading
from personavec.vectors import READING, Alarm, Chart, Ordinary

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger("personavec.serve")
#: Most turns whose charts are kept for the next turn; the least recently used is dropped first.
_TURNS = 20_000
#: Number of latest alarms kept for the page.
_KEPT = 200

Scope = Literal["conversation", "server"]

#: A reply's text and its readings.
ChartedReply = tuple[str, Sequence[TurnReading]]


class AlarmRecord(TypedDict):
    """A drift alarm: of one conversation, or of the whole server."""

    trait: str
    scope: Scope
    turn: int
    """Index of the reply in its conversation, from 0 on."""
    reading: float
    """The reply's reading, in the chart's standard deviations."""
    level: float
    """The chart's level, in its standard deviations."""
    limit: float
    time: str
    """UTC, ISO 8601."""


class AlarmList(BaseModel):
    """The reply of `/v1/personavec/alarms`."""

    alarms: list[AlarmRecord]
    """The latest ones, oldest first."""
    levels: dict[str, float]
    """Each trait's level on the server's chart, in the chart's standard deviations."""


@dataclass(frozen=True)
class _ChartedTurn:
    """The charts after a turn. `name` is its conversation's: the hash of the first turn."""

    name: str
    charts: dict[str, Chart]


class Watch:
    """Control charts of standardised response means per trait, for conversations and the server.

    A conversation is identified by the hash of its messages up to its last reply. Only this hash
    and the charts after that reply are kept. Therefore a regenerated reply replaces the earlier
    one, and both branches of a forked conversation have their own charts. Clients may drop white
    space around texts and thoughts in replies; the hash ignores both (`answer` removes thoughts).
    """

    def __init__(
        self, ordinary: Mapping[str, Ordinary], answer: Callable[[str], str] = lambda text: text
    ):
        self._ordinary, self._answer = ordinary, answer
        self._server = {trait: known.stream() for trait, known in ordinary.items()}
        self._turns: OrderedDict[str, _ChartedTurn] = OrderedDict()
        self.alarms: deque[AlarmRecord] = deque(maxlen=_KEPT)

    def levels(self) -> dict[str, float]:
        """Each trait's level on the server's chart, in the chart's standard deviations."""
        return {trait: stream.level for trait, stream in self._server.items()}

    def take(
        self, messages: Sequence[Message], replies: Sequence[ChartedReply]
    ) -> tuple[list[list[AlarmRecord]], list[AlarmRecord]]:
        """Chart the replies to `messages`; returns the alarms of each reply, and those that count.

        Several replies to one request count as one. Each continues the conversation's charts
        separately; the server's charts are updated with their mean. Of one trait's alarms in one
        scope, the one with the highest level counts.
        """
        conversation = [message for message in messages if message["role"] != "system"]
        turn = sum(message["role"] == "assistant" for message in conversation)
        before, so_far = self._before(conversation)
        name = before.name if before else ""
        raised: list[list[AlarmRecord]] = []
        readings: dict[str, list[tuple[float, int]]] = {}
        for place, (text, read) in enumerate(replies):
            charts = copy.deepcopy(before.charts) if before else {}
            raised.append([])
            for reading in read:
                ordinary, sigma = self._ordinary.get(reading.trait), getattr(reading, READING)
                if ordinary is None or sigma is None:
                    continue
                value = ordinary.standardise(sigma, turn)
                readings.setdefault(reading.trait, []).append((value, place))
                chart = charts.setdefault(reading.trait, ordinary.chart())
                if alarm := chart.update(value):
                    raised[-1].append(_record(reading.trait, "conversation", turn, alarm))
            ended = so_far.copy()
            self._add(ended, {"role": "assistant", "content": text})
            name = name or ended.hexdigest()
            self._keep(ended.hexdigest(), _ChartedTurn(name, charts))
        for trait, values in readings.items():
            if alarm := self._server[trait].update(name, fmean(value for value, _ in values)):
                raised[max(values)[1]].append(_record(trait, "server", turn, alarm))
        counted = _highest([alarm for alarms in raised for alarm in alarms])
        self.alarms.extend(counted)
        for alarm in counted:
            log.warning("drift toward %(trait)s over the %(scope)s: level %(level)s", alarm)
        return raised, counted

    def _before(self, conversation: Sequence[Message]) -> tuple[_ChartedTurn | None, _Hash]:
        """The latest known turn in `conversation`, and the hash of all messages in `conversation`.

        If the client has cut or edited its last reply, it is an earlier turn.
        """
        before = None
        found = hashlib.sha256()
        for message in conversation:
            self._add(found, message)
            if message["role"] == "assistant" and (key := found.hexdigest()) in self._turns:
                self._turns.move_to_end(key)
                before = self._turns[key]
        return before, found

    def _add(self, found: _Hash, message: Message) -> None:
        text = message["content"]
        if message["role"] == "assistant":
            text = self._answer(text)
        calls = json.dumps(message.get("tool_calls") or [], sort_keys=True)
        for part in (message["role"], text.strip(), calls):
            found.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))

    def _keep(self, key: str, turn: _ChartedTurn) -> None:
        self._turns[key] = turn
        self._turns.move_to_end(key)
        while len(self._turns) > _TURNS:
            self._turns.popitem(last=False)


def _highest(alarms: Sequence[AlarmRecord]) -> list[AlarmRecord]:
    """For each trait and scope, the alarm of the highest level."""
    found: dict[tuple[str, str], AlarmRecord] = {}
    for alarm in alarms:
        key = (alarm["trait"], alarm["scope"])
        if key not in found or alarm["level"] > found[key]["level"]:
            found[key] = alarm
    return list(found.values())


def _record(trait: str, scope: Scope, turn: int, alarm: Alarm) -> AlarmRecord:
    return {
        "trait": trait,
        "scope": scope,
        "turn": turn,
        "reading": round(alarm.reading, 3),
        "level": round(alarm.level, 3),
        "limit": round(alarm.limit, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
