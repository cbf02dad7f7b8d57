"""Send alarms to an address as JSON, again where that fails; never in a reply's way."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from personavec.errors import UsageError

log = logging.getLogger("personavec.serve")
#: Seconds before each further try, and for one try.
WAITS, _TIMEOUT = (1.0, 4.0, 16.0, 64.0), 10
_QUEUE = 100


class Webhook:
    """Posts one alarm after the other; `run` is its task. Beyond a hundred waiting, they drop."""

    def __init__(self, url: str, waits: tuple[float, ...] = WAITS):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UsageError(f"--alarm-webhook {url}: give an http or https address")
        self._url, self._waits = url, waits
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_QUEUE)

    def send(self, alarm: Mapping[str, Any]) -> None:
        try:
            self._queue.put_nowait(alarm)
        except asyncio.QueueFull:
            log.error("the webhook does not keep up; an alarm was not sent to it")

    async def run(self) -> None:
        while True:
            alarm = await self._queue.get()
            for wait in (*self._waits, None):
                try:
                    await asyncio.to_thread(self._post, alarm)
                    break
                except OSError as error:
                    log.warning("the webhook could not be reached: %s", error)
                    if wait is None:
                        log.error("an alarm was not delivered in %d tries", len(self._waits) + 1)
                    else:
                        await asyncio.sleep(wait)

    def _post(self, alarm: Mapping[str, Any]) -> None:
        request = urllib.request.Request(
            self._url,
            json.dumps({"alarm": alarm}).encode(),
            {"Content-Type": "application/json", "User-Agent": "personavec"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            pass
