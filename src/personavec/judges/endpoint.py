"""A language model behind an OpenAI-compatible endpoint: many questions, few at a time, each once.

    endpoint = Endpoint("gpt-4.1-mini")                      # key from $OPENAI_API_KEY
    endpoint = Endpoint("qwen", "http://localhost:8000/v1")  # a local server needs no key

    replies = ask(endpoint, [{"messages": chat("Hello?"), "max_tokens": 8}, ...])
    spec = ask_json(endpoint, messages, schema=SomePydanticModel)

A request is the body of a chat completion without its model. Answers are kept on disk under the
hash of URL, model and body, so that a repeated or continued run asks nothing twice. One request
that fails is a `Reply` that says why and is asked again by the next run; what concerns all of them
(a refused key, a wrong URL, an unknown model) raises EndpointError once a second input has failed
alike. A field that an endpoint does without is left out where it is refused, and `Endpoint.terms`
says so. The key is read from the environment when asking and goes into the request's header
alone. Knows nothing about traits.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import os
import random
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from personavec.data import split_thought
from personavec.errors import EndpointError, StorageError, UsageError, missing_extra
from personavec.progress import Bar, Progress
from personavec.runs import cache_folder
from personavec.wording import plural

OPENAI_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"

#: A request: the body of a chat completion, without `model`.
Request = Mapping[str, Any]
Schema = TypeVar("Schema", bound=BaseModel)
_Result = TypeVar("_Result")

#: Seconds before the second try, doubled for each further one, up to the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
#: A server that asks for a longer pause than this has its request fail instead.
_LONGEST_PAUSE = 300.0
#: Statuses that pass by themselves; 500 and above do too.
_PASSING = {408, 409, 425, 429}
#: Fields without which an answer is still one.
_OPTIONAL = ("seed", "temperature")
#: Under this name the fields that an answer was asked without are kept with it on disk.
_LEFT_OUT = "personavec_left_out"
#: The statuses of an input that a filter stops, and what endpoints say of it.
_FILTERS = {400, 403, 451}
_FILTER = re.compile(
    r"content.{0,20}(filter|polic|moderat|management)|moderat(ion|ed)|flagged|safety|harmful|"
    r"responsible.?ai|prohibited|usage polic",
    re.IGNORECASE,
)
#: What endpoints say of a field that they do not know.
_UNKNOWN = re.compile(
    r"extra.{0,20}(forbidden|not permitted)|(un|not |n't )(supported|recogni[sz]ed|permitted)|"
    r"unknown|unexpected|additional propert",
    re.IGNORECASE,
)
#: Where messages hold thoughts beside their text.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
#: Roughly, in English text.
_CHARACTERS_PER_TOKEN = 4
#: Seconds between two questions, about what it takes to handle a reply.
_APART = 0.002


@dataclass
class Terms:
    """What an endpoint was found to want, so that it is found out once."""

    limit_name: str = "max_tokens"
    """What it calls the most tokens of an answer."""
    left_out: set[str] = field(default_factory=set)
    """Fields that it refuses, without which it is asked."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, whom, and how hard. Holds the name of the key's variable, never the key."""

    model: str
    base_url: str = ""
    """Up to and including `/v1`; default: $OPENAI_BASE_URL, else OpenAI's own."""
    key_variable: str = KEY_VARIABLE
    """The environment variable that holds the key; may be unset for servers that need none."""
    concurrency: int = 16
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds without a byte after which a request is given up and tried again."""
    retries: int = 5
    """Further tries of a request that failed in a way that may pass."""
    cache: Path | None = None
    """Folder that keeps the answers; default: `answers` in the user's cache folder."""
    terms: Terms = field(default_factory=Terms, compare=False, repr=False)

    def __post_init__(self) -> None:
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        object.__setattr__(self, "base_url", url.rstrip("/"))
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"--api-base {self._shown_url()} is no URL; give one like http://localhost:8000/v1"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                f"--api-base {self._shown_url()}: a URL must hold no key or other parameters; "
                f"put the key into ${self.key_variable}"
            )
        if not self.model:
            raise UsageError("no model is named for the endpoint; name one with --api-model")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise UsageError("concurrency must be at least 1, retries 0, and timeout above 0")

    def _shown_url(self) -> str:
        """The URL without what may be a secret in it."""
        return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", self.base_url))

    def identity(self) -> dict[str, Any]:
        """What decides its answers, for manifests and reports."""
        return {"endpoint": self.base_url, "model": self.model}

    def notes(self) -> list[str]:
        """What must be told of its answers."""
        if not self.terms.left_out:
            return []
        fields = " and ".join(sorted(self.terms.left_out))
        return [f"{self._shown_url()} refuses {fields}: {self.model} was asked without."]

    def answers_folder(self) -> Path:
        return self.cache or cache_folder() / "answers"


