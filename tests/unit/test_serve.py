"""The server as clients see it: a tiny model behind real sockets and the official client."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from personavec import LoadedModel, PersonaVector
from personavec.drift import Ordinary, Rule
from personavec.errors import UsageError
from personavec.model.chat import chat
from personavec.model.engine.base import Request, Sampling
from personavec.model.engine.hf import generate_batch
from personavec.model.projecting import project_tokens
from personavec.model.steering import Action, Cap, Steering
from personavec.readings import gauge, read_turn
from personavec.serve import limits, run
from personavec.serve.guards import parse_guard
from personavec.serve.replies import Settings
from personavec.serve.run import make_server

ASK = chat("How are you today?")
GREEDY: dict[str, Any] = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 12}


class Running:
    """A server in a thread, and its service for looking inside."""

    def __init__(self, server: Any, url: str):
        self.server, self.url = server, url
        self.service = server.config.app.state.service
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def post(self, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def idle(self) -> bool:
        """Wait until nothing runs; False if something stays."""
        for _ in range(600):
            worker = self.service.worker
            if not (worker.open or worker.running or worker.waiting):
                return True
            time.sleep(0.05)
        return False


@contextmanager
def serving(
    loaded: LoadedModel, vectors: dict[str, PersonaVector], **settings: Any
) -> Iterator[Running]:
    given = Settings(name="tiny", **settings)
    with run.serving(loaded, vectors, given, shutdown_seconds=20) as (url, server):
        running = Running(server, url)
        with running.client:
            yield running


@pytest.fixture
def served(fresh: Callable[..., LoadedModel]) -> LoadedModel:
    """The model that is served, which nothing else may run meanwhile; `llama` has its weights."""
    return fresh()


@pytest.fixture(scope="module")
def vectors(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector]
) -> dict[str, PersonaVector]:
    return {trait: random_vector(llama, layer, trait) for trait, layer in (("bold", 2), ("shy", 3))}


@pytest.fixture(scope="module")
def running(
    fresh: Callable[..., LoadedModel], vectors: dict[str, PersonaVector]
) -> Iterator[Running]:
    with serving(fresh(), vectors, max_rows=4, queue_size=100) as started:
        yield started


def greedy(loaded: LoadedModel, messages: Any = ASK, *actions: Action, tokens: int = 12) -> str:
    request = Request("r", tuple(loaded.chat.prompt_ids(messages)), actions)
    [found] = generate_batch(loaded, [request], Sampling(tokens, 0.0))
    return loaded.chat.decode(found.response_ids)


def test_a_reply_is_the_models_and_carries_readings(
    running: Running, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """The same readings as those of the conversation read offline."""
    reply = running.client.chat.completions.create(**GREEDY)
    text = reply.choices[0].message.content
    assert text == greedy(llama)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.prompt_tokens == len(llama.chat.prompt_ids(ASK))
    assert reply.usage.completion_tokens == 12
    assert {"bold", "shy"} == {r["trait"] for r in said_of(reply)["readings"]}


def said_of(reply: Any, index: int = 0) -> dict[str, Any]:
    return reply.model_extra["personavec"]["choices"][index]


def test_readings_are_those_of_the_text_read_offline(
    running: Running, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """Of the same tokens, sampled with the same noise, in one forward of the whole text."""
    prompt = tuple(llama.chat.prompt_ids(ASK))
    [sampled] = generate_batch(llama, [Request("0", prompt)], Sampling(12, 0.7, seed=3))
    own = gauge([vectors["shy"]], llama)
    text = np.array([*prompt, *sampled.response_ids], dtype=np.int32)
    [values] = project_tokens(llama.model, [text], own.directions)
    last = len(prompt) - 1
    [expected] = read_turn(
        own, 1, prompt_last=values[last], response=values[last + 1 :], tokens=True
    )
    reply = running.client.chat.completions.create(
        **{**GREEDY, "temperature": 0.7, "seed": 3},
        extra_body={"personavec": {"tokens": True, "monitor": ["shy"]}},
    )
    assert reply.choices[0].message.content == llama.chat.decode(sampled.response_ids)
    [found] = said_of(reply)["readings"]
    assert (found["trait"], found["turn"], found["layer"]) == ("shy", 1, 3)
    assert found["prompt_last"] == pytest.approx(expected.prompt_last, abs=1e-3)
    assert found["response_mean_sigma"] == pytest.approx(expected.response_mean_sigma, abs=1e-3)
    assert found["tokens"] == pytest.approx(expected.tokens, abs=1e-3)
    assert len(said_of(reply)["tokens"]) == len(found["tokens"]) == 12


def test_a_stream_says_the_same(running: Running, llama: LoadedModel) -> None:
    whole = running.client.chat.completions.create(**GREEDY)
    chunks = list(
        running.client.chat.completions.create(
            **GREEDY, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert said_of(chunks[-1])["readings"] == said_of(whole)["readings"]


def test_two_streamed_choices_stay_apart(running: Running) -> None:
    asked = {**GREEDY, "temperature": 1.0, "seed": 5, "n": 2}
    whole = running.client.chat.completions.create(**asked)
    texts = ["", ""]
    for chunk in running.client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert len(chunk.model_extra["personavec"]["choices"]) == 2


def test_a_stop_text_cuts_the_reply_before_it(running: Running, llama: LoadedModel) -> None:
    full = greedy(llama)
    stop = full[5:7]
    reply = running.client.chat.completions.create(**GREEDY, stop=stop)
    assert reply.choices[0].message.content == full[: full.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    streamed = running.client.chat.completions.create(**GREEDY, stop=[stop], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == reply.choices[0].message.content


def test_logprobs(running: Running) -> None:
    reply = running.client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
    content = reply.choices[0].logprobs.content
    assert len(content) == 12
    for entry in content:
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[1].logprob <= entry.logprob <= 0


def test_plain_completions(running: Running, llama: LoadedModel) -> None:
    ids = llama.tokenizer("Once upon")["input_ids"]
    [expected] = generate_batch(llama, [Request("r", tuple(ids))], Sampling(8, 0.0))
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 8}
    for prompt in ("Once upon", ids, ["Once upon", "Once upon"]):
        reply = running.client.completions.create(**asked, prompt=prompt)
        assert {c.text for c in reply.choices} == {llama.chat.decode(expected.response_ids)}


def test_steering_is_per_request_and_within_the_coherent_range(
    running: Running, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """The range of these vectors is -1 to 1.5; a request for more gets that, and is told."""
    bold = vectors["bold"]
    reply = running.client.chat.completions.create(
        **GREEDY, extra_body={"personavec": {"steer": [{"vector": "bold", "coefficient": 9}]}}
    )
    expected = greedy(llama, ASK, Steering(2, bold.direction(), 1.5))
    assert reply.choices[0].message.content == expected != greedy(llama)
    [action] = reply.model_extra["personavec"]["actions"]
    assert action == {"vector": "bold", "layer": 2, "coefficient": 1.5, "asked": 9.0}


def test_a_cap_holds_the_reply_under_its_line(
    running: Running, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """At a percentile of the neutral replies' projections, taken as normal."""
    bold = vectors["bold"]
    reply = running.client.chat.completions.create(
        **GREEDY, extra_body={"personavec": {"cap": [{"vector": "bold", "percentile": 60}]}}
    )
    mean, spread = bold.neutral_response_mean[2].tolist()
    cap = Cap(2, bold.direction(), mean + spread * NormalDist().inv_cdf(0.6))
    expected = greedy(llama, ASK, cap)
    assert reply.choices[0].message.content == expected != greedy(llama)
    [action] = reply.model_extra["personavec"]["actions"]
    assert action == {"vector": "bold", "percentile": 60.0, "layer": 2, "of": "replies"}


