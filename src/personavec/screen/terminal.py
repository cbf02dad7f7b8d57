"""What `screen` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.screen.conclusion import conclusion
from personavec.screen.results import ScreenedTrait, ScreenResults
from personavec.terminal import Ending, Next, console, log_notes, print_table
from personavec.wording import estimated, plural


def show(results: ScreenResults) -> None:
    """How data were read, tables of traits and of groups, and where all was written."""
    show_reading(results.data)
    log_notes(results.notes)
    rows = [
        (
            name,
            str(trait.layer),
            estimated(trait.estimate, "+.3f"),
            _number(trait.mean, trait.sigma),
            _number(trait.threshold),
            "–" if trait.flagged is None else str(trait.flagged),
        )
        for name, trait in results.traits.items()
    ]
    headers = ("trait", "layer", "mean difference [95%]", "in σ", "line", "flagged")
    print_table(headers, rows)
    for column in next(iter(results.traits.values())).groups:
        _show_groups(column, results.traits)
    flagged = results.flagged_any
    console.print(
        f"{plural(results.rows, 'row')}, {results.rejected} rejected"
        + ("" if flagged is None else f", {flagged} flagged")
    )


def ending(
    results: ScreenResults, data: Sequence[str], vectors: Sequence[str], model: Sequence[str]
) -> Ending:
    """The last lines; `data`, `vectors` and `model` are words of the command that screened."""
    return Ending(
        conclusion=conclusion(results),
        written=Path(results.out) / "report.html",
        next=_next(results, data, ",".join(vectors or results.traits), model),
    )


def _next(
    results: ScreenResults, data: Sequence[str], vectors: str, model: Sequence[str]
) -> Next | None:
    """Flag rows, where none are; else finetune on those that are left."""
    if results.flagged_any is None:
        again = ("--top", "10", "--out", f"{results.out}-flagged", *model)
        to = "flag the rows that push most"
        return Next(to, ("screen", *data, "--vectors", vectors, *again))
    files = results.files.get(next(iter(results.data)))
    clean = files.get("clean") if isinstance(files, dict) else None
    if clean is None:
        return None
    watched = ("--watch", vectors, "--out", f"{results.out}-finetune", *model)
    to = "finetune on the rows that are left, which may show traits too, and watch them"
    return Next(to, ("finetune", clean, *watched))


def _show_groups(column: str, traits: dict[str, ScreenedTrait]) -> None:
    """Every group's mean for every trait, in σ of neutral prompts."""
    rows = []
    found = {name: {row.group: row for row in t.groups[column]} for name, t in traits.items()}
    for group, row in next(iter(found.values())).items():
        cells = [_number(found[name][group].mean, t.sigma) for name, t in traits.items()]
        rows.append((group, str(row.n), *cells))
    print_table((column, "rows", *traits), rows, title="mean in σ of neutral prompts")


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None or not unit else f"{value / unit:+.2f}"
