"""Tiny random models of `scripts/tiny_models.py`, and servers whose replies a test writes."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import ARCHITECTURES, TURNS, build, byte_tokenizer
from transformers import PreTrainedTokenizerFast

from personavec import LoadedModel, PersonaVector

_shared = cache(build)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and lose much on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte tokenizer whose template has a system role."""
    return byte_tokenizer(TURNS)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """Each architecture in turn; shared, so tests leave it as it was."""
    return _shared(request.param)


@pytest.fixture(scope="session")
def llama() -> LoadedModel:
    """The tiny Llama alone, where the architecture is beside the point; shared."""
    return _shared("llama")


@pytest.fixture(scope="session")
def fresh() -> Callable[..., LoadedModel]:
    """Builds a model of one's own, to damage; takes an architecture and a kind of template."""
    return build


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The tiny Llama on disk, so that adapters can name it and a second one can be loaded."""
    return tiny_models.saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def random_vector() -> Callable[[LoadedModel], PersonaVector]:
    """A persona vector that fits a model and means nothing; norm about that of its residuals."""
    return tiny_models.random_vector


class ScriptedServer:
    """An endpoint on loopback whose replies a test writes; what a real one never does, it does.

    `reply` takes a request's body and how often that body has come before, and returns a dict
    (sent as JSON), bytes, an HTTP status with headers and either of these, or `CLOSE` or `STALL`.
    """

    CLOSE, STALL = "close", "stall"

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], int], Any] = lambda body, times: completion("Hello.")
        self.seen: list[dict[str, Any]] = []
        self.arrivals: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock, self.released = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    times = server.seen.count(body)
                    server.seen.append(body)
                    server.arrivals.append(time.monotonic())
                    server.headers.append({k.lower(): v for k, v in self.headers.items()})
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                try:
                    self.send(server.reply(body, times))
                except ConnectionError:  # the client was killed or has given up
                    self.close_connection = True
                finally:
                    with server.lock:
                        server.under_way -= 1

            def do_GET(self) -> None:
                self.send({"object": "list", "data": [{"id": "parrot", "object": "model"}]})

            def send(self, reply: Any) -> None:
                status, headers = 200, {"Content-Type": "application/json"}
                if reply == server.CLOSE:
                    self.close_connection = True
                    return
                if isinstance(reply, tuple):
                    status, more, reply = reply
                    headers |= more
                data = json.dumps(reply).encode() if isinstance(reply, dict) else reply
                stalls = data == server.STALL
                data = b'{"choices": [' if stalls else data
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) + 100 * stalls))
                self.end_headers()
                self.wfile.write(data)
                if stalls:
                    self.wfile.flush()
                    server.released.wait(20)
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


def completion(text: str, lists: Sequence[Mapping[str, float]] | None = None) -> dict[str, Any]:
    """A chat completion; `lists` are the probabilities of tokens at each position."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    if lists is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": max(found, key=lambda t: found[t]),
                    "logprob": math.log(max(found.values())),
                    "top_logprobs": [
                        {"token": t, "logprob": math.log(p) if p else -9999.0}
                        for t, p in found.items()
                    ],
                }
                for found in lists
            ]
        }
    return {"id": "1", "object": "chat.completion", "model": "parrot", "choices": [choice]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A scripted endpoint; between tries next to no time passes, and no key is set."""
    from personavec.judges.endpoint import client

    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedServer() as started:
        yield started


@pytest.fixture(scope="session")
def chat_completion() -> Callable[..., dict[str, Any]]:
    """Makes the body of a reply."""
    return completion


@contextmanager
def receiving(failures: int) -> Iterator[tuple[str, list[Any], list[int]]]:
    """A server that fails so many posts first: its address, what it took, every status it gave."""
    taken: list[Any] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 503 if len(statuses) < failures else 200
            statuses.append(status)
            if status == 200:
                taken.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alarms", taken, statuses
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Callable[[int], AbstractContextManager[tuple[str, list[Any], list[int]]]]:
    """A web server to post to, which fails the first so many times."""
    return receiving
