"""personavec traits list | show | check"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from personavec.cli import options
from personavec.cli.command import Command
from personavec.cli.options import console, print_json

app = typer.Typer(no_args_is_help=True, help="Trait specs: bundled ones and your own.")
Source = Annotated[str, typer.Argument(help="A bundled trait or a spec file.")]


@app.command("list", cls=Command)
def list_traits(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """List the bundled traits. Example: `personavec traits list`"""
    from personavec.traits import bundled_traits, load_trait

    specs = [load_trait(name)[0] for name in bundled_traits()]
    if as_json:
        print_json({"traits": {spec.name: spec.description for spec in specs}})
        return
    table = Table("trait", "description")
    for spec in specs:
        table.add_row(spec.name, spec.description)
    console.print(table)


@app.command(cls=Command)
def show(
    trait: Source,
    description: options.Description = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show a spec's prompts and questions; --json shows it whole.

    Example: `personavec traits show evil --json`
    """
    from personavec.traits import load_trait

    spec, origin = load_trait(trait, description)
    if as_json:
        print_json({**spec.model_dump(mode="json"), "origin": origin, "hash": spec.hash})
        return
    console.print(f"{spec.name} ({origin}): {spec.description}")
    for label, pairs in (("eliciting", spec.instruction), ("judging", spec.judge_instruction)):
        for pair in pairs:
            console.print(f"{label}  + {pair.pos}\n{' ' * len(label)}  - {pair.neg}", markup=False)
    for half in ("extraction", "evaluation"):
        console.print(f"{half} questions:")
        for question in getattr(spec.questions, half):
            console.print(f"  {question}", markup=False)


@app.command(cls=Command)
def check(trait: Source, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Validate a spec and warn of what may mislead. Example: `personavec traits check my.json`"""
    from personavec.traits import lint, load_trait

    spec, origin = load_trait(trait)
    warnings = lint(spec)
    if as_json:
        print_json({"trait": spec.name, "origin": origin, "hash": spec.hash, "warnings": warnings})
        return
    console.print(f"{spec.name}: valid, {len(warnings)} warning(s)")
    for warning in warnings:
        console.print(f"  {warning}", markup=False)
