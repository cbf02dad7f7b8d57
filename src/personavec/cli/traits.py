"""personavec traits list | show | check"""

from __future__ import annotations

from typing import Annotated

from personavec.cli.groups import PrintOptions
from personavec.options import MAIN


def list_traits(*, output: PrintOptions = PrintOptions()) -> None:
    """List the bundled traits. Example: `personavec traits list`"""
    from personavec.traits import bundled_traits, load_trait
    from personavec.traits.terminal import show_list
    from personavec.vectors import bundled_verdicts

    specs = [load_trait(name)[0] for name in bundled_traits()]
    traits = {spec.name: spec.description for spec in specs}
    verdicts = bundled_verdicts()
    output.tell({"traits": traits, "verdicts": verdicts}, lambda: show_list(specs, verdicts))


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
    from personavec.traits.terminal import show as show_spec
    from personavec.vectors import bundled_verdicts

    spec, origin = load_trait(trait, description)
    verdict = bundled_verdicts().get(spec.name) if origin == "bundled" else None
    found = {**spec.model_dump(mode="json"), "origin": origin, "hash": spec.hash}
    output.tell({**found, "verdict": verdict}, lambda: show_spec(spec, origin, verdict))


def check(trait: str, /, *, output: PrintOptions = PrintOptions()) -> None:
    """Validate a spec and warn of what may mislead. Example: `personavec traits check my.json`

    Parameters
    ----------
    trait
        A bundled trait or a spec file.
    """
    from personavec.traits import lint, load_trait
    from personavec.traits.terminal import show_warnings

    spec, origin = load_trait(trait)
    warnings = lint(spec)
    found = {"trait": spec.name, "origin": origin, "hash": spec.hash, "warnings": warnings}
    output.tell(found, lambda: show_warnings(spec, warnings))
