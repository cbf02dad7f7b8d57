"""Run a server in the foreground of a terminal: its log, its engine's processes, and signals."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import uvicorn

from personavec.conditions import Condition
from personavec.model import LoadedModel
from personavec.model.engine import VllmEngine
from personavec.monitor import survey
from personavec.monitor.ordinary import OrdinaryCheck
from personavec.serve.server import run
from personavec.terminal import log
from personavec.vectors import PersonaVector


def log_to_stderr(*, debug: bool) -> None:
    """Log to stderr, with times."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("personavec.serve").setLevel(logging.DEBUG if debug else logging.INFO)


@contextmanager
def vllm(loaded: LoadedModel, settings: Mapping[str, Any]) -> Iterator[VllmEngine]:
    """vLLM as the engine. Ctrl-C reaches only the server, which then lets replies finish."""
    # Start the resource tracker first: starting it later would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        started = VllmEngine(loaded, settings)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with started:
        yield started


def surveyed(
    loaded: LoadedModel, vectors: Mapping[str, PersonaVector], guards: Mapping[str, Condition]
) -> list[OrdinaryCheck]:
    """Check in how many ordinary dialogues each guard and alarm would act, and log it.

    A warning is also logged for each vector of another model.
    """
    for vector in vectors.values():
        if warning := vector.other_model_warning(*loaded.identity.lineage):
            log(f"warning: {warning}")
    found = survey(loaded, list(vectors.values()), guards)
    for each in found:
        log(f"{'warning: ' if each.too_many else ''}{each}")
    return found


def serve_until_signal(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until a signal: SIGTERM exits with 0, Ctrl-C with 130."""
    # uvicorn raises its signal again after shutdown, and SIGTERM would then end the process.
    signal.signal(signal.SIGTERM, lambda *_: None)
    interrupted = False
    try:
        run(server, listening)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        log("interrupted; the server has stopped")
        sys.exit(130)
