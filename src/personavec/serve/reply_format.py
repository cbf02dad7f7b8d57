"""The replies and chunks that clients receive: OpenAI's format with the field `personavec`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from pydantic import BaseModel

from personavec.serve.requests import PersonavecField, ReplyChoice, ReplyRequest, ReplyToken
from personavec.serve.served import ServedModel
from personavec.serve.text import Vocabulary

_REFUSAL = "This server's guard refused the request before a reply was written."
#: JSON has no minus infinity; OpenAI's API sends this instead.
_LEAST_LOGPROB = -9999.0


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class PlainLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatDelta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    refusal: str


class ChatChoice(TypedDict):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class PlainChoice(TypedDict):
    """A reply of `/v1/completions`, or the part of it in a chunk."""

    index: int
    text: str
    logprobs: PlainLogprobs | None
    finish_reason: str | None


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Head(TypedDict):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class ApiReply(_Head):
    choices: list[ChatChoice] | list[PlainChoice]
    usage: Usage
    personavec: PersonavecField


class ApiChunk(_Head):
    choices: list[ChatChunkChoice] | list[PlainChoice]
    usage: NotRequired[Usage | None]
    """With `include_usage`, None in every chunk except the last."""
    personavec: NotRequired[PersonavecField]


class ModelCard(BaseModel):
    """A model, as OpenAI's API lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "personavec"


class ModelCards(BaseModel):
    """The reply of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def whole_reply(served: ServedModel, request: ReplyRequest, own: PersonavecField) -> ApiReply:
    """The complete reply to a request whose choices have all ended."""
    known = served.vocabulary
    chat = request.kind == "chat"
    return {
        **_head(served, request, "chat.completion" if chat else "text_completion"),
        "choices": [_chat_choice(choice, known) for choice in request.choices]
        if chat
        else [_plain_choice(choice, known) for choice in request.choices],
        "usage": usage_of(request),
        "personavec": own,
    }


def chunk_of(
    served: ServedModel,
    request: ReplyRequest,
    choice: ReplyChoice,
    text: str,
    tokens: Sequence[ReplyToken],
    *,
    first: bool,
    ended: bool,
) -> ApiChunk:
    """A chunk with the next part of one choice, which may be its `first` or its end (`ended`)."""
    known, reason = served.vocabulary, choice.finish_reason if ended else None
    if request.kind == "chat":
        listed = _chat_logprobs(tokens, known) if tokens else None
        delta = _delta(choice, text, first=first, ended=ended)
        return {
            **_head(served, request, "chat.completion.chunk"),
            "choices": [
                {
                    "index": choice.index,
                    "delta": delta,
                    "logprobs": listed,
                    "finish_reason": reason,
                }
            ],
        }
    plain = _plain_logprobs(tokens, known) if tokens else None
    return {
        **_head(served, request, "text_completion"),
        "choices": [
            {"index": choice.index, "text": text, "logprobs": plain, "finish_reason": reason}
        ],
    }


def usage_chunk(served: ServedModel, request: ReplyRequest, own: PersonavecField) -> ApiChunk:
    """The last chunk of a stream that includes usage; it has no choices."""
    kind = "chat.completion.chunk" if request.kind == "chat" else "text_completion"
    return {
        **_head(served, request, kind),
        "choices": [],
        "usage": usage_of(request),
        "personavec": own,
    }


def usage_of(request: ReplyRequest) -> Usage:
    """Token counts of a request over all its choices."""
    reply = sum(len(choice.ids) for choice in request.choices)
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": reply,
        "total_tokens": request.prompt_tokens + reply,
    }


def _head(served: ServedModel, request: ReplyRequest, kind: str) -> _Head:
    return {
        "id": f"{'chatcmpl' if request.kind == 'chat' else 'cmpl'}-{request.id}",
        "object": kind,
        "created": request.created,
        "model": served.name,
        "system_fingerprint": served.loaded.identity.template_hash,
    }


def _chat_choice(choice: ReplyChoice, known: Vocabulary) -> ChatChoice:
    refused = choice.end == "refused"
    asked = choice.job.top_logprobs is not None
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": None if refused else choice.stream.text,
            "refusal": _REFUSAL if refused else None,
        },
        "logprobs": _chat_logprobs(choice.tokens, known) if asked else None,
        "finish_reason": choice.finish_reason,
    }


def _delta(choice: ReplyChoice, text: str, *, first: bool, ended: bool) -> ChatDelta:
    delta: ChatDelta = {"role": "assistant"} if first else {}
    if not ended:
        delta["content"] = text
    elif choice.end == "refused":
        delta["refusal"] = _REFUSAL
    return delta


def _chat_logprobs(tokens: Sequence[ReplyToken], known: Vocabulary) -> ChatLogprobs:
    def entry(id: int, logprob: float) -> TopLogprob:
        return {
            "token": known.spelled(id),
            "logprob": _finite(logprob),
            "bytes": list(known.bytes(id)),
        }

    content: list[TokenLogprob] = [
        {
            **entry(one.token, one.logprob),
            "top_logprobs": [entry(id, logprob) for id, logprob in one.top],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _plain_choice(choice: ReplyChoice, known: Vocabulary) -> PlainChoice:
    asked = choice.job.top_logprobs is not None
    return {
        "index": choice.index,
        "text": choice.stream.text,
        "logprobs": _plain_logprobs(choice.tokens, known) if asked else None,
        "finish_reason": choice.finish_reason,
    }


def _plain_logprobs(tokens: Sequence[ReplyToken], known: Vocabulary) -> PlainLogprobs:
    return {
        "tokens": [known.spelled(one.token) for one in tokens],
        "token_logprobs": [_finite(one.logprob) for one in tokens],
        "top_logprobs": [_by_text(one.top, known) for one in tokens],
        "text_offset": [one.offset for one in tokens],
    }


def _by_text(top: Sequence[tuple[int, float]], known: Vocabulary) -> dict[str, float]:
    """Log-probabilities by text; a second token with the same text is named by its id."""
    found: dict[str, float] = {}
    for id, logprob in top:
        text = known.spelled(id)
        found[f"token_id:{id}" if text in found else text] = _finite(logprob)
    return found


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
