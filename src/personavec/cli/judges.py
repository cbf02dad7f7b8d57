"""personavec judges score"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options
from personavec.cli.options import console, print_json

app = typer.Typer(no_args_is_help=True, help="Judges: score answers for a trait.")


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL, JSON or Parquet rows.")],
    trait: options.Trait,
    description: options.Description = None,
    model: options.Model = "smollm2",
    question_column: Annotated[str, typer.Option(help="Column of the question.")] = "question",
    answer_column: Annotated[str, typer.Option(help="Column of the answer.")] = "answer",
    out: options.Out = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score answers with the contrast judge; adds log_odds, trait_score and coherence.

    Example: `personavec judges score answers.csv --trait sycophantic --out scored.jsonl`

    Rows that cannot be scored are kept with a `state` that says why.
    """
    from personavec.judging import score_file
    from personavec.traits import load_trait

    spec, _ = load_trait(trait, description)
    target = out or file.with_suffix(".scored.jsonl")
    found = score_file(
        lambda: options.load_model(model, dtype, device, model_arg, template_arg),
        spec,
        file,
        target,
        question_column=question_column,
        answer_column=answer_column,
    )
    if as_json:
        print_json(found)
        return
    console.print(
        f"{found['scored']} of {found['rows']} rows scored for {spec.name}, "
        f"{found['share_above_50']:.0%} above 50; written to {found['out']}"
        if found["scored"]
        else f"none of {found['rows']} rows could be scored; written to {found['out']}",
        highlight=False,
    )
    for state, n in found["states"].items():
        if state != "scored":
            console.print(f"  {n} rows: {state}", markup=False)
