"""Turn a validated body into a request that the engine can run."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Sequence

from personavec.data import Message
from personavec.model.engine import DecodeJob, Request, Sampling
from personavec.serve.actions import additions, caps, find
from personavec.serve.guards import GuardedRow
from personavec.serve.protocol import ApiError, ChatRequest, CompletionRequest
from personavec.serve.purpose import purpose
from personavec.serve.requests import Kind, ReplyChoice, ReplyRequest
from personavec.serve.served import ServedModel
from personavec.serve.text import TextStream
from personavec.wording import plural

log = logging.getLogger("personavec.serve")

Body = ChatRequest | CompletionRequest
#: The field of a body that has the prompt.
_PROMPT_FIELDS: dict[Kind, str] = {"chat": "messages", "completion": "prompt"}


class Intake:
    """Checks bodies against the served model and vectors, and tokenises them; thread-safe."""

    def __init__(self, served: ServedModel):
        self._served = served
        # A tokenizer keeps settings between calls, so it is not thread-safe.
        self._tokenizing = threading.Lock()

    def chat(self, body: ChatRequest) -> ReplyRequest:
        """The request of a chat completion. Raises ApiError, UsageError."""
        self._check_model(body.model)
        _check_chat(body)
        messages = [message.as_message() for message in body.messages]
        self._check_size([message["content"] for message in messages], "messages")
        if self._served.config.log_text:
            log.info("messages: %s", json.dumps(messages, ensure_ascii=False))
        form = self._served.loaded.chat
        with self._tokenizing:
            prompt = tuple(form.prompt_ids(messages))
            notes, holds = form.written(messages).notes, form.holds_control_tokens(messages)
        top = (body.top_logprobs or 0) if body.logprobs else None
        longest = body.max_completion_tokens or body.max_tokens
        request = self._request("chat", body, [prompt], longest, top, messages)
        request.notes, request.control_strings = notes, holds
        return request

    def completion(self, body: CompletionRequest) -> ReplyRequest:
        """The request of a plain completion. Raises ApiError, UsageError."""
        self._check_model(body.model)
        prompts = self._prompts(body)
        if not all(prompts):
            raise ApiError(400, "a prompt has no tokens", param="prompt")
        return self._request("completion", body, prompts, body.max_tokens, body.logprobs, ())

    def _prompts(self, body: CompletionRequest) -> list[tuple[int, ...]]:
        """The token ids of each prompt."""
        given = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if isinstance(given[0], str):
            texts = [str(text) for text in given]
            for text in texts:
                self._check_size([text], "prompt")
            tokenizer = self._served.loaded.tokenizer
            with self._tokenizing:
                return [tuple(tokenizer(text)["input_ids"]) for text in texts]
        ids = tuple(int(id) for id in given)
        if max(ids) >= self._served.loaded.model.get_input_embeddings().weight.shape[0]:
            raise ApiError(400, "a token id is outside the vocabulary", param="prompt")
        return [ids]

    def _check_model(self, name: str) -> None:
        if name != self._served.name:
            raise ApiError(
                404,
                f"there is no model '{name}' here; it is '{self._served.name}'",
                code="model_not_found",
                param="model",
            )

    def _check_size(self, texts: Sequence[str], param: str) -> None:
        """Raise ApiError for texts that are certain to exceed the context.

        Even if every token were the vocabulary's longest, they would have too many tokens.
        """
        characters, context = sum(map(len, texts)), self._served.context
        if characters > context * self._served.vocabulary.longest:
            raise ApiError(
                400,
                f"{characters} characters exceed the model's context of {context} tokens",
                code="context_length_exceeded",
                param=param,
            )

    def _request(
        self,
        kind: Kind,
        body: Body,
        prompts: Sequence[tuple[int, ...]],
        longest: int | None,
        top_logprobs: int | None,
        messages: Sequence[Message],
    ) -> ReplyRequest:
        served, own = self._served, body.personavec
        usage = bool(body.stream_options and body.stream_options.include_usage)
        if usage and not body.stream:
            raise ApiError(400, "stream_options needs stream", param="stream_options")
        for trait in own.monitor or ():
            find(served.vectors, trait, "personavec.monitor")
        anything = served.config.allow_any_coefficient
        request = ReplyRequest(
            kind,
            [
                *additions(served.vectors, own.steer, any_coefficient=anything),
                *caps(served.vectors, own.cap),
            ],
            tuple(served.vectors if own.monitor is None else dict.fromkeys(own.monitor)),
            own.tokens,
            sum(map(len, prompts)),
            bool(body.stream),
            usage,
        )
        lengths = [self._length(len(prompt), longest, _PROMPT_FIELDS[kind]) for prompt in prompts]
        samplings = _samplings(body, lengths)
        n = body.n or 1
        for index in range(n * len(prompts)):
            place = index // n
            job = self._job(request, index, prompts[place], samplings[place], top_logprobs)
            stream = TextStream(served.loaded.chat.decode, body.stops)
            request.choices.append(ReplyChoice(index, place, job, stream, _guard_of(job), messages))
        return request

    def _job(
        self,
        request: ReplyRequest,
        index: int,
        prompt: tuple[int, ...],
        sampling: Sampling,
        top_logprobs: int | None,
    ) -> DecodeJob:
        served = self._served
        actions = tuple(one.action for one in request.applied)
        guard = None
        if served.guards and served.gauge is not None:
            own = purpose(request.applied, served.gauge)
            guard = GuardedRow(served.guards, served.gauge, served.vectors, actions, own)
        return DecodeJob(
            Request(f"{request.id}/{index}", prompt, actions, noise=str(index)),
            sampling,
            read=served.gauge is not None,
            top_logprobs=top_logprobs,
            guard=guard,
        )

    def _length(self, prompt: int, asked: int | None, param: str) -> int:
        """The length limit for a reply to a prompt of `prompt` tokens. Raises ApiError."""
        config, context = self._served.config, self._served.context
        room = context - prompt
        if room < 1 or (asked or 1) > room:
            raise ApiError(
                400,
                f"{plural(prompt, 'prompt token')} and {plural(asked or 1, 'new one')} exceed the "
                f"model's context of {context}",
                code="context_length_exceeded",
                param=param,
            )
        if asked and asked > config.max_tokens:
            raise ApiError(
                400,
                f"this server writes at most {plural(config.max_tokens, 'token')}",
                param="max_tokens",
            )
        return asked or min(room, config.default_tokens, config.max_tokens)


def _check_chat(body: ChatRequest) -> None:
    """Raise ApiError for fields that contradict each other."""
    if body.messages[-1].role not in ("user", "tool"):
        raise ApiError(400, "the last message must be a user's or a tool's", param="messages")
    if len({body.max_tokens, body.max_completion_tokens} - {None}) > 1:
        raise ApiError(400, "give max_tokens or max_completion_tokens", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")


def _samplings(body: Body, lengths: Sequence[int]) -> list[Sampling]:
    """The sampling for each prompt; a request without a seed gets a random one."""
    seed = secrets.randbits(62) if body.seed is None else body.seed
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    return [Sampling(length, temperature, top_p, seed) for length in lengths]


def _guard_of(job: DecodeJob) -> GuardedRow | None:
    return job.guard if isinstance(job.guard, GuardedRow) else None
