"""From a validated request to a reply, whole or in chunks: queue, follow, read, say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from personavec.data import Message
from personavec.model import LoadedModel, Thought, split
from personavec.model.engine import (
    NOT_FINITE,
    End,
    Job,
    Loop,
    Request,
    Sampling,
    StepLoop,
    VllmEngine,
    VllmLoop,
    check_joinable,
)
from personavec.monitor import Gauge, TurnReading, gauge, read_turn
from personavec.serve.actions import Applied, additions, caps, find
from personavec.serve.guards import Guard, GuardedRow
from personavec.serve.metrics import Metrics
from personavec.serve.protocol import ApiError, ChatRequest, CompletionRequest
from personavec.serve.text import TextStream, Vocabulary
from personavec.serve.watch import Watch
from personavec.serve.webhook import Webhook
from personavec.serve.worker import Batch, Busy, Worker
from personavec.vectors import Ordinary, PersonaVector
from personavec.wording import plural

log = logging.getLogger("personavec.serve")

_REASONS: dict[End, str] = {"stop": "stop", "length": "length", "refused": "content_filter"}
#: Bodies that are validated and tokenised at a time; what is left of the processor is the replies'.
_BODIES = 2
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


class Told(NamedTuple):
    """A token with its log-probabilities, and where in the reply's text it begins."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(eq=False)
