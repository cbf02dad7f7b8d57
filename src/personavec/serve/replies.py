"""From a validated request to a reply, whole or in chunks: queue, follow, read, say."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from personavec.data.messages import Message
from personavec.drift import Ordinary
from personavec.model.engine.base import Request, Sampling
from personavec.model.engine.loop import End, Job, Loop, StepLoop, Update
from personavec.model.engine.vllm import VllmEngine
from personavec.model.engine.vllm_loop import VllmLoop
from personavec.model.loading import LoadedModel
from personavec.model.thinking import Thought
from personavec.readings import Gauge, Reading, gauge, read_turn
from personavec.serve.actions import Applied, additions, caps, find
from personavec.serve.guards import Guard, GuardedRow
from personavec.serve.metrics import Metrics
from personavec.serve.protocol import ApiError, ChatRequest, CompletionRequest
from personavec.serve.text import TextStream
from personavec.serve.watch import Watch
from personavec.serve.webhook import Webhook
from personavec.serve.worker import Batch, Busy, Worker
from personavec.vectors import PersonaVector

log = logging.getLogger("personavec.serve")

_REASONS: dict[End, str] = {"stop": "stop", "length": "length", "refused": "content_filter"}
_REFUSAL = "This server's guard refused the request before a reply was written."


@dataclass(frozen=True)
class Settings:
    """What the operator decides."""

    name: str
    """The model's name for clients."""
    guards: tuple[Guard, ...] = ()
    allow_any_coefficient: bool = False
    max_rows: int = 16
    """Replies written at a time."""
    queue_size: int = 64
    """Replies that may wait beside them."""
    max_tokens: int = 1024
    """The longest reply a request may ask for."""
    default_tokens: int = 256
    """The longest reply where a request says nothing."""
    timeout: float = 300.0
    """Seconds a request may take, waiting included."""
    max_body: int = 1 << 20
    """Bytes of a request's body."""
    api_key: str | None = None
    webhook: str | None = None
    log_text: bool = False


Kind = Literal["chat", "completion"]


@dataclass(eq=False)
class Choice:
    """One reply on its way."""

    index: int
    job: Job
    stream: TextStream
    guard: GuardedRow | None
    messages: Sequence[Message] = ()
    ids: list[int] = field(default_factory=list)
    logprobs: list[Update] = field(default_factory=list)
    end: End | None = None
    projections: Tensor | None = None

    @property
    def finish_reason(self) -> str | None:
        if self.end is None:
            return None
        return "stop" if self.stream.stopped else _REASONS[self.end]


@dataclass(eq=False)
class Ask:
    """A request that is ready to run."""

    kind: Kind
    choices: list[Choice]
    applied: list[Applied]
    traits: tuple[str, ...]
    tokens: bool
    prompt_tokens: int
    stream: bool
    include_usage: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.monotonic)


