"""Drift charts of conversations and of the whole server, updated with finished replies."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel
from typing_extensions import TypedDict  # Pydantic takes no other before Python 3.12.

from personavec.data import Message
from personavec.monitor import TurnReading
from personavec.serve.purpose import Purpose
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
    steered: bool
    """Whether steering that requests asked for explains it: the reply was steered toward the trait,
    or without what steering did the chart is not above its limit."""
    time: str
    """UTC, ISO 8601."""


class AlarmList(BaseModel):
    """The reply of `/v1/personavec/alarms`."""

    alarms: list[AlarmRecord]
    """The latest ones, oldest first."""
    levels: dict[str, float]
    """Each trait's level on the server's chart, in the chart's standard deviations."""


@dataclass(frozen=True)
class _Standardised:
    """A reply's reading of a trait, in standard deviations of ordinary ones at its turn.

    `rest` is the reading without what its request added toward the trait; None where it steered
    toward it, as all of the reading is then meant. `place` is the reply's, of several.
    """

    trait: str
    turn: int
    value: float
    rest: float | None
    place: int


@dataclass(frozen=True)
class _ChartedTurn:
    """The charts after a turn. `name` is its conversation's: the hash of the first turn."""

    name: str
    charts: dict[str, tuple[Chart, Chart]]
    """By trait: of its readings, and of what steering does not explain of them."""


class Watch:
    """Control charts of standardised response means per trait, for conversations and the server.

    A conversation is identified by the hash of its messages up to its last reply. Only this hash
    and the charts after that reply are kept. Therefore a regenerated reply replaces the earlier
    one, and both branches of a forked conversation have their own charts. Clients may drop white
    space around texts and thoughts in replies; the hash ignores both (`answer` removes thoughts).

    Beside each chart runs another one, of what steering does not explain. It leaves out replies
    that were steered toward the trait, and of other readings what their requests added. It tells
    alarms that steering explains from others.
    """

    def __init__(
        self, ordinary: Mapping[str, Ordinary], answer: Callable[[str], str] = lambda text: text
    ):
        self._ordinary, self._answer = ordinary, answer
        self._server = {t: (known.stream(), known.stream()) for t, known in ordinary.items()}
        self._turns: OrderedDict[str, _ChartedTurn] = OrderedDict()
        self.alarms: deque[AlarmRecord] = deque(maxlen=_KEPT)

    def levels(self) -> dict[str, float]:
        """Each trait's level on the server's chart, in the chart's standard deviations."""
        return {trait: whole.level for trait, (whole, _) in self._server.items()}

    def take(
        self,
        messages: Sequence[Message],
        replies: Sequence[ChartedReply],
        purpose: Purpose | None = None,
    ) -> tuple[list[list[AlarmRecord]], list[AlarmRecord]]:
        """Chart the replies to `messages`; returns the alarms of each reply, and those that count.

        Several replies to one request count as one. Each continues the conversation's charts
        separately; the server's charts are updated with their mean. Of one trait's alarms in one
        scope, the one with the highest level counts. `purpose` is what the request added.
        """
        own = purpose or Purpose()
        conversation = [message for message in messages if message["role"] != "system"]
        turn = sum(message["role"] == "assistant" for message in conversation)
        before, so_far = self._before(conversation)
        name = before.name if before else ""
        raised: list[list[AlarmRecord]] = []
        values: dict[str, list[_Standardised]] = {}
        for place, (text, read) in enumerate(replies):
            charts = copy.deepcopy(before.charts) if before else {}
            found = list(self._standardised(read, turn, place, own))
            raised.append([alarm for one in found if (alarm := self._charted(charts, one, own))])
            for one in found:
                values.setdefault(one.trait, []).append(one)
            ended = so_far.copy()
            self._add(ended, {"role": "assistant", "content": text})
            name = name or ended.hexdigest()
            self._keep(ended.hexdigest(), _ChartedTurn(name, charts))
        for several in values.values():
            if alarm := self._charted_over_server(name, several, own):
                raised[max(several, key=lambda one: one.value).place].append(alarm)
        counted = _highest([alarm for alarms in raised for alarm in alarms])
        self.alarms.extend(counted)
        for alarm in counted:
            why = ", as the request was steered" if alarm["steered"] else ""
            log.warning("drift toward %(trait)s over the %(scope)s: level %(level)s" + why, alarm)
        return raised, counted

    def _standardised(
        self, read: Sequence[TurnReading], turn: int, place: int, own: Purpose
    ) -> Iterator[_Standardised]:
        """The readings of one reply that can be charted."""
        for reading in read:
            ordinary, sigma = self._ordinary.get(reading.trait), getattr(reading, READING)
            if ordinary is not None and sigma is not None:
                trait, value = reading.trait, ordinary.standardise(sigma, turn)
                # What was taken away hid nothing that the chart of all readings would show.
                added = max(0.0, own.sigmas.get(trait, 0.0))
                rest = None if own.toward(trait) else ordinary.standardise(sigma - added, turn)
                yield _Standardised(trait, turn, value, rest, place)

    def _charted(
        self, charts: dict[str, tuple[Chart, Chart]], one: _Standardised, own: Purpose
    ) -> AlarmRecord | None:
        """Update a conversation's charts of a trait."""
        ordinary = self._ordinary[one.trait]
        whole, rest = charts.setdefault(one.trait, (ordinary.chart(), ordinary.chart()))
        alarms = whole.update(one.value), None if one.rest is None else rest.update(one.rest)
        levels = whole.level, rest.level
        return _record("conversation", one, alarms, levels, ordinary.conversation.limit, own)

    def _charted_over_server(
        self, name: str, several: Sequence[_Standardised], own: Purpose
    ) -> AlarmRecord | None:
        """Update the server's charts of a trait with the mean over the replies to a request."""
        first = several[0]
        rests = [each.rest for each in several if each.rest is not None]
        value = fmean(each.value for each in several)
        one = replace(first, value=value, rest=fmean(rests) if rests else None)
        whole, rest = self._server[one.trait]
        alarms = (
            whole.update(name, one.value),
            None if one.rest is None else rest.update(name, one.rest),
        )
        levels = whole.level, rest.level
        limit = self._ordinary[one.trait].server.limit
        return _record("server", one, alarms, levels, limit, own)

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


def _record(
    scope: Scope,
    one: _Standardised,
    alarms: tuple[Alarm | None, Alarm | None],
    levels: tuple[float, float],
    limit: float,
    own: Purpose,
) -> AlarmRecord | None:
    """The alarm of a trait's two charts, of its readings and of their rest, after an update.

    A chart that is above its limit only because of steering is so again, as an alarm that steering
    does not explain, when the rest exceeds the limit too.
    """
    steered = own.toward(one.trait) or levels[1] <= limit
    unexplained = alarms[1] is not None and not steered and levels[0] > limit
    if alarms[0] is None and not unexplained:
        return None
    return {
        "trait": one.trait,
        "scope": scope,
        "turn": one.turn,
        "reading": round(one.value, 3),
        "level": round(levels[0], 3),
        "limit": round(limit, 3),
        "steered": steered,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
