"""Process finished replies: compute readings, update drift charts and count."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from personavec.monitor import TurnReading, read_turn
from personavec.serve.metrics import Metrics
from personavec.serve.purpose import Purpose, purpose
from personavec.serve.requests import ChoiceReadings, PersonavecField, ReplyChoice, ReplyRequest
from personavec.serve.served import ServedModel
from personavec.serve.watch import AlarmRecord, Watch
from personavec.serve.webhook import Webhook
from personavec.vectors import Ordinary

log = logging.getLogger("personavec.serve")


class _Read(NamedTuple):
    """A reply's readings, and the token ids of its answer."""

    readings: list[TurnReading]
    answer: list[int]


class ReplyReader:
    """Reads finished replies, charts them, and counts them.

    `webhook` posts alarms; it is None if no address is configured.
    """

    def __init__(self, served: ServedModel, metrics: Metrics):
        self._served, self._metrics = served, metrics
        ordinary = {trait: own.ordinary or Ordinary() for trait, own in served.vectors.items()}
        self.watch = Watch(ordinary, served.answer)
        address = served.config.alarm_webhook
        self.webhook = Webhook(address) if address else None

    async def conclude(self, request: ReplyRequest) -> PersonavecField:
        """Read, count and chart a request's replies, also unfinished ones. Call it once."""
        # In a thread, since finding the end of a thought takes time, while other streams go on.
        read = await asyncio.to_thread(
            lambda: [self._read(request, choice) for choice in request.choices]
        )
        for choice in request.choices:
            self._count(request, choice)
        alarms = self._chart(request, [readings for readings, _ in read])
        return {
            "actions": [one.record for one in request.applied],
            "notes": list(request.notes),
            "control_strings": request.control_strings,
            "choices": [
                self._record(request, choice, own, alarms[choice.index])
                for choice, own in zip(request.choices, read, strict=True)
            ],
        }

    def _read(self, request: ReplyRequest, choice: ReplyChoice) -> _Read:
        served, values = self._served, choice.projections
        if served.gauge is None or values is None or choice.end == "failed":
            return _Read([], [])
        ids = choice.ids[: min(choice.stream.kept, len(values) - 1)]
        start = served.n_thinking(choice.job.request.prompt_ids, ids)
        readings = read_turn(
            served.gauge,
            len(choice.messages),
            prompt_last=values[0],
            response=values[1 + start : 1 + len(ids)],
            thinking=values[1 : 1 + start] if start else None,
            tokens=request.read_tokens,
        )
        return _Read(readings, ids[start:])

    def _count(self, request: ReplyRequest, choice: ReplyChoice) -> None:
        metrics = self._metrics
        metrics.tokens.labels("reply").inc(len(choice.ids))
        metrics.replies.labels(choice.cut or choice.finish_reason or "failed").inc()
        metrics.seconds.observe(time.monotonic() - request.began)
        for guard in choice.guard.acted if choice.guard else ():
            trait = guard["condition"].partition("<")[0].partition(">")[0]
            metrics.guards.labels(trait, guard["did"]).inc()
        if self._served.config.log_text:
            log.info("reply: %s", json.dumps(choice.stream.text, ensure_ascii=False))

    def _chart(
        self, request: ReplyRequest, readings: Sequence[Sequence[TurnReading]]
    ) -> Mapping[int, list[AlarmRecord]]:
        """The alarms by choice. Several replies to one prompt count once on the server's chart."""
        found: dict[int, list[AlarmRecord]] = {choice.index: [] for choice in request.choices}
        gauge = self._served.gauge
        own = purpose(request.applied, gauge) if gauge else Purpose()
        for prompt in dict.fromkeys(choice.prompt for choice in request.choices):
            written = [c for c in request.choices if c.prompt == prompt and readings[c.index]]
            if not written:
                continue
            replies = [(choice.stream.text, readings[choice.index]) for choice in written]
            raised, counted = self.watch.take(written[0].messages, replies, own)
            found |= {choice.index: own for choice, own in zip(written, raised, strict=True)}
            for alarm in counted:
                self._metrics.alarms.labels(alarm["trait"], alarm["scope"]).inc()
                if self.webhook is not None:
                    self.webhook.send(alarm)
        return found

    def _record(
        self,
        request: ReplyRequest,
        choice: ReplyChoice,
        read: _Read,
        alarms: Sequence[AlarmRecord],
    ) -> ChoiceReadings:
        found: ChoiceReadings = {
            "index": choice.index,
            "readings": [asdict(r) for r in read.readings if r.trait in request.traits],
            "guards": choice.guard.acted if choice.guard else [],
            "alarms": list(alarms),
        }
        if request.read_tokens:
            found["tokens"] = [self._served.vocabulary.text(id) for id in read.answer]
        return found
