"""One answer as JSON under a pydantic schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from personavec.errors import EndpointError
from personavec.judges.endpoint.asking import ask
from personavec.judges.endpoint.cache import forget
from personavec.judges.endpoint.config import Endpoint, Request
from personavec.judges.endpoint.reply import Reply
from personavec.wording import plural

Schema = TypeVar("Schema", bound=BaseModel)
Turns = Sequence[Mapping[str, str]]


def ask_json(
    endpoint: Endpoint,
    messages: Turns,
    schema: type[Schema],
    *,
    tries: int = 3,
    max_tokens: int = 8192,
    temperature: float | None = None,
    seed: int | None = None,
    on_unusable: Callable[[str, str], None] | None = None,
) -> Schema:
    """One answer as an instance of a pydantic model.

    The request carries the schema as `response_format`, which endpoints with structured outputs
    enforce. Their strict mode requires every field and `extra="forbid"`, and some small models
    fill a text without `max_length` for ever. An endpoint that rejects the format gets the schema
    in words. An answer that does not fit the schema is asked for again, with the errors, up to
    `tries` answers in all; `on_unusable` gets each such answer and its errors. Raises
    EndpointError when none of them fits or the model declines; the answers are then deleted from
    the disk, so that the next run asks anew.
    """
    given = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {name: value for name, value in given.items() if value is not None}
    in_words, formatted = _in_words(schema), True
    turns: Turns = messages
    problem = ""
    asked: list[Request] = []
    for _ in range(tries):
        request = _request(turns, options, schema if formatted else None)
        reply = ask(endpoint, [request])[0]
        if reply.status in (400, 422) and formatted:
            formatted = False
            request = _request([*turns, in_words], options, None)
            reply = ask(endpoint, [request])[0]
        if reply.completion is None:
            raise EndpointError(f"{endpoint.model} at {endpoint.base_url}: {reply.why}")
        asked.append(request)
        if refusal := reply.refusal:
            forget(endpoint, asked)
            raise EndpointError(f"{endpoint.model} declines to answer: {refusal}")
        try:
            return schema.model_validate_json(_json_part(reply.text))
        except ValidationError as error:
            problem = _problem(error, reply, max_tokens)
        if on_unusable is not None:
            on_unusable(reply.text, problem)
        turns = [*messages, in_words, *_correction(reply, problem)]
    forget(endpoint, asked)
    raise EndpointError(
        f"{endpoint.model} gave no usable JSON in {plural(tries, 'try', 'tries')} ({problem}); "
        "use a larger model, or one with structured outputs"
    )


def _in_words(schema: type[BaseModel]) -> dict[str, str]:
    """The schema as a message."""
    definition = json.dumps(schema.model_json_schema(), ensure_ascii=False)
    text = "Reply with one JSON object and nothing else. It must fit this JSON schema:\n"
    return {"role": "user", "content": text + definition}


def _request(turns: Turns, options: Mapping[str, Any], schema: type[BaseModel] | None) -> Request:
    """A request; with a schema, for an endpoint with structured outputs."""
    request = {"messages": [dict(m) for m in turns], **options}
    if schema is None:
        return request
    form = {"name": schema.__name__, "strict": True, "schema": schema.model_json_schema()}
    return {**request, "response_format": {"type": "json_schema", "json_schema": form}}


def _json_part(text: str) -> str:
    """The object in a text: models often fence it or introduce it."""
    return text[text.find("{") : text.rfind("}") + 1] or text


def _problem(error: ValidationError, reply: Reply, max_tokens: int) -> str:
    """Why an answer does not fit the schema, for the model and for people."""
    found = [
        f"{'.'.join(map(str, e['loc'])) or 'the answer'}: {e['msg']}" for e in error.errors()[:5]
    ]
    cut_off = reply.choice.get("finish_reason") == "length"
    if cut_off:
        found.insert(0, f"it was cut off after {plural(max_tokens, 'token')}")
    return "; ".join(found)


def _correction(reply: Reply, problem: str) -> list[dict[str, str]]:
    """The turns that show the model its answer and ask for a corrected one."""
    again = f"That answer cannot be used: {problem}. Write the whole corrected JSON object."
    return [
        {"role": "assistant", "content": reply.text or "{}"},
        {"role": "user", "content": again},
    ]
