"""vLLM's running batch (`loop.Loop`), which requests join and leave.

vLLM has its own queue, and puts requests into its batch itself. Each request gets a note that says
how it is steered and what is read of it; vLLM's outputs become updates. Only projections leave the
workers: of the last prompt token, and of every response token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import HookError, ModelError, UsageError
from personavec.model import Action, Directions
from personavec.model.engine.base import check_room
from personavec.model.engine.loop import NOT_FINITE, DecodeJob, End, Update
from personavec.model.engine.vllm import VllmEngine
from personavec.model.engine.vllm_note import SteeringTable, note_of
from personavec.model.engine.vllm_setup import dead_error, last_line


@dataclass(eq=False)
class _VllmRow:
    """A request in vLLM; `name` is its id there, a new one once its guard has acted."""

    job: DecodeJob
    name: str
    tokens: int = 0
    """Response tokens that were reported."""
    forecast: Tensor | None = None
    """The projections that its guard judged. If the guard acted, they stay the forecast."""
    acted: bool = False
    end: End | None = None


class VllmLoop:
    """Requests of one engine, which nothing else may use meanwhile; `close` leaves it running.

    `directions` are read for every request that asks. vLLM writes at most `max_num_seqs` replies at
    a time; further ones wait in order. Not thread-safe, except `alive`.

    Raises ModelError when vLLM has died, as `step` and `submit` do.
    """

    def __init__(self, engine: VllmEngine, *, directions: Directions | None = None):
        self._engine = engine
        self._identity = engine.loaded.identity
        self._stops = engine.loaded.stop_ids
        self._rows: dict[str, _VllmRow] = {}
        self._ended: dict[str, Tensor] = {}
        self._left: list[str] = []
        """Names of requests that left, whose readings the workers still keep."""
        self._dead = False
        with self._living():
            engine.begin(torch.zeros(0, self._identity.hidden_size), directions)

    @property
    def alive(self) -> bool:
        return self._engine.alive and not self._dead

    @property
    def running(self) -> int:
        return min(len(self._rows), self._engine.max_rows)

    @property
    def waiting(self) -> int:
        return len(self._rows) - self.running

    @property
    def busy(self) -> bool:
        return bool(self._rows)

    def submit(self, job: DecodeJob) -> None:
        """Queue a request. Raises UsageError if vLLM cannot take it."""
        if not job.request.prompt_ids:
            raise UsageError(f"request {job.request.id}: a prompt has no tokens")
        check_room([job.request], job.sampling.max_tokens, self._engine.context)
        with self._living():
            self._add(_VllmRow(job, job.request.id), job.request.steering)

    def cancel(self, id: str) -> None:
        """Drop a request, waiting or running. Does nothing for one that has ended."""
        for row in self._of(id):
            self._leave(row)
        self._ended.pop(id, None)

    def finish(self, id: str) -> bool:
        """End a running request after the tokens it has; False if it has none, or has ended.

        Its end comes with its next token, which is dropped: its last one has been read by then.
        """
        for row in self._of(id):
            if row.tokens:
                row.end = row.end or "stop"
                return True
        return False

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None:
        """Projections of a request that ended, handed out once: of the last prompt token, then of
        each response token. None if the request did not ask for them.
        """
        return self._ended.pop(id, None)

    def clear(self) -> None:
        """Drop every request."""
        for row in list(self._rows.values()):
            self._leave(row)
        self._ended.clear()

    def close(self) -> None:
        self.clear()

    def step(self) -> list[Update]:
        """Wait for vLLM's next tokens, and report the updates.

        Raises HookError when a token was not read.
        """
        with self._living():
            outputs = self._engine.step()
            # Outputs may still come for a request that has left; they are dropped.
            came = [(self._rows[o.request_id], o) for o in outputs if o.request_id in self._rows]
            updates = self._judge([row for row, _ in came])
            ended = []
            for row, output in came:
                if self._rows.get(output.request_id) is not row:
                    continue  # Its guard acted.
                updates += self._report(row, output)
                if row.end is not None:
                    ended.append(row)
                    self._leave(row)
            return updates + self._read_out(ended)

    # Requests

    def _add(self, row: _VllmRow, actions: Sequence[Action]) -> None:
        request, sampling = row.job.request, row.job.sampling
        params = self._engine.sampling_params(
            sampling,
            request.noise_key,
            # The last token is read once the one after it is chosen.
            sampling.max_tokens + 1,
            stream=True,
            top_logprobs=row.job.top_logprobs,
        )
        n = len(request.prompt_ids)
        read = row.job.read or row.job.guard is not None
        table = SteeringTable(self._identity.n_layers, self._identity.hidden_size)
        # Read from the last prompt token on.
        project = n - 1 if read else None
        note = note_of(row.name, n, actions, table, apart=True, project=project)
        try:
            self._engine.add(row.name, request.prompt_ids, params, note)
        except dead_error():
            raise
        except Exception as error:  # vLLM raises many types.
            raise UsageError(f"vLLM cannot take this request: {last_line(error)}") from error
        self._rows[row.name] = row

    def _of(self, id: str) -> list[_VllmRow]:
        return [row for row in self._rows.values() if row.job.request.id == id]

    def _leave(self, row: _VllmRow) -> None:
        """Remove a row, and end its request in vLLM."""
        del self._rows[row.name]
        self._engine.abort([row.name])
        self._left.append(row.name)

    # What comes back

    def _judge(self, came: Sequence[_VllmRow]) -> list[Update]:
        """Ask the guards of requests whose first token has come, before it is reported.

        A request whose guard acts leaves vLLM, and joins again under its new actions.
        """
        judged = [row for row in came if row.job.guard is not None and row.forecast is None]
        if not judged:
            return []
        updates: list[Update] = []
        found = self._engine.read([row.name for row in judged], keep=True)
        for row in judged:
            values = found[row.name].projections
            if values is None or row.job.guard is None:
                raise HookError("a forecast is missing: a hook in vLLM's workers did not fire")
            row.forecast = values[0]
            id = row.job.request.id
            try:
                verdict = row.job.guard(row.forecast)
            except Exception as error:
                self._leave(row)
                updates.append(Update(id, end="failed", reason=f"a guard failed: {error}"))
                continue
            if verdict is None:
                continue
            self._leave(row)
            if verdict == "refuse":
                updates.append(Update(id, end="refused"))
                if row.job.read:
                    self._ended[id] = row.forecast[None]
            else:
                row.name, row.acted = f"{id} guarded", True
                try:
                    self._add(row, verdict)
                except UsageError as error:
                    updates.append(Update(id, end="failed", reason=f"a guard failed: {error}"))
        return updates

    def _report(self, row: _VllmRow, output: Any) -> list[Update]:
        """Updates with the tokens that a request got, up to its end, which is set here."""
        id, updates = row.job.request.id, []
        (completion,) = output.outputs
        for place, token in enumerate(completion.token_ids):
            if row.end is None and token in self._stops:
                row.end = "stop"
            elif row.end is None and row.tokens == row.job.sampling.max_tokens:
                row.end = "length"
            if row.end is not None:
                break
            row.tokens += 1
            logprob, top = None, ()
            if row.job.top_logprobs is not None:
                logprob, top = logprobs(completion.logprobs[place], token, row.job.top_logprobs)
            updates.append(Update(id, token, logprob, top))
        if output.finished and row.end is None:
            row.end = "length" if completion.finish_reason == "length" else "failed"
        return updates

    def _read_out(self, ended: Sequence[_VllmRow]) -> list[Update]:
        """Updates with the ends of `ended`; fetches the readings of all rows that left."""
        if not self._left:
            return []
        found = self._engine.read(self._left)
        self._left = []
        updates = []
        for row in ended:
            id, end, reason = row.job.request.id, row.end, ""
            if found[row.name].overflowed(id):
                end, reason = "failed", NOT_FINITE
            if row.job.read:
                values = found[row.name].projections
                # vLLM may have gone some tokens beyond the end.
                if values is None or len(values) <= row.tokens:
                    raise HookError("a token was not read: a hook in vLLM's workers did not fire")
                values = values[: 1 + row.tokens]
                if row.acted and row.forecast is not None:
                    values[0] = row.forecast
                if not values.isfinite().all():
                    end, reason = "failed", NOT_FINITE
                self._ended[id] = values
            updates.append(Update(id, end=end, reason=reason))
        return updates

    @contextlib.contextmanager
    def _living(self) -> Iterator[None]:
        try:
            yield
        except dead_error() as error:
            self._dead = True
            raise ModelError(
                "vLLM's worker died, and no more replies can be written: start the server again; "
                "where it dies again, lower --rows, or see vLLM's own messages with --debug"
            ) from error


def logprobs(
    entries: Mapping[int, Any], token: int, top: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """A token's log-probability and its `top` alternatives, from vLLM's entries by token."""
    listed = sorted((e.rank, id, e.logprob) for id, e in entries.items() if e.rank <= top)
    return entries[token].logprob, tuple((id, logprob) for _, id, logprob in listed)
