"""The bodies that clients send, and the format of errors.

Unknown fields are rejected. A null field counts as missing. Only the first error in a body is
reported, such as the first wrong item of a list or the first unknown field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json

from personavec.data import Message, Role, role_of

#: Largest numbers of stop texts, choices and so on, as in OpenAI's API.
_STOPS, _CHOICES, _TOP_LOGPROBS, _ACTIONS = 4, 8, 20, 16
_MESSAGES, _PARTS, _CALLS, _METADATA = 1000, 100, 128, 16
#: Most characters of a field's name in an error.
_NAMED = 100

Text = Annotated[StrictStr, Field(max_length=1_000_000)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Label = Annotated[StrictStr, Field(max_length=1000)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Number = Annotated[FiniteFloat, Field(strict=True)]
TokenId = Annotated[StrictInt, Field(ge=0)]

#: Tags of a union's branches, so that only errors of the intended branch are reported. Their space
#: distinguishes them from names of fields in an error's location.
_TEXT, _PARTED, _TEXTS, _IDS = "as text", "as parts", "as texts", "as tokens"


def _text_or_list(value: Any) -> str | None:
    if isinstance(value, list):
        return _PARTED
    return _TEXT if isinstance(value, str) else None


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, list):
        return _TEXTS if value and isinstance(value[0], str) else _IDS
    return _TEXT if isinstance(value, str) else None


def _either(kind: Any, expected: str) -> Discriminator:
    return Discriminator(
        kind, custom_error_type="wrong_type", custom_error_message=f"Input should be {expected}"
    )


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _meant(cls, given: Any) -> Any:
        """The known fields that are not null, and the first unknown field, for the error."""
        if not isinstance(given, dict):
            return given
        known = {k: v for k, v in given.items() if v is not None and k in cls.model_fields}
        unknown = next((k for k, v in given.items() if v is not None and k not in known), None)
        return known if unknown is None else {**known, unknown[:_NAMED]: None}


class Part(_Body):
    """One part of a message's content; only text is supported."""

    type: Literal["text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Part:
        if (self.refusal if self.type == "refusal" else self.text) is None:
            raise PydanticCustomError(
                "missing", "a part of type '{t}' has its text in '{t}'", {"t": self.type}
            )
        return self

    @property
    def content(self) -> str:
        return (self.refusal if self.type == "refusal" else self.text) or ""


class Function(_Body):
    """A called function, with its arguments as JSON text."""

    name: Name
    arguments: Text = ""

    @property
    def given(self) -> dict[str, object]:
        """The parsed arguments."""
        return from_json(self.arguments) if self.arguments.strip() else {}

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, text: str) -> str:
        try:
            found = from_json(text, allow_inf_nan=False) if text.strip() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError("a call's arguments are the text of a JSON object")
        return text


class ToolCall(_Body):
    """A tool call in an earlier turn. It is only context, since this server calls no tools."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: Function
    index: StrictInt | None = None


def _role(value: Any) -> Any:
    """The role by any of its names; an unknown one is returned unchanged, for the error."""
    return role_of(value) or value


class ChatMessage(_Body):
    """One message. Roles may have any of their usual names, such as `developer` for `system`.

    An assistant's message may be a reply from `model_dump` of OpenAI's client: with tool calls or a
    refusal instead of text, and with thinking in either of the two usual fields.
    """

    role: Annotated[Role, BeforeValidator(_role)]
    content: (
        Annotated[
            Annotated[Text, Tag(_TEXT)]
            | Annotated[
                list[Part], Field(fail_fast=True, min_length=1, max_length=_PARTS), Tag(_PARTED)
            ],
            _either(_text_or_list, "a text or a list of parts"),
        ]
        | None
    ) = None
    name: Name | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=_CALLS)] = []
    function_call: Function | None = None
    tool_call_id: Name | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] = []
    audio: None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        calls = bool(self.tool_calls or self.function_call)
        if self.role != "assistant" and (calls or self.refusal is not None):
            raise PydanticCustomError("role", "only an assistant calls tools or refuses")
        if self.content is None and not calls and self.refusal is None:
            raise PydanticCustomError("missing", "a message needs content")
        return self

    def as_message(self) -> Message:
        """The message in the form of chat templates; a refusal becomes the assistant's text."""
        content = self.content
        if content is None:
            content = self.refusal or ""
        elif not isinstance(content, str):
            content = "".join(part.content for part in content)
        found: Message = {"role": self.role, "content": content}
        calls = [call.function for call in self.tool_calls]
        ids = [call.id for call in self.tool_calls]
        if self.function_call is not None:
            calls, ids = [*calls, self.function_call], [*ids, None]
        if calls:
            found["tool_calls"] = [
                {
                    "id": id or "",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.given},
                }
                for id, call in zip(ids, calls, strict=True)
            ]
        thought = self.reasoning_content or self.reasoning
        if thought and self.role == "assistant":
            found["reasoning_content"] = thought
        if self.role == "tool":
            if self.tool_call_id:
                found["tool_call_id"] = self.tool_call_id
            if self.name:
                found["name"] = self.name
        return found


