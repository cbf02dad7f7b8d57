"""Drift of conversations and of the server as a whole, from the readings of finished replies."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from personavec.data.messages import Message
from personavec.drift import READING, Alarm, Chart, Ordinary
from personavec.readings import Reading

log = logging.getLogger("personavec.serve")
#: Conversations that are followed at a time; the one longest without a turn is forgotten first.
_CONVERSATIONS = 10_000
#: Alarms that are kept for the page.
_KEPT = 200


class Watch:
    """Control charts over standardised response means: one a trait and conversation, one a trait.

    A conversation is known by the hash of its messages, which is all that is kept of them.
    """

    def __init__(self, ordinary: Mapping[str, Ordinary]):
        self._ordinary = ordinary
        self._server = {trait: known.stream() for trait, known in ordinary.items()}
        self._conversations: OrderedDict[str, tuple[str, dict[str, Chart]]] = OrderedDict()
        self.alarms: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def levels(self) -> dict[str, float]:
        """Each trait's level over the whole server, in the chart's standard deviations."""
        return {trait: stream.level for trait, stream in self._server.items()}

    def take(
        self, messages: Sequence[Message], reply: str, readings: Sequence[Reading]
    ) -> list[dict[str, Any]]:
        """Take in a finished reply to `messages`; the alarms it raises."""
        said = [m for m in messages if m["role"] != "system"]
        turn = sum(m["role"] == "assistant" for m in said)
        last = max((i for i, m in enumerate(said) if m["role"] == "assistant"), default=-1)
        key = _key([*said, {"role": "assistant", "content": reply}])
        known = self._conversations.pop(_key(said[: last + 1]), None) if last >= 0 else None
        # A conversation keeps the name that its first turn here gave it.
        name, charts = known or (key, {})
        charts = dict(charts)
        raised = []
        for reading in readings:
            ordinary = self._ordinary.get(reading.trait)
            sigma = getattr(reading, READING)
            if ordinary is None or sigma is None:
                continue
            value = ordinary.standardise(sigma, turn)
            chart = charts.setdefault(reading.trait, ordinary.chart())
            found = {
                "conversation": chart.update(value),
                "server": self._server[reading.trait].update(name, value),
            }
            raised += [
                _record(reading.trait, scope, turn, alarm)
                for scope, alarm in found.items()
                if alarm
            ]
        self._conversations[key] = name, charts
        while len(self._conversations) > _CONVERSATIONS:
            self._conversations.popitem(last=False)
        self.alarms.extend(raised)
        for alarm in raised:
            log.warning("drift toward %(trait)s over the %(scope)s: level %(level)s", alarm)
        return raised


def _key(messages: Sequence[Message]) -> str:
    found = hashlib.sha256()
    for message in messages:
        for part in (message["role"], message["content"]):
            found.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


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
