"""What `traits list`, `show` and `check` print for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from personavec.terminal import console
from personavec.traits.spec import Origin, TraitSpec


def show_list(specs: Sequence[TraitSpec]) -> None:
    """Names and descriptions."""
    table = Table("trait", "description")
    for spec in specs:
        table.add_row(spec.name, spec.description)
    console.print(table)


def show(spec: TraitSpec, origin: Origin) -> None:
    """A spec's prompts and questions."""
    console.print(f"{spec.name} ({origin}): {spec.description}")
    for label, pairs in (("eliciting", spec.instruction), ("judging", spec.judge_instruction)):
        for pair in pairs:
            console.print(f"{label}  + {pair.pos}\n{' ' * len(label)}  - {pair.neg}")
    for half in ("extraction", "evaluation"):
        console.print(f"{half} questions:")
        for question in getattr(spec.questions, half):
            console.print(f"  {question}")


def show_warnings(spec: TraitSpec, warnings: Sequence[str]) -> None:
    """What may mislead in a valid spec."""
    console.print(f"{spec.name}: valid, {len(warnings)} warning(s)")
    for warning in warnings:
        console.print(f"  {warning}")