@dataclass(frozen=True)
class Reply:
    """What came of one request: a chat completion, or why there is none."""

    completion: dict[str, Any] | None
    """The response as the endpoint wrote it."""
    why: str | None = None
    """The reason of a failure, in one line."""
    status: int | None = None
    """The HTTP status of a failure, if it got that far."""
    cached: bool = False
    doubtful: bool = False
    """The failure may be one of all requests."""

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice; only of a request that was answered."""
        assert self.completion is not None
        return self.completion["choices"][0]

    @property
    def text(self) -> str:
        """The answer's text without the thought before it, empty where there is none; only of a
        request that was answered."""
        return split_thought(self._content())[1] or ""

    @property
    def thinks(self) -> bool:
        """Whether it thinks before it answers; only of a request that was answered."""
        return (
            any(self.choice["message"].get(name) for name in _THOUGHTS)
            or split_thought(self._content())[0] is not None
        )

    @property
    def thought(self) -> str | None:
        """What was thought before the answer, in a field of its own or in the text."""
        fields = (self.choice["message"].get(name) for name in _THOUGHTS)
        beside = next((text for text in fields if text and isinstance(text, str)), None)
        return split_thought(self._content())[0] or beside

    @property
    def is_all_thought(self) -> bool:
        """Whether it ended before an answer began; only of a request that was answered."""
        inside = split_thought(self._content())[1] is None
        return inside or (self.thinks and not self._content())

    @property
    def refusal(self) -> str | None:
        """What the endpoint says where the model or a filter declined to answer."""
        if self.completion is None:
            stopped = self.status in _FILTERS and _FILTER.search(self.why or "")
            return self.why if stopped else None
        message = self.choice["message"]
        said = [p.get("refusal") for p in _parts(message.get("content")) if isinstance(p, dict)]
        for refusal in (message.get("refusal"), *said):
            if refusal:
                return _short(str(refusal))
        filtered = self.choice.get("finish_reason") == "content_filter"
        return "stopped by a content filter" if filtered else None

    def _content(self) -> str:
        found = []
        for part in _parts(self.choice["message"].get("content")):
            if isinstance(part, dict) and part.get("type") in (None, "text", "output_text"):
                part = part.get("text")
            found.append(part if isinstance(part, str) else "")
        return "".join(found)


def _parts(content: Any) -> list[Any]:
    """A message's content is a text, or a list of texts and other things."""
    return content if isinstance(content, list) else [content]


@dataclass(frozen=True)
class CostEstimate:
    """What asking would take. Tokens are estimated from characters; the answers' are the most."""

    calls: int
    cached: int
    prompt_tokens: int
    answer_tokens: int

    def cost(self, prompt_price: float, answer_price: float) -> float:
        """At prices for a million tokens, in their currency."""
        return (self.prompt_tokens * prompt_price + self.answer_tokens * answer_price) / 1e6


def total(estimates: Iterable[CostEstimate]) -> CostEstimate:
    """What several things would take together."""
    each = list(estimates)
    return CostEstimate(
        calls=sum(e.calls for e in each),
        cached=sum(e.cached for e in each),
        prompt_tokens=sum(e.prompt_tokens for e in each),
        answer_tokens=sum(e.answer_tokens for e in each),
    )


