"""Options that commands share: one spelling, one help text."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from personavec.errors import UsageError

if TYPE_CHECKING:
    from personavec.model.loading import LoadedModel

Model = Annotated[
    str, typer.Option("--model", help="smollm2, a Hugging Face id, a folder or a .gguf file.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: automatic.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …; default: automatic.")]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="For from_pretrained, e.g. device_map=auto; JSON is read as JSON; repeatable.",
    ),
]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="KEY=VALUE",
        help="For the chat template, e.g. enable_thinking=false; repeatable.",
    ),
]
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


def key_values(pairs: Sequence[str] | None, option: str) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; a VALUE that is JSON is read as JSON, any other is text.

    Raises UsageError.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {pair}: give KEY=VALUE")
        if key in found:
            raise UsageError(f"{option} {key} is given twice")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def load_model(
    name: str,
    dtype: str | None,
    device: str | None,
    model_args: Sequence[str] | None = None,
    template_args: Sequence[str] | None = None,
) -> LoadedModel:
    """The model that the shared options ask for. Raises UsageError, ModelError."""
    given = {
        "model_args": key_values(model_args, "--model-arg"),
        "template_args": key_values(template_args, "--template-arg"),
    }
    from personavec.model import loading

    return loading.load_model(name, dtype=dtype, device=device, **given)


def print_json(value: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def log(message: str) -> None:
    """A line for people, on stderr."""
    print(message, file=sys.stderr)
