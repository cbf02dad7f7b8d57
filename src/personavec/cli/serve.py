"""personavec serve"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personavec.cli import options
from personavec.cli.options import log, print_json
from personavec.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from personavec.model import LoadedModel
    from personavec.model.engine import VllmEngine
    from personavec.vectors import PersonaVector

#: Where clients' key is looked for unless told.
_KEY = "PERSONAVEC_API_KEY"


def command(
    model: options.Model = "smollm2",
    vectors: Annotated[
        str,
        typer.Option(
            "--vectors",
            help="Vectors' folders or bundled names, separated by commas; `bundled` is all of "
            "these, `none` is none.",
        ),
    ] = "bundled",
    host: Annotated[str, typer.Option(help="Address; other than loopback needs a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env",
            help=f"Environment variable that holds clients' key; {_KEY} where that is set.",
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            help="Act on a forecast: 'evil>3sigma: steer -1', ': cap' or ': refuse'; repeatable.",
        ),
    ] = None,
    alarm_webhook: Annotated[
        str | None, typer.Option("--alarm-webhook", help="Address that drift alarms are posted to.")
    ] = None,
    allow_any_coefficient: Annotated[
        bool,
        typer.Option(
            "--allow-any-coefficient", help="Steer beyond the range that keeps replies coherent."
        ),
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Replies written at a time.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="Replies that may wait beside them.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 1024,
    request_seconds: Annotated[
        float, typer.Option(min=1, help="Longest time for a request, waiting included.")
    ] = 300.0,
    shutdown_seconds: Annotated[
        float, typer.Option(min=0, help="Time that running replies have when it is told to stop.")
    ] = 30.0,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Log messages and replies; off unless asked.")
    ] = False,
    engine: options.Engine = "transformers",
    engine_arg: options.EngineArgs = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Serve a model to OpenAI clients, with readings and steering in every reply.

    Example: `personavec serve --guard 'evil>3sigma: steer -1'`, then any OpenAI client at
    http://127.0.0.1:8000/v1. With `--json` one object with the address is printed once it serves.
    """
    try:
        from personavec.serve import Settings, bound, make_server, parse_guard, run
    except ImportError:
        raise missing_extra("serve") from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("personavec.serve").setLevel(logging.DEBUG if debug else logging.INFO)
    from personavec.monitor import survey

    options.check_engine(engine, engine_arg)
    loaded_vectors, reports = _vectors(vectors)
    settings = Settings(
        name=Path(model).name or model,
        guards=tuple(parse_guard(text, loaded_vectors) for text in guard or ()),
        allow_any_coefficient=allow_any_coefficient,
        max_rows=rows,
        queue_size=queue,
        max_tokens=max_tokens,
        timeout=request_seconds,
        api_key=_key(api_key_env),
        webhook=alarm_webhook,
        log_text=log_text,
    )
    socket, address = bound(host, port)
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket)
        loaded = options.load_model(model, dtype, device, model_arg, template_arg)
        for vector in loaded_vectors.values():
            identity = loaded.identity
            if warning := vector.other_model_warning(*identity.lineage):
                log(f"warning: {warning}")
        started = None
        if engine == "vllm":
            given = {"max_num_seqs": rows, **options.key_values(engine_arg, "--engine-arg")}
            started = stack.enter_context(_vllm(loaded, given))
        named = zip(guard or (), settings.guards, strict=True)
        ordinary = survey(
            loaded,
            list(loaded_vectors.values()),
            {f"guard {text!r}": each.condition for text, each in named},
        )
        for each in ordinary:
            log(f"{'warning: ' if each.too_many else ''}{each}")
        server = make_server(
            loaded,
            loaded_vectors,
            settings,
            host=host,
            shutdown_seconds=shutdown_seconds,
            reports=reports,
            engine=started,
        )
        if as_json:
            print_json(
                {
                    "address": address,
                    "model": settings.name,
                    "vectors": list(loaded_vectors),
                    "ordinary": [each.as_dict() for each in ordinary],
                },
                flush=True,
            )
        said = ", ".join(loaded_vectors) or "no vectors"
        log(f"serving {settings.name} at {address} with {said}")
        # uvicorn raises the signal that stopped it again once all is finished, which would make a
        # graceful end look like a killed process.
        signal.signal(signal.SIGTERM, lambda *_: None)
        interrupted = False
        try:
            run(server, socket)
        except KeyboardInterrupt:
            interrupted = True
        if interrupted:
            log("interrupted; the server has stopped")
            raise typer.Exit(130)


def _key(variable: str | None) -> str | None:
    """Clients' key. Raises UsageError where one was meant, and none can be used."""
    name = variable or _KEY
    key = os.environ.get(name)
    if key is None and variable is None:
        return None
    if not key:
        raise UsageError(
            f"--api-key-env: the variable {name} is {'empty' if key == '' else 'not set'}, so that "
            "the server would ask for no key; set it to clients' key"
        )
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise UsageError(
            f"--api-key-env: the key in {name} cannot be sent in a header; use printable ASCII "
            "without spaces around it"
        )
    return key


def _vllm(loaded: LoadedModel, arguments: Mapping[str, Any]) -> VllmEngine:
    """vLLM, whose processes take no Ctrl-C: it is the server's, which lets replies finish first."""
    from multiprocessing import resource_tracker

    from personavec.model.engine import VllmEngine

    # Started with the first process, the tracker would undo what is blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return VllmEngine(loaded, arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
