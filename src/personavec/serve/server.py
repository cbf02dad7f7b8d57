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
from personavec.serve.limits import PromptProtocol
from personavec.serve.replies import Settings
from personavec.vectors import PersonaVector


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens there, and its URL. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        # Clients that come before the server runs wait rather than being refused.
        found.listen()
    except OSError as error:
        found.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}") from error
    except (TypeError, ValueError) as error:  # before the system is asked
        found.close()
        raise UsageError(f"--host {host}: this is no name of a host") from error
    name = f"[{host}]" if ":" in host else host
    return found, f"http://{name}:{found.getsockname()[1]}"


def make_server(
    loaded: LoadedModel,
    vectors: Mapping[str, PersonaVector],
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    shutdown_seconds: float = 30.0,
    reports: Mapping[str, Path] | None = None,
    engine: VllmEngine | None = None,
) -> uvicorn.Server:
    """A server that is ready to run; with `engine` its replies are vLLM's.

    On SIGTERM or Ctrl-C it takes no more connections and finishes what runs, for at most
    `shutdown_seconds`. Raises UsageError for an address other than loopback without a key.
    """
    if not is_loopback(host) and not settings.api_key:
        raise UsageError(
            f"--host {host} is reachable from other machines: set an API key in the variable "
            "that --api-key-env names, or serve on 127.0.0.1"
        )
    config = uvicorn.Config(
        create_app(loaded, vectors, settings, reports, engine),
        host=host,
        http=PromptProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(shutdown_seconds),
    )
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until a signal or `should_exit`. Raises PersonavecError where it does not start."""
    with suppress(SystemExit):  # uvicorn's own, where the application's start fails
        server.run(sockets=[listening])
    if not server.started:
        raise PersonavecError("the server did not start; the log above says why")


@contextmanager
def serving(
    loaded: LoadedModel,
    vectors: Mapping[str, PersonaVector],
    settings: Settings,
    *,
    shutdown_seconds: float = 30.0,
    reports: Mapping[str, Path] | None = None,
    engine: VllmEngine | None = None,
) -> Iterator[tuple[str, uvicorn.Server]]:
    """Serve on loopback from a thread of this process; gives the URL, and stops gracefully.

    It takes a free port. Nothing else may run the model meanwhile: hooks are on it. Raises
    PersonavecError where the server does not start.
    """
    listening, url = bound("127.0.0.1", 0)
    server = make_server(
        loaded,
        vectors,
        settings,
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
