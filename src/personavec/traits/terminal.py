"""What `traits list`, `show` and `check` print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personavec.terminal import console, print_table
from personavec.traits.spec import Origin, TraitSpec


def show_list(specs: Sequence[TraitSpec], verdicts: Mapping[str, str | None]) -> None:
    """Names, descriptions, and whether steering with the bundled vectors worked."""
    rows = [(spec.name, spec.description, verdicts.get(spec.name) or "–") for spec in specs]
    print_table(("trait", "description", "bundled vector"), rows)


def show(spec: TraitSpec, origin: Origin, verdict: str | None) -> None:
    """A spec's prompts and questions, and the verdict on its bundled vector."""
    console.print(f"{spec.name} ({origin}): {spec.description}")
    if verdict:
        console.print(f"bundled vector: {verdict}")
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
