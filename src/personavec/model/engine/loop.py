"""A running batch that requests join and leave: `submit`, `step`, `cancel`.

Every step feeds one token to every row. A request that joins has its prompt but for the last
token encoded first, together with others that join, without steering: only positions whose logits
choose a response token are steered, and the last prompt token is the first of them. So nothing of
an earlier turn's steering can stay in a cache, and the last prompt token is read (the forecast)
in the same forward that everything else is. Knows nothing of text, HTTP or threads.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

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
from personavec.model.engine.base import Request, Sampling
from personavec.model.engine.hf import forward_logits, token_masks
from personavec.model.engine.row_cache import RowCache
from personavec.model.engine.sampling import Draw, choose, usable
from personavec.wording import plural

#: Why a row ended. `refused` by its guard; `failed` as its update's reason says.
End = Literal["stop", "length", "refused", "failed"]
#: The reason of a row whose logits or projections were NaN or infinite.
NOT_FINITE = "the model's numbers became NaN or infinite"
#: What a guard makes of a forecast: the row's new actions, none to leave it, or a refusal.
GuardVerdict = tuple[Action, ...] | Literal["refuse"] | None


@dataclass(frozen=True, eq=False)
class DecodeJob:
    """A request with all that a row of a running batch may have of its own.

    The request's id must be unique among those that run. `read` asks for projections; `guard` is
    called once with those of the last prompt token, before a token is chosen. `top_logprobs` is
    how many alternatives to give with each token's log-probability; None gives neither.
    """

    request: Request
    sampling: Sampling
    read: bool = False
    top_logprobs: int | None = None
    guard: Callable[[Float[Tensor, " direction"]], GuardVerdict] | None = None


@dataclass(frozen=True)
class Update:
    """What one step did to one row: a new token, its end, or both.

    Log-probabilities are those of the model's distribution, before temperature and top-p.
    """

    id: str
    token: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    end: End | None = None
    reason: str = ""
    """Why it failed: `NOT_FINITE`, or what an exception said."""


@runtime_checkable
class Loop(Protocol):
    """A running batch, whatever engine it is over. Use from one thread, but for `alive`."""

    @property
    def alive(self) -> bool:
        """False where the engine has died, so that every further step fails."""
        ...

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def busy(self) -> bool: ...

    def submit(self, job: DecodeJob) -> None: ...

    def cancel(self, id: str) -> None: ...

    def finish(self, id: str) -> bool: ...

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None: ...

    def step(self) -> list[Update]: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class _DecodeRow:
    """`token` at `position` is what the next step feeds."""

    job: DecodeJob
    token: int
    position: int
    actions: tuple[Action, ...]
    response: int = 0
    guarded: bool = False
    again: bool = False
    """Whether the next step feeds the same token a second time, under other actions."""
    end: End | None = None
    """Set while the last token still needs its forward for the readings."""
    projections: list[Tensor] = field(default_factory=list)


class StepLoop:
    """The loop over a transformers model; vLLM's is `vllm_loop.py`.

    At most `max_rows` requests at a time over one cache; further ones wait in order.

    `directions` are what is read, for every row that asks. Use from one thread, and `close` when
    done: hooks stay on the model in between.
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
            raise UsageError(f"{max_rows} rows: a batch has at least one")
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
        """Queue a request.

        Raises UsageError where it does not fit the model's context, or an action its layers;
        whatever else an action raises comes here too, and not in a step that others share.
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
        """Take a request out, waiting or running; one that has ended is left alone."""
        self._waiting = deque(job for job in self._waiting if job.request.id != id)
        for row in [row for row in self._rows if row.job.request.id == id]:
            self._remove(row)
        self._ended.pop(id, None)

    def finish(self, id: str) -> bool:
        """End a running request after what it has; False where it has nothing, or has ended.

        Its end comes with the next step, once the last token is read.
        """
        for row in self._rows:
            if row.job.request.id == id:
                row.end = row.end or "stop"
                return True
        return False

    def projections(self, id: str) -> Float[Tensor, "token direction"] | None:
        """Projections of a request that ended, taken out: of the last prompt token, then of every
        response token. None where none were asked for.
        """
        return self._ended.pop(id, None)

    @torch.inference_mode()
    def clear(self) -> None:
        """Forget every request, whatever state an error left the batch in."""
        self._waiting.clear()
        self._rows.clear()
        self._ended.clear()
        self._cache.clear()
        with contextlib.suppress(HookError):
            self._release_steering()

    def close(self) -> None:
        """Forget every request and take the hooks off the model."""
        self.clear()
        with contextlib.suppress(HookError):
            self._hooks.close()

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Let waiting requests join, feed every row one token, and say what came of it."""
        updates = self._join()
        if not self._rows:
            return updates
        rows = self._rows
        device = self._loaded.device
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
        return updates + self._advance(logits)

    def _join(self) -> list[Update]:
        """Encode prompts of waiting requests, all but their last tokens, into rows of their own.

        Where that fails, for want of memory above all, those who wanted to join are told and the
        rows that run go on.
        """
        joining: list[DecodeJob] = []
        width = 0
        while self._waiting and len(self._rows) + len(joining) < self._max_rows:
            width = max(width, len(self._waiting[0].request.prompt_ids) - 1)
            if joining and width * (len(joining) + 1) > self._prefill_tokens:
                break
            joining.append(self._waiting.popleft())
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
        self._rows += [
            _DecodeRow(
                job,
                token=job.request.prompt_ids[-1],
                position=len(job.request.prompt_ids) - 1,
                actions=job.request.steering,
            )
            for job in joining
        ]
        return []

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

    def _batch(self, rows: Sequence[Sequence[Action]]) -> SteeringBatch:
        return SteeringBatch(rows, self._blocks.hidden_size, self._blocks.n_layers)

    def _steer(self) -> None:
        batch = self._batch([row.actions for row in self._rows])
        batch.token_masks = token_masks(torch.ones(len(self._rows)))
        self._steering_hooks.enter_context(steering_rows(self._loaded.model, batch))
        self._steering = batch

    def _release_steering(self) -> None:
        """Before rows or their actions change. Raises HookError where steering did not act."""
        if self._steering is not None:
            self._steering = None
            self._steering_hooks.close()

    def _advance(self, logits: Float[Tensor, "row token"]) -> list[Update]:
        sound = usable(logits)
        if self._recorder is not None:
            sound &= self._recorder.values.flatten(1).isfinite().all(-1).to(sound.device)
        finite = sound.tolist()
        tokens = choose(logits, [_draw(row) for row in self._rows]).tolist()
        updates: list[Update] = []
        left: list[_DecodeRow] = []
        for i, row in enumerate(self._rows):
            end, reason = row.end, ""
            if not finite[i]:
                end, reason = "failed", NOT_FINITE
            verdict = None
            if end is None:
                try:
                    verdict = self._judge(row)
                except Exception as error:
                    end, reason = "failed", f"a guard failed: {error}"
            if verdict == "refuse":
                end = "refused"
            elif verdict is not None:
                self._cache.undo(i)
                row.actions, row.again = verdict, True
                continue
            row.again = False
            if end:
                updates.append(Update(row.job.request.id, end=end, reason=reason))
                left.append(row)
                continue
            update = self._took(row, int(tokens[i]), logits[i])
            updates.append(update)
            if update.end:
                left.append(row)
        for row in left:
            self._remove(row)
        return updates

    def _judge(self, row: _DecodeRow) -> GuardVerdict:
        """Ask the row's guard, once. A forecast that was acted on stays the row's forecast."""
        if row.guarded or row.job.guard is None:
            return None
        row.guarded = True
        verdict = row.job.guard(row.projections[0])
        if verdict is not None and verdict != "refuse":
            self._batch([verdict])
            self._release_steering()
        return verdict

    def _took(self, row: _DecodeRow, token: int, logits: Float[Tensor, " token"]) -> Update:
        """Move a row on by the token chosen for it."""
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
    """A row that has ended draws nothing."""
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
