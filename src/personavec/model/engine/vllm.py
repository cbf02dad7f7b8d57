"""The vLLM engine: continuous batching, where every request has its own steering.

vLLM runs the model in its own processes, on one or more GPUs; `vllm_worker.py` runs inside them.
The transformers model stays loaded in this process for the tokenizer and for a judge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from personavec.errors import HookError, ModelError, UsageError
from personavec.model import Directions, Thought, TokenIds, check_finite
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
from personavec.model.engine.vllm_answer import VllmAnswer, with_means
from personavec.model.engine.vllm_note import RequestNote, SteeringTable, first_acted, note_of
from personavec.model.engine.vllm_queue import VllmQueue
from personavec.model.engine.vllm_salt import shared_beginnings
from personavec.model.engine.vllm_setup import dead_error

#: Number of finished requests that are fetched from the workers and stored together.
GROUP = 32
#: Bytes that sums over beginnings shared by captured prompts may take, over all workers.
BEGINNINGS = 2**30


class _QueuedRequest(NamedTuple):
    """A request for vLLM's queue; `params` are vLLM's sampling parameters."""

    ids: Sequence[int]
    params: Any
    note: RequestNote


class VllmEngine(VllmQueue):
    """vLLM as an engine (`base.Engine`)."""

    name = "vllm"

    def describe(self) -> EngineRecord:
        return {"name": self.name, "version": self._version, "arguments": self._arguments}

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The methods of `base.Engine`

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
        """Generate responses; see `base.Engine`. A thinking model's are shown to `watch` whole.

        Each request's seed comes from the run's seed and the request's noise key, so other requests
        in a batch affect a response only through rounding.
        """
        with contextlib.closing(
            self._generated(
                requests,
                sampling,
                capture=capture,
                include_thinking=include_thinking,
                done=done,
                watch=watch,
            )
        ) as groups:
            yield from stopping_if_all_fail(self.loaded.identity, requests, groups)

    def project(
        self, texts: Sequence[TokenIds], directions: Directions, *, batch_tokens: int | None = None
    ) -> list[Float[Tensor, "token direction"]]:
        """The projection of every token; see `base.Engine`. vLLM ignores `batch_tokens`.

        Raises ActivationError for NaN or infinite activations, and UsageError for a text that is
        longer than the context.
        """
        asked: dict[str, _QueuedRequest] = {}
        table = self._table()
        for number, text in enumerate(texts):
            if len(text) > self.context:
                raise UsageError(
                    f"a text of {len(text)} tokens exceeds vLLM's context of {self.context}; "
                    "shorten it, raise --engine-arg max_model_len, or use --engine transformers"
                )
            note = note_of(str(number), len(text), (), table, project=0)
            asked[str(number)] = _QueuedRequest(text.tolist(), self.one_token(), note)
        found = _merged(self._run(asked, table, directions))
        out = []
        for number, text in enumerate(texts):
            values = found[str(number)].projections
            if values is None or len(values) != len(text):
                raise HookError("projections are missing: a hook in vLLM's workers did not fire")
            check_finite(values)
            out.append(values)
        return out

    # Responses

    def _generated(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        capture: bool,
        include_thinking: bool,
        done: Collection[str],
        watch: Watch | None = None,
    ) -> Generator[list[Generation], None, None]:
        check_room(requests, sampling.max_tokens, self.context)
        todo = {request.id: request for request in requests if request.id not in done}
        table = self._table()
        # Without thinking, the response span is known only at the end, so texts are read again.
        again = capture and not include_thinking and self.loaded.chat.thinking is not None
        beginnings: Sequence[list[int] | None] = [[]] * len(todo)
        if capture and not again:
            beginnings = self._beginnings(list(todo.values()))
        # What is read again is shown as it is read then.
        first = None if again else watch
        live = first if self.loaded.chat.thinking is None else None
        asked = {
            name: self._asked(
                todo[name], sampling, table, own, capture=capture, again=again, watch=first
            )
            for name, own in zip(todo, beginnings, strict=True)
        }
        directions = first and first.directions
        for names in _pieces(list(asked), 8 * GROUP if again else len(asked)):
            groups = self._run({name: asked[name] for name in names}, table, directions, live)
            # The queue cannot mix generating and reading, so all requests must finish first.
            for group in [_merged(groups)] if again else groups:
                own = [todo[name] for name in group]
                found = [self._generation(r, group[r.id], sampling) for r in own]
                if again:
                    found = self._read_again(own, found, table, watch)
                elif first is not None:
                    _show(first, found, group, {g.id: len(g.thinking_ids) for g in found})
                if capture and not again:
                    found = [with_means(g, group[g.id], _n_tokens(g)) for g in found]
                yield found

    def _asked(
        self,
        request: Request,
        sampling: Sampling,
        table: SteeringTable,
        beginning: list[int] | None,
        *,
        capture: bool,
        again: bool,
        watch: Watch | None,
    ) -> _QueuedRequest:
        n = len(request.prompt_ids)
        span = [n, n + sampling.max_tokens] if capture and not again else None
        note = note_of(
            request.id,
            n,
            request.steering,
            table,
            response=span,
            project=n if watch else None,
            beginning=beginning or (),
        )
        # vLLM runs the last token only if one more is generated; reading it needs that.
        more = capture or watch is not None
        params = self.sampling_params(
            sampling, request.noise_key, sampling.max_tokens + more, stream=watch is not None
        )
        params.skip_reading_prefix_cache = beginning is None
        return _QueuedRequest(request.prompt_ids, params, note)

    def _beginnings(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """See `shared_beginnings`, for requests that are captured."""
        if not self._block:
            return [[]] * len(requests)
        size = 4 * (self.loaded.identity.n_layers + 1) * self.loaded.identity.hidden_size
        prompts = [(r.prompt_ids, first_acted(len(r.prompt_ids), r.steering)) for r in requests]
        return shared_beginnings(prompts, self._block, BEGINNINGS // size)

    def _generation(self, request: Request, answer: VllmAnswer, sampling: Sampling) -> Generation:
        """The generation from vLLM's tokens (up to one too many); failed if logits overflowed."""
        if answer.overflowed(request.id):
            return Generation(request.id, (), False, failed=True)
        ids = answer.token_ids[: sampling.max_tokens]
        finished = bool(ids) and ids[-1] in self.loaded.stop_ids
        response = list(ids[:-1] if finished else ids)
        form = self.loaded.chat.thinking
        if form is None:
            return Generation(request.id, tuple(response), finished)
        thought = Thought(form, self.loaded.chat.decode_marked, request.prompt_ids)
        for n in range(1, len(response) + 1):
            thought.read(response[:n])
        unfinished = thought.unfinished(response)
        begin = len(response) if unfinished else thought.start
        return Generation(
            request.id,
            tuple(response[begin:]),
            finished,
            thinking_ids=tuple(response[:begin]),
            unfinished_thought=unfinished,
        )

    def _read_again(
        self,
        requests: Sequence[Request],
        found: Sequence[Generation],
        table: SteeringTable,
        watch: Watch | None,
    ) -> list[Generation]:
        """Add means to the generations, from another forward pass over each whole text."""
        asked: dict[str, _QueuedRequest] = {}
        for request, generation in zip(requests, found, strict=True):
            if not generation.response_ids:
                continue
            n = len(request.prompt_ids)
            ids = (*request.prompt_ids, *generation.thinking_ids, *generation.response_ids)
            span = [len(ids) - len(generation.response_ids), len(ids)]
            project = span[0] if watch else None
            note = note_of(request.id, n, request.steering, table, response=span, project=project)
            asked[request.id] = _QueuedRequest(ids, self.one_token(), note)
        answers = _merged(self._run(asked, table, watch and watch.directions))
        if watch is not None:
            _show(watch, [g for g in found if g.id in answers], answers, {})
        return [
            with_means(g, answers[g.id], len(g.response_ids)) if g.id in answers else g
            for g in found
        ]

    # The queue

    def _run(
        self,
        asked: Mapping[str, _QueuedRequest],
        table: SteeringTable,
        directions: Directions | None = None,
        live: Watch | None = None,
    ) -> Iterator[dict[str, VllmAnswer]]:
        """Run all requests in a continuous batch; yields answers by id, in groups.

        With `live`, responses are shown as they grow, and yielded as soon as they end.
        """
        finished = 0
        running: set[str] = set()
        try:
            self.begin(table.rows(), directions)
            for name, (ids, params, note) in asked.items():
                self.add(name, ids, params, note)
                running.add(name)
            for tokens in self._finishing(running, live):
                group = self._take(tokens)
                finished += len(group)
                yield group
        except dead_error() as error:
            raise ModelError(
                f"vLLM's worker died after {finished} of {len(asked)} requests; run the same "
                "command again: what is on disk is kept and the rest resumes; if it dies again, "
                "lower --engine-arg max_num_seqs, or see vLLM's own messages with --debug"
            ) from error
        finally:
            if running:  # The caller stopped early.
                self.abort(list(running))

    def _finishing(
        self, running: set[str], live: Watch | None
    ) -> Iterator[dict[str, tuple[int, ...]]]:
        """Tokens of finished requests, in groups, until `running` is empty."""
        so_far: dict[str, list[int]] = {name: [] for name in running}
        tokens: dict[str, tuple[int, ...]] = {}
        while running:
            for output in self.step():
                name = output.request_id
                if name not in running:
                    continue
                so_far[name] += output.outputs[0].token_ids
                if output.finished:
                    running.remove(name)
                    tokens[name] = tuple(so_far.pop(name))
            if live is not None:
                self._show_growing(live, so_far)
            if tokens and (live is not None or len(tokens) >= GROUP or not running):
                yield tokens
                tokens = {}

    def _show_growing(self, live: Watch, so_far: Mapping[str, Sequence[int]]) -> None:
        """Show running responses, without the last token, which is not read yet."""
        names = [name for name, ids in so_far.items() if len(ids) > 1]
        found = self.read(names, keep=True) if names else {}
        for name in names:
            values = found[name].projections
            if values is not None:
                n = min(len(values), len(so_far[name]) - 1)
                live.show(Written(name, tuple(so_far[name][:n]), values[:n]))

    def _take(self, tokens: Mapping[str, tuple[int, ...]]) -> dict[str, VllmAnswer]:
        found = self.read(list(tokens))
        return {name: replace(found[name], token_ids=tokens[name]) for name in tokens}

    def _table(self) -> SteeringTable:
        return SteeringTable(self.loaded.identity.n_layers, self.loaded.identity.hidden_size)


def _pieces(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), max(1, size)):
        yield names[first : first + size]


def _merged(groups: Iterator[dict[str, VllmAnswer]]) -> dict[str, VllmAnswer]:
    return {name: answer for group in groups for name, answer in group.items()}


def _show(
    watch: Watch,
    found: Sequence[Generation],
    answers: Mapping[str, VllmAnswer],
    skipped: Mapping[str, int],
) -> None:
    """Show whole responses; `skipped` are read tokens before each. Raises HookError."""
    for generation in found:
        if generation.failed or not generation.response_ids:
            continue
        n, start = len(generation.response_ids), skipped.get(generation.id, 0)
        values = answers[generation.id].projections
        if values is None or len(values) < start + n:
            raise HookError("projections are missing: a hook in vLLM's workers did not fire")
        own = values[start : start + n]
        watch.show(Written(generation.id, generation.response_ids, own))


def _n_tokens(generation: Generation) -> int:
    return len(generation.thinking_ids) + len(generation.response_ids)
