"""A reply as server-sent events, with keep-alives while there are no new tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus

from personavec.plain import unicode_text

#: Seconds between keep-alives, which are comments that clients ignore.
KEEP_ALIVE_SECONDS = 15.0


def let_streams_finish() -> None:
    """Let streams continue while the server stops, until uvicorn's timeout ends them.

    By default the library would end them at once. The setting applies to the whole process.
    """
    AppStatus.disable_automatic_graceful_drain()


class ReplyEvents(EventSourceResponse):
    """OpenAI's stream of events; `release` is called when it ends or the client disconnects."""

    def __init__(
        self, chunks: AsyncGenerator[Mapping[str, Any], None], release: Callable[[], None]
    ):
        super().__init__(_events(chunks), ping=KEEP_ALIVE_SECONDS, ping_message_factory=_keep_alive)
        self._release = release

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def _events(
    chunks: AsyncGenerator[Mapping[str, Any], None],
) -> AsyncGenerator[ServerSentEvent, None]:
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            text = json.dumps(chunk, ensure_ascii=False, allow_nan=False)
            yield ServerSentEvent(unicode_text(text), sep="\n")
    yield ServerSentEvent("[DONE]", sep="\n")


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")
