"""personavec steer"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.options import console, log, numbers, print_json
from personavec.errors import ActivationError, UsageError
from personavec.wording import plural


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
    from personavec.data import ReadingCounts, read_questions
    from personavec.evaluate import steered_answers
    from personavec.judges import count_control
    from personavec.model import chat
    from personavec.model.engine import Sampling
    from personavec.vectors import load_vector

    given = list(questions or [])
    found, told = read_questions(file) if file else ([], ReadingCounts())
    if not given and not found:
        raise UsageError("no question: give one as an argument or a file with --file")
    options.check_engine(engine, engine_arg)
    coefficients = numbers(coefficient, "--coefficient")
    vector = load_vector(vectors)
    options.check_layer(layer, [vector])
    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    if warning := vector.other_model_warning(*loaded.identity.lineage):
        log(f"warning: {warning}")
    data, own = {}, ReadingCounts(Counter(question=len(given)))
    count_control(own, [loaded.chat], map(chat, given))
    if own.notes:
        data["arguments"] = own.to_dict()
    if file:
        count_control(told, [loaded.chat], map(chat, found))
        data[file.name] = told.to_dict()
    records = steered_answers(
        loaded,
        vector,
        [*given, *found],
        coefficients,
        Sampling(max_tokens, temperature, seed=seed),
        layer=layer,
        out=out,
        engine=options.engine(engine, engine_arg, loaded, batch_tokens),
    )
    if as_json:
        answers = {"trait": vector.trait, "layer": layer or vector.layer, "answers": records}
        print_json({**answers, "data": data})
    else:
        options.print_reading(data)
        _print(records)
        if out:
            console.print(f"written to {out}", highlight=False)
    _check(records, loaded.identity.dtype)


def _check(records: list[dict[str, Any]], dtype: str) -> None:
    """Raise ActivationError where answers failed."""
    failed = [record for record in records if record["state"] == "failed"]
    if not failed:
        return
    where = ", ".join(dict.fromkeys(record["condition"] for record in failed))
    remedy = "" if dtype == "float32" else " or --dtype float32"
    raise ActivationError(
        f"{len(failed)} of {plural(len(records), 'answer')} failed, at coefficient {where}, "
        f"as the model's numbers overflowed in {dtype}; use smaller ones{remedy}"
    )


def _print(records: list[dict[str, Any]]) -> None:
    for question in dict.fromkeys(r["question"] for r in records):
        table = Table("steering", "answer", title=question, title_justify="left", show_lines=True)
        for record in records:
            if record["question"] == question:
                failed = record["state"] == "failed"
                table.add_row(record["condition"], "(failed)" if failed else record["response"])
        console.print(table, markup=False)
