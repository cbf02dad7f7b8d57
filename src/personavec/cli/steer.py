"""personavec steer"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, numbers, print_json
from personavec.errors import UsageError


def command(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Questions to answer; or use --file.")
    ] = None,
    vectors: Annotated[
        str, typer.Option("--vectors", help="A vector's folder or a bundled name.")
    ] = "optimistic",
    file: Annotated[
        Path | None, typer.Option(help="Rows with a `question`, or one question a line (.txt).")
    ] = None,
    coefficient: Annotated[
        str, typer.Option("--coefficient", help="Coefficients, e.g. -1,0,1.")
    ] = "-1,0,1",
    layer: Annotated[int | None, typer.Option("--layer", help="Default: the selected one.")] = None,
    model: options.Model = "smollm2",
    out: options.Out = None,
    max_tokens: options.MaxTokens = 64,
    temperature: options.Temperature = 0.7,
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    engine: options.Engine = "transformers",
    engine_arg: options.EngineArgs = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Answers at several coefficients side by side, the system-prompted answer beside them.

    Example: `personavec steer "How was your day?" --vectors humorous --coefficient=-1,0,1.5`
    """
    from personavec.model.engine.base import Sampling
    from personavec.steering_study import read_questions, steered_answers
    from personavec.vectors import load_vector

    asked = [*(questions or []), *(read_questions(file) if file else [])]
    if not asked:
        raise UsageError("no question: give one as an argument or a file with --file")
    options.check_engine(engine, engine_arg)
    coefficients = numbers(coefficient, "--coefficient")
    vector = load_vector(vectors)
    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    records = steered_answers(
        loaded,
        vector,
        asked,
        coefficients,
        Sampling(max_tokens, temperature, seed=seed),
        layer=layer,
        out=out,
        engine=options.engine(engine, engine_arg, loaded, batch_tokens),
    )
    if as_json:
        print_json({"trait": vector.trait, "layer": layer or vector.layer, "answers": records})
        return
    _print(records)
    if out:
        console.print(f"written to {out}", highlight=False)


def _print(records: list[dict[str, Any]]) -> None:
    for question in dict.fromkeys(r["question"] for r in records):
        table = Table("steering", "answer", title=question, title_justify="left", show_lines=True)
        for record in records:
            if record["question"] == question:
                table.add_row(record["condition"], record["response"])
        console.print(table, markup=False)