class Steer(_Body):
    """Add `coefficient` times the vector at its selected layer, or at `layer`."""

    vector: Name
    coefficient: Number
    layer: Annotated[StrictInt, Field(ge=1)] | None = None


class CapAt(_Body):
    """Keep the projection below a percentile of replies to neutral prompts."""

    vector: Name
    percentile: Annotated[Number, Field(gt=50, lt=100)] = 99.0


class Personavec(_Body):
    """This server's extension of OpenAI's API.

    `monitor` names the traits to read; if it is missing, all are read. With `tokens`, the reply
    includes the projection of each response token.
    """

    steer: Annotated[list[Steer], Field(fail_fast=True, max_length=_ACTIONS)] = []
    cap: Annotated[list[CapAt], Field(fail_fast=True, max_length=_ACTIONS)] = []
    monitor: Annotated[list[Name], Field(fail_fast=True, max_length=100)] | None = None
    tokens: StrictBool = False


class StreamOptions(_Body):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class ResponseFormat(_Body):
    type: Literal["text"]


class _Common(_Body):
    """Fields of both routes. Unsupported features are accepted only with their neutral values."""

    model: Name
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=_CHOICES)] | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag(_TEXT)]
            | Annotated[list[Stop], Field(fail_fast=True, max_length=_STOPS), Tag(_PARTED)],
            _either(_text_or_list, "a text or a list of texts"),
        ]
        | None
    ) = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Literal["auto", "default"] | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, object] | None = None
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

    messages: Annotated[
        list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=_MESSAGES)
    ]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None
    metadata: Annotated[dict[str, object], Field(max_length=_METADATA)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: StrictBool | None = None

    @field_validator("tools", "functions")
    @classmethod
    def _no_tools(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server's model is offered no tools; leave it out")
        return value


class CompletionRequest(_Common):
    """A plain completion's body; the prompt is continued without a chat template."""

    prompt: Annotated[
        Annotated[Text, Tag(_TEXT)]
        | Annotated[list[TokenId], Field(fail_fast=True, min_length=1), Tag(_IDS)]
        | Annotated[
            list[Text], Field(fail_fast=True, min_length=1, max_length=_CHOICES), Tag(_TEXTS)
        ],
        _either(_prompt_kind, "a text, a list of texts or a list of token ids"),
    ]
    logprobs: Annotated[StrictInt, Field(ge=0, le=_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error format."""

    error: ErrorBody


class ErrorRecord(TypedDict):
    """`ErrorReply` as JSON."""

    error: dict[str, str | None]


class ApiError(Exception):
    """An error to send to the client, with its HTTP status."""

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
        self.body: ErrorRecord = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


Asked = TypeVar("Asked", bound=_Body)


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """Parse and validate a body. Raises ApiError, which names the first wrong field."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    tags = (_TEXT, _PARTED, _TEXTS, _IDS)
    place = ".".join(str(part) for part in first["loc"] if part not in tags)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this server does not know this field; leave it out"
    elif first["type"] == "model_type":
        message = "Input should be an object"
    raise ApiError(400, f"{place}: {message}" if place else message, param=place or None)
