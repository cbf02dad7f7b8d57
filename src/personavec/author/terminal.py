"""What `author` prints for people."""

from __future__ import annotations

from personavec.author.results import AuthorResult, ProbeResult
from personavec.terminal import console, print_table


def show(found: AuthorResult) -> None:
    """Who wrote the spec, what is still wrong with it, and what it elicited."""
    console.print(
        f"{found.trait}: written by {found.author.model}, {found.replaced} entries "
        f"replaced in {found.rounds} round(s), {len(found.warnings)} warning(s)"
    )
    for warning in found.warnings:
        console.print(f"  {warning}")
    if found.probe:
        _show_probe(found.probe)


def _show_probe(probe: ProbeResult) -> None:
    rows = [
        (str(number), f"{kept.pos} of {kept.of}", f"{kept.neg} of {kept.of}")
        for number, kept in enumerate(probe.pairs, start=1)
    ]
    title = f"on {probe.model['name']}"
    print_table(("pair", "positive rollouts kept", "negative"), rows, title=title)
