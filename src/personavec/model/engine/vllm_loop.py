"""vLLM's running batch (`loop.Loop`), which requests join and leave.

vLLM has its own queue, and adds requests to its batch itself. Each request carries a note on how
to steer it and what to read; vLLM's outputs become updates. Only projections leave the workers: of
the last prompt token and of every response token.
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
    """A request in vLLM. `name` is its id there, which changes when its guard acts."""

    job: DecodeJob
    name: str
    tokens: int = 0
    """Number of response tokens reported so far."""
    forecast: Tensor | None = None
    """The projections [direction] for its guard. They stay the forecast if the guard acts."""
    acted: bool = False
    end: End | None = None


class VllmLoop:
    """The running batch of a vLLM engine. Nothing else may use the engine; `close` keeps it open.

    Projections on `directions` are read for every job with `read`. vLLM runs at most `max_num_seqs`
    requests at a time; others wait in order. Not thread-safe, except `alive`.

    The constructor, `submit` and `step` raise ModelError once vLLM has died.
    """

    def __init__(self, engine: VllmEngine, *, directions: Directions | None = None):
        self._engine = engine
        self._identity = engine.loaded.identity
        self._stops = engine.loaded.stop_ids
        self._rows: dict[str, _VllmRow] = {}
        self._ended: dict[str, Tensor] = {}
        self._left: list[str] = []
        """Names of requests that left vLLM, but whose readings are still in the workers."""
        self._dead = False
        with self._dead_engine_errors():
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
        """Queue a request. Raises UsageError if vLLM does not accept it."""
        if not job.request.prompt_ids:
            raise UsageError(f"request {job.request.id}: a prompt has no tokens")
        check_room([job.request], job.sampling.max_tokens, self._engine.context)
        with self._dead_engine_errors():
            self._add(_VllmRow(job, job.request.id), job.request.steering)

    def cancel(self, id: str) -> None:
        """Drop a waiting or running request. Does nothing if it has ended."""
        for row in self._of(id):
            self._leave(row)
        self._ended.pop(id, None)

    def finish(self, id: str) -> bool:
        """End a running request after its current tokens; False if it has none or has ended.

        Its end is reported when its next token arrives, since its last token has been read by
        then; that next token is dropped.
        """
        for row in self._of(id):
            if row.tokens:
                row.end = row.end or "stop"
                return True
        return False

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None:
        """The projections of an ended request: of the last prompt token and every response token.

        They can be fetched once. None if the request did not ask for them.
        """
        return self._ended.pop(id, None)

    def clear(self) -> None:
        """Drop all requests."""
        for row in list(self._rows.values()):
            self._leave(row)
        self._ended.clear()

    def close(self) -> None:
        self.clear()

    def step(self) -> list[Update]:
        """Wait for vLLM's next tokens, and report the updates.

        Raises HookError if a token was not read.
        """
        with self._dead_engine_errors():
            outputs = self._engine.step()
            # Outputs may still arrive for a request that has left; they are dropped.
            arrived = [(self._rows[o.request_id], o) for o in outputs if o.request_id in self._rows]
            updates = self._judge([row for row, _ in arrived])
            ended = []
            for row, output in arrived:
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
            # The last token is read only when vLLM generates one more.
            sampling.max_tokens + 1,
            stream=True,
            top_logprobs=row.job.top_logprobs,
        )
        n = len(request.prompt_ids)
        read = row.job.read or row.job.guard is not None
        table = SteeringTable(self._identity.n_layers, self._identity.hidden_size)
        # From the last prompt token on.
        project = n - 1 if read else None
        note = note_of(row.name, n, actions, table, own_tensors=True, project=project)
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

    # Outputs

    def _judge(self, arrived: Sequence[_VllmRow]) -> list[Update]:
        """Call the guards of requests whose first token has arrived, before it is reported.

        If its guard acts, a request leaves vLLM and joins again with the new actions.
        """
        judged = [row for row in arrived if row.job.guard is not None and row.forecast is None]
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
        """Updates with a request's new tokens; sets `row.end` if it has ended."""
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
        """Updates with the ends of `ended`, after fetching the readings of all rows that left."""
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
                # vLLM may have generated some tokens beyond the end.
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
    def _dead_engine_errors(self) -> Iterator[None]:
        """Raise ModelError if vLLM dies within this context."""
        try:
            yield
        except dead_error() as error:
            self._dead = True
            raise ModelError(
                "vLLM's worker died, and no more replies can be written: start the server again; "
                "if it dies again, lower --rows, or see vLLM's own messages with --debug"
            ) from error


def logprobs(
    entries: Mapping[int, Any], token: int, top: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """A token's log-probability and its `top` alternatives, from vLLM's entries by token."""
    listed = sorted((e.rank, id, e.logprob) for id, e in entries.items() if e.rank <= top)
    return entries[token].logprob, tuple((id, logprob) for _, id, logprob in listed)
