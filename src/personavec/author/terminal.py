"""What `author` prints for people."""

from __future__ import annotations

from collections.abc import Sequence

from personavec.author.results import AuthorResult, ProbeResult
from personavec.terminal import Ending, Next, console, print_table, show_ending
from personavec.wording import plural


def show(found: AuthorResult, model: Sequence[str]) -> None:
    """Who wrote the spec, what is still wrong with it, what it elicited, and the last lines.

    `model` are the words that name the model.
    """
    console.print(
        f"{found.trait}: written by {found.author.model}, {found.replaced} entries "
        f"replaced in {found.rounds} round(s), {len(found.warnings)} warning(s)"
    )
    for warning in found.warnings:
        console.print(f"  {warning}")
    if found.probe:
        _show_probe(found.probe)
    left = f"{plural(len(found.warnings), 'warning')} left" if found.warnings else "no warnings"
    extract = ("extract", "--trait", str(found.spec), "--preset", "quick", *model)
    show_ending(
        Ending(
            conclusion=f"A spec of {found.trait}, with {left}. Read it before you use it.",
            written=found.spec,
            next=Next("try whether it makes a vector", extract),
        )
    )


def _show_probe(probe: ProbeResult) -> None:
    rows = [
        (str(number), f"{kept.pos} of {kept.of}", f"{kept.neg} of {kept.of}")
        for number, kept in enumerate(probe.pairs, start=1)
    ]
    title = f"on {probe.model['name']}"
    print_table(("pair", "positive rollouts kept", "negative"), rows, title=title)