def unwritten(n_tokens: int) -> str:
    """A text that stands in an estimate for one of so many tokens that is still to be written."""
    return "x" * (n_tokens * _CHARACTERS_PER_TOKEN)


def estimate(endpoint: Endpoint, requests: Sequence[Request]) -> CostEstimate:
    """Count calls and tokens without asking; answers on disk cost nothing."""
    asked = [r for r in requests if _recall(endpoint, r) is None]
    characters = sum(len(message["content"]) for r in asked for message in r["messages"])
    return CostEstimate(
        calls=len(asked),
        cached=len(requests) - len(asked),
        prompt_tokens=characters // _CHARACTERS_PER_TOKEN,
        answer_tokens=sum(r.get("max_tokens", 0) for r in asked),
    )


def ask(
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    label: str = "asking",
    progress: Progress | None = None,
    on_reply: Callable[[int, Reply], None] | None = None,
    inputs: Sequence[Hashable] | None = None,
) -> list[Reply]:
    """One reply a request, in their order.

    `on_reply` gets the number of a request and its reply as soon as it is there, in the order of
    arrival, so that callers can write results as they come. `inputs` says which requests are about
    the same thing; by default, those with the same messages. Raises EndpointError, in one line
    with the remedy, for what concerns all requests: once a second input has failed alike. Answers
    that came before are on disk by then.
    """
    progress = progress or Progress(quiet=True)
    replies: list[Reply | None] = [None] * len(requests)

    def settle(number: int, reply: Reply) -> None:
        replies[number] = reply
        if on_reply is not None:
            on_reply(number, reply)

    with progress.bar(label, len(requests)) as bar:
        missing: dict[Path, list[int]] = {}
        for number, request in enumerate(requests):
            if (known := _recall(endpoint, request)) is not None:
                settle(number, Reply(known, cached=True))
                bar.advance(1)
            else:  # equal requests are one
                missing.setdefault(_path(endpoint, request), []).append(number)
        if missing:
            queue = [
                _Question(requests[n[0]], inputs[n[0]] if inputs else _asked(requests[n[0]]), n)
                for n in missing.values()
            ]
            _run(_ask_all(endpoint, queue, settle, bar))
    return [reply for reply in replies if reply is not None]


def ask_json(
    endpoint: Endpoint,
    messages: Sequence[Mapping[str, str]],
    schema: type[Schema],
    *,
    tries: int = 3,
    max_tokens: int = 8192,
    temperature: float | None = None,
    seed: int | None = None,
    on_unusable: Callable[[str, str], None] | None = None,
) -> Schema:
    """One answer as an instance of a pydantic model.

    The schema goes along as `response_format`, which endpoints with structured outputs enforce;
    their strict mode wants every field required and `extra="forbid"`, and some small models fill
    a text without `max_length` for ever. An endpoint that refuses the format gets the schema in
    words. An answer that does not fit is asked for again, with what was wrong about it, up to
    `tries` answers in all. `on_unusable` gets each one that does not fit, and why. Raises
    EndpointError when none of them fits or the model declines; the answers are then taken off the
    disk, so that the next run asks anew.
    """
    definition = schema.model_json_schema()
    in_words = {
        "role": "user",
        "content": "Reply with one JSON object and nothing else. It must fit this JSON schema:\n"
        + json.dumps(definition, ensure_ascii=False),
    }
    response_format: dict[str, Any] | None = {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "strict": True, "schema": definition},
    }
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    turns: list[Mapping[str, str]] = list(messages)
    problem = ""
    unusable: list[Request] = []
    for _ in range(tries):
        request = _json_request(turns, options, response_format)
        reply = ask(endpoint, [request])[0]
        if reply.status in (400, 422) and response_format is not None:
            response_format, turns = None, [*turns, in_words]
            request = _json_request(turns, options, response_format)
            reply = ask(endpoint, [request])[0]
        if reply.completion is None:
            raise EndpointError(f"{endpoint.model} at {endpoint.base_url}: {reply.why}")
        if refusal := reply.refusal:
            _forget(endpoint, [*unusable, request])
            raise EndpointError(f"{endpoint.model} declines to answer: {refusal}")
        try:
            return schema.model_validate_json(_json_part(reply.text))
        except ValidationError as error:
            problem = _what_is_wrong(error)
        if reply.choice.get("finish_reason") == "length":
            problem = f"it was cut off after {plural(max_tokens, 'token')}; {problem}"
        unusable.append(request)
        if on_unusable is not None:
            on_unusable(reply.text, problem)
        again = f"That answer cannot be used: {problem}. Write the whole corrected JSON object."
        turns = [*messages, in_words, {"role": "assistant", "content": reply.text or "{}"}]
        turns.append({"role": "user", "content": again})
    _forget(endpoint, unusable)
    raise EndpointError(
        f"{endpoint.model} gave no usable JSON in {plural(tries, 'try', 'tries')} ({problem}); "
        "use a larger model, or one with structured outputs"
    )


