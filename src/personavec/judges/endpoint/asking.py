"""Ask an endpoint many requests, a few at a time, each once."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from personavec.judges.endpoint.cache import path_of, recall
from personavec.judges.endpoint.client import Client, connect
from personavec.judges.endpoint.config import Endpoint, Request
from personavec.judges.endpoint.reply import Reply
from personavec.progress import Bar, Progress

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Pending:
    """A request without an answer, what it is about, and its places in the list of requests."""

    request: Request
    about: Hashable
    places: list[int]


def ask(
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    label: str = "asking",
    progress: Progress | None = None,
    on_reply: Callable[[int, Reply], None] | None = None,
    inputs: Sequence[Hashable] | None = None,
) -> list[Reply]:
    """One reply a request, in their order.

    Answers on disk are not asked for again. `on_reply` gets the place of a request and its reply
    as soon as it arrives, so that callers can write results early. `inputs` says which requests
    are about the same input; by default, those with the same messages.

    A request that fails is a `Reply` with the reason, and the next run asks it again. Raises
    EndpointError for a cause that all requests share (an invalid key, a wrong URL, an unknown
    model), once a second input has failed with it. Earlier answers are on disk by then.
    """
    replies: list[Reply | None] = [None] * len(requests)

    def settle(place: int, reply: Reply) -> None:
        replies[place] = reply
        if on_reply is not None:
            on_reply(place, reply)

    with (progress or Progress(quiet=True)).bar(label, len(requests)) as bar:
        pending: dict[Path, _Pending] = {}
        for place, request in enumerate(requests):
            if (known := recall(endpoint, request)) is not None:
                settle(place, Reply(known, cached=True))
                bar.advance(1)
            else:  # Equal requests are asked once.
                about = inputs[place] if inputs else json.dumps(request["messages"], sort_keys=True)
                own = _Pending(request, about, [])
                pending.setdefault(path_of(endpoint, request), own).places.append(place)
        if pending:
            _run(_ask_all(endpoint, list(pending.values()), settle, bar))
    return [reply for reply in replies if reply is not None]


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _ask_all(
    endpoint: Endpoint,
    pending: Sequence[_Pending],
    settle: Callable[[int, Reply], None],
    bar: Bar,
) -> None:
    """Ask one request at a time until the endpoint has answered, then the others together."""

    def close(asked: _Pending, reply: Reply) -> None:
        for place in asked.places:
            settle(place, reply)
        bar.advance(len(asked.places))

    async with connect(endpoint) as connection:
        single = len({each.about for each in pending}) == 1
        client = Client(endpoint, connection, single_input=single)
        left = deque(pending)
        await _ask_first(client, left, close)

        async def work() -> None:
            while left:
                asked = left.popleft()
                close(asked, await client.ask(asked.request, asked.about))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(endpoint.concurrency, len(left))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


async def _ask_first(
    client: Client, left: deque[_Pending], close: Callable[[_Pending, Reply], None]
) -> None:
    """Ask alone until a failure, or a success, shows whether all requests would fail.

    Requests that failed before the endpoint worked are put back to be asked again.
    """
    doubtful: list[tuple[_Pending, Reply]] = []
    while left:
        asked = left.popleft()
        reply = await client.ask(asked.request, asked.about)
        if not reply.doubtful:
            close(asked, reply)
            break
        doubtful.append((asked, reply))
    if client.works:
        left.extend(asked for asked, _ in doubtful)
        return
    for asked, reply in doubtful:
        close(asked, reply)
