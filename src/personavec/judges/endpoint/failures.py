"""What an error of an endpoint means: for the request, and for all requests.

Endpoints report errors in many forms: as an HTTP status, in the body of a 200, wrapped in lists,
as HTML. These functions read the common ones.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from personavec.judges.endpoint.config import OPTIONAL_FIELDS, Endpoint

#: Statuses of transient errors; those of 500 and above are transient too.
_TRANSIENT = {408, 409, 425, 429}
#: The statuses of an input that a content filter stops, and the words for it.
_FILTER_STATUSES = {400, 403, 451}
_FILTER = re.compile(
    r"content.{0,20}(filter|polic|moderat|management)|moderat(ion|ed)|flagged|safety|harmful|"
    r"responsible.?ai|prohibited|usage polic",
    re.IGNORECASE,
)
#: The words for a field that the endpoint does not know.
_UNKNOWN = re.compile(
    r"extra.{0,20}(forbidden|not permitted)|(un|not |n't )(supported|recogni[sz]ed|permitted)|"
    r"unknown|unexpected|additional propert",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model.{0,80}(not found|not exist|unknown|invalid model)",
    re.IGNORECASE,
)
#: The kind of the cause whose message may name the models that the endpoint offers.
NO_MODEL = "model"


@dataclass(frozen=True)
class SharedCause:
    """A cause that may make all requests fail, such as an invalid key."""

    kind: str
    """Two inputs that fail with a cause of the same kind end the run."""
    message: str
    """The error of the run, with its remedy."""
    certain: bool = True
    """The cause cannot be the input: a run with a single input ends too."""


class FailedTry(Exception):
    """One try of a request that failed."""

    def __init__(
        self,
        why: str,
        status: int | None = None,
        *,
        transient: bool = False,
        adapted: bool = False,
        wait: float | None = None,
        cause: SharedCause | None = None,
    ):
        super().__init__(why)
        self.why, self.status = why, status
        self.transient = transient
        """Another try may succeed, after `wait` seconds if the server asked for a pause."""
        self.adapted = adapted
        """The request is to be sent again at once, adapted to the endpoint."""
        self.wait, self.cause = wait, cause


@dataclass(frozen=True)
class ErrorReply:
    """An error that an endpoint sent, with an HTTP status or in the body of a 200."""

    status: int
    body: Any
    said: str
    """The error's message in one short line, without the key."""

    @property
    def code(self) -> Any:
        """The endpoint's own code for it, if it gives one."""
        return _code(self.body)

    @property
    def is_transient(self) -> bool:
        """Whether another try may succeed; a spent quota and an invalid key remain."""
        remains = self.status in (401, 402) or self.code == "insufficient_quota"
        return not remains and (self.status in _TRANSIENT or self.status >= 500)

    def wants_newer_limit(self) -> bool:
        """Whether it rejects the field `max_tokens`, not merely a number that is too large."""
        text = str(self.body)
        return "max_completion_tokens" in text or (
            re.search(r"\bmax_tokens\b", text) is not None and _UNKNOWN.search(text) is not None
        )

    def rejected_field(self, request: Mapping[str, Any], *, works: bool) -> str | None:
        """The optional field that it rejects.

        A 422 without a reason means the first optional field, unless the endpoint has answered
        such a request before.
        """
        text = str(self.body)
        optional = [name for name in OPTIONAL_FIELDS if name in request]
        for name in optional:
            if re.search(rf"\b{name}\b", text):
                return name
        has_reason = any(re.search(rf"\b{name}", text) for name in request)
        guessed = optional and self.status == 422 and not works and not has_reason
        return optional[0] if guessed else None


def is_filtered(status: int | None, text: str) -> bool:
    """Whether an error says that a content filter stopped the input."""
    return status in _FILTER_STATUSES and _FILTER.search(text) is not None


def shared_cause(endpoint: Endpoint, error: ErrorReply, *, works: bool) -> SharedCause | None:
    """The cause that the error may share with all requests.

    `works` says whether the endpoint has answered before: then a wrong URL is not the cause.
    """
    if is_filtered(error.status, f"{error.code} {error.said}"):
        return None
    url, said = endpoint.base_url, error.said
    if error.status == 401 or (error.status == 403 and not works):
        return SharedCause("key", _key_message(endpoint, said), certain=error.status == 401)
    if error.status == 402 or error.code == "insufficient_quota":
        return SharedCause("quota", f"{url}: {said}; raise the quota, then run again")
    unknown_code = error.code == "model_not_found"
    named = unknown_code or endpoint.model in said
    no_model = unknown_code or _NO_MODEL.search(said) is not None
    if error.status in (400, 404) and no_model and (named or not works):
        message = f"{url} has no model '{endpoint.model}' ({said}); name another with --api-model"
        return SharedCause(NO_MODEL, message, certain=named)
    if error.status in (404, 405) and not works:
        message = (
            f"{url} has no chat completions ({error.status}: {said}); "
            "check --api-base, which usually ends in /v1"
        )
        return SharedCause("path", message)
    return None


def _key_message(endpoint: Endpoint, said: str) -> str:
    if endpoint.key():
        return (
            f"{endpoint.base_url} rejects the key in ${endpoint.key_variable} ({said}); "
            "set it, or name another variable with --api-key-env"
        )
    return (
        f"{endpoint.base_url} requires a key ({said}); set ${endpoint.key_variable}, "
        "or name its variable with --api-key-env"
    )


def error_in(found: Any) -> Any:
    """The error that a server sent in the body of a 200, as a whole or in place of its choice."""
    if not isinstance(found, dict):
        return None
    if found.get("error"):
        return found["error"]
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice.get("error") if isinstance(choice, dict) and choice.get("error") else None


def status_in(error: Any) -> int | None:
    """The HTTP status that an error gives as its code."""
    code = _code(error)
    if isinstance(code, bool) or not isinstance(code, int | str):
        return None
    return int(code) if re.fullmatch(r"[45]\d\d", str(code)) else None


def _code(error: Any) -> Any:
    if isinstance(error, list) and error:  # Google wraps errors in a list.
        error = error[0]
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    return error.get("code") if isinstance(error, dict) else None


def message_of(error: Any) -> str:
    """An error's message, in one short line."""
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if isinstance(error, dict):
        inner = error.get("error") or error
        error = inner.get("message") or inner if isinstance(inner, dict) else inner
    text = str(error)
    return "an HTML page" if "<html" in text.lower() else shortened(text)


def shortened(text: str, length: int = 300) -> str:
    """A text in one line, without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def retry_after(headers: Mapping[str, str]) -> float | None:
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
