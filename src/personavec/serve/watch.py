"""Drift of conversations and of the server as a whole, from the readings of finished replies."""

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
from typing import Any

from personavec.data import Message
from personavec.monitor import TurnReading
from personavec.vectors import READING, Alarm, Chart, Ordinary

log = logging.getLogger("personavec.serve")
#: Turns whose charts are kept, so that their conversations can go on from there; the one longest
#: without use is forgotten first.
_TURNS = 20_000
#: Alarms that are kept for the page.
_KEPT = 200

#: A reply's text and its readings.
Reply = tuple[str, Sequence[TurnReading]]


@dataclass(frozen=True)
class _Turn:
    """The charts as they stood after a turn, and its conversation's name: its first turn here."""

    name: str
    charts: dict[str, Chart]


class Watch:
    """Control charts over standardised response means: one a trait and conversation, one a trait.

    A conversation is known by the hash of its messages up to its last reply, which is all that is
    kept of them, beside the charts as they stood after it. So a reply that is written again takes
    the place of the one before, and a conversation that forks goes on in both ways. White space
    around a text and, by `answer`, thinking in a reply make no difference, as clients drop both.
    """

    def __init__(
        self, ordinary: Mapping[str, Ordinary], answer: Callable[[str], str] = lambda text: text
    ):
        self._ordinary, self._answer = ordinary, answer
        self._server = {trait: known.stream() for trait, known in ordinary.items()}
        self._turns: OrderedDict[str, _Turn] = OrderedDict()
        self.alarms: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def levels(self) -> dict[str, float]:
        """Each trait's level over the whole server, in the chart's standard deviations."""
        return {trait: stream.level for trait, stream in self._server.items()}

    def take(
        self, messages: Sequence[Message], replies: Sequence[Reply]
    ) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
        """Take in the replies to `messages`; the alarms of each, and those that count.

        Several replies to one request count as one: each goes on with the conversation's charts
        by itself, the server's charts get their mean, and of one trait's alarms over the same
        scope the highest counts.
        """
        said = [message for message in messages if message["role"] != "system"]
        turn = sum(message["role"] == "assistant" for message in said)
        before, so_far = self._before(said)
        name = before.name if before else ""
        raised: list[list[dict[str, Any]]] = []
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
            self._keep(ended.hexdigest(), _Turn(name, charts))
        for trait, values in readings.items():
            if alarm := self._server[trait].update(name, fmean(value for value, _ in values)):
                raised[max(values)[1]].append(_record(trait, "server", turn, alarm))
        counted = _highest([alarm for alarms in raised for alarm in alarms])
        self.alarms.extend(counted)
        for alarm in counted:
            log.warning("drift toward %(trait)s over the %(scope)s: level %(level)s", alarm)
        return raised, counted

    def _before(self, said: Sequence[Message]) -> tuple[_Turn | None, Any]:
        """The latest turn that is known, and the hash of all of `said`.

        An earlier one where the last reply was cut or edited by the client.
        """
        before = None
        found = hashlib.sha256()
        for message in said:
            self._add(found, message)
            if message["role"] == "assistant" and (key := found.hexdigest()) in self._turns:
                self._turns.move_to_end(key)
                before = self._turns[key]
        return before, found

    def _add(self, found: Any, message: Message) -> None:
        text = message["content"]
        if message["role"] == "assistant":
            text = self._answer(text)
        calls = json.dumps(message.get("tool_calls") or [], sort_keys=True)
        for part in (message["role"], text.strip(), calls):
            found.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))

    def _keep(self, key: str, turn: _Turn) -> None:
        self._turns[key] = turn
        self._turns.move_to_end(key)
        while len(self._turns) > _TURNS:
            self._turns.popitem(last=False)


def _highest(alarms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One alarm a trait and scope."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for alarm in alarms:
        key = (alarm["trait"], alarm["scope"])
        if key not in found or alarm["level"] > found[key]["level"]:
            found[key] = alarm
    return list(found.values())


def _record(trait: str, scope: str, turn: int, alarm: Alarm) -> dict[str, Any]:
    return {
        "trait": trait,
        "scope": scope,
        "turn": turn,
        "reading": round(alarm.reading, 3),
        "level": round(alarm.level, 3),
        "limit": round(alarm.limit, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
