"""The bodies that clients send, and the error format they get. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
)

from personavec.data.messages import Message, Role

#: Longest list of stop texts, and most of other lists, as in OpenAI's API.
_STOPS, _CHOICES, _TOP_LOGPROBS, _ACTIONS = 4, 8, 20, 16

Text = Annotated[StrictStr, Field(max_length=1_000_000)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Number = Annotated[FiniteFloat, Field(strict=True)]
TokenId = Annotated[StrictInt, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Body):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Body):
    """One message. `developer` is another name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: Name | None = None
    refusal: None = None

    def as_message(self) -> Message:
        """As the chat template takes it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role: Role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content}


class Steer(_Body):
    """Add `coefficient` times the vector at its selected layer, or at `layer`."""

    vector: Name
    coefficient: Number
    layer: Annotated[StrictInt, Field(ge=1)] | None = None


class CapAt(_Body):
    """Hold the projection under a percentile of what neutral prompts' replies have."""

    vector: Name
    percentile: Annotated[Number, Field(gt=50, lt=100)] = 99.0


class Personavec(_Body):
    """What this server takes beyond OpenAI's API.

    `monitor` names the traits to read; all when left out, none when empty. With `tokens` each
    response token's projection comes back too.
    """

    steer: Annotated[list[Steer], Field(max_length=_ACTIONS)] = []
    cap: Annotated[list[CapAt], Field(max_length=_ACTIONS)] = []
    monitor: Annotated[list[Name], Field(max_length=100)] | None = None
    tokens: StrictBool = False


class StreamOptions(_Body):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class ResponseFormat(_Body):
    type: Literal["text"]


class _Common(_Body):
    model: Name
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=_STOPS)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, Any] | None = None
    personavec: Personavec = Personavec()

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server has no penalties and no biases; leave it out")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(_Common):
    """A chat completion's body."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None
    metadata: dict[str, Any] | None = None


class CompletionRequest(_Common):
    """A plain completion's body: the prompt is continued as it stands, without a template."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=_CHOICES)]
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error format."""

    error: ErrorBody


class ApiError(Exception):
    """An error that a client is told, with its status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
