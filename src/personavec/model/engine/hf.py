"""The engine of a transformers model: responses from a running batch, with capture while decoding.

Requests join as rows leave, those that share a beginning one after the other. Activations are
summed while tokens are decoded, so the text needs no second pass.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import transformers
from jaxtyping import Float
from torch import Tensor

from personavec.errors import ModelError
from personavec.model import (
    Beginnings,
    Directions,
    LoadedModel,
    Thought,
    TokenIds,
    can_share,
    project_tokens,
    shared_beginnings,
)
from personavec.model.engine.base import (
    EngineRecord,
    Generation,
    Request,
    Sampling,
    Watch,
    Written,
    check_room,
    stopping_if_all_fail,
)
from personavec.model.engine.loop import NOT_FINITE, DecodeJob, Update
from personavec.model.engine.step_loop import StepLoop

#: Rows of a batch at most. More would not make a step's products any more efficient.
_MAX_ROWS = 256
#: Joining requests wait until this share of the rows is free, so that prefills are not tiny.
_JOIN_SHARE = 1 / 8
#: Seconds within which finished responses are handed out together, so that each is kept soon.
_GROUP_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class TransformersEngine:
    """The engine of a transformers model in this process (`base.Engine`).

    A batch has at most `batch_tokens` tokens of prompts and responses in its cache.
    """

    loaded: LoadedModel
    batch_tokens: int = 16384
    beginnings: Beginnings = field(default_factory=Beginnings)
    name: str = "transformers"

    def describe(self) -> EngineRecord:
        return {"name": self.name, "version": transformers.__version__}

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool = False,
        include_thinking: bool = False,
        done: Collection[str] = (),
        watch: Watch | None = None,
    ) -> Iterator[list[Generation]]:
        """Generate responses as `base.Engine` says.

        Noise is keyed by (seed, request, step, token), so that the other rows of a batch change a
        result only through rounding.
        """
        check_room(requests, sampling.max_tokens, self.loaded.context)
        left = [request for request in requests if request.id not in done]
        jobs = _jobs(self.loaded, left, sampling, read=watch is not None)
        responses = {job.request.id: _Response(self.loaded, job, include_thinking) for job in jobs}
        groups = self._groups(jobs, responses, watch, capture=capture)
        yield from stopping_if_all_fail(self.loaded.identity, left, groups)

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Tensor]:
        return project_tokens(self.loaded.model, texts, directions, batch_tokens=batch_tokens)

    def _groups(
        self,
        jobs: Sequence[DecodeJob],
        responses: dict[str, _Response],
        watch: Watch | None,
        *,
        capture: bool,
    ) -> Iterator[list[Generation]]:
        """The responses of all jobs, in groups as they end."""
        if not jobs:
            return
        rows = min(_MAX_ROWS, max(1, self.batch_tokens // max(job.tokens for job in jobs)))
        loop = StepLoop(
            self.loaded,
            directions=None if watch is None else watch.directions,
            capture=capture,
            max_rows=_MAX_ROWS,
            max_cells=self.batch_tokens,
            join_at=max(1, int(rows * _JOIN_SHARE)),
            prefill_tokens=2048 if self.loaded.device.type == "cpu" else self.batch_tokens,
            beginnings=self.beginnings,
        )
        try:
            for job in jobs:
                loop.submit(job)
            yield from _grouped(_finished(loop, responses, watch, capture=capture))
        finally:
            loop.close()


def _jobs(
    loaded: LoadedModel, requests: Sequence[Request], sampling: Sampling, *, read: bool
) -> list[DecodeJob]:
    """Jobs in the order in which they run: longest first, those of one beginning together."""
    steered = [any(a.positions != "response" for a in request.steering) for request in requests]
    prompts = [() if s else r.prompt_ids for r, s in zip(requests, steered, strict=True)]
    shared = shared_beginnings(prompts) if can_share(loaded) else [()] * len(requests)
    jobs = [
        DecodeJob(request, sampling, read=read, beginnings=lengths, steer_prompt=True)
        for request, lengths in zip(requests, shared, strict=True)
    ]
    longest: dict[tuple[int, ...], int] = {}
    for job in jobs:
        longest[_begins(job)] = max(longest.get(_begins(job), 0), job.tokens)
    return sorted(jobs, key=lambda job: (-longest[_begins(job)], _begins(job), -job.tokens))


def _begins(job: DecodeJob) -> tuple[int, ...]:
    """The longest beginning that a job shares with others."""
    return job.request.prompt_ids[: max(job.beginnings, default=0)]


class _Response:
    """One request's response while it is decoded."""

    def __init__(self, loaded: LoadedModel, job: DecodeJob, include_thinking: bool):
        form, request = loaded.chat.thinking, job.request
        self.id, self.ids, self._logprobs = request.id, list[int](), list[float]()
        self._n_logprobs = request.logprobs
        self._thought = (
            None if form is None else Thought(form, loaded.chat.decode_marked, request.prompt_ids)
        )
        self._include_thinking = include_thinking

    def take(self, token: int, logprob: float | None) -> bool:
        """Add a token; True if all tokens so far proved to be no part of what is captured."""
        self.ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        ended = self._thought is not None and self._thought.read(self.ids)
        return ended and not self._include_thinking

    def show(self, watch: Watch, found: Float[Tensor, "token direction"] | None) -> None:
        """Show the tokens that were read so far; `found` begins with the last prompt token's."""
        start = 0 if self._thought is None else self._thought.start
        thinking = self._thought is not None and self._thought.unfinished(self.ids)
        read = 0 if found is None else min(len(found) - 1, len(self.ids))
        if found is not None and read > start and not thinking:
            watch.show(
                Written(self.id, tuple(self.ids[start:read]), found[1 + start : 1 + read].clone())
            )

    def generation(
        self, update: Update, sums: Float[Tensor, "span layer hidden"] | None
    ) -> Generation:
        """What it has become, given its last update and its captured sums."""
        start = 0 if self._thought is None else self._thought.start
        if sums is not None:
            counted = len(self.ids) - (0 if self._include_thinking else start)
            # Cloned outside the loop's inference mode, so that anything can be done with it.
            sums = sums.clone()
            sums[0] /= max(1, counted)
        if update.end == "failed" or (sums is not None and not bool(sums.isfinite().all())):
            return Generation(self.id, (), False, failed=True)
        unfinished = self._thought is not None and self._thought.unfinished(self.ids)
        start = len(self.ids) if unfinished else start
        answer = tuple(self.ids[start:])
        return Generation(
            id=self.id,
            response_ids=answer,
            finished=update.end == "stop",
            activations=sums if answer else None,
            thinking_ids=tuple(self.ids[:start]),
            unfinished_thought=unfinished,
            logprobs=tuple(self._logprobs[start : start + self._n_logprobs]),
        )


