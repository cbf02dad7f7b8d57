"""A running batch on a transformers model, which requests join and leave.

Every step feeds one token to every row. Requests that join are first prefilled together, without
steering, up to but not including their last prompt token. The next step feeds that token, which is
the first steered position, since its logits predict a response token. The same step reads its
projections, the forecast.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import HookError, UsageError
from personavec.model import (
    Action,
    Directions,
    LoadedModel,
    SteeringBatch,
    TokenProjections,
    find_blocks,
    padded,
    recording,
    run_to_deepest_layer,
    steering_rows,
)
from personavec.model.engine.base import Sampling
from personavec.model.engine.hf import forward_logits, token_masks
from personavec.model.engine.loop import NOT_FINITE, DecodeJob, End, GuardVerdict, Update
from personavec.model.engine.row_cache import RowCache
from personavec.model.engine.sampling import Draw, choose, usable
from personavec.wording import plural


@dataclass(eq=False)
class _DecodeRow:
    """A row of the batch. The next step feeds `token` at `position`."""

    job: DecodeJob
    token: int
    position: int
    actions: tuple[Action, ...]
    response: int = 0
    """Number of response tokens so far."""
    guarded: bool = False
    """Whether its guard has been called."""
    again: bool = False
    """Whether the next step feeds the same token again, with the guard's actions."""
    end: End | None = None
    """Set if the row ends once its last token has run, to read its projections."""
    projections: list[Tensor] = field(default_factory=list)
    """Projections [direction] of each token that was fed."""

    @classmethod
    def of(cls, job: DecodeJob) -> _DecodeRow:
        """The row of a prefilled job."""
        prompt = job.request.prompt_ids
        return cls(job, prompt[-1], len(prompt) - 1, job.request.steering)


