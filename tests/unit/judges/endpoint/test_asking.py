"""The client against a scripted endpoint: nothing is lost, nothing is asked twice."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personavec.errors import EndpointError, StorageError, UsageError
from personavec.judges import Endpoint, Reply, ask, estimate

KEY = "sk-a-secret-that-must-not-be-seen"


def request(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}


def asked(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


@pytest.fixture
def parrot(server: Any, chat_completion: Callable[..., Any]) -> Callable[..., Any]:
    """Repeats what it hears."""
    server.reply = lambda body, times: chat_completion(asked(body))
    return server.reply


def without(endpoint: Endpoint, **changes: Any) -> Endpoint:
    return Endpoint(**{**endpoint.__dict__, **changes})


def test_replies_keep_the_order_of_requests_and_come_as_they_arrive(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    """Early requests are answered late."""

    def reply(body: dict[str, Any], times: int) -> Any:
        time.sleep(0.01 * (10 - int(asked(body))))
        return parrot(body, 0)

    server.reply = reply
    came: list[tuple[int, str]] = []
    replies = ask(
        endpoint,
        [request(str(i)) for i in range(10)],
        on_reply=lambda number, reply: came.append((number, reply.text)),
    )
    assert [reply.text for reply in replies] == [str(i) for i in range(10)]
    assert sorted(came) == [(i, str(i)) for i in range(10)]
    assert server.most_under_way <= endpoint.concurrency
    assert server.seen[0]["model"] == "parrot"


def test_the_limit_on_requests_under_way_is_used_and_held(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    """The server answers only when four are under way: after the first, which goes alone."""
    meet = threading.Barrier(4)

    def reply(body: dict[str, Any], times: int) -> Any:
        if asked(body) != "0":
            meet.wait(20)
        return parrot(body, 0)

    server.reply = reply
    ask(endpoint, [request(str(i)) for i in range(13)])
    assert server.most_under_way == 4


def test_what_was_answered_is_not_asked_again(server: Any, endpoint: Endpoint, parrot: Any) -> None:
    requests = [request("a"), request("b"), request("a")]
    first = ask(endpoint, requests)
    assert len(server.seen) == 2  # equal requests are one
    again = ask(endpoint, requests)
    assert len(server.seen) == 2
    assert [r.completion for r in again] == [r.completion for r in first]
    assert all(r.cached for r in again)
    assert estimate(endpoint, requests).calls == 0


def test_another_question_model_or_option_is_another_answer(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    ask(endpoint, [request("a")])
    ask(endpoint, [request("b"), request("a", seed=1), request("a", max_tokens=5)])
    ask(without(endpoint, model="jay"), [request("a")])
    assert len(server.seen) == 5


def test_a_damaged_answer_on_disk_is_asked_for_again(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    ask(endpoint, [request("a")])
    (file,) = (p for p in endpoint.answers_folder().rglob("*.json"))
    file.write_bytes(file.read_bytes()[:20])
    assert ask(endpoint, [request("a")])[0].text == "a"
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {}, {"error": {"message": "overloaded"}}),
        (503, {}, b"<html>busy</html>"),
        (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
        b'{"choices": [{"message": {"con',
        "close",
    ],
    ids=["500", "503", "429", "truncated JSON", "closed connection"],
)
def test_what_passes_is_tried_again(
    server: Any, endpoint: Endpoint, parrot: Any, trouble: Any
) -> None:
    server.reply = lambda body, times: trouble if times < 2 else parrot(body, 0)
    replies = ask(endpoint, [request(str(i)) for i in range(3)])
    assert [reply.text for reply in replies] == ["0", "1", "2"]
    assert len(server.seen) == 9


def test_a_request_that_keeps_failing_loses_no_other_and_is_asked_again_by_the_next_run(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    bad = (500, {}, {"error": {"message": "it is\nburning"}})
    server.reply = lambda body, times: bad if asked(body) == "1" else parrot(body, 0)
    replies = ask(endpoint, [request(str(i)) for i in range(3)])
    assert replies[1] == Reply(None, "500: it is burning", 500)
    assert [replies[0].text, replies[2].text] == ["0", "2"]
    tried = [asked(body) for body in server.seen]
    assert (tried.count("1"), len(tried)) == (endpoint.retries + 1, endpoint.retries + 3)
    server.reply = parrot
    assert [r.text for r in ask(endpoint, [request(str(i)) for i in range(3)])] == ["0", "1", "2"]
    assert len(server.seen) == len(tried) + 1


def test_a_server_that_asks_for_a_pause_gets_it_from_all(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    """Within the pause nothing arrives but what was sent before it was asked for."""
    pause, slack, asked_at = 0.6, 0.15, []

    def reply(body: dict[str, Any], times: int) -> Any:
        if asked(body) == "1" and not times:
            asked_at.append(time.monotonic())
            return (429, {"Retry-After": str(pause)}, {"error": {"message": "slow down"}})
        time.sleep(0.03)
        return parrot(body, 0)

    server.reply = reply
    replies = ask(endpoint, [request(str(i)) for i in range(40)])
    assert [r.text for r in replies] == [str(i) for i in range(40)]
    (begun,) = asked_at
    assert not [at for at in server.arrivals if begun + slack < at < begun + pause]
    assert sum(at >= begun + pause for at in server.arrivals) > 20


def test_a_longer_pause_than_anyone_waits_is_a_failure(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    server.reply = lambda body, times: (429, {"Retry-After": "90000"}, {"error": {"message": "x"}})
    assert ask(endpoint, [request("a")])[0].status == 429
    assert len(server.seen) == 1


def test_a_stalled_response_is_given_up(server: Any, endpoint: Endpoint, parrot: Any) -> None:
    server.reply = lambda body, times: "stall" if asked(body) == "1" else parrot(body, 0)
    replies = ask(without(endpoint, timeout=0.3, retries=1), [request("0"), request("1")])
    assert replies[0].text == "0"
    assert replies[1].completion is None
    assert replies[1].why == "no answer within 0.3 s"


GLOBAL = {
    "rejects the key": (401, {}, {"error": {"message": "who are you"}}),
    "has no model 'parrot'.*name another with --api-model: parrot": (
        404,
        {},
        {"error": {"message": "The model `parrot` does not exist", "code": "model_not_found"}},
    ),
    "has no chat completions.*--api-base": (404, {}, {"detail": "Not Found"}),
    "is not a chat-completions endpoint; check --api-base": (
        200,
        {"Content-Type": "text/html"},
        b"<!doctype html><html><body>Welcome</body></html>",
    ),
    "is not a chat-completions endpoint; check": (200, {}, {"status": "ok"}),
    "answered: no credits left": (200, {}, {"error": "no credits left"}),
    "raise the quota": (429, {}, {"error": {"message": "spent", "code": "insufficient_quota"}}),
}


@pytest.mark.parametrize("message", GLOBAL)
def test_what_concerns_all_ends_the_run_when_a_second_input_fails_alike(
    server: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.reply = lambda body, times: GLOBAL[message]
    with pytest.raises(EndpointError, match=message) as raised:
        ask(endpoint, [request(str(i)) for i in range(20)])
    assert "\n" not in str(raised.value)
    assert [asked(body) for body in server.seen] == ["0", "1"]


def test_a_key_that_is_missing_is_named(server: Any, endpoint: Endpoint) -> None:
    server.reply = lambda body, times: (401, {}, {"error": {"message": "key?"}})
    with pytest.raises(EndpointError, match=r"requires a key.*set \$MY_KEY"):
        ask(without(endpoint, key_variable="MY_KEY"), [request("a")])
    with pytest.raises(EndpointError, match=r"missing API key: set \$MY_KEY"):
        ask(Endpoint("gpt", key_variable="MY_KEY", cache=endpoint.cache), [request("a")])


def test_nobody_answers(endpoint: Endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"nobody answers at .*check --api-base"):
        ask(without(endpoint, base_url=url), [request("a")])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "is not a URL"),
        ("ftp://a/v1", "is not a URL"),
        (f"http://{KEY}@host/v1", "put the key into"),
        (f"http://host/v1?key={KEY}", "put the key into"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        Endpoint("parrot", url)
    assert KEY not in str(raised.value)


def test_answers_are_for_their_owners_eyes_alone(
    server: Any, chat_completion: Callable[..., Any], tmp_path: Path
) -> None:
    """They quote the questions; folders that were there already keep their rights."""
    server.reply = lambda body, times: chat_completion("ok")
    folder = tmp_path / "kept" / "answers"
    before = os.umask(0)
    try:
        ask(Endpoint("parrot", server.url, cache=folder), [request("a"), request("b")])
    finally:
        os.umask(before)
    found = [folder, *folder.rglob("*")]
    assert len(found) > 2
    for path in found:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_cache_that_cannot_be_written(
    server: Any, endpoint: Endpoint, parrot: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="--cache"):
        ask(without(endpoint, cache=tmp_path / "file"), [request("a")])


def test_the_key_reaches_the_header_and_nothing_else(
    server: Any,
    endpoint: Endpoint,
    chat_completion: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server repeats the key in an answer, in a failure and in an error that ends the run."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    repeats = {
        "answer": chat_completion(f"Your key is {KEY}."),
        "failure": (400, {}, {"error": {"message": f"bad key {KEY}"}}),
        "end": (401, {}, {"error": {"message": f"bad key {KEY}"}}),
    }
    server.reply = lambda body, times: repeats[asked(body)]
    replies = ask(endpoint, [request("answer"), request("failure")])
    with pytest.raises(EndpointError) as raised:
        ask(endpoint, [request("end")])
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    said = [*map(repr, replies), repr(raised.value), repr(endpoint), repr(endpoint.identity())]
    said += [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    said += [*capfd.readouterr(), json.dumps(server.seen)]
    assert not [text for text in said if KEY in text]
    assert "[key]" in replies[0].text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, {"error": {"message": "'max_tokens' is not supported; use 'max_completion_tokens'"}}),
        (400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}}),
        (400, {"message": "unknown field max_tokens"}),
        (422, {"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are forbidden"}]}),
        (422, {"error": "Additional properties are not allowed ('max_tokens' was unexpected)"}),
    ],
)
def test_the_newer_name_of_the_limit_is_used_where_the_older_is_refused(
    server: Any, endpoint: Endpoint, parrot: Any, status: int, said: dict[str, Any]
) -> None:
    refused = (status, {}, said)
    server.reply = lambda body, times: refused if "max_tokens" in body else parrot(body, 0)
    replies = ask(endpoint, [request(str(i)) for i in range(4)])
    assert [r.text for r in replies] == ["0", "1", "2", "3"]
    assert sum("max_tokens" in body for body in server.seen) == 1


def test_a_limit_that_is_too_large_keeps_its_name(server: Any, endpoint: Endpoint) -> None:
    """Under the newer name, a server that does not know it would set no limit at all."""
    said = {"error": {"message": "max_tokens is too large: 8192; this model gives at most 4096"}}
    server.reply = lambda body, times: (400, {}, said)
    assert ask(endpoint, [request("a")])[0].completion is None
    assert all("max_completion_tokens" not in body for body in server.seen)


def test_asking_works_where_an_event_loop_runs(
    server: Any, endpoint: Endpoint, parrot: Any
) -> None:
    async def notebook() -> str:
        return ask(endpoint, [request("a")])[0].text

    assert asyncio.run(notebook()) == "a"


SCRIPT = """
import sys
from pathlib import Path
from personavec.judges.endpoint import Endpoint, ask
url, cache = sys.argv[1:]
requests = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(60)]
replies = ask(Endpoint("parrot", url, concurrency=4, cache=Path(cache)), requests)
assert [r.text for r in replies] == [str(i) for i in range(60)]
"""


def test_a_killed_run_asks_nothing_twice_that_was_answered(
    server: Any, parrot: Any, tmp_path: Path
) -> None:
    """All but the four requests under way when the kill came are on disk."""
    half_way = threading.Event()

    def reply(body: dict[str, Any], times: int) -> Any:
        if len(server.seen) >= 30:
            half_way.set()
        time.sleep(0.01)
        return parrot(body, 0)

    server.reply = reply
    command = [sys.executable, "-c", SCRIPT, server.url, str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert half_way.wait(60)
        process.send_signal(signal.SIGKILL)
    kept = len(list(tmp_path.rglob("*.json")))
    first = len(server.seen)
    assert first < 60
    assert kept >= first - 4
    assert subprocess.run(command, check=False).returncode == 0
    assert len(server.seen) - first == 60 - kept
    assert len(list(tmp_path.rglob("*.json"))) == 60
