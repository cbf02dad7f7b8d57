"""Serve an application with uvicorn, and stop it gracefully."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import uvicorn

from personavec.errors import PersonavecError, UsageError
from personavec.model import LoadedModel
from personavec.model.engine import VllmEngine
from personavec.serve.app import create_app
from personavec.serve.config import ServeConfig
from personavec.serve.events import let_streams_finish
from personavec.serve.limits import PromptProtocol
from personavec.vectors import PersonaVector


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket at the address, and its URL. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        # Listening now lets clients that connect before the server runs wait.
        found.listen()
    except OSError as error:
        found.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:  # not a valid name for the system call
        found.close()
        raise UsageError(f"--host {host}: this is not the name of a host") from error
    name = f"[{host}]" if ":" in host else host
    return found, f"http://{name}:{found.getsockname()[1]}"


def make_server(
    loaded: LoadedModel,
    vectors: Mapping[str, PersonaVector],
    config: ServeConfig,
    *,
    host: str = "127.0.0.1",
    shutdown_seconds: float = 30.0,
    reports: Mapping[str, Path] | None = None,
    engine: VllmEngine | None = None,
) -> uvicorn.Server:
    """A server that is ready to run; with `engine`, vLLM writes its replies.

    On SIGTERM or Ctrl-C it accepts no more connections and lets running replies finish, for at most
    `shutdown_seconds`. Raises UsageError for an address other than loopback without a key, and the
    errors of `create_app`.
    """
    if not is_loopback(host) and not config.api_key:
        raise UsageError(
            f"--host {host} is reachable from other machines: set an API key in "
            "PERSONAVEC_API_KEY, or in the variable that --api-key-env names, or serve on 127.0.0.1"
        )
    let_streams_finish()
    settings = uvicorn.Config(
        create_app(loaded, vectors, config, reports, engine),
        host=host,
        http=PromptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(shutdown_seconds),
    )
    return uvicorn.Server(settings)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until a signal or `should_exit`. Raises PersonavecError if it does not start."""
    with suppress(SystemExit):  # uvicorn exits if the application does not start
        server.run(sockets=[listening])
    if not server.started:
        raise PersonavecError("the server did not start; the log above says why")


@contextmanager
def serving(
    loaded: LoadedModel,
    vectors: Mapping[str, PersonaVector],
    config: ServeConfig,
    *,
    shutdown_seconds: float = 30.0,
    reports: Mapping[str, Path] | None = None,
    engine: VllmEngine | None = None,
) -> Iterator[tuple[str, uvicorn.Server]]:
    """Serve on a free loopback port in a thread, for the duration of this context.

    Yields the URL and the server, and stops it gracefully at the end. Meanwhile, do not run the
    model elsewhere, since the server's hooks are on it. Raises PersonavecError if the server does
    not start.
    """
    listening, url = bound("127.0.0.1", 0)
    server = make_server(
        loaded,
        vectors,
        config,
        shutdown_seconds=shutdown_seconds,
        reports=reports,
        engine=engine,
    )
    failed: list[PersonavecError] = []

    def target() -> None:
        try:
            run(server, listening)
        except PersonavecError as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    with closing(listening):
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            if failed:
                raise failed[0]
            yield url, server
        finally:
            server.should_exit = True
            thread.join()