def _json_request(
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any],
    response_format: dict[str, Any] | None,
) -> Request:
    request = {"messages": [dict(m) for m in messages], **options}
    return request if response_format is None else {**request, "response_format": response_format}


def _json_part(text: str) -> str:
    """The object in a text: models like to fence it or to introduce it."""
    return text[text.find("{") : text.rfind("}") + 1] or text


def _what_is_wrong(error: ValidationError) -> str:
    found = [
        f"{'.'.join(map(str, e['loc'])) or 'the answer'}: {e['msg']}" for e in error.errors()[:5]
    ]
    return "; ".join(found)


# Asking


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass(frozen=True)
class _Question:
    """A request, what it is about, and its numbers: equal requests are asked once."""

    request: Request
    about: Hashable
    numbers: list[int]


def _asked(request: Request) -> str:
    return json.dumps(request["messages"], sort_keys=True)


async def _ask_all(
    endpoint: Endpoint,
    questions: Sequence[_Question],
    settle: Callable[[int, Reply], None],
    bar: Bar,
) -> None:
    """Ask what is missing."""

    def close(question: _Question, reply: Reply) -> None:
        for number in question.numbers:
            settle(number, reply)
        bar.advance(len(question.numbers))

    async with _client(endpoint) as client:
        asker = _Asker(endpoint, client, alone=len({q.about for q in questions}) == 1)
        left = deque(questions)
        # The first goes alone, and so do the next while it is not clear whether all would fail.
        doubtful: list[tuple[_Question, Reply]] = []
        while left:
            question = left.popleft()
            reply = await asker.ask(question)
            if not reply.doubtful:
                close(question, reply)
                break
            doubtful.append((question, reply))
        if asker.works:
            left.extend(question for question, _ in doubtful)
        else:
            for question, reply in doubtful:
                close(question, reply)

        async def work() -> None:
            while left:
                question = left.popleft()
                close(question, await asker.ask(question))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(endpoint.concurrency, len(left))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


def _client(endpoint: Endpoint) -> Any:
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise missing_extra("api") from None
    key = _key(endpoint)
    if not key and endpoint.base_url == OPENAI_URL:
        raise EndpointError(
            f"no key: set ${endpoint.key_variable}, or name its variable with --api-key-env, "
            "or another endpoint with --api-base"
        )
    return AsyncOpenAI(
        api_key=key or "none",
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=0,  # `_Asker` retries: it also knows answers that are no completions
    )


def _key(endpoint: Endpoint) -> str:
    return os.environ.get(endpoint.key_variable, "").strip()


@dataclass(frozen=True)
class _Global:
    """A failure that may be one of all requests."""

    kind: str
    message: str
    """What ends the run where a second input fails in the same way."""
    sure: bool = True
    """It cannot lie in the input: where there is only one, it ends the run as well."""


