"""Run requests on the engine, and collect their replies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from personavec.model import Beginnings, LoadedModel
from personavec.model.engine import NOT_FINITE, Loop, StepLoop, VllmEngine, VllmLoop
from personavec.serve.config import ServeConfig
from personavec.serve.intake import Intake
from personavec.serve.metrics import Metrics
from personavec.serve.protocol import ApiError, ChatRequest, CompletionRequest, ErrorRecord
from personavec.serve.readings import ReplyReader
from personavec.serve.reply_format import (
    ApiChunk,
    ApiReply,
    chunk_of,
    usage_chunk,
    whole_reply,
)
from personavec.serve.requests import PersonavecField, ReplyChoice, ReplyRequest, ReplyToken
from personavec.serve.served import ServedModel
from personavec.serve.worker import Busy, UpdateBatch, Worker
from personavec.vectors import PersonaVector

log = logging.getLogger("personavec.serve")

#: Number of bodies that are validated and tokenised at a time, to leave CPU cores for replies.
_BODIES = 2


class _Delta(NamedTuple):
    """The new text and tokens of a choice; empty at its end."""

    choice: ReplyChoice
    text: str
    tokens: Sequence[ReplyToken]

    @property
    def empty(self) -> bool:
        return not self.text and not self.tokens

    @property
    def ended(self) -> bool:
        # Several deltas may be queued after the choice has ended; only the last one is empty.
        return self.empty and self.choice.end is not None


class Service:
    """The model behind the routes. The application calls `start` and `stop`.

    With `engine`, vLLM writes the replies, and the loaded model only tokenises. Raises the errors
    of `ServedModel.of`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vectors: Mapping[str, PersonaVector],
        config: ServeConfig,
        engine: VllmEngine | None = None,
    ):
        served = self.served = ServedModel.of(loaded, vectors, config, engine)
        self.metrics = Metrics()
        self.reader = ReplyReader(served, self.metrics)
        self.watch = self.reader.watch
        self._intake = Intake(served)
        self._bodies = ThreadPoolExecutor(_BODIES, "bodies")
        self._winding_up: set[asyncio.Task[None]] = set()

        def make_loop() -> Loop:
            if engine is not None:
                return VllmLoop(engine, directions=served.directions)
            return StepLoop(
                loaded,
                directions=served.directions,
                max_rows=config.rows,
                beginnings=Beginnings(config.prefix_cache << 20),
                remember=config.prefix_cache > 0,
            )

        self.worker = Worker(make_loop, max_rows=config.rows, queue_size=config.queue)

    async def start(self) -> None:
        """Start the engine. Raises the engine's error if it cannot run."""
        await self.worker.start()

    async def stop(self) -> None:
        """End running replies, and count what they have written."""
        await asyncio.to_thread(self.worker.stop)
        await asyncio.gather(*self._winding_up, return_exceptions=True)
        self._bodies.shutdown(wait=False, cancel_futures=True)

    def metrics_text(self) -> bytes:
        worker = self.worker
        waiting = max(0, worker.open - worker.running)
        return self.metrics.text(
            running=worker.running, waiting=waiting, levels=self.watch.levels()
        )

    async def chat(self, parse: Callable[[], ChatRequest]) -> ReplyRequest:
        """Make the request of a chat completion. Raises ApiError, UsageError."""
        return await self._in_thread(lambda: self._intake.chat(parse()))

    async def completion(self, parse: Callable[[], CompletionRequest]) -> ReplyRequest:
        """Make the request of a plain completion. Raises ApiError, UsageError."""
        return await self._in_thread(lambda: self._intake.completion(parse()))

    async def _in_thread(self, make: Callable[[], ReplyRequest]) -> ReplyRequest:
        """Validate and tokenise in a thread, since both take time."""
        return await asyncio.get_running_loop().run_in_executor(self._bodies, make)

    async def whole(self, request: ReplyRequest) -> ApiReply:
        """Run a request, and return its complete reply. Raises ApiError."""
        try:
            async with asyncio.timeout(self.served.config.request_seconds):
                self._submit(request)
                await asyncio.gather(*(self._read_out(request, c) for c in request.choices))
                own = await self._concluded(request)
        except TimeoutError:
            self.release(request, "timeout")
            raise self._timed_out() from None
        finally:
            self.release(request)
        return whole_reply(self.served, request, own)

    def chunks(self, request: ReplyRequest) -> AsyncGenerator[ApiChunk | ErrorRecord, None]:
        """Run a request, and stream its reply; an error during the reply is the last chunk.

        Raises ApiError at once if it cannot be queued. Call `release` when done.
        """
        self._submit(request)
        return self._chunks(request)

    async def _chunks(self, request: ReplyRequest) -> AsyncGenerator[ApiChunk | ErrorRecord, None]:
        found: asyncio.Queue[_Delta | Exception] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._follow_into(found, request, choice))
            for choice in request.choices
        ]
        left = request.began + self.served.config.request_seconds - time.monotonic()
        try:
            async with asyncio.timeout(left):
                async for chunk in self._written(request, found):
                    yield chunk
            if request.include_usage:
                yield usage_chunk(self.served, request, await self._concluded(request))
        except TimeoutError:
            for task in tasks:
                task.cancel()
            self.release(request, "timeout")
            yield self._timed_out().body
        except ApiError as error:
            yield error.body
        finally:
            for task in tasks:
                task.cancel()

    async def _follow_into(
        self,
        found: asyncio.Queue[_Delta | Exception],
        request: ReplyRequest,
        choice: ReplyChoice,
    ) -> None:
        try:
            async for delta in self._follow(request, choice):
                found.put_nowait(delta)
        except Exception as error:
            found.put_nowait(error)

    async def _written(
        self, request: ReplyRequest, found: asyncio.Queue[_Delta | Exception]
    ) -> AsyncIterator[ApiChunk]:
        """A chunk for each delta, until every choice has ended. Raises ApiError."""
        begun: set[int] = set()
        left = len(request.choices)
        while left:
            delta = await found.get()
            if isinstance(delta, Exception):
                raise delta
            if delta.empty and not delta.ended:
                continue
            choice, text, tokens = delta
            first, ended = choice.index not in begun, delta.ended
            begun.add(choice.index)
            left -= ended
            chunk = chunk_of(self.served, request, choice, text, tokens, first=first, ended=ended)
            if request.include_usage:
                chunk["usage"] = None
            elif not left:
                chunk["personavec"] = await self._concluded(request)
            yield chunk

    def _submit(self, request: ReplyRequest) -> None:
        worker = self.worker
        if not worker.alive:
            raise ApiError(503, "the engine has stopped; the server must be started again")
        try:
            for choice in request.choices:
                worker.submit(choice.job, at_once=request.stream or bool(choice.stream.stops))
        except Busy:
            for choice in request.choices:
                worker.cancel(choice.job.request.id)
            raise ApiError(
                429,
                f"{worker.open} replies run or wait, which is this server's limit; try again later",
                code="queue_full",
                headers={"Retry-After": str(1 + worker.open // (4 * self.served.config.rows))},
            ) from None
        request.queued = True
        if request.control_strings:
            self.metrics.control_strings.inc()
        self.metrics.tokens.labels("prompt").inc(request.prompt_tokens)

    def release(self, request: ReplyRequest, cut: str = "left") -> None:
        """End a request's running replies, for which no client waits any more, and count them."""
        if not request.queued or request.released:
            return
        request.released = True
        left = [choice for choice in request.choices if not choice.closed]
        for choice in left:
            choice.cut = cut
            self.worker.leave(choice.job.request.id)
        task = asyncio.create_task(self._wind_up(request, left))
        self._winding_up.add(task)
        task.add_done_callback(self._winding_up.discard)

    async def _wind_up(self, request: ReplyRequest, left: Sequence[ReplyChoice]) -> None:
        for choice in left:
            with contextlib.suppress(ApiError):
                await self._read_out(request, choice)
        await self._concluded(request)

    def _timed_out(self) -> ApiError:
        seconds = self.served.config.request_seconds
        return ApiError(504, f"no reply within {seconds:g} seconds", code="timeout")

    async def _concluded(self, request: ReplyRequest) -> PersonavecField:
        """The field `personavec` of a reply; the request is counted exactly once."""
        if request.concluding is None:
            request.concluding = asyncio.create_task(self.reader.conclude(request))
        return await asyncio.shield(request.concluding)

    async def _read_out(self, request: ReplyRequest, choice: ReplyChoice) -> None:
        async for _ in self._follow(request, choice):
            pass

    async def _follow(self, request: ReplyRequest, choice: ReplyChoice) -> AsyncIterator[_Delta]:
        """The deltas of a choice, one per batch; the last delta is empty. Raises ApiError."""
        async for batch in self.worker.batches(choice.job.request.id):
            if not choice.ids and any(update.token is not None for update in batch.updates):
                self.metrics.first_token.observe(time.monotonic() - request.began)
            delta = self._take(choice, batch)
            choice.closed = batch.ended
            if batch.error is not None:
                gone = "shutting" in batch.error or not self.worker.alive
                raise ApiError(503 if gone else 500, batch.error)
            if choice.end == "failed":
                raise self._failed(choice, batch.updates[-1].reason)
            if not delta.empty:
                yield delta
            if choice.end is not None:
                yield _Delta(choice, "", [])

    def _take(self, choice: ReplyChoice, batch: UpdateBatch) -> _Delta:
        """Add a batch to its choice, and end the job at a stop text."""
        texts: list[str] = []
        fresh: list[ReplyToken] = []
        stream = choice.stream
        for update in batch.updates:
            if update.token is not None and not stream.stopped:
                choice.ids.append(update.token)
                texts.append(stream.push(update.token))
                if update.logprob is not None:
                    fresh.append(ReplyToken(update.token, update.logprob, update.top, stream.start))
                if stream.stopped:
                    self.worker.finish(choice.job.request.id)
            if update.end is not None:
                choice.end = update.end
        if batch.ended:
            texts.append(stream.flush())
        choice.tokens += fresh
        if batch.projections is not None:
            choice.projections = batch.projections
        return _Delta(choice, "".join(texts), fresh)

    def _failed(self, choice: ReplyChoice, reason: str) -> ApiError:
        """The error for a reply that failed, while others in the batch went on."""
        if reason != NOT_FINITE:
            log.error("a reply failed: %s", reason)
            return ApiError(500, "the model failed on this request; the server's log says why")
        if choice.job.request.steering:
            return ApiError(
                400,
                f"{reason} with this request's steering; steer less",
                code="not_finite",
                param="personavec",
            )
        acted = bool(choice.guard and choice.guard.acted)
        cause = "a guard's steering" if acted else f"type {self.served.loaded.identity.dtype}"
        log.error("a reply failed: %s with %s", reason, cause)
        return ApiError(500, f"{reason} with {cause}", code="not_finite")
