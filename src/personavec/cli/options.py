"""Options that commands share: one spelling, one help text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from personavec.errors import UsageError

Model = Annotated[
    str, typer.Option("--model", help="smollm2, a Hugging Face id, a folder or a .gguf file.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: automatic.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …; default: automatic.")]
Trait = Annotated[str, typer.Option("--trait", help="A bundled trait, a spec file, or a name.")]
Description = Annotated[
    str | None,
    typer.Option("--description", help="Describe the trait; a spec is built from templates."),
]
Seed = Annotated[int, typer.Option("--seed", help="Keys all sampling.")]
BatchTokens = Annotated[
    int, typer.Option("--batch-tokens", min=1, help="Tokens in a batch; bounds memory.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; logs on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and library messages.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder or file to write.")]

#: Tables for people go here; with --json everything but the object goes to stderr.
console = Console()


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers of an option. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{option} {text}: give numbers separated by commas") from None


def print_json(value: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def log(message: str) -> None:
    """A line for people, on stderr."""
    print(message, file=sys.stderr)
