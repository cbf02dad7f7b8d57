"""What `screen` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from personavec.data.terminal import show_reading
from personavec.screen.conclusion import conclusion
from personavec.screen.results import RankedRow, ScreenedTrait, ScreenResults
from personavec.screen.shown import Shown, shown
from personavec.terminal import Ending, Next, beginning, console, log_notes, print_table
from personavec.wording import decimal, estimated, plural

#: Rows that are printed, of all traits together; the report has more.
_ROWS = 6
#: Columns of a row's response.
_RESPONSE = 40


def show(results: ScreenResults) -> None:
    """How data were read, tables of traits, of groups and of the highest rows, and counts."""
    show_reading(results.data)
    log_notes(results.notes)
    found = shown(results)
    _show_traits(found)
    for column in next(iter(results.traits.values())).groups:
        _show_groups(column, found)
    _show_rows(found)
    flagged = results.flagged_any
    console.print(
        f"{plural(results.rows, 'row')}, {results.rejected} rejected"
        + ("" if flagged is None else f", {flagged} flagged")
    )
    for path in _flagged_files(results):
        console.print(f"all flagged rows: {path}", soft_wrap=True)


def _flagged_files(results: ScreenResults) -> list[str]:
    """Where the flagged rows of each dataset are, if there are any."""
    files = [own for own in results.files.values() if isinstance(own, dict)]
    return [str(own["flagged"]) for own in files if results.flagged_any and own.get("flagged")]


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
        # No more than a few of few rows.
        top = str(max(1, min(10, results.rows // 5)))
        again = ("--top", top, "--out", f"{results.out}-flagged", *model)
        to = "flag the rows that push most"
        return Next(to, ("screen", *data, "--vectors", vectors, *again))
    files = results.files.get(next(iter(results.data)))
    clean = files.get("clean") if isinstance(files, dict) else None
    if clean is None:
        return None
    watched = ("--watch", vectors, "--out", f"{results.out}-finetune", *model)
    to = "finetune on the rows that are left, which may show traits too, and watch them"
    return Next(to, ("finetune", clean, *watched))


def _show_traits(found: Shown) -> None:
    """Every trait's mean; the reference, the line and the flags where there are any."""
    traits = found.results.traits
    columns = {
        "layer": [str(trait.layer) for trait in traits.values()],
        "mean [95%]": [estimated(trait.estimate, "+.2f") for trait in traits.values()],
    }
    if found.results.reference is not None:
        columns["minus reference [95%]"] = [_against(trait) for trait in traits.values()]
    if found.results.rule is not None:
        if found.row_unit:
            columns["line"] = [_number(trait.threshold) for trait in traits.values()]
        columns["flagged"] = [_count(trait.flagged) for trait in traits.values()]
    rows = list(zip(traits, *columns.values(), strict=True))
    print_table(("trait", *columns), rows, title=_in_unit(f"{found.value}s", found.unit))


def _show_groups(column: str, found: Shown) -> None:
    """Every group's mean for every trait."""
    traits = found.results.traits
    groups = {
        name: {row.group: row for row in trait.groups[column]} for name, trait in traits.items()
    }
    rows = [
        (group, str(row.n), *(_number(own[group].mean) for own in groups.values()))
        for group, row in next(iter(groups.values())).items()
    ]
    print_table((column, "rows", *traits), rows, title=_in_unit("means", found.unit))


def _show_rows(found: Shown) -> None:
    """The highest rows of every trait: where they stand in the data, and how they begin."""
    traits = found.results.traits
    each = max(1, _ROWS // len(traits))
    ranked = [(name, row) for name, trait in traits.items() for row in trait.ranked.high[:each]]
    columns = {} if len(traits) == 1 else {"trait": [name for name, _ in ranked]}
    several = len(found.results.datasets) > 1
    columns["row"] = [_place(row, several=several) for _, row in ranked]
    columns["value"] = [_number(row.value) for _, row in ranked]
    if found.results.rule is not None:
        columns["flagged"] = ["yes" if row.flagged else "no" for _, row in ranked]
    columns["response"] = [_begins(row) for _, row in ranked]
    if ranked:
        rows = list(zip(*columns.values(), strict=True))
        print_table(tuple(columns), rows, title=_in_unit("highest rows", found.row_unit))


def _place(row: RankedRow, *, several: bool) -> str:
    number = str(row.index + 1)
    return f"{row.dataset}, {number}" if several else number


def _begins(row: RankedRow) -> str:
    return beginning(str(row.messages[-1]["content"]), _RESPONSE)


def _in_unit(what: str, unit: str) -> str:
    """A title with the unit of all that is below it."""
    said = "σ of neutral prompts" if unit == "σ" else unit
    return f"{what}, in {said}" if said else f"{what}, by projection and judge together"


def _against(trait: ScreenedTrait) -> str:
    found = trait.against_reference
    return "–" if found is None else estimated(found.estimate, "+.2f")


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else decimal(value, "+.2f")
