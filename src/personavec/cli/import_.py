"""personavec import"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personavec.cli import options
from personavec.cli.options import console, print_json


def command(
    file: Annotated[
        Path, typer.Argument(help="The reference project's .pt, [layers + 1, hidden].")
    ],
    trait: Annotated[str, typer.Option("--trait", help="What to call the trait.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the vector to write.")],
    model: options.Model = "smollm2",
    layer: Annotated[
        int | None, typer.Option("--layer", help="To use by default; default: the middle one.")
    ] = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    seed: options.Seed = 0,
    batch_tokens: options.BatchTokens = 16384,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make a persona vector of another project's file, measuring its baseline on the model.

    Example: `personavec import evil_response_avg_diff.pt --trait evil --model MODEL --out evil`

    A killed run continues when the same command is given again.
    """
    from personavec.extract.import_reference import run
    from personavec.vectors import read_reference

    read_reference(file)  # before a model is loaded for nothing
    loaded = options.load_model(model, dtype, device)
    found = run(loaded, file, trait, out, layer=layer, seed=seed, batch_tokens=batch_tokens)
    if as_json:
        print_json(found)
        return
    console.print(
        f"{trait} on {found['model']}, layer {found['layer']}, written to {out}", markup=False
    )
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