def test_an_alarm_reaches_the_webhook(
    served: LoadedModel, vectors: dict[str, PersonaVector], receiver: Any
) -> None:
    """Limits that every reply exceeds; the reply comes with its alarm, and so does the post."""
    ordinary = Ordinary(conversation=Rule(0.5, -1000.0), server=Rule(0.05, 1000.0))
    bold = replace(vectors["bold"], ordinary=ordinary)
    with (
        receiver(failures=1) as (url, taken, _),
        serving(served, {"bold": bold}, webhook=url) as running,
    ):
        reply = running.client.chat.completions.create(**GREEDY)
        for _ in range(100):
            if taken:
                break
            time.sleep(0.1)
    [posted] = taken
    assert (posted["alarm"]["trait"], posted["alarm"]["scope"]) == ("bold", "conversation")
    assert said_of(reply)["alarms"] == [posted["alarm"]]


BAD: list[tuple[Any, int]] = [
    ({**GREEDY, "model": "other"}, 404),
    ({**GREEDY, "messages": []}, 400),
    ({**GREEDY, "messages": "hello"}, 400),
    ({**GREEDY, "messages": [{"role": "wizard", "content": "hello"}]}, 400),
    ({**GREEDY, "messages": [*ASK, {"role": "assistant", "content": "hi"}]}, 400),
    ({**GREEDY, "colour": "red"}, 400),
    ({**GREEDY, "temperature": -1}, 400),
    ({**GREEDY, "max_tokens": 100_000}, 400),
    ({**GREEDY, "max_tokens": True}, 400),
    ({**GREEDY, "messages": chat("word " * 2000)}, 400),
    ({**GREEDY, "personavec": {"steer": [{"vector": "../bold", "coefficient": 1}]}}, 400),
    ({**GREEDY, "personavec": {"steer": [{"vector": "bold", "coefficient": "1"}]}}, 400),
    ({**GREEDY, "personavec": {"steer": [{"vector": "bold", "coefficient": 1, "layer": 9}]}}, 400),
    ({**GREEDY, "personavec": {"monitor": ["evil"]}}, 400),
    ({**GREEDY, "frequency_penalty": 1.0}, 400),
    ({**GREEDY, "top_logprobs": 3}, 400),
    ([], 400),
    (None, 400),
]