class StepLoop:
    """The running batch of a transformers model (`loop.Loop`).

    At most `max_rows` requests run in one cache; others wait in order. Projections on `directions`
    are read for every job with `read`. Not thread-safe. Call `close` when done, to remove the hooks
    from the model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        directions: Directions | None = None,
        max_rows: int = 16,
        prefill_tokens: int = 2048,
    ):
        if max_rows < 1:
            raise UsageError(f"{max_rows} rows: a batch needs at least one")
        self._loaded, self._max_rows, self._prefill_tokens = loaded, max_rows, prefill_tokens
        self._blocks = find_blocks(loaded.model)
        self._cache = RowCache(loaded.model.config, max_rows, loaded.device)
        self._stops = loaded.stop_ids
        self._waiting: deque[DecodeJob] = deque()
        self._rows: list[_DecodeRow] = []
        self._ended: dict[str, Tensor] = {}
        self._hooks = contextlib.ExitStack()
        self._steering_hooks = contextlib.ExitStack()
        self._steering: SteeringBatch | None = None
        self._recorder: TokenProjections | None = None
        if directions is not None and directions.layers:
            self._recorder = TokenProjections(directions, loaded.device)
            self._hooks.enter_context(recording(loaded.model, self._recorder))

    @property
    def alive(self) -> bool:
        return True

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._rows)

    def submit(self, job: DecodeJob) -> None:
        """Queue a request. Raises UsageError if it exceeds the context or a layer does not exist.

        All errors of its actions are raised here, and not in a step that other requests share.
        """
        tokens = len(job.request.prompt_ids)
        if not tokens:
            raise UsageError(f"request {job.request.id}: a prompt has no tokens")
        if tokens + job.sampling.max_tokens > self._loaded.context:
            raise UsageError(
                f"{plural(tokens, 'prompt token')} and "
                f"{plural(job.sampling.max_tokens, 'new one')} exceed the model's "
                f"context of {self._loaded.context}; shorten the prompt or lower max_tokens"
            )
        self._batch([job.request.steering])
        self._waiting.append(job)

    @torch.inference_mode()
    def cancel(self, id: str) -> None:
        """Drop a waiting or running request. Does nothing if it has ended."""
        self._waiting = deque(job for job in self._waiting if job.request.id != id)
        for row in [row for row in self._rows if row.job.request.id == id]:
            self._remove(row)
        self._ended.pop(id, None)

    def finish(self, id: str) -> bool:
        """End a running request after its current tokens; False if it is not running.

        Its end is reported by the next step, which reads its last token.
        """
        for row in self._rows:
            if row.job.request.id == id:
                row.end = row.end or "stop"
                return True
        return False

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None:
        """The projections of an ended request: of the last prompt token and every response token.

        They can be fetched once. None if the request did not ask for them.
        """
        return self._ended.pop(id, None)

    @torch.inference_mode()
    def clear(self) -> None:
        """Drop all requests, also after an error in a step."""
        self._waiting.clear()
        self._rows.clear()
        self._ended.clear()
        self._cache.clear()
        with contextlib.suppress(HookError):
            self._release_steering()

    def close(self) -> None:
        """Drop all requests and remove the hooks from the model."""
        self.clear()
        with contextlib.suppress(HookError):
            self._hooks.close()

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Let waiting requests join, feed one token to every row, and report the updates."""
        failed = self._join()
        if not self._rows:
            return failed
        return failed + self._advance(self._forward())

    def _join(self) -> list[Update]:
        """Prefill waiting requests up to their last prompt token, into new rows.

        If the prefill fails, usually because memory runs out, the joining requests fail, while the
        running rows go on.
        """
        joining = self._next_to_join()
        if not joining:
            return []
        self._release_steering()
        try:
            self._prefill([job.request.prompt_ids[:-1] for job in joining])
        except Exception as error:
            while self._cache.n > len(self._rows):
                self._cache.leave(self._cache.n - 1)
            reason = f"the prompt could not be encoded: {error}"
            return [Update(job.request.id, end="failed", reason=reason) for job in joining]
        self._rows += map(_DecodeRow.of, joining)
        return []

    def _next_to_join(self) -> list[DecodeJob]:
        """The waiting jobs that fit into free rows and into `prefill_tokens`, with padding."""
        joining: list[DecodeJob] = []
        width = 0
        while self._waiting and len(self._rows) + len(joining) < self._max_rows:
            width = max(width, len(self._waiting[0].request.prompt_ids) - 1)
            if joining and width * (len(joining) + 1) > self._prefill_tokens:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _prefill(self, prefixes: Sequence[Sequence[int]]) -> None:
        ids, mask, positions = padded(prefixes, pad_id=0, side="left", device=self._loaded.device)
        self._cache.join(mask)
        if ids.shape[1]:
            if self._recorder is not None:
                self._recorder.clear(*ids.shape)
            run_to_deepest_layer(
                self._loaded.model,
                self._cache,
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
            )

    def _forward(self) -> Float[Tensor, "row token"]:
        """Feed every row its token, with steering and reading; returns the logits."""
        rows, device = self._rows, self._loaded.device
        mask = self._cache.next_column()
        if self._steering is None:
            self._steer()
        if self._recorder is not None:
            self._recorder.clear(len(rows), 1)
        logits = forward_logits(
            self._loaded.model,
            torch.tensor([[row.token] for row in rows], device=device),
            mask,
            torch.tensor([[row.position] for row in rows], device=device),
            self._cache,
        )
        if self._recorder is not None:
            for row, values in zip(rows, self._recorder.values[:, 0].unbind(), strict=True):
                if not row.again and (row.job.read or not row.projections):
                    row.projections.append(values)
        return logits

    def _batch(self, rows: Sequence[Sequence[Action]]) -> SteeringBatch:
        return SteeringBatch(rows, self._blocks.hidden_size, self._blocks.n_layers)

    def _steer(self) -> None:
        batch = self._batch([row.actions for row in self._rows])
        batch.token_masks = token_masks(torch.ones(len(self._rows)))
        self._steering_hooks.enter_context(steering_rows(self._loaded.model, batch))
        self._steering = batch

    def _release_steering(self) -> None:
        """Remove the steering hooks, before rows or their actions change.

        Raises HookError if steering did not act.
        """
        if self._steering is not None:
            self._steering = None
            self._steering_hooks.close()

    def _advance(self, logits: Float[Tensor, "row token"]) -> list[Update]:
        """Advance every row by a token, and remove rows that have ended."""
        finite = self._finite(logits)
        tokens = choose(logits, [_draw(row) for row in self._rows]).tolist()
        updates: list[Update] = []
        leaving: list[_DecodeRow] = []
        for i, row in enumerate(self._rows):
            end, reason = self._end(i, row, finite=finite[i])
            if row.again:
                continue
            if end:
                update = Update(row.job.request.id, end=end, reason=reason)
            else:
                update = self._take(row, int(tokens[i]), logits[i])
            updates.append(update)
            if update.end:
                leaving.append(row)
        for row in leaving:
            self._remove(row)
        return updates

    def _finite(self, logits: Float[Tensor, "row token"]) -> list[bool]:
        """Whether each row has usable logits and finite projections."""
        found = usable(logits)
        if self._recorder is not None:
            found &= self._recorder.values.flatten(1).isfinite().all(-1).to(found.device)
        return found.tolist()

    def _end(self, i: int, row: _DecodeRow, *, finite: bool) -> tuple[End | None, str]:
        """Why row `i` ends before its next token (None if it goes on), and why it failed.

        This calls the row's guard. If the guard acts, the row's last token is fed again.
        """
        row.again = False
        if not finite:
            return "failed", NOT_FINITE
        if row.end is not None:
            return row.end, ""
        try:
            verdict = self._judge(row)
        except Exception as error:
            return "failed", f"a guard failed: {error}"
        if verdict == "refuse":
            return "refused", ""
        if verdict is not None:
            self._cache.undo(i)
            row.actions, row.again = verdict, True
        return None, ""

    def _judge(self, row: _DecodeRow) -> GuardVerdict:
        """Call the row's guard once. If it acts, the forecast that it saw is still reported."""
        if row.guarded or row.job.guard is None:
            return None
        row.guarded = True
        verdict = row.job.guard(row.projections[0])
        if verdict is not None and verdict != "refuse":
            self._batch([verdict])
            self._release_steering()
        return verdict

    def _take(self, row: _DecodeRow, token: int, logits: Float[Tensor, " token"]) -> Update:
        """Append the chosen token to a row; returns its update."""
        id, job = row.job.request.id, row.job
        if token in self._stops:
            return Update(id, end="stop")
        row.token, row.position, row.response = token, row.position + 1, row.response + 1
        logprob, top = _logprobs(logits, token, job.top_logprobs)
        end: End | None = "length" if row.response == job.sampling.max_tokens else None
        if end and job.read:
            row.end, end = end, None
        return Update(id, token, logprob, top, end)

    def _remove(self, row: _DecodeRow) -> None:
        place = self._rows.index(row)
        self._release_steering()
        self._cache.leave(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()
        if row.job.read and row.projections:
            self._ended[row.job.request.id] = torch.stack(row.projections)


def _draw(row: _DecodeRow) -> Draw:
    """The row's draw; a row that has ended needs no noise."""
    sampling = row.job.sampling if row.end is None else Sampling(temperature=0)
    return Draw(sampling, row.job.request.noise_key, row.response)


def _logprobs(
    logits: Float[Tensor, " token"], token: int, top: int | None
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if top is None:
        return None, ()
    found = logits.log_softmax(-1)
    values, ids = found.topk(top)
    listed: Sequence[tuple[int, float]] = list(zip(ids.tolist(), values.tolist(), strict=True))
    return float(found[token]), tuple(listed)
