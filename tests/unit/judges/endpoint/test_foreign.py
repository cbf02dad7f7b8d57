"""What other people's software answers: tables of it, and JSON of any shape.

What concerns one input never ends a run; what is an answer is read as one.
"""

import gzip
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import BaseModel

from personavec import TraitSpec
from personavec.errors import EndpointError
from personavec.judges import Answer, ApiRubricJudge, Endpoint, Reply, ask, ask_json, judge_notes

JSON = {"Content-Type": "application/json"}
ANSWERS = [Answer("Why?", f"Answer {i}.") for i in range(4)]


def asked(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


def request(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}


def chat_completion(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "choices": [{**choice, **more}]}


def refused(status: int, error: Any) -> Any:
    return (status, {}, json.dumps(error).encode())


@pytest.fixture
def endpoint(server: Any, tmp_path: Path) -> Endpoint:
    return Endpoint("parrot", server.url, concurrency=4, retries=0, cache=tmp_path / "cache")


@pytest.fixture
def spec() -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": "Odd.", "neg": "Even."}],
            "questions": {"extraction": ["A?", "B?"], "evaluation": ["C?", "D?"]},
            "rubric": "Trait? Q: {question} A: {answer}",
        }
    )


# Answers in many forms

PLAIN = chat_completion({"content": "85"})
READ = {
    "as OpenAI": PLAIN,
    "a list of parts": chat_completion({"content": [{"type": "text", "text": "85"}]}),
    "a list of texts": chat_completion({"content": ["8", "5"]}),
    "parts of Anthropic's": chat_completion(
        {"content": [{"type": "thinking", "thinking": "Is it 12?"}, {"type": "text", "text": "85"}]}
    ),
    "Mistral's thoughts": chat_completion(
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "12?"}]},
                {"type": "text", "text": "85"},
            ]
        }
    ),
    "a thought in the text": chat_completion({"content": "<think>12? 13?</think>\n\n85"}),
    "a thought that the prompt began": chat_completion({"content": "12? 13?\n</think>\n\n85"}),
    "a wrapped answer": chat_completion({"content": "<think>12</think><answer>85</answer>"}),
    "vLLM's reasoning": chat_completion({"content": "85", "reasoning_content": "12? Or 13?"}),
    "Ollama's reasoning": chat_completion({"content": "85", "reasoning": "12?"}),
    "null wherever it may be": {
        **chat_completion({"content": "85", "refusal": None, "tool_calls": None}, logprobs=None),
        **dict.fromkeys(("usage", "error", "model", "system_fingerprint", "created", "id")),
    },
    "null lists": chat_completion(
        {"content": "85"},
        logprobs={"content": [{"token": "85", "logprob": -0.1, "top_logprobs": None}]},
    ),
    "null tokens": chat_completion({"content": "85"}, logprobs={"content": [None]}),
    "lists of nulls": chat_completion(
        {"content": "85"},
        logprobs={"content": [{"token": "85", "top_logprobs": [None, {"token": "8"}]}]},
    ),
    "lists of the old form": chat_completion(
        {"content": "85"}, logprobs={"tokens": ["85"], "top_logprobs": [{"85": -0.1}]}
    ),
    "gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps(PLAIN).encode())),
    "JSON that calls itself a text": (200, {"Content-Type": "text/plain; charset=utf-8"}, PLAIN),
    "a BOM": (200, JSON, b"\xef\xbb\xbf" + json.dumps(PLAIN).encode()),
}


@pytest.mark.parametrize("form", READ)
def test_an_answer_is_read_in_whatever_form_it_comes(
    server: Any, endpoint: Endpoint, spec: TraitSpec, form: str
) -> None:
    """And what the judging model thought is no part of its verdict."""
    server.reply = lambda body, times: READ[form]
    (reply,) = ask(endpoint, [request("0")])
    assert reply.text == "85"
    (score,) = ApiRubricJudge(endpoint).score(spec, ANSWERS[:1])
    assert (score.state, score.trait_score, score.coherence) == ("scored", 85, 85)


