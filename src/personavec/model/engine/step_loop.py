"""A running batch on a transformers model, which requests join and leave.

Every step feeds one token to every row. A joining request is prefilled up to its last prompt token,
together with others that join; a beginning that it shares with other prompts is copied. The prefill
is unsteered, unless a job asks for more. The last prompt token is the first position that is always
steered, since its logits choose a response token. So steering of an earlier turn never stays in the
cache, and the step that feeds the last prompt token also reads its projections, the forecast. Knows
nothing of text, HTTP or threads.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.errors import HookError, UsageError
from personavec.model import (
    Action,
    Beginnings,
    Directions,
    LoadedModel,
    SteeringBatch,
    TokenProjections,
    find_blocks,
    recording,
    steering_rows,
)
from personavec.model.engine.batch_cache import BatchCache
from personavec.model.engine.decode_row import (
    DecodeRow,
    draw,
    logprobs_of,
    token_masks,
    token_weights,
    with_logprobs,
)
from personavec.model.engine.forwards import forward_logits
from personavec.model.engine.loop import NOT_FINITE, DecodeJob, End, GuardVerdict, Update
from personavec.model.engine.prefill import Prefill
from personavec.model.engine.row_cache import RowCache, can_join
from personavec.model.engine.row_sums import RowSums
from personavec.model.engine.sampling import choose
from personavec.wording import plural


class StepLoop:
    """The running batch of a transformers model (`loop.Loop`).

    At most `max_rows` requests share one cache, and no more than `max_cells` columns times rows,
    unless one row alone needs more; further ones wait in order, until `join_at` rows are free.
    `directions` are read for every row that asks. With `capture`, activations are summed for every
    row. With `remember`, prompts and unsteered replies are kept as beginnings of later prompts.
    Models whose layers keep more than keys and values run batches that nobody joins. Not
    thread-safe. `close` it when done, since hooks stay on the model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        directions: Directions | None = None,
        capture: bool = False,
        max_rows: int = 16,
        max_cells: int | None = None,
        join_at: int = 1,
        prefill_tokens: int = 2048,
        beginnings: Beginnings | None = None,
        remember: bool = False,
    ):
        if max_rows < 1:
            raise UsageError(f"{max_rows} rows: a batch has at least one")
        self._loaded, self._max_rows, self._max_cells = loaded, max_rows, max_cells
        self._join_at = join_at
        self._blocks = find_blocks(loaded.model)
        config = loaded.model.config
        self._cache: RowCache | BatchCache
        if can_join(config):
            self._cache = RowCache(config, min(max_rows, 16), loaded.device)
            self._prefill_tokens = prefill_tokens
        else:  # All rows of a batch join at once.
            self._cache = BatchCache(config, loaded.device)
            self._prefill_tokens = None
        self._stops = loaded.stop_ids
        self._waiting: deque[DecodeJob] = deque()
        self._rows: list[DecodeRow] = []
        self._ended: dict[str, Tensor] = {}
        self._captured: dict[str, Tensor] = {}
        self._hooks = contextlib.ExitStack()
        self._steering_hooks = contextlib.ExitStack()
        self._steering: SteeringBatch | None = None
        self._recorder: TokenProjections | None = None
        self._sums: RowSums | None = None
        if directions is not None and directions.layers:
            self._recorder = TokenProjections(directions, loaded.device)
            self._hooks.enter_context(recording(loaded.model, self._recorder))
        if capture:
            self._sums = RowSums(self._blocks.n_layers, self._blocks.hidden_size)
            self._hooks.enter_context(recording(loaded.model, self._sums))
        kept = Beginnings() if beginnings is None else beginnings
        self._prefill = Prefill(loaded, self._cache, kept, self._recorder, self._sums, remember)

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
        self._captured.pop(id, None)

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

    def projections_so_far(self, id: str) -> Float[Tensor, "token direction"] | None:
        """The same of a running request, up to the last token that was fed; None if none is."""
        found = next((row.projections for row in self._rows if row.job.request.id == id), [])
        return torch.stack(found) if found else None

    def activations(self, id: str) -> Float[Tensor, "span layer hidden"] | None:
        """Sums over `SPANS` of a request that ended, handed out once; the prompt's are means.

        None without capture.
        """
        return self._captured.pop(id, None)

    @torch.inference_mode()
    def forget(self, id: str) -> None:
        """Take a running request's tokens so far, the latest included, out of what is captured."""
        for place, row in enumerate(self._rows):
            if row.job.request.id == id and self._sums is not None:
                self._sums.forget(0, place)
                row.counted = False

    @torch.inference_mode()
    def clear(self) -> None:
        """Drop all requests, also after an error in a step."""
        self._waiting.clear()
        self._rows.clear()
        self._ended.clear()
        self._captured.clear()
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
            self._prefill.run(joining)
        except Exception as error:
            while self._cache.n > len(self._rows):
                self._cache.leave(self._cache.n - 1)
            reason = f"the prompt could not be encoded: {error}"
            return [Update(job.request.id, end="failed", reason=reason) for job in joining]
        self._rows += map(DecodeRow.of, joining)
        return []

    def _next_to_join(self) -> list[DecodeJob]:
        """Waiting jobs for which there is room, with at most `prefill_tokens` padded tokens."""
        joining: list[DecodeJob] = []
        jobs = [row.job for row in self._rows]
        if not self._cache.is_open or (jobs and self._max_rows - len(jobs) < self._join_at):
            return []
        longest = max((job.tokens for job in jobs), default=0)
        width = 0
        while self._waiting and len(jobs) + len(joining) < self._max_rows:
            job, rows = self._waiting[0], len(jobs) + len(joining) + 1
            longest = max(longest, job.tokens)
            width = max(width, len(job.request.prompt_ids) - 1 - max(job.beginnings, default=0))
            if rows > 1 and self._max_cells is not None and longest * rows > self._max_cells:
                break
            padded_tokens = width * (len(joining) + 1)
            if joining and self._prefill_tokens and padded_tokens > self._prefill_tokens:
                break
            joining.append(self._waiting.popleft())
        return joining

    def _forward(self) -> Float[Tensor, "row token"]:
        """Feed every row its token, with steering and reading; returns the logits."""
        rows, device = self._rows, self._loaded.device
        mask = self._cache.next_column()
        if self._steering is None:
            self._steer()
        if self._steering is not None:
            self._steering.token_masks = token_masks(rows, device)
        if self._recorder is not None:
            self._recorder.clear(len(rows), 1)
        if self._sums is not None:
            self._sums.weigh(slice(0, len(rows)), token_weights(rows).to(device))
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
        """Move every row on by a token; rows that have ended leave."""
        chosen = choose(logits, [draw(row) for row in self._rows])
        tokens, logprobs = with_logprobs(self._rows, logits, chosen)
        finite = self._finite(tokens)
        updates: list[Update] = []
        leaving: list[DecodeRow] = []
        for i, row in enumerate(self._rows):
            end, reason = self._end(i, row, finite=finite[i])
            if row.again:
                continue
            if end:
                update = Update(row.job.request.id, end=end, reason=reason)
            else:
                update = self._take(row, tokens[i], logprobs[i], logits[i])
            updates.append(update)
            if update.end:
                leaving.append(row)
            if update.end and update.end != "failed" and not row.actions:
                # The last token may not have been fed.
                fed = int(self._cache.mask[i].sum())
                self._prefill.keep(i, row.ids[:fed])
        for row in leaving:
            self._remove(row)
        return updates

    def _finite(self, tokens: Sequence[int]) -> list[bool]:
        """Which rows have finite projections, and logits that a token could be chosen from."""
        found = [token >= 0 for token in tokens]
        if self._recorder is None:
            return found
        finite = self._recorder.values.flatten(1).isfinite().all(-1).tolist()
        return [a and b for a, b in zip(found, finite, strict=True)]

    def _end(self, i: int, row: DecodeRow, *, finite: bool) -> tuple[End | None, str]:
        """Why row `i` ends before its next token, and the reason if it failed.

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

    def _judge(self, row: DecodeRow) -> GuardVerdict:
        """Ask the row's guard, once. A forecast that it acted on stays the row's forecast."""
        if row.guarded or row.job.guard is None:
            return None
        row.guarded = True
        verdict = row.job.guard(row.projections[0])
        if verdict is not None and verdict != "refuse":
            self._batch([verdict])
            self._release_steering()
        return verdict

    def _take(
        self, row: DecodeRow, token: int, own: float | None, logits: Float[Tensor, " token"]
    ) -> Update:
        """Move a row on by the token that was chosen for it."""
        id, job = row.job.request.id, row.job
        if token in self._stops:
            return Update(id, end="stop")
        row.token, row.position = token, row.position + 1
        row.chosen.append(token)
        row.counted = True
        logprob, top = logprobs_of(logits, token, job.top_logprobs)
        logprob = own if logprob is None else logprob
        end: End | None = "length" if len(row.chosen) == job.sampling.max_tokens else None
        if end and (job.read or self._sums is not None):
            row.end, end = end, None
        return Update(id, token, logprob, top, end)

    def _remove(self, row: DecodeRow) -> None:
        place = self._rows.index(row)
        self._release_steering()
        if self._sums is not None:
            self._captured[row.job.request.id] = self._sums.of(place)
            self._sums.move(len(self._rows) - 1, place)
        self._cache.leave(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()
        if row.job.read and row.projections:
            self._ended[row.job.request.id] = torch.stack(row.projections)
