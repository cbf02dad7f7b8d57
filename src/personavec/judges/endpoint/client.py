"""The client of an endpoint: sends a request until it is answered or cannot be.

The retries are ours, not the openai client's: those ignore or cap Retry-After (by version), share
no pause between requests, repeat a spent quota, and miss broken JSON and errors sent with a 200.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from personavec.errors import EndpointError, missing_extra
from personavec.judges.endpoint.cache import remember
from personavec.judges.endpoint.config import OPENAI_URL, Endpoint, Request
from personavec.judges.endpoint.failures import (
    NO_MODEL,
    ErrorReply,
    FailedTry,
    SharedCause,
    error_in,
    message_of,
    retry_after,
    shared_cause,
    shortened,
    status_in,
)
from personavec.judges.endpoint.reply import Completion, Reply, is_completion

if TYPE_CHECKING:
    from openai import APIConnectionError, AsyncOpenAI

#: Seconds before the second try, doubled for each further one, up to the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
#: A request fails if the server asks for a longer pause, in seconds.
_LONGEST_PAUSE = 300.0
#: Seconds between two requests, about the time that it takes to handle a reply.
_SPACING = 0.002


def connect(endpoint: Endpoint) -> AsyncOpenAI:
    """The openai client of an endpoint. Raises EndpointError for a missing key."""
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise missing_extra("api") from None
    if not endpoint.key() and endpoint.base_url == OPENAI_URL:
        raise EndpointError(
            f"missing API key: set ${endpoint.key_variable}, or name its variable with "
            "--api-key-env, or another endpoint with --api-base"
        )
    return AsyncOpenAI(
        api_key=endpoint.key() or "none",
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=0,
    )


class Client:
    """Asks with retries. What one request shows about the endpoint holds for the others."""

    def __init__(self, endpoint: Endpoint, connection: AsyncOpenAI, *, single_input: bool):
        self.endpoint, self.connection = endpoint, connection
        self.works = False
        """The endpoint has given a completion."""
        self._single_input = single_input
        self._paused_until = 0.0  # A pause that the server asks for holds for all requests.
        self._next_at = 0.0
        self._suspected: dict[str, Hashable] = {}  # Kind of cause → the input that first had it.

    async def ask(self, request: Request, about: Hashable) -> Reply:
        """The reply, also to disk. Raises EndpointError for a cause that all requests share."""
        left_out = set(self.endpoint.adaptations.left_out)
        attempt = 0
        while True:
            await asyncio.sleep(self._delay())
            try:
                completion = await self._try(request, left_out)
            except FailedTry as failed:
                if failed.adapted:
                    continue
                if not self._may_retry(failed, attempt):
                    doubtful = self._is_doubtful(failed.cause, about)
                    why = self.endpoint.without_key(failed.why)
                    return Reply(None, why, failed.status, doubtful=doubtful)
                await self._pause(failed, attempt)
                attempt += 1
            else:
                self.works = True
                self.endpoint.adaptations.left_out |= left_out
                return Reply(remember(self.endpoint, request, completion, left_out))

    def _delay(self) -> float:
        """Seconds until the next request may be sent.

        Requests are spaced out to avoid bursts: replies that arrive together would be handled one
        after the other, and the requests that follow them would arrive together again.
        """
        now = time.monotonic()
        at = max(now, self._paused_until, self._next_at)
        self._next_at = at + _SPACING
        return at - now

    def _may_retry(self, failed: FailedTry, attempt: int) -> bool:
        return (
            failed.transient
            and attempt < self.endpoint.retries
            and (failed.wait or 0.0) <= _LONGEST_PAUSE
        )

    async def _pause(self, failed: FailedTry, attempt: int) -> None:
        """Wait as long as the server asks, together with all requests; else back off."""
        if failed.wait is not None:
            self._paused_until = max(self._paused_until, time.monotonic() + failed.wait)
        else:
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
            await asyncio.sleep(longest * random.uniform(0.75, 1))

    def _is_doubtful(self, cause: SharedCause | None, about: Hashable) -> bool:
        """Whether a failure's cause may affect all requests; raises EndpointError if it does."""
        if cause is None:
            return False
        repeated = self._suspected.setdefault(cause.kind, about) != about
        if repeated or (cause.certain and self._single_input):
            raise EndpointError(cause.message)
        return True

    async def _try(self, request: Request, left_out: set[str]) -> Completion:
        """One call. Raises FailedTry; adds the fields that are rejected to `left_out`."""
        body = {"model": self.endpoint.model, **request}
        for name in left_out:
            body.pop(name, None)
        if "max_tokens" in body:
            body[self.endpoint.adaptations.limit_name] = body.pop("max_tokens")
        found = await self._post(body, left_out)
        if isinstance(found, str):  # JSON that is not declared as such.
            found = _json_or_text(found)
        if self.endpoint.key():
            found = json.loads(self.endpoint.without_key(json.dumps(found)))
        error = error_in(found)
        if error is not None and (status := status_in(error)) is not None:
            raise await self._rejected(status, error, body, left_out)
        if error is None and is_completion(found):
            return found
        raise self._no_completion(found, error)

    async def _post(self, body: Mapping[str, Any], left_out: set[str]) -> Any:
        """The JSON or text that the endpoint sends. Raises FailedTry."""
        import openai

        try:
            # Not `chat.completions.create`: it refuses parameters that servers know, and its
            # checks of each message take as long as all the rest.
            return await self.connection.post("/chat/completions", cast_to=object, body=body)
        except openai.APIStatusError as error:
            said, wait = error.body or error.message, retry_after(error.response.headers)
            raise await self._rejected(error.status_code, said, body, left_out, wait) from None
        except UnicodeEncodeError:
            raise FailedTry("the request holds a lone surrogate") from None
        except (ValueError, RecursionError):
            raise FailedTry("the response is broken JSON", 200, transient=True) from None
        except openai.APITimeoutError:
            why = f"no answer within {self.endpoint.timeout:g} s"
            raise FailedTry(why, transient=True) from None
        except openai.APIConnectionError as error:
            raise self._unreached(error) from None

    def _unreached(self, error: APIConnectionError) -> FailedTry:
        """A refused connection may affect all requests; a broken one affects this request."""
        cause = error.__cause__
        # By name, since openai's versions use different HTTP libraries.
        if "ConnectError" not in {kind.__name__ for kind in type(cause).__mro__}:
            return FailedTry(f"the connection broke off ({type(cause).__name__})", transient=True)
        message = self.endpoint.without_key(shortened(str(cause)))
        if self.works:
            return FailedTry(f"the endpoint is gone ({message})", transient=True)
        nobody = (
            f"nobody answers at {self.endpoint.base_url} ({message}); "
            "check --api-base, and that the server is running"
        )
        return FailedTry(nobody, cause=SharedCause("unreached", nobody))

    async def _rejected(
        self,
        status: int,
        body: Any,
        request: Mapping[str, Any],
        left_out: set[str],
        wait: float | None = None,
    ) -> FailedTry:
        """The meaning of an error that the endpoint sent."""
        error = ErrorReply(status, body, self.endpoint.without_key(message_of(body)))
        if status in (400, 422):
            if "max_tokens" in request and error.wants_newer_limit():
                self.endpoint.adaptations.limit_name = "max_completion_tokens"
                return FailedTry(error.said, status, adapted=True)
            if (name := error.rejected_field(request, works=self.works)) is not None:
                left_out.add(name)
                return FailedTry(error.said, status, adapted=True)
        cause = shared_cause(self.endpoint, error, works=self.works)
        if cause is not None and cause.kind == NO_MODEL:
            cause = replace(cause, message=cause.message + await self._offered())
        why, transient = f"{status}: {error.said}", error.is_transient
        return FailedTry(why, status, transient=transient, wait=wait, cause=cause)

    async def _offered(self) -> str:
        """The models that the endpoint lists, if it does."""
        import openai

        try:
            names = [model.id for model in (await self.connection.models.list()).data]
        except (openai.OpenAIError, AttributeError, TypeError):
            return ""
        return f": {', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else ""

    def _no_completion(self, found: Any, error: Any) -> FailedTry:
        """A 200 without a completion: a wrong URL, unless the endpoint has answered before."""
        what = f"answered: {message_of(error)}" if error else "is not a chat-completions endpoint"
        if self.works:
            return FailedTry(f"the endpoint {what}", 200, transient=True)
        message = f"{self.endpoint.base_url} {what}; check --api-base, which usually ends in /v1"
        cause = SharedCause("no completion", message, certain=isinstance(found, str))
        return FailedTry(f"the endpoint {what}", 200, cause=cause)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
