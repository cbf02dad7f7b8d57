"""personavec export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from personavec.cli import options
from personavec.cli.options import console, print_json


def command(
    vectors: Annotated[str, typer.Option("--vectors", help="A vector's folder or a bundled name.")],
    to: Annotated[
        Literal["pt", "gguf", "vllm-lens", "hotwire"],
        typer.Option("--format", help="pt is the reference project's, gguf llama.cpp's."),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    layer: Annotated[int | None, typer.Option("--layer", help="Default: the selected one.")] = None,
    coefficient: Annotated[
        float, typer.Option("--coefficient", help="Multiple of the vector to steer with.")
    ] = 1.0,
    all_layers: Annotated[
        bool, typer.Option("--all-layers", help="Every layer in one gguf file, to choose later.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a vector as a file of another tool, and show the command that uses it.

    Example: `personavec export --vectors humorous --format gguf --out humorous.gguf`
    """
    from personavec.runs import lock_file
    from personavec.vectors import export, load_vector

    vector = load_vector(vectors)
    options.check_layer(layer, [vector])
    with lock_file(out):
        found = export(vector, out, to, layer=layer, coefficient=coefficient, all_layers=all_layers)
    if as_json:
        print_json(found)
        return
    layers = found["layers"]
    held = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    console.print(f"{found['trait']} of {found['model']}, {held}, written to {out}", markup=False)
    for note in found["notes"]:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print("use it with:")
    for line in found["use"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