@pytest.mark.parametrize(
    "opening",
    [
        {"content": "<think>"},
        {"content": None, "reasoning_content": "Okay"},
        {"content": "", "reasoning": "Okay"},
        {"content": "<"},
    ],
)
def test_a_judge_that_thinks_first_is_sampled_to_the_end_of_its_thought(
    server: Any, endpoint: Endpoint, spec: TraitSpec, opening: dict[str, Any]
) -> None:
    """The lists of its first token say how it thinks, and not what it answers."""
    token = opening["content"] or "Okay"
    lists = {"content": [{"token": token, "top_logprobs": [{"token": token, "logprob": -0.01}]}]}

    def reply(body: dict[str, Any], times: int) -> Any:
        if body["max_tokens"] > 1000:
            return chat_completion({"content": "<think>Not 12, nor 13.</think> 40"})
        begun = opening if body["max_tokens"] == 1 else {"content": "<think>Not 12, n"}
        return chat_completion(begun, finish_reason="length", logprobs=lists)

    server.reply = reply
    (score,) = ApiRubricJudge(endpoint, samples=2).score(spec, ANSWERS[:1])
    assert (score.state, score.trait_score) == ("scored", 40)


def test_an_answer_under_a_schema_may_come_behind_a_thought(
    server: Any, endpoint: Endpoint
) -> None:
    class Person(BaseModel):
        age: int

    thinks = '<think>A schema: {"age": 1}. So {</think>{"age": 36}'
    server.reply = lambda body, times: chat_completion({"content": [{"text": thinks}]})
    assert ask_json(endpoint, request("Who?")["messages"], Person).age == 36


# One input that fails

