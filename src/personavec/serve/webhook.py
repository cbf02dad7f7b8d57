"""Post alarms to a URL as JSON, with retries. Replies never wait for it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from personavec.errors import UsageError

log = logging.getLogger("personavec.serve")
#: Seconds before each retry, and the time limit of one try.
WAITS, _TIMEOUT = (1.0, 4.0, 16.0, 64.0), 10.0
_QUEUE = 100


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats redirects as errors, since following one would turn the POST into a GET."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> None:
        return None


class Webhook:
    """Posts alarms one after another; `run` is its task.

    A hundred alarms may wait; further ones are dropped. A failed post affects only its own alarm.
    Raises UsageError for a URL that is not http or https.
    """

    def __init__(self, url: str, waits: tuple[float, ...] = WAITS, timeout: float = _TIMEOUT):
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # an invalid port or IPv6 address
            known = False
        if not known:
            raise UsageError(f"--alarm-webhook {url}: give an http or https address")
        self._url, self._waits, self._timeout = url, waits, timeout
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_QUEUE)
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, alarm: Mapping[str, Any]) -> None:
        """Queue an alarm, or drop it if the queue is full."""
        try:
            self._queue.put_nowait(alarm)
        except asyncio.QueueFull:
            log.error("the webhook does not keep up; an alarm was not sent to it")

    async def run(self) -> None:
        """Post queued alarms until cancelled."""
        while True:
            alarm = await self._queue.get()
            for wait in (*self._waits, None):
                try:
                    # The socket's timeout restarts with every byte that the server sends.
                    async with asyncio.timeout(2 * self._timeout):
                        await _in_a_thread(lambda alarm=alarm: self._post(alarm))
                    break
                except Exception as error:
                    log.warning("the webhook could not be reached: %s", _in_one_line(error))
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
        try:
            self._opener.open(request, timeout=self._timeout).close()
        except HTTPError as error:
            error.close()
            raise OSError(f"it answered with status {error.code}") from None


async def _in_a_thread(call: Callable[[], None]) -> None:
    """Run `call` in a daemon thread, so that neither the event loop nor the exit waits for it."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    done.set_running_or_notify_cancel()
    threading.Thread(target=run, name="webhook", daemon=True).start()
    await asyncio.wrap_future(done)


def _in_one_line(error: Exception) -> str:
    """An error's class and quoted text; the text may be empty or come from the server."""
    return f"{type(error).__name__} {str(error)[:200]!r}"