@pytest.mark.parametrize(("body", "status"), BAD)
def test_bad_bodies_get_openais_error_format(running: Running, body: Any, status: int) -> None:
    reply = running.post(body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


RAW = [
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    json.dumps(GREEDY).replace('"max_tokens": 12', '"seed": 1e999').encode(),
    json.dumps(
        {**GREEDY, "personavec": {"steer": [{"vector": "bold", "coefficient": float("nan")}]}}
    ).encode(),
    json.dumps(GREEDY).replace("today", "\\ud800").encode(),
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_bad_json(running: Running, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{running.url}/v1/chat/completions", content=raw, headers=headers)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]


def test_other_refusals(running: Running) -> None:
    url = f"{running.url}/v1/chat/completions"
    huge = b'{"model": "' + b"x" * (1 << 20) + b'"}'
    as_json = {"Content-Type": "application/json"}
    assert httpx.post(url, content=huge, headers=as_json).status_code == 413
    assert httpx.post(url, content=iter([huge]), headers=as_json).status_code == 413
    assert httpx.post(url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{running.url}/nowhere").status_code == 404
    other = httpx.get(f"{running.url}/healthz", headers={"Host": "evil.example"})
    assert other.status_code == 403
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        running.client.chat.completions.create(**{**GREEDY, "model": "gpt-4"})
    with pytest.raises(openai.BadRequestError, match="has no vector 'evil'"):
        running.client.chat.completions.create(
            **GREEDY, extra_body={"personavec": {"steer": [{"vector": "evil", "coefficient": 1}]}}
        )


def test_a_full_queue_says_when_to_come_back(
    served: LoadedModel, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """64 clients at once on two rows and ten places: each is served rightly or sent away."""
    expected = greedy(llama)
    with serving(served, vectors, max_rows=2, queue_size=10) as running:

        async def one(client: httpx.AsyncClient) -> httpx.Response:
            return await client.post(f"{running.url}/v1/chat/completions", json=GREEDY)

        async def all_at_once() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=60) as client:
                return await asyncio.gather(*(one(client) for _ in range(64)))

        replies = asyncio.run(all_at_once())
        assert {reply.status_code for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status_code == 200:
                assert reply.json()["choices"][0]["message"]["content"] == expected
            else:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()["error"]["code"] == "queue_full"
        assert running.idle()


def test_clients_that_leave_free_their_places(running: Running, llama: LoadedModel) -> None:
    """A hundred leave in mid-stream, some before a reply that is not streamed."""
    long = {**GREEDY, "max_tokens": 900}
    for number in range(100):
        if number % 10:
            with httpx.stream(
                "POST", f"{running.url}/v1/chat/completions", json={**long, "stream": True}
            ) as reply:
                next(reply.iter_lines())
        else:
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{running.url}/v1/chat/completions", json=long, timeout=0.05)
    assert running.idle()
    assert running.client.chat.completions.create(**GREEDY).choices[0].message.content == greedy(
        llama
    )


def test_a_time_out_frees_its_place(served: LoadedModel, vectors: dict[str, PersonaVector]) -> None:
    with serving(served, vectors, timeout=0.05) as running:
        reply = running.post({**GREEDY, "max_tokens": 900})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        assert running.idle()


def test_metrics_are_prometheus_text(running: Running) -> None:
    running.client.chat.completions.create(**GREEDY)
    text = httpx.get(f"{running.url}/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["personavec_requests_total", "/v1/chat/completions", "200"] >= 1
    assert found["personavec_tokens_total", "reply"] >= 12
    assert ("personavec_drift_level", "bold") in found


def test_a_key_guards_everything_but_health(
    served: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    with serving(served, vectors, api_key="secret") as running:
        for key, status in (("secret", 200), ("secret2", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            for path in ("/v1/models", "/metrics", "/v1/personavec/vectors"):
                assert httpx.get(running.url + path, headers=headers).status_code == status
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            running.client.models.list()
    with pytest.raises(UsageError, match="reachable from other machines"):
        make_server(served, vectors, Settings(name="tiny"), host="0.0.0.0")


def test_guards_act_on_the_forecast_and_say_so(
    served: LoadedModel, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    """Every forecast is above -1000 sigma; the steered reply is as if a client had asked for it."""
    bold = vectors["bold"]
    texts = {
        "steer": greedy(llama, ASK, Steering(2, bold.direction(), -1.0)),
        "refuse": None,
    }
    for action, expected in (("steer -1", texts["steer"]), ("refuse", texts["refuse"])):
        guard = parse_guard(f"bold>-1000sigma: {action}", vectors)
        with serving(served, vectors, guards=(guard,)) as running:
            reply = running.client.chat.completions.create(**GREEDY)
            assert reply.choices[0].message.content == expected
            [acted] = said_of(reply)["guards"]
            assert acted["did"] == action.split()[0]
            assert (reply.choices[0].finish_reason == "content_filter") == (action == "refuse")


@pytest.mark.parametrize(
    "text", ["bold>3sigma", "bold>3sigma: sing", "evil>3sigma: cap", "bold>3: steer 9"]
)
def test_guards_that_cannot_be_meant(text: str, vectors: dict[str, PersonaVector]) -> None:
    with pytest.raises(UsageError):
        parse_guard(text, vectors)


def test_slow_clients_are_closed(
    served: LoadedModel, vectors: dict[str, PersonaVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that never ends its headers, sending a byte now and then."""
    monkeypatch.setattr(limits, "HEADER_SECONDS", 0.5)
    with serving(served, vectors) as running:
        port = int(running.url.rsplit(":", 1)[1])
        with closing(socket.create_connection(("127.0.0.1", port))) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
            slow.settimeout(0.1)
            for _ in range(200):
                try:
                    if slow.recv(1) == b"":
                        break
                except TimeoutError:
                    slow.sendall(b"X")
                except ConnectionError:
                    break
            else:
                pytest.fail("the connection stays open")


def test_shutting_down_finishes_what_runs(
    served: LoadedModel, llama: LoadedModel, vectors: dict[str, PersonaVector]
) -> None:
    found: list[httpx.Response] = []
    with serving(served, vectors) as running:
        asked = {**GREEDY, "max_tokens": 200}
        thread = threading.Thread(target=lambda: found.append(running.post(asked)))
        thread.start()
        while not running.service.worker.open:
            time.sleep(0.001)
    thread.join()
    assert found[0].status_code == 200
    assert found[0].json()["choices"][0]["message"]["content"] == greedy(llama, tokens=200)


def test_whatever_the_document_allows_is_answered_as_it_says(running: Running) -> None:
    """Of every route: no server error, and statuses, types and bodies that it declares."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    few = settings(
        max_examples=6, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.add(operation.path)

        @few
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        answered()
    assert seen == {
        "/healthz",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/personavec/alarms",
        "/v1/personavec/vectors",
    }


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