FILTERED = {
    "OpenRouter's moderation": refused(
        403, {"error": {"code": 403, "message": "Your input was flagged", "metadata": {}}}
    ),
    "Azure's filter": refused(
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's "
                "content management policy.",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    ),
    "a filter after the answer": chat_completion({"content": None}, finish_reason="content_filter"),
    "a part that declines": chat_completion({"content": [{"type": "refusal", "refusal": "No."}]}),
}
FAILED = {
    "403 without a reason": refused(403, {"error": "Forbidden"}),
    "403 and a page": (403, {"Content-Type": "text/html"}, b"<html>Forbidden</html>"),
    "404": refused(404, {"detail": "Not Found"}),
    "413": refused(413, {"message": "too large"}),
    "422 of FastAPI": refused(422, {"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}),
    "Google's list": refused(400, [{"error": {"code": 400, "message": "Bad", "status": "X"}}]),
    "LiteLLM's code": refused(400, {"error": {"message": "Bad", "type": None, "code": "400"}}),
    "an error with 200": {"error": {"message": "Provider returned error", "code": 502}},
    "a status with 200": {"error": {"message": "User not found", "code": "403"}},
    "an error in words": {"error": "no credits left"},
    "an error in the choice": chat_completion({"content": ""}, error={"code": 502, "message": "X"}),
    "choices of null": {"id": "1", "choices": None, "usage": None},
    "no choices": {"id": "1", "choices": []},
    "a choice of null": {"choices": [None]},
    "a message of null": {"choices": [{"message": None}]},
    "a completion of texts": {"choices": [{"text": "85"}]},
    "an empty body": (200, JSON, b""),
    "null": (200, JSON, b"null"),
    "a list": (200, JSON, b"[85]"),
    "a page": (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"),
    "a page as JSON": (200, JSON, b"<html>Welcome</html>"),
    "truncated JSON": (200, JSON, b'{"choices": [{"message": {"con'),
    "truncated gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}" * 99)[:20]),
    "no gzip": (200, {"Content-Encoding": "gzip"}, b'{"choices": []}'),
    "half a character": (200, JSON, b'{"choices": "\xff\xfe"}'),
    "depths": (200, JSON, b"[" * 100_000),
    "a date to wait for": (429, {"Retry-After": "Mon, 99 Foo 99999 99:99:99"}, {"error": "busy"}),
}


@pytest.mark.parametrize("trouble", [*FILTERED, *FAILED])
def test_one_input_never_ends_a_run_even_if_it_is_the_first(
    server: Any, endpoint: Endpoint, spec: TraitSpec, trouble: str
) -> None:
    """The others are scored. What a filter stops is not asked for again; a failure is."""
    bad = (FILTERED | FAILED)[trouble]
    server.reply = lambda body, times: bad if ANSWERS[0].response in asked(body) else PLAIN
    first, *others = ApiRubricJudge(endpoint, samples=2).score(spec, ANSWERS)
    assert [(score.state, score.trait_score) for score in others] == [("scored", 85)] * 3
    assert first.state == ("unscored" if trouble in FILTERED else "failed")
    assert first.why
    assert "\n" not in first.why


#: Failures that cannot lie in an input.
SURE = {"404", "a page"}


@pytest.mark.parametrize("trouble", [name for name in (*FILTERED, *FAILED) if name not in SURE])
def test_an_input_that_is_alone_does_not_end_a_run_either(
    server: Any, endpoint: Endpoint, spec: TraitSpec, trouble: str
) -> None:
    """Both rubrics ask about it, and every sample: they are one input."""
    server.reply = lambda body, times: (FILTERED | FAILED)[trouble]
    (score,) = ApiRubricJudge(endpoint, samples=2).score(spec, ANSWERS[:1])
    assert score.state in ("failed", "unscored")


@pytest.mark.parametrize("trouble", ["403 without a reason", "choices of null", "404", "a page"])
def test_two_inputs_that_fail_alike_end_it_and_two_that_fail_each_in_its_way_do_not(
    server: Any, endpoint: Endpoint, spec: TraitSpec, trouble: str
) -> None:
    server.reply = lambda body, times: FAILED[trouble]
    with pytest.raises(EndpointError, match=r"check --api-base|requires a key"):
        ApiRubricJudge(endpoint).score(spec, ANSWERS)
    assert len({asked(body) for body in server.seen}) == 2
    other = "404" if trouble in ("choices of null", "a page") else "choices of null"
    replies = {"0": FAILED[trouble], "1": FAILED[other]}
    server.reply = lambda body, times: replies.get(asked(body), PLAIN)
    found = ask(endpoint, [request(str(i)) for i in range(4)])
    assert [reply.completion is None for reply in found] == [True, True, False, False]


def test_what_fails_before_the_endpoint_is_known_to_work_is_asked_again(
    server: Any, endpoint: Endpoint
) -> None:
    """A hiccup at the first question costs nothing."""
    trouble = {"error": {"message": "the model is being loaded"}}
    server.reply = lambda body, times: trouble if asked(body) == "0" and not times else PLAIN
    assert [reply.text for reply in ask(endpoint, [request("0"), request("1")])] == ["85", "85"]


KEYS = (
    *("choices", "message", "content", "text", "type", "refusal", "reasoning", "finish_reason"),
    *("logprobs", "token", "logprob", "top_logprobs", "error", "code"),
)
NUMBERS = count()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=VALUES,
    where=st.sampled_from(["whole", "choice", "message", "content", "logprobs", "tokens", "error"]),
)
def test_json_of_any_shape_ends_no_run(
    server: Any, tmp_path: Path, spec: TraitSpec, value: Any, where: str
) -> None:
    """Anywhere in the reply to the first input: the others are scored as if it were not there."""
    bad: Any = {
        "whole": value,
        "choice": {"choices": [value]},
        "message": {"choices": [{"message": value}]},
        "content": chat_completion({"content": value}),
        "logprobs": chat_completion({"content": "85"}, logprobs=value),
        "tokens": chat_completion({"content": "85"}, logprobs={"content": [value]}),
        "error": {"error": value},
    }[where]
    sent = (200, JSON, json.dumps(bad).encode())
    server.reply = lambda body, times: sent if ANSWERS[0].response in asked(body) else PLAIN
    endpoint = Endpoint(f"parrot-{next(NUMBERS)}", server.url, retries=0, cache=tmp_path / "none")
    _, other = ApiRubricJudge(endpoint, samples=1).score(spec, ANSWERS[:2])
    assert (other.state, other.trait_score) == ("scored", 85)