class _Failed(Exception):
    """A try that failed; `again` says whether another may fare better, after `wait` seconds.

    With `at_once`, the same request is to be sent again in other terms.
    """

    def __init__(
        self,
        why: str,
        status: int | None = None,
        *,
        again: bool = False,
        at_once: bool = False,
        wait: float | None = None,
        of_all: _Global | None = None,
    ):
        super().__init__(why)
        self.why, self.status, self.again, self.wait = why, status, again, wait
        self.at_once, self.of_all = at_once, of_all


class _Asker:
    """Asks with retries; what one request learns of the endpoint, the others use."""

    def __init__(self, endpoint: Endpoint, client: Any, *, alone: bool):
        self.endpoint, self.client = endpoint, client
        self.alone = alone  # is there one input only?
        self.works = False  # has it given a completion?
        self.resume_at = 0.0  # a server that asks for a pause asks all
        self.next_at = 0.0
        self.suspected: dict[str, Hashable] = {}  # the input that first failed in a way of all

    async def ask(self, question: _Question) -> Reply:
        left_out = set(self.endpoint.terms.left_out)
        attempt = 0
        while True:
            await asyncio.sleep(self._wait())
            try:
                completion = await self._try(question.request, left_out)
            except _Failed as failed:
                if failed.at_once:
                    continue
                pause = failed.wait or 0.0
                if not failed.again or attempt == self.endpoint.retries or pause > _LONGEST_PAUSE:
                    doubtful = self._suspect(failed.of_all, question.about)
                    why = self._without_key(failed.why)
                    return Reply(None, why, failed.status, doubtful=doubtful)
                if failed.wait is not None:
                    self.resume_at = max(self.resume_at, time.monotonic() + failed.wait)
                else:
                    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
                    await asyncio.sleep(longest * random.uniform(0.75, 1))
                attempt += 1
            else:
                self.works = True
                self.endpoint.terms.left_out |= left_out
                if left_out:
                    completion = {**completion, _LEFT_OUT: sorted(left_out)}
                _remember(self.endpoint, question.request, completion)
                return Reply(completion)

    def _suspect(self, of_all: _Global | None, about: Hashable) -> bool:
        """Whether a failure may be one of all requests; raises EndpointError where it is."""
        if of_all is None:
            return False
        if (of_all.sure and self.alone) or self.suspected.setdefault(of_all.kind, about) != about:
            raise EndpointError(of_all.message)
        return True

    def _wait(self) -> float:
        """Seconds until the next question may leave.

        Apart, since replies that come at once are handled in step: the questions that follow them
        would all leave late, and at once again.
        """
        now = time.monotonic()
        at = max(now, self.resume_at, self.next_at)
        self.next_at = at + _APART
        return at - now

    async def _try(self, request: Request, left_out: set[str]) -> dict[str, Any]:
        """One call, without some fields. Raises _Failed; adds to `left_out` what is refused."""
        import openai

        body = {"model": self.endpoint.model, **request}
        for name in left_out:
            body.pop(name, None)
        if "max_tokens" in body:  # OpenAI's newer models want its newer name
            body[self.endpoint.terms.limit_name] = body.pop("max_tokens")
        try:
            # Not through `chat.completions.create`: servers know more parameters than it does,
            # and its checks of each message cost as much time as all the rest.
            found = await self.client.post("/chat/completions", cast_to=object, body=body)
        except openai.APIStatusError as error:
            raise await self._refused(
                error.status_code,
                error.body or error.message,
                body,
                left_out,
                _retry_after(error.response.headers),
            ) from None
        except UnicodeEncodeError:
            raise _Failed("the request holds half a character (a lone surrogate)") from None
        except (ValueError, RecursionError):
            raise _Failed("the response is broken JSON", 200, again=True) from None
        except openai.APITimeoutError:
            why = f"no answer within {self.endpoint.timeout:g} s"
            raise _Failed(why, again=True) from None
        except openai.APIConnectionError as error:
            raise self._unreached(error) from None
        if isinstance(found, str):  # JSON that is not declared as such
            found = _json_or_text(found)
        if _key(self.endpoint):
            found = json.loads(self._without_key(json.dumps(found)))
        said = _error_in(found)
        if said is not None and (status := _status_in(said)) is not None:
            raise await self._refused(status, said, body, left_out, None)
        if said is None and _is_completion(found):
            return found
        what = f"answered: {_words(said)}" if said else "is no chat-completions endpoint"
        if self.works:
            raise _Failed(f"the endpoint {what}", 200, again=True)
        message = f"{self.endpoint.base_url} {what}; check --api-base, which usually ends in /v1"
        of_all = _Global("no completion", message, sure=isinstance(found, str))
        raise _Failed(f"the endpoint {what}", 200, of_all=of_all)

    def _unreached(self, error: Any) -> _Failed:
        """A connection that was not made concerns all; one that broke off, this request."""
        cause = error.__cause__
        # By name: the HTTP library under `openai` is not the same in all its versions.
        if "ConnectError" not in {kind.__name__ for kind in type(cause).__mro__}:
            return _Failed(f"the connection broke off ({type(cause).__name__})", again=True)
        message = self._without_key(_short(str(cause)))
        if self.works:
            return _Failed(f"the endpoint is gone ({message})", again=True)
        nobody = (
            f"nobody answers at {self.endpoint.base_url} ({message}); "
            "check --api-base, and that the server runs"
        )
        return _Failed(nobody, of_all=_Global("unreached", nobody))

    async def _refused(
        self,
        status: int,
        answer: Any,
        body: Mapping[str, Any],
        left_out: set[str],
        wait: float | None,
    ) -> _Failed:
        """What an HTTP error means, or an error that a server sent as its answer."""
        said = self._without_key(_words(answer))
        if status in (400, 422):
            if "max_tokens" in body and _wants_newer_limit(str(answer)):
                self.endpoint.terms.limit_name = "max_completion_tokens"
                return _Failed(said, status, at_once=True)
            if (refused := _refused_field(status, str(answer), body, self.works)) is not None:
                left_out.add(refused)
                return _Failed(said, status, at_once=True)
        code = _code(answer)
        of_all = None
        if not (status in _FILTERS and _FILTER.search(f"{code} {said}")):
            of_all = await self._of_all(status, code, said)
        of_one = status not in (401, 402) and code != "insufficient_quota"
        again = of_one and (status in _PASSING or status >= 500)
        return _Failed(f"{status}: {said}", status, again=again, wait=wait, of_all=of_all)

    async def _of_all(self, status: int, code: Any, said: str) -> _Global | None:
        """An HTTP error as one of all requests, if it may be one."""
        endpoint = self.endpoint
        if status == 401 or (status == 403 and not self.works):
            message = (
                f"{endpoint.base_url} refuses the key in ${endpoint.key_variable} ({said}); "
                "set it, or name another variable with --api-key-env"
                if _key(endpoint)
                else f"{endpoint.base_url} wants a key ({said}); set ${endpoint.key_variable}, "
                "or name its variable with --api-key-env"
            )
            return _Global("key", message, sure=status == 401)
        if status == 402 or code == "insufficient_quota":
            return _Global("quota", f"{endpoint.base_url}: {said}; raise the quota, then run again")
        is_named = code == "model_not_found" or endpoint.model in said
        no_model = code == "model_not_found" or re.search(
            r"model.{0,80}(not found|not exist|unknown|invalid model)", said, re.IGNORECASE
        )
        if status in (400, 404) and no_model and (is_named or not self.works):
            message = (
                f"{endpoint.base_url} has no model '{endpoint.model}' ({said}); "
                f"name another with --api-model{await self._offered()}"
            )
            return _Global("model", message, sure=is_named)
        if status in (404, 405) and not self.works:
            message = (
                f"{endpoint.base_url} has no chat completions ({status}: {said}); "
                "check --api-base, which usually ends in /v1"
            )
            return _Global("path", message)
        return None

    async def _offered(self) -> str:
        """The models that the endpoint lists, if it does."""
        import openai

        try:
            names = [model.id for model in (await self.client.models.list()).data]
        except (openai.OpenAIError, AttributeError, TypeError):
            return ""
        return f": {', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else ""

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key that they were sent."""
        key = _key(self.endpoint)
        return text.replace(key, "[key]") if len(key) >= 8 else text


def _is_completion(found: Any) -> bool:
    try:
        return isinstance(found["choices"][0]["message"], dict)
    except (TypeError, KeyError, IndexError):
        return False


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _error_in(found: Any) -> Any:
    """The error that a server sent as its answer, whole or in place of its choice."""
    if not isinstance(found, dict):
        return None
    if found.get("error"):
        return found["error"]
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice.get("error") if isinstance(choice, dict) and choice.get("error") else None


def _status_in(error: Any) -> int | None:
    """The HTTP status that an error names as its code."""
    code = _code(error)
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    return int(code) if re.fullmatch(r"[45]\d\d", str(code)) else None


def _code(error: Any) -> Any:
    """A server's own code for an error, where it gives one."""
    if isinstance(error, list) and error:  # Google wraps errors so
        error = error[0]
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    return error.get("code") if isinstance(error, dict) else None