class Choice:
    """One reply on its way."""

    index: int
    prompt: int
    """Which of the request's prompts it answers."""
    job: Job
    stream: TextStream
    guard: GuardedRow | None
    messages: Sequence[Message] = ()
    ids: list[int] = field(default_factory=list)
    logprobs: list[Told] = field(default_factory=list)
    end: End | None = None
    closed: bool = False
    """Whether nothing more comes of it: it has ended, or failed."""
    cut: str = ""
    """How metrics name an end that was not its own: `left` or `timeout`."""
    projections: Tensor | None = None

    @property
    def finish_reason(self) -> str | None:
        if self.end is None or self.end == "failed":
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
    notes: tuple[str, ...] = ()
    """What was done to the messages so that the template could write them."""
    control_strings: bool = False
    """Whether the messages hold strings that a tokenizer takes for control tokens elsewhere."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.monotonic)
    queued: bool = False
    released: bool = False
    concluding: asyncio.Task[dict[str, Any]] | None = None


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
        if engine is None:
            check_joinable(loaded.model.config)
        self.metrics = Metrics()
        self.watch = Watch(
            {trait: vector.ordinary or Ordinary() for trait, vector in vectors.items()},
            self._answer,
        )
        self.vocabulary = Vocabulary(loaded.tokenizer)
        self._bodies = ThreadPoolExecutor(_BODIES, "bodies")
        # A tokenizer keeps settings of its last call, which another thread would change.
        self._tokenizing = threading.Lock()
        self._winding_up: set[asyncio.Task[None]] = set()
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

    async def start(self) -> None:
        """Raises what the engine raises where it cannot run."""
        await self.worker.start()

    async def stop(self) -> None:
        """End what runs; what was written is counted still."""
        await asyncio.to_thread(self.worker.stop)
        await asyncio.gather(*self._winding_up, return_exceptions=True)
        self._bodies.shutdown(wait=False, cancel_futures=True)

    def metrics_text(self) -> bytes:
        worker = self.worker
        waiting = max(0, worker.open - worker.running)
        return self.metrics.text(
            running=worker.running, waiting=waiting, levels=self.watch.levels()
        )

    # From a body to what the engine takes

    async def aside(self, make: Callable[[], Ask]) -> Ask:
        """Make a request of a body in a thread: validating and tokenising take their time."""
        return await asyncio.get_running_loop().run_in_executor(self._bodies, make)

    def chat(self, body: ChatRequest) -> Ask:
        """Raises ApiError, UsageError."""
        self._check_model(body.model)
        messages = [message.as_message() for message in body.messages]
        if messages[-1]["role"] not in ("user", "tool"):
            raise ApiError(400, "the last message must be a user's or a tool's", param="messages")
        limits = {body.max_tokens, body.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ApiError(400, "give max_tokens or max_completion_tokens", param="max_tokens")
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
        self._check_size([message["content"] for message in messages], "messages")
        if self.settings.log_text:
            log.info("messages: %s", json.dumps(messages, ensure_ascii=False))
        form = self.loaded.chat
        with self._tokenizing:
            prompt = tuple(form.prompt_ids(messages))
            notes, holds = form.written(messages).notes, form.holds_control_tokens(messages)
        top = (body.top_logprobs or 0) if body.logprobs else None
        longest = body.max_completion_tokens or body.max_tokens
        ask = self._ask("chat", body, [prompt], longest, top, messages)
        ask.notes, ask.control_strings = notes, holds
        return ask

    def completion(self, body: CompletionRequest) -> Ask:
        """Raises ApiError, UsageError."""
        self._check_model(body.model)
        given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if isinstance(given[0], str):
            texts = [str(text) for text in given]
            for text in texts:
                self._check_size([text], "prompt")
            with self._tokenizing:
                prompts = [self._plain_ids(text) for text in texts]
        else:
            prompts = [tuple(int(id) for id in given)]
            if max(prompts[0]) >= self.loaded.model.get_input_embeddings().weight.shape[0]:
                raise ApiError(400, "a token id is outside the vocabulary", param="prompt")
        if not all(prompts):
            raise ApiError(400, "a prompt has no tokens", param="prompt")
        return self._ask("completion", body, prompts, body.max_tokens, body.logprobs, ())

    def _check_model(self, name: str) -> None:
        if name != self.settings.name:
            raise ApiError(
                404,
                f"there is no model '{name}' here; it is '{self.settings.name}'",
                code="model_not_found",
                param="model",
            )

    def _check_size(self, texts: Sequence[str], param: str) -> None:
        """Refuse what the context could not hold if each token were the longest there is."""
        characters = sum(map(len, texts))
        if characters > self._context * self.vocabulary.longest:
            raise ApiError(
                400,
                f"{characters} characters exceed the model's context of {self._context} tokens",
                code="context_length_exceeded",
                param=param,
            )

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
        if body.stream_options and body.stream_options.include_usage and not body.stream:
            raise ApiError(400, "stream_options needs stream", param="stream_options")
        for trait in own.monitor or ():
            find(self.vectors, trait, "personavec.monitor.pipeline")
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
                self._length(len(prompt), longest, "messages" if kind == "chat" else "prompt"),
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
            ask.choices.append(Choice(index, index // n, job, stream, guard, messages))
        return ask

    def _length(self, prompt: int, asked: int | None, param: str) -> int:
        room = self._context - prompt
        if room < 1 or (asked or 1) > room:
            raise ApiError(
                400,
                f"{plural(prompt, 'prompt token')} and {plural(asked or 1, 'new one')} exceed the "
                f"model's context of {self._context}",
                code="context_length_exceeded",
                param=param,
            )
        if asked and asked > self.settings.max_tokens:
            raise ApiError(
                400,
                f"this server writes at most {plural(self.settings.max_tokens, 'token')}",
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
                said = await self._concluded(ask)
        except TimeoutError:
            self.release(ask, "timeout")
            raise self._timed_out() from None
        finally:
            self.release(ask)
        make = _chat_choice if ask.kind == "chat" else _plain_choice
        return {
            **self._head(ask, "chat.completion" if ask.kind == "chat" else "text_completion"),
            "choices": [make(choice, self.vocabulary) for choice in ask.choices],
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
        found: asyncio.Queue[tuple[Choice, str, list[Told]] | Exception] = asyncio.Queue()

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
                        delta = make(choice, text, logprobs, self.vocabulary, first, ended)
                        chunk = {**head, "choices": [delta]}
                        left -= ended
                        if ask.include_usage:
                            chunk["usage"] = None
                        elif not left:
                            chunk["personavec"] = await self._concluded(ask)
                        yield chunk
            if ask.include_usage:
                said = await self._concluded(ask)
                yield {**head, "choices": [], "usage": _usage(ask), "personavec": said}
        except TimeoutError:
            for task in tasks:
                task.cancel()
            self.release(ask, "timeout")
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
            for choice in ask.choices:
                worker.cancel(choice.job.request.id)
            raise ApiError(
                429,
                f"replies that run or wait: {worker.open}, all that this server takes; try again",
                code="queue_full",
                headers={"Retry-After": str(1 + worker.open // (4 * self.settings.max_rows))},
            ) from None
        ask.queued = True
        if ask.control_strings:
            self.metrics.control_strings.inc()
        self.metrics.tokens.labels("prompt").inc(ask.prompt_tokens)

    def release(self, ask: Ask, cut: str = "left") -> None:
        """No one waits for this request any more: what runs ends, and all of it is counted."""
        if not ask.queued or ask.released:
            return
        ask.released = True
        left = [choice for choice in ask.choices if not choice.closed]
        for choice in left:
            choice.cut = cut
            self.worker.leave(choice.job.request.id)
        task = asyncio.create_task(self._wind_up(ask, left))
        self._winding_up.add(task)
        task.add_done_callback(self._winding_up.discard)

    async def _wind_up(self, ask: Ask, left: Sequence[Choice]) -> None:
        for choice in left:
            with contextlib.suppress(ApiError):
                await self._read_out(ask, choice)
        await self._concluded(ask)

    def _timed_out(self) -> ApiError:
        return ApiError(504, f"no reply within {self.settings.timeout:g} seconds", code="timeout")

    async def _read_out(self, ask: Ask, choice: Choice) -> None:
        async for _ in self._follow(ask, choice):
            pass

    async def _follow(self, ask: Ask, choice: Choice) -> AsyncIterator[tuple[str, list[Told]]]:
        """New text with its tokens, and at last nothing: the end."""
        async for batch in self.worker.batches(choice.job.request.id):
            if not choice.ids and any(update.token is not None for update in batch.updates):
                self.metrics.first_token.observe(time.monotonic() - ask.began)
            text, fresh = self._take(choice, batch)
            choice.closed = batch.ended
            if batch.error is not None:
                gone = "shutting" in batch.error or not self.worker.alive
                raise ApiError(503 if gone else 500, batch.error)
            if choice.end == "failed":
                raise self._failed(choice, batch.updates[-1].reason)
            if text or fresh:
                yield text, fresh
            if choice.end is not None:
                yield "", []

    def _failed(self, choice: Choice, reason: str) -> ApiError:
        """Why this reply failed, while those beside it go on."""
        if reason != NOT_FINITE:
            log.error("a reply failed: %s", reason)
            return ApiError(500, "the model failed on this request; the server's log says why")
        if choice.job.request.steering:
            return ApiError(
                400,
                f"{reason} under this request's steering; steer less",
                code="not_finite",
                param="personavec",
            )
        acted = bool(choice.guard and choice.guard.acted)
        cause = "a guard's steering" if acted else f"type {self.loaded.identity.dtype}"
        log.error("a reply failed: %s under %s", reason, cause)
        return ApiError(500, f"{reason} under {cause}", code="not_finite")

    def _take(self, choice: Choice, batch: Batch) -> tuple[str, list[Told]]:
        texts, fresh = [], []
        stream = choice.stream
        for update in batch.updates:
            if update.token is not None and not stream.stopped:
                choice.ids.append(update.token)
                texts.append(stream.push(update.token))
                if update.logprob is not None:
                    fresh.append(Told(update.token, update.logprob, update.top, stream.start))
                if stream.stopped:
                    self.worker.finish(choice.job.request.id)
            if update.end is not None:
                choice.end = update.end
        if batch.ended:
            texts.append(stream.flush())
        choice.logprobs += fresh
        if batch.projections is not None:
            choice.projections = batch.projections
        return "".join(texts), fresh

    # What a reply says of itself

    async def _concluded(self, ask: Ask) -> dict[str, Any]:
        """The `personavec` field of a reply. What it took is counted by then, once."""
        if ask.concluding is None:
            ask.concluding = asyncio.create_task(self._conclude(ask))
        return await asyncio.shield(ask.concluding)

    async def _conclude(self, ask: Ask) -> dict[str, Any]:
        """Count, read and chart a request's replies, whole or cut off."""
        # Reading takes its time where a model thinks; streams go on meanwhile.
        read = await asyncio.to_thread(
            lambda: [self._readings(ask, choice) for choice in ask.choices]
        )
        for choice in ask.choices:
            self._count(ask, choice)
        alarms = self._alarms(ask, [readings for readings, _ in read])
        return {
            "actions": [one.said for one in ask.applied],
            "notes": list(ask.notes),
            "control_strings": ask.control_strings,
            "choices": [
                self._said_of(ask, choice, readings, alarms[choice.index], answer)
                for choice, (readings, answer) in zip(ask.choices, read, strict=True)
            ],
        }

    def _count(self, ask: Ask, choice: Choice) -> None:
        metrics = self.metrics
        metrics.tokens.labels("reply").inc(len(choice.ids))
        metrics.replies.labels(choice.cut or choice.finish_reason or "failed").inc()
        metrics.seconds.observe(time.monotonic() - ask.began)
        for guard in choice.guard.acted if choice.guard else ():
            trait = guard["condition"].partition("<")[0].partition(">")[0]
            metrics.guards.labels(trait, guard["did"]).inc()
        if self.settings.log_text:
            log.info("reply: %s", json.dumps(choice.stream.text, ensure_ascii=False))

    def _alarms(
        self, ask: Ask, readings: Sequence[Sequence[TurnReading]]
    ) -> dict[int, list[dict[str, Any]]]:
        """Chart what was written; the alarms by choice. Replies to one prompt count as one."""
        found: dict[int, list[dict[str, Any]]] = {choice.index: [] for choice in ask.choices}
        for prompt in dict.fromkeys(choice.prompt for choice in ask.choices):
            written = [c for c in ask.choices if c.prompt == prompt and readings[c.index]]
            if not written:
                continue
            replies = [(choice.stream.text, readings[choice.index]) for choice in written]
            raised, counted = self.watch.take(written[0].messages, replies)
            found |= {choice.index: own for choice, own in zip(written, raised, strict=True)}
            for alarm in counted:
                self.metrics.alarms.labels(alarm["trait"], alarm["scope"]).inc()
                if self.webhook is not None:
                    self.webhook.send(alarm)
        return found

    def _said_of(
        self,
        ask: Ask,
        choice: Choice,
        readings: Sequence[TurnReading],
        alarms: Sequence[dict[str, Any]],
        answer: Sequence[int],
    ) -> dict[str, Any]:
        said: dict[str, Any] = {
            "index": choice.index,
            "readings": [r.as_dict() for r in readings if r.trait in ask.traits],
            "guards": choice.guard.acted if choice.guard else [],
            "alarms": list(alarms),
        }
        if ask.tokens:
            said["tokens"] = [self.vocabulary.text(id) for id in answer]
        return said

    def _answer(self, text: str) -> str:
        """A reply's text without its thinking, which clients do not send back."""
        form = self.loaded.chat.thinking
        return text if form is None else (split(text, form)[1] or text)

    def _readings(self, ask: Ask, choice: Choice) -> tuple[list[TurnReading], list[int]]:
        """Readings of every trait, and the tokens of the answer that they are of."""
        values = choice.projections
        if self.gauge is None or values is None or choice.end == "failed":
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