class Service:
    """The model behind the routes. `start` and `stop` belong to the application's life.

    With `engine` vLLM writes the replies, and the model that is loaded only reads texts.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        vectors: Mapping[str, PersonaVector],
        settings: Settings,
        engine: VllmEngine | None = None,
    ):
        self.loaded, self.vectors, self.settings = loaded, dict(vectors), settings
        self.gauge: Gauge | None = gauge(list(vectors.values()), loaded) if vectors else None
        self.metrics = Metrics()
        self.watch = Watch(
            {trait: vector.ordinary or Ordinary() for trait, vector in vectors.items()}
        )
        self.webhook = Webhook(settings.webhook) if settings.webhook else None
        directions = self.gauge.directions if self.gauge else None

        def make_loop() -> Loop:
            if engine is not None:
                return VllmLoop(engine, directions=directions)
            return StepLoop(loaded, directions=directions, max_rows=settings.max_rows)

        self._context = loaded.context if engine is None else engine.context
        self.worker = Worker(
            make_loop,
            max_rows=settings.max_rows,
            queue_size=settings.queue_size,
        )

    def start(self) -> None:
        self.worker.start()

    def stop(self) -> None:
        self.worker.stop()

    def metrics_text(self) -> bytes:
        worker = self.worker
        waiting = max(0, worker.open - worker.running)
        return self.metrics.text(
            running=worker.running, waiting=waiting, levels=self.watch.levels()
        )

    # From a body to what the engine takes

    def chat(self, body: ChatRequest) -> Ask:
        """Raises ApiError, UsageError."""
        messages = [message.as_message() for message in body.messages]
        if messages[-1]["role"] != "user":
            raise ApiError(400, "the last message must be the user's", param="messages")
        if any(message["role"] == "system" for message in messages[1:]):
            raise ApiError(400, "only the first message may be the system's", param="messages")
        if body.max_tokens and body.max_completion_tokens:
            raise ApiError(400, "give max_tokens or max_completion_tokens", param="max_tokens")
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
        if self.settings.log_text:
            log.info("messages: %s", json.dumps(messages, ensure_ascii=False))
        prompt = tuple(self.loaded.chat.prompt_ids(messages))
        top = (body.top_logprobs or 0) if body.logprobs else None
        longest = body.max_completion_tokens or body.max_tokens
        return self._ask("chat", body, [prompt], longest, top, messages)

    def completion(self, body: CompletionRequest) -> Ask:
        """Raises ApiError, UsageError."""
        if isinstance(body.prompt, str):
            prompts = [self._plain_ids(body.prompt)]
        elif isinstance(body.prompt[0], str):
            prompts = [self._plain_ids(str(text)) for text in body.prompt]
        else:
            prompts = [tuple(int(id) for id in body.prompt)]
            if max(prompts[0]) >= self.loaded.model.get_input_embeddings().weight.shape[0]:
                raise ApiError(400, "a token id is outside the vocabulary", param="prompt")
        if not all(prompts):
            raise ApiError(400, "a prompt has no tokens", param="prompt")
        return self._ask("completion", body, prompts, body.max_tokens, body.logprobs, ())

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.loaded.tokenizer(text)["input_ids"])

    def _ask(
        self,
        kind: Kind,
        body: ChatRequest | CompletionRequest,
        prompts: Sequence[tuple[int, ...]],
        longest: int | None,
        top: int | None,
        messages: Sequence[Message],
    ) -> Ask:
        own, settings = body.personavec, self.settings
        if body.model != settings.name:
            raise ApiError(
                404,
                f"there is no model '{body.model}' here; it is '{settings.name}'",
                code="model_not_found",
                param="model",
            )
        if body.stream_options and not body.stream:
            raise ApiError(400, "stream_options needs stream", param="stream_options")
        for trait in own.monitor or ():
            find(self.vectors, trait, "personavec.monitor")
        anything = settings.allow_any_coefficient
        applied = [
            *additions(self.vectors, own.steer, any_coefficient=anything),
            *caps(self.vectors, own.cap),
        ]
        actions = tuple(one.action for one in applied)
        ask = Ask(
            kind,
            [],
            applied,
            tuple(self.vectors if own.monitor is None else dict.fromkeys(own.monitor)),
            own.tokens,
            sum(map(len, prompts)),
            bool(body.stream),
            bool(body.stream_options and body.stream_options.include_usage),
        )
        seed = secrets.randbits(62) if body.seed is None else body.seed
        n = body.n or 1
        for index in range(n * len(prompts)):
            prompt = prompts[index // n]
            sampling = Sampling(
                self._length(len(prompt), longest),
                1.0 if body.temperature is None else body.temperature,
                1.0 if body.top_p is None else body.top_p,
                seed,
            )
            guard = None
            if settings.guards and self.gauge is not None:
                guard = GuardedRow(settings.guards, self.gauge, self.vectors, actions)
            job = Job(
                Request(f"{ask.id}/{index}", prompt, actions, noise=str(index)),
                sampling,
                read=self.gauge is not None,
                top_logprobs=top,
                guard=guard,
            )
            stream = TextStream(self.loaded.chat.decode, body.stops)
            ask.choices.append(Choice(index, job, stream, guard, messages))
        return ask

    def _length(self, prompt: int, asked: int | None) -> int:
        room = self._context - prompt
        if room < 1 or (asked or 1) > room:
            raise ApiError(
                400,
                f"{prompt} prompt tokens and {asked or 1} new ones exceed the model's context of "
                f"{self._context}",
                code="context_length_exceeded",
                param="messages",
            )
        if asked and asked > self.settings.max_tokens:
            raise ApiError(
                400,
                f"this server writes at most {self.settings.max_tokens} tokens",
                param="max_tokens",
            )
        return asked or min(room, self.settings.default_tokens, self.settings.max_tokens)

    # From the engine to a reply

    async def whole(self, ask: Ask) -> dict[str, Any]:
        """The reply at once. Raises ApiError."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                self._submit(ask)
                await asyncio.gather(*(self._read_out(ask, choice) for choice in ask.choices))
        except TimeoutError:
            raise self._timed_out() from None
        finally:
            self.release(ask)
        said = self._said(ask)
        make = _chat_choice if ask.kind == "chat" else _plain_choice
        return {
            **self._head(ask, "chat.completion" if ask.kind == "chat" else "text_completion"),
            "choices": [make(choice, self._token_text) for choice in ask.choices],
            "usage": _usage(ask),
            "personavec": said,
        }

    def chunks(self, ask: Ask) -> AsyncIterator[dict[str, Any]]:
        """The reply as it is written; an error in between is the last chunk.

        Raises ApiError at once where it cannot be queued; `release` the request when done.
        """
        self._submit(ask)
        return self._chunks(ask)

    async def _chunks(self, ask: Ask) -> AsyncIterator[dict[str, Any]]:
        found: asyncio.Queue[tuple[Choice, str, list[Update]] | Exception] = asyncio.Queue()

        async def follow(choice: Choice) -> None:
            try:
                async for text, logprobs in self._follow(ask, choice):
                    found.put_nowait((choice, text, logprobs))
            except Exception as error:
                found.put_nowait(error)

        tasks = [asyncio.create_task(follow(choice)) for choice in ask.choices]
        kind = "chat.completion.chunk" if ask.kind == "chat" else "text_completion"
        make = _chat_delta if ask.kind == "chat" else _plain_delta
        head, left = self._head(ask, kind), len(ask.choices)
        begun: set[int] = set()
        try:
            async with asyncio.timeout(ask.began + self.settings.timeout - time.monotonic()):
                while left:
                    item = await found.get()
                    if isinstance(item, Exception):
                        raise item
                    choice, text, logprobs = item
                    # Several deltas may lie in the queue; an end belongs to the last alone.
                    ended = choice.end is not None and not text and not logprobs
                    if text or logprobs or ended:
                        first = choice.index not in begun
                        begun.add(choice.index)
                        delta = make(choice, text, logprobs, self._token_text, first, ended)
                        chunk = {**head, "choices": [delta]}
                        left -= ended
                        if ask.include_usage:
                            chunk["usage"] = None
                        elif not left:
                            chunk["personavec"] = self._said(ask)
                        yield chunk
            if ask.include_usage:
                yield {**head, "choices": [], "usage": _usage(ask), "personavec": self._said(ask)}
        except TimeoutError:
            yield self._timed_out().body
        except ApiError as error:
            yield error.body
        finally:
            for task in tasks:
                task.cancel()

    def _submit(self, ask: Ask) -> None:
        worker = self.worker
        if not worker.alive:
            raise ApiError(503, "the engine has stopped; the server must be started again")
        try:
            for choice in ask.choices:
                worker.submit(choice.job, at_once=ask.stream or bool(choice.stream.stops))
        except Busy:
            self.release(ask)
            raise ApiError(
                429,
                f"{worker.open} replies run or wait, which is all this server takes; try again",
                code="queue_full",
                headers={"Retry-After": str(1 + worker.open // (4 * self.settings.max_rows))},
            ) from None
        self.metrics.tokens.labels("prompt").inc(ask.prompt_tokens)

    def release(self, ask: Ask) -> None:
        """Free what a request still holds; nothing where it has ended."""
        for choice in ask.choices:
            self.worker.cancel(choice.job.request.id)

    def _timed_out(self) -> ApiError:
        return ApiError(504, f"no reply within {self.settings.timeout:g} seconds", code="timeout")

    async def _read_out(self, ask: Ask, choice: Choice) -> None:
        async for _ in self._follow(ask, choice):
            pass

    async def _follow(self, ask: Ask, choice: Choice) -> AsyncIterator[tuple[str, list[Update]]]:
        """New text with its tokens, and at last nothing: the end."""
        async for batch in self.worker.batches(choice.job.request.id):
            if batch.error is not None:
                gone = "shutting" in batch.error or not self.worker.alive
                raise ApiError(503 if gone else 500, batch.error)
            if not choice.ids and not choice.stream.stopped:
                self.metrics.first_token.observe(time.monotonic() - ask.began)
            text, fresh = self._take(choice, batch)
            if choice.end == "failed":
                raise ApiError(
                    500, "the model produced NaN or infinite numbers; steer less", code="not_finite"
                )
            if text or fresh:
                yield text, fresh
            if choice.end is not None:
                self._count(ask, choice)
                yield "", []

    def _take(self, choice: Choice, batch: Batch) -> tuple[str, list[Update]]:
        texts, fresh = [], []
        stream = choice.stream
        for update in batch.updates:
            if update.token is not None and not stream.stopped:
                choice.ids.append(update.token)
                texts.append(stream.push(update.token))
                if update.logprob is not None:
                    choice.logprobs.append(update)
                    fresh.append(update)
                if stream.stopped:
                    self.worker.finish(choice.job.request.id)
            if update.end is not None:
                choice.end = update.end
                texts.append(stream.flush())
        if batch.projections is not None:
            choice.projections = batch.projections
        return "".join(texts), fresh

    def _count(self, ask: Ask, choice: Choice) -> None:
        self.metrics.tokens.labels("reply").inc(len(choice.ids))
        self.metrics.replies.labels(choice.finish_reason).inc()
        self.metrics.seconds.observe(time.monotonic() - ask.began)

    # What a reply says of itself

    def _said(self, ask: Ask) -> dict[str, Any]:
        """The `personavec` field of a reply."""
        return {
            "actions": [one.said for one in ask.applied],
            "choices": [self._said_of(ask, choice) for choice in ask.choices],
        }

    def _said_of(self, ask: Ask, choice: Choice) -> dict[str, Any]:
        readings, answer = self._readings(ask, choice)
        acted = choice.guard.acted if choice.guard else []
        for guard in acted:
            trait = guard["condition"].partition("<")[0].partition(">")[0]
            self.metrics.guards.labels(trait, guard["did"]).inc()
        alarms = self.watch.take(choice.messages, choice.stream.text, readings)
        for alarm in alarms:
            self.metrics.alarms.labels(alarm["trait"], alarm["scope"]).inc()
            if self.webhook is not None:
                self.webhook.send(alarm)
        if self.settings.log_text:
            log.info("reply: %s", json.dumps(choice.stream.text, ensure_ascii=False))
        said: dict[str, Any] = {
            "index": choice.index,
            "readings": [r.as_dict() for r in readings if r.trait in ask.traits],
            "guards": acted,
            "alarms": alarms,
        }
        if ask.tokens:
            said["tokens"] = [self._token_text(id) for id in answer]
        return said

    def _readings(self, ask: Ask, choice: Choice) -> tuple[list[Reading], list[int]]:
        """Readings of every trait, and the tokens of the answer that they are of."""
        values = choice.projections
        if self.gauge is None or values is None:
            return [], []
        ids = choice.ids[: min(choice.stream.kept, len(values) - 1)]
        start = self._thinking(choice.job.request.prompt_ids, ids)
        readings = read_turn(
            self.gauge,
            len(choice.messages),
            prompt_last=values[0],
            response=values[1 + start : 1 + len(ids)],
            thinking=values[1 : 1 + start] if start else None,
            tokens=ask.tokens,
        )
        return readings, ids[start:]

    def _thinking(self, prompt: Sequence[int], ids: Sequence[int]) -> int:
        """How many of a reply's tokens are thinking, and not its answer."""
        form = self.loaded.chat.thinking
        if form is None:
            return 0
        thought = Thought(form, self.loaded.chat.decode_marked, prompt)
        for n in range(1, len(ids) + 1):
            thought.read(ids[:n])
        return len(ids) if thought.unfinished(ids) else thought.start

    def _head(self, ask: Ask, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if ask.kind == 'chat' else 'cmpl'}-{ask.id}",
            "object": kind,
            "created": ask.created,
            "model": self.settings.name,
            "system_fingerprint": self.loaded.identity.template_hash,
        }

    def _token_text(self, id: int) -> str:
        return self.loaded.tokenizer.decode([id])


def _usage(ask: Ask) -> dict[str, int]:
    reply = sum(len(choice.ids) for choice in ask.choices)
    return {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": reply,
        "total_tokens": ask.prompt_tokens + reply,
    }


TokenText = Callable[[int], str]


def _chat_choice(choice: Choice, token_text: TokenText) -> dict[str, Any]:
    refused = choice.end == "refused"
    listed = _chat_logprobs(choice.logprobs, token_text)
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": None if refused else choice.stream.text,
            "refusal": _REFUSAL if refused else None,
        },
        "logprobs": listed if choice.job.top_logprobs is not None else None,
        "finish_reason": choice.finish_reason,
    }


