"""What `author` prints for people."""

from __future__ import annotations

from rich.table import Table

from personavec.author.results import AuthorResult, ProbeResult
from personavec.terminal import console


def show(found: AuthorResult) -> None:
    """Who wrote the spec, what is still wrong with it, and what it elicited."""
    console.print(
        f"{found.trait}: written by {found.author.model}, {found.replaced} entries "
        f"replaced in {found.rounds} round(s), {len(found.warnings)} warning(s)"
    )
    for warning in found.warnings:
        console.print(f"  {warning}")
    if found.probe:
        console.print(_probe_table(found.probe))
    console.print(f"written to {found.spec}; read it before you use it")


def _probe_table(probe: ProbeResult) -> Table:
    title = f"on {probe.model['name']}"
    table = Table("pair", "positive rollouts kept", "negative", title=title)
    for number, kept in enumerate(probe.pairs, start=1):
        table.add_row(str(number), f"{kept.pos} of {kept.of}", f"{kept.neg} of {kept.of}")
    return table