def _finished(
    loop: StepLoop, responses: dict[str, _Response], watch: Watch | None, *, capture: bool
) -> Iterator[list[Generation]]:
    """After every step, the responses that ended with it; those that grew are shown to `watch`.

    Failed ones are held back while others run, since those may turn out to be finite. Raises
    ModelError when a prompt cannot be encoded.
    """
    failed: list[Generation] = []
    while loop.busy:
        ended: list[Generation] = []
        for update in loop.step():
            response = responses[update.id]
            if update.token is not None and response.take(update.token, update.logprob):
                loop.forget(update.id)
            if watch is not None and update.end != "failed":
                response.show(watch, _projections(loop, update))
            if update.end is None:
                continue
            if update.end == "failed" and update.reason != NOT_FINITE:
                raise ModelError(update.reason)
            sums = loop.activations(update.id) if capture else None
            generation = response.generation(update, sums)
            (failed if generation.failed else ended).append(generation)
        if ended or not loop.running:
            ended += failed
            failed = []
        yield ended


def _projections(loop: StepLoop, update: Update) -> Float[Tensor, "token direction"] | None:
    """Those of a response's tokens that were read, after that of the last prompt token."""
    ended = update.end is not None
    return loop.projections(update.id) if ended else loop.projections_so_far(update.id)


def _grouped(steps: Iterator[list[Generation]]) -> Iterator[list[Generation]]:
    """The same responses, those of about a second together."""
    group: list[Generation] = []
    since = time.monotonic()
    for ended in steps:
        group += ended
        if group and time.monotonic() - since > _GROUP_SECONDS:
            yield group
            group, since = [], time.monotonic()
    if group:
        yield group
