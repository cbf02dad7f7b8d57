"""personavec serve"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from personavec.cli import options as shared
from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions
from personavec.errors import UsageError, missing_extra
from personavec.options import between, options
from personavec.results import dump
from personavec.serve.config import LIMITS, ServeConfig
from personavec.terminal import log, print_json

if TYPE_CHECKING:
    import uvicorn

    from personavec.conditions import Condition
    from personavec.model import LoadedModel
    from personavec.model.engine import VllmEngine
    from personavec.monitor.ordinary import Stopped
    from personavec.vectors import PersonaVector

#: The environment variable of the clients' key, unless --api-key-env names another.
_KEY = "PERSONAVEC_API_KEY"


@options()
@dataclass(frozen=True)
class ServeInputs:
    """Which vectors are served, and where."""

    vectors: str = "bundled"
    """Vectors' folders or bundled names, separated by commas; `bundled` is all of these, `none` is
    none."""
    host: str = "127.0.0.1"
    """Address; other than loopback needs a key."""
    port: Annotated[int, between(0, 65535)] = 8000
    """0 takes a free one."""
    api_key_env: str | None = None
    """Environment variable that holds clients' key; default: PERSONAVEC_API_KEY, if set."""
    shutdown_seconds: Annotated[float, LIMITS, between(0)] = 30.0
    """Time that running replies have to finish when the server is told to stop."""


def command(
    *,
    model: ModelOptions = ModelOptions(),
    inputs: ServeInputs = ServeInputs(),
    config: ServeConfig = ServeConfig(),
    engine: EngineOptions = EngineOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Serve a model to OpenAI clients, with readings and steering in every reply.

    Example: `personavec serve --guard 'evil>3sigma: steer -1'`, then any OpenAI client at
    http://127.0.0.1:8000/v1. With `--json` one object with the address is printed once it serves.
    """
    try:
        from personavec.serve import bound, make_server, parse_guard
        from personavec.serve.results import ServeResult
    except ImportError:
        raise missing_extra("serve") from None
    _log_to_stderr(debug=output.debug)
    vectors, reports = _vectors(inputs.vectors)
    guards = {f"guard {text!r}": parse_guard(text, vectors).condition for text in config.guard}
    key = _key(inputs.api_key_env)
    config = replace(config, name=Path(model.model).name or model.model, api_key=key)
    listening, address = bound(inputs.host, inputs.port)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening)
        loaded = model.load()
        vllm = stack.enter_context(_vllm(engine, config.rows, loaded))
        server = make_server(
            loaded,
            vectors,
            config,
            host=inputs.host,
            shutdown_seconds=inputs.shutdown_seconds,
            reports=reports,
            engine=vllm,
        )
        _warn_of_other_models(loaded, list(vectors.values()))
        ordinary = _surveyed(loaded, vectors, guards)
        found = ServeResult(
            address=address, model=config.name, vectors=list(vectors), ordinary=ordinary
        )
        if output.as_json:
            print_json(dump(found), flush=True)
        log(f"serving {config.name} at {address} with {', '.join(vectors) or 'no vectors'}")
        _serve(server, listening)


def _log_to_stderr(*, debug: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("personavec.serve").setLevel(logging.DEBUG if debug else logging.INFO)


def _vectors(given: str) -> tuple[dict[str, PersonaVector], dict[str, Path]]:
    """Vectors by trait, and the reports that lie beside them."""
    from personavec.vectors import bundled_vectors, load_vector

    names = [name.strip() for name in given.split(",") if name.strip()]
    if names == ["none"]:
        names = []
    elif names == ["bundled"]:
        names = bundled_vectors()
    vectors: dict[str, PersonaVector] = {}
    reports: dict[str, Path] = {}
    for name in names:
        vector = load_vector(name)
        if vector.trait in vectors:
            raise UsageError(f"--vectors: two vectors are of the trait '{vector.trait}'")
        vectors[vector.trait] = vector
        report = Path(name) / "report.html"
        if report.is_file():
            reports[vector.trait] = report
    return vectors, reports


def _key(variable: str | None) -> str | None:
    """The clients' key. Raises UsageError for a key that was meant and cannot be used."""
    name = variable or _KEY
    key = os.environ.get(name)
    if key is None and variable is None:
        return None
    if not key:
        raise UsageError(
            f"--api-key-env: the variable {name} is {'empty' if key == '' else 'not set'}, so that "
            "the server would ask for no key; set it to the clients' key"
        )
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise UsageError(
            f"--api-key-env: the key in {name} cannot be sent in a header; use printable ASCII "
            "without spaces around it"
        )
    return key


@contextlib.contextmanager
def _vllm(engine: EngineOptions, rows: int, loaded: LoadedModel) -> Iterator[VllmEngine | None]:
    """vLLM, if it is the engine. Ctrl-C reaches only the server, which lets replies finish."""
    if engine.engine != "vllm":
        yield None
        return
    from multiprocessing import resource_tracker

    from personavec.model.engine import VllmEngine

    # The first process starts the tracker, which would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        given = shared.key_values(engine.engine_arg, "--engine-arg")
        started = VllmEngine(loaded, {"max_num_seqs": rows, **given})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with started:
        yield started


def _warn_of_other_models(loaded: LoadedModel, vectors: Sequence[PersonaVector]) -> None:
    for vector in vectors:
        if warning := vector.other_model_warning(*loaded.identity.lineage):
            log(f"warning: {warning}")


def _surveyed(
    loaded: LoadedModel, vectors: Mapping[str, PersonaVector], guards: Mapping[str, Condition]
) -> list[Stopped]:
    """How often each guard and alarm would act in ordinary dialogues; also logged."""
    from personavec.monitor import survey

    found = survey(loaded, list(vectors.values()), guards)
    for each in found:
        log(f"{'warning: ' if each.too_many else ''}{each}")
    return found


def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until a signal: SIGTERM exits with 0, Ctrl-C with 130."""
    from personavec.serve import run

    # uvicorn raises its signal again after shutdown; SIGTERM would then look like a kill.
    signal.signal(signal.SIGTERM, lambda *_: None)
    interrupted = False
    try:
        run(server, listening)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        log("interrupted; the server has stopped")
        sys.exit(130)
