"""personavec traits list | show | check"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rich.table import Table

from personavec.cli.groups import PrintOptions
from personavec.options import MAIN
from personavec.terminal import console, print_json

if TYPE_CHECKING:
    from personavec.traits import TraitSpec


def list_traits(*, output: PrintOptions = PrintOptions()) -> None:
    """List the bundled traits. Example: `personavec traits list`"""
    from personavec.traits import bundled_traits, load_trait

    specs = [load_trait(name)[0] for name in bundled_traits()]
    if output.as_json:
        print_json({"traits": {spec.name: spec.description for spec in specs}})
        return
    table = Table("trait", "description")
    for spec in specs:
        table.add_row(spec.name, spec.description)
    console.print(table)


def show(
    trait: str,
    /,
    *,
    description: Annotated[str | None, MAIN] = None,
    output: PrintOptions = PrintOptions(),
) -> None:
    """Show a spec's prompts and questions; --json shows it whole.

    Example: `personavec traits show evil --json`

    Parameters
    ----------
    trait
        A bundled trait or a spec file.
    description
        Describe the trait; a spec is built from templates.
    """
    from personavec.traits import load_trait

    spec, origin = load_trait(trait, description)
    if output.as_json:
        print_json({**spec.model_dump(mode="json"), "origin": origin, "hash": spec.hash})
        return
    console.print(f"{spec.name} ({origin}): {spec.description}")
    _print_prompts(spec)


def _print_prompts(spec: TraitSpec) -> None:
    for label, pairs in (("eliciting", spec.instruction), ("judging", spec.judge_instruction)):
        for pair in pairs:
            console.print(f"{label}  + {pair.pos}\n{' ' * len(label)}  - {pair.neg}", markup=False)
    for half in ("extraction", "evaluation"):
        console.print(f"{half} questions:")
        for question in getattr(spec.questions, half):
            console.print(f"  {question}", markup=False)


def check(trait: str, /, *, output: PrintOptions = PrintOptions()) -> None:
    """Validate a spec and warn of what may mislead. Example: `personavec traits check my.json`

    Parameters
    ----------
    trait
        A bundled trait or a spec file.
    """
    from personavec.traits import lint, load_trait

    spec, origin = load_trait(trait)
    warnings = lint(spec)
    if output.as_json:
        print_json({"trait": spec.name, "origin": origin, "hash": spec.hash, "warnings": warnings})
        return
    console.print(f"{spec.name}: valid, {len(warnings)} warning(s)")
    for warning in warnings:
        console.print(f"  {warning}", markup=False)