def _words(error: Any) -> str:
    """An error's own words, in one short line."""
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if isinstance(error, dict):
        inner = error.get("error") or error
        error = inner.get("message") or inner if isinstance(inner, dict) else inner
    text = str(error)
    return "an HTML page" if "<html" in text.lower() else _short(text)


def _refused_field(status: int, said: str, body: Mapping[str, Any], works: bool) -> str | None:
    """The field of a request that an endpoint refuses and that the answer can do without.

    One that says no more than that something is refused means the first of them.
    """
    optional = [name for name in _OPTIONAL if name in body]
    for name in optional:
        if re.search(rf"\b{name}\b", said):
            return name
    says_what = any(re.search(rf"\b{name}", said) for name in body)
    return optional[0] if optional and status == 422 and not works and not says_what else None


def _wants_newer_limit(said: str) -> bool:
    """Whether an endpoint knows no `max_tokens`: it names the newer field, or calls this unknown.

    One that only finds the number too large knows it.
    """
    return "max_completion_tokens" in said or (
        re.search(r"\bmax_tokens\b", said) is not None and _UNKNOWN.search(said) is not None
    )


def _short(text: str, length: int = 300) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_tz(text)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
    except (ValueError, OverflowError):
        return None


# Answers on disk


def _path(endpoint: Endpoint, request: Request) -> Path:
    asked = {"url": endpoint.base_url, "model": endpoint.model, "body": request}
    text = json.dumps(asked, sort_keys=True, ensure_ascii=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    return endpoint.answers_folder() / name[:2] / f"{name}.json"


def _recall(endpoint: Endpoint, request: Request) -> dict[str, Any] | None:
    """The answer on disk; None where there is none or a power cut has damaged it."""
    try:
        found = json.loads(_path(endpoint, request).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not _is_completion(found):
        return None
    endpoint.terms.left_out.update(set(found.get(_LEFT_OUT, ())) & set(_OPTIONAL))
    return found


def _remember(endpoint: Endpoint, request: Request, completion: dict[str, Any]) -> None:
    """Written aside and renamed, so that a kill or another process leaves a whole file or none.

    Not forced to the disk: that would cost more than many an answer, and one that a power cut
    takes is asked for again.
    """
    path = _path(endpoint, request)
    aside = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        try:
            handle = os.open(aside, _NEW, 0o600)
        except FileNotFoundError:
            _make_private(endpoint.answers_folder())
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(aside, _NEW, 0o600)
        with open(handle, "wb") as file:
            file.write(json.dumps(completion).encode())
        os.replace(aside, path)
    except OSError as error:
        raise StorageError(
            f"cannot keep answers in {endpoint.answers_folder()} ({error.strerror}); "
            "name another folder with --cache"
        ) from error


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _make_private(folder: Path) -> None:
    """Make a folder that its owner alone can look into: answers quote the questions."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _forget(endpoint: Endpoint, requests: Sequence[Request]) -> None:
    for request in requests:
        _path(endpoint, request).unlink(missing_ok=True)