def _chat_delta(
    choice: Choice,
    text: str,
    logprobs: Sequence[Update],
    token_text: TokenText,
    first: bool,
    ended: bool,
) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if not ended:
        delta["content"] = text
    elif choice.end == "refused":
        delta["refusal"] = _REFUSAL
    return {
        "index": choice.index,
        "delta": delta,
        "logprobs": _chat_logprobs(logprobs, token_text) if logprobs else None,
        "finish_reason": choice.finish_reason if ended else None,
    }


def _chat_logprobs(updates: Sequence[Update], token_text: TokenText) -> dict[str, Any]:
    def entry(id: int, logprob: float) -> dict[str, Any]:
        text = token_text(id)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    content = [
        {
            **entry(update.token or 0, update.logprob or 0.0),
            "top_logprobs": [entry(id, logprob) for id, logprob in update.top],
        }
        for update in updates
    ]
    return {"content": content, "refusal": None}


def _plain_choice(choice: Choice, token_text: TokenText) -> dict[str, Any]:
    asked = choice.job.top_logprobs is not None
    return {
        "index": choice.index,
        "text": choice.stream.text,
        "logprobs": _plain_logprobs(choice.logprobs, token_text) if asked else None,
        "finish_reason": choice.finish_reason,
    }


def _plain_delta(
    choice: Choice,
    text: str,
    logprobs: Sequence[Update],
    token_text: TokenText,
    first: bool,
    ended: bool,
) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": text,
        "logprobs": _plain_logprobs(logprobs, token_text) if logprobs else None,
        "finish_reason": choice.finish_reason if ended else None,
    }


def _plain_logprobs(updates: Sequence[Update], token_text: TokenText) -> dict[str, Any]:
    tokens = [token_text(update.token or 0) for update in updates]
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [max(update.logprob or 0.0, -9999.0) for update in updates],
        "top_logprobs": [
            {token_text(id): max(logprob, -9999.0) for id, logprob in update.top}
            for update in updates
        ],
        "text_offset": offsets[: len(tokens)],
    }
