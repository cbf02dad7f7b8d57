"""personavec serve"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from personavec.cli.groups import EngineOptions, ModelOptions, PrintOptions
from personavec.results import dump
from personavec.serve.config import ServeConfig, ServeInputs
from personavec.terminal import log, print_json


def command(
    *,
    model: ModelOptions = ModelOptions(),
    inputs: ServeInputs = ServeInputs(),
    config: ServeConfig = ServeConfig(),
    engine: EngineOptions = EngineOptions(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Serve a model to OpenAI clients, with readings and steering in every reply.

    Example: `personavec serve --guard 'evil>4sigma: steer -1'`, then any OpenAI client at
    http://127.0.0.1:8000/v1. With `--json` one object with the address is printed once it serves.
    """
    from personavec.serve import bound, foreground, make_server, parse_guard
    from personavec.serve.results import ServeResult

    foreground.log_to_stderr(debug=output.debug)
    vectors, reports = inputs.load()
    guards = {f"guard {text!r}": parse_guard(text, vectors).condition for text in config.guard}
    name = Path(model.model).name or model.model
    config = replace(config, name=name, api_key=inputs.key())
    listening, address = bound(inputs.host, inputs.port)
    with ExitStack() as stack:
        stack.enter_context(listening)
        loaded = model.load()
        rows = {"max_num_seqs": config.rows}
        vllm = engine.resolved(loaded).vllm(
            lambda given: stack.enter_context(foreground.vllm(loaded, rows | given))
        )
        server = make_server(
            loaded,
            vectors,
            config,
            host=inputs.host,
            shutdown_seconds=inputs.shutdown_seconds,
            reports=reports,
            engine=vllm,
        )
        ordinary = foreground.surveyed(loaded, vectors, guards)
        found = ServeResult(
            address=address, model=config.name, vectors=list(vectors), ordinary=ordinary
        )
        if output.as_json:
            print_json(dump(found), flush=True)
        log(f"serving {config.name} at {address} with {', '.join(vectors) or 'no vectors'}")
        foreground.serve_until_signal(server, listening)