def _usage(ask: Ask) -> dict[str, int]:
    reply = sum(len(choice.ids) for choice in ask.choices)
    return {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": reply,
        "total_tokens": ask.prompt_tokens + reply,
    }


def _chat_choice(choice: Choice, vocabulary: Vocabulary) -> dict[str, Any]:
    refused = choice.end == "refused"
    listed = _chat_logprobs(choice.logprobs, vocabulary)
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
    logprobs: Sequence[Told],
    vocabulary: Vocabulary,
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
        "logprobs": _chat_logprobs(logprobs, vocabulary) if logprobs else None,
        "finish_reason": choice.finish_reason if ended else None,
    }


def _chat_logprobs(told: Sequence[Told], vocabulary: Vocabulary) -> dict[str, Any]:
    def entry(id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": vocabulary.spelled(id),
            "logprob": _finite(logprob),
            "bytes": list(vocabulary.bytes(id)),
        }

    content = [
        {
            **entry(one.token, one.logprob),
            "top_logprobs": [entry(id, logprob) for id, logprob in one.top],
        }
        for one in told
    ]
    return {"content": content, "refusal": None}


def _plain_choice(choice: Choice, vocabulary: Vocabulary) -> dict[str, Any]:
    asked = choice.job.top_logprobs is not None
    return {
        "index": choice.index,
        "text": choice.stream.text,
        "logprobs": _plain_logprobs(choice.logprobs, vocabulary) if asked else None,
        "finish_reason": choice.finish_reason,
    }


def _plain_delta(
    choice: Choice,
    text: str,
    logprobs: Sequence[Told],
    vocabulary: Vocabulary,
    first: bool,
    ended: bool,
) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": text,
        "logprobs": _plain_logprobs(logprobs, vocabulary) if logprobs else None,
        "finish_reason": choice.finish_reason if ended else None,
    }


def _plain_logprobs(told: Sequence[Told], vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "tokens": [vocabulary.spelled(one.token) for one in told],
        "token_logprobs": [_finite(one.logprob) for one in told],
        "top_logprobs": [_by_text(one.top, vocabulary) for one in told],
        "text_offset": [one.offset for one in told],
    }


def _by_text(top: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> dict[str, float]:
    """Log-probabilities by text; of several tokens with one text the further ones by number."""
    found: dict[str, float] = {}
    for id, logprob in top:
        text = vocabulary.spelled(id)
        found[f"token_id:{id}" if text in found else text] = _finite(logprob)
    return found


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)
