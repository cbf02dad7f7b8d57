"""The thread that steps the engine, and its queue of jobs.

Jobs come from an event loop. After each step, the updates of all rows go back to the event loop in
one call.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from personavec.errors import PersonavecError
from personavec.model.engine import DecodeJob, Loop, Update

log = logging.getLogger("personavec.serve")


class Busy(Exception):
    """The queue is full, or the server is shutting down."""


@dataclass(frozen=True, eq=False)
class UpdateBatch:
    """The updates of a job since its last batch; the last batch has the job's end."""

    updates: list[Update]
    projections: Tensor | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.error is not None or (bool(self.updates) and self.updates[-1].end is not None)


@dataclass(eq=False)
class _OpenJob:
    """A job that has not ended. With `at_once`, every token is delivered immediately."""

    at_once: bool
    inbox: asyncio.Queue[UpdateBatch] = field(default_factory=asyncio.Queue)
    collected: list[Update] = field(default_factory=list)


class Worker:
    """Runs a decoding loop in its own thread.

    `queue_size` jobs may wait while `max_rows` run. Call `start` within an event loop.
    """

    def __init__(self, make_loop: Callable[[], Loop], *, max_rows: int, queue_size: int):
        self._make_loop = make_loop
        self._capacity = max_rows + queue_size
        self._commands: queue.SimpleQueue[Callable[[Loop], object] | None] = queue.SimpleQueue()
        self._open: dict[str, _OpenJob] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._events: asyncio.AbstractEventLoop | None = None
        self._loop: Loop | None = None
        self._made: Future[None] = Future()
        self.running = self.waiting = 0

    @property
    def open(self) -> int:
        """Number of jobs that wait or run."""
        return len(self._open)

    @property
    def alive(self) -> bool:
        """Whether replies can be written."""
        return self._thread.is_alive() and (self._loop is None or self._loop.alive)

    async def start(self) -> None:
        """Start the thread. Raises the error of `make_loop`, if any."""
        self._events = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.wrap_future(self._made)

    def stop(self) -> None:
        """End the thread; jobs that still run end with an error."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: DecodeJob, *, at_once: bool) -> None:
        """Queue a job. Raises Busy."""
        if len(self._open) >= self._capacity:
            raise Busy
        self._open[job.request.id] = _OpenJob(at_once)

        def enter(loop: Loop) -> None:
            try:
                loop.submit(job)
            except PersonavecError as error:
                self._deliver({job.request.id: UpdateBatch([], error=str(error))})
            except Exception:
                # One job must not end the thread, which serves all jobs.
                log.exception("a request could not be queued")
                self._deliver(
                    {job.request.id: UpdateBatch([], error="the request could not be queued")}
                )

        self._commands.put(enter)

    async def batches(self, id: str) -> AsyncIterator[UpdateBatch]:
        """The batches of a submitted job, up to the last."""
        inbox = self._open[id].inbox
        while True:
            batch = await inbox.get()
            if batch.ended:
                self._open.pop(id, None)
            yield batch
            if batch.ended:
                return

    def finish(self, id: str) -> None:
        """End a job after its current tokens; its last batch follows."""
        self._commands.put(lambda loop: loop.finish(id))

    def leave(self, id: str) -> None:
        """End a job whose client has disconnected; its last batch has its current tokens."""
        known = self._open.get(id)
        if known is None:
            return
        gone = UpdateBatch(known.collected, error="the client has left")

        def end(loop: Loop) -> None:
            if not loop.finish(id):
                loop.cancel(id)
                self._deliver({id: gone})

        if self._thread.is_alive():
            self._commands.put(end)
        else:
            known.inbox.put_nowait(gone)

    def cancel(self, id: str) -> None:
        """Drop a job, which frees its place at the next step."""
        if self._open.pop(id, None) is not None:
            self._commands.put(lambda loop: loop.cancel(id))

    def _run(self) -> None:
        try:
            loop = self._loop = self._make_loop()
        except BaseException as error:
            self._made.set_exception(error)
            return
        self._made.set_result(None)
        try:
            while self._run_commands(loop):
                if loop.busy:
                    self._step(loop)
                    self._update_counts(loop)
        finally:
            loop.close()
            self._fail("the server is shutting down")

    def _run_commands(self, loop: Loop) -> bool:
        """Run the queued commands, and wait while there is nothing to do; False to stop."""
        while True:
            try:
                command = self._commands.get(block=not loop.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command(loop)
            self._update_counts(loop)
            if loop.busy and self._commands.empty():
                return True

    def _update_counts(self, loop: Loop) -> None:
        self.running, self.waiting = loop.running, loop.waiting

    def _step(self, loop: Loop) -> None:
        try:
            updates = loop.step()
        except Exception as error:
            # The batch is in an unknown state, so drop it and continue with the next jobs.
            if loop.alive:
                log.exception("a step failed; the requests that ran end with an error")
                message = "the model failed on this batch; try again"
            else:
                message = str(error)
                log.critical("%s", message)
            loop.clear()
            self._fail(message)
            return
        batches: dict[str, UpdateBatch] = {}
        for update in updates:
            known = self._open.get(update.id)
            if known is None:
                loop.projections(update.id)
                continue
            known.collected.append(update)
            if update.end:
                batches[update.id] = UpdateBatch(known.collected, loop.projections(update.id))
            elif known.at_once:
                batches[update.id] = UpdateBatch(known.collected)
            if update.id in batches:
                known.collected = []
        if batches:
            self._deliver(batches)

    def _fail(self, message: str) -> None:
        self._deliver({id: UpdateBatch([], error=message) for id in list(self._open)})

    def _deliver(self, batches: dict[str, UpdateBatch]) -> None:
        def deliver() -> None:
            for id, batch in batches.items():
                if id in self._open:
                    self._open[id].inbox.put_nowait(batch)

        if self._events is not None and not self._events.is_closed():
            self._events.call_soon_threadsafe(deliver)