# Fields that are refused

REFUSALS: dict[str, Callable[[str], Any]] = {
    "OpenAI": lambda name: refused(
        400, {"error": {"message": f"Unrecognized request argument supplied: {name}"}}
    ),
    "OpenAI's newer models": lambda name: refused(
        400,
        {
            "error": {
                "message": f"Unsupported value: '{name}' does not support 1 with this model.",
                "param": name,
                "code": "unsupported_value",
            }
        },
    ),
    "FastAPI": lambda name: refused(
        422, {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "input": 0}]}
    ),
    "Mistral": lambda name: refused(
        422, {"object": "error", "message": {"detail": [{"loc": ["body", name], "msg": "Extra"}]}}
    ),
    "Anthropic": lambda name: refused(
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": f"{name}: Extra inputs are not permitted",
            },
        },
    ),
    "LiteLLM": lambda name: refused(
        400,
        {
            "error": {
                "message": f"litellm.UnsupportedParamsError: parrot does not support: ['{name}']"
            }
        },
    ),
    "without a word": lambda name: refused(422, {"error": "Unprocessable Entity"}),
    "with 200": lambda name: {"error": {"code": 422, "message": f"{name} is not allowed"}},
}


@pytest.mark.parametrize("who", REFUSALS)
@pytest.mark.parametrize("names", [("seed",), ("seed", "temperature")], ids=str)
def test_a_field_that_is_refused_is_left_out_once_and_it_is_told(
    server: Any, endpoint: Endpoint, spec: TraitSpec, who: str, names: tuple[str, ...]
) -> None:
    def reply(body: dict[str, Any], times: int) -> Any:
        found = [name for name in names if name in body]
        return REFUSALS[who](found[0]) if found else PLAIN

    server.reply = reply
    judge = ApiRubricJudge(endpoint, samples=2)
    for answers in (ANSWERS[:2], ANSWERS[2:]):  # in two calls, as verbs make them
        assert [score.trait_score for score in judge.score(spec, answers)] == [85, 85]
    assert sum("seed" in body for body in server.seen) == 1
    assert sum("temperature" in body for body in server.seen if "seed" not in body) == (
        1 if "temperature" in names else len(server.seen) - 1
    )
    assert all("messages" in body and "max_tokens" in body for body in server.seen)
    (note,) = judge_notes(judge)
    assert note.startswith(f"{server.url} refuses {' and '.join(names)}")
    # A later run that finds the answers on disk tells the same.
    again = ApiRubricJudge(Endpoint("parrot", server.url, cache=endpoint.cache), samples=2)
    seen = len(server.seen)
    assert [score.trait_score for score in again.score(spec, ANSWERS)] == [85] * 4
    assert len(server.seen) == seen
    assert judge_notes(again) == [note]


def test_an_input_that_is_refused_takes_no_field_from_the_others(
    server: Any, endpoint: Endpoint
) -> None:
    """It talks of the seed; the refusal does not, and leaving it out does not help."""
    trouble = refused(400, {"error": {"message": "Bad prompt: 'what seed, what temperature?'"}})
    server.reply = lambda body, times: trouble if asked(body) == "0" else PLAIN
    replies = ask(endpoint, [request(str(i), seed=0, temperature=1) for i in range(3)])
    assert replies[0] == Reply(None, "400: Bad prompt: 'what seed, what temperature?'", 400)
    assert endpoint.adaptations.left_out == set()
    assert all("seed" in body for body in server.seen if asked(body) != "0")
